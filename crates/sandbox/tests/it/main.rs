//! The sandbox as its users meet it: a keeper process, real namespaces, real cgroups. Needs root; says so when it is not.

mod harness;
mod inside;
mod lifecycle;
mod limits;
mod survival;
