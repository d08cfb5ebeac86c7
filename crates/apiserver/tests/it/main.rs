//! The server as its clients see it: in process with kube-rs and raw requests, over TLS with kubectl.

#[cfg(test)]
mod authority;
#[cfg(test)]
mod deletion;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod kubectl;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod watches;
