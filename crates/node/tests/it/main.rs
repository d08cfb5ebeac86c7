//! The node as its users meet it: real namespaces, a real keeper, a small fake of the API. Needs root; says so when it is not.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test ends at what it did not expect, and says when it was skipped"
)]

mod api;
mod networks;
mod running;
mod world;
