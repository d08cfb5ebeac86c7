//! Builds of real projects with this machine's tools, in real sandboxes. They need root, and each tool that it names.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that meets the unexpected shall fail, one that cannot run shall say so"
)]

mod faults;
mod languages;
mod support;
