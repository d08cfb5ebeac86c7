//! Kubernetes REST over the store, as a tower service.
