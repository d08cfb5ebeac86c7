//! Reconcilers on kube-rs, one module per kind.
//!
//! They know only `kube::Client`: over the embedded API server in process, or over HTTPS on Kubernetes. Each loads,
//! plans with a pure function, applies, and writes a status; none touches a process, a socket or a container.
//!
//! Reading order: [`serving`] → `serving/service` → `serving/configuration` → `serving/revision` → `serving/route`.
//! Test alone: `cargo test -p dormouse-controllers`.

pub mod serving;
