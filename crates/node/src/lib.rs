//! The kubelet's role on this machine: instances, networks, volumes, probes, logs.
