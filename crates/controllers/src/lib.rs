//! Reconcilers on kube-rs, one module per kind.
