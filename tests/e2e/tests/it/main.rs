//! Scenarios on the real program. Each starts from a claim of the "Shows" or "Bad input and faults".
//!
//! They may run beside each other: those that stop a platform or count what runs on it start their own.

mod bad_input;
mod components;
mod concurrency;
mod containers;
mod crash;
mod deploy;
mod examples;
mod images;
mod manifest;
mod requests;
mod sleep;
mod starts;
mod traffic;
mod walk;
