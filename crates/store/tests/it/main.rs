//! The contract of the store, and what it does when the machine fails.

#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
