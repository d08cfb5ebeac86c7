//! The node as its users meet it: real namespaces, a real keeper, a small fake of the API. Needs root; says so when it is not.

mod api;
mod networks;
mod running;
mod world;
