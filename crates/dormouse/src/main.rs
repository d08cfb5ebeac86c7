//! The binary: configuration, roles, wiring. No logic.
fn main() {}
