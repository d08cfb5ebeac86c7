//! Where services live: hosts and URLs.

use dormouse_api::vocabulary::CLUSTER_DOMAIN;

/// The suffix of public hosts where config-domain names none, and the port that URLs carry.
///
/// The default needs no DNS: `*.localhost` is this machine (RFC 6761), so curl and browsers open it as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// For example `localhost`.
    pub suffix: String,
    /// The gateway's port; `None` when it is 80 and URLs need none.
    pub port: Option<u16>,
}

/// The hosts under which `name` is reached from inside, shortest first.
pub(crate) fn cluster_hosts(name: &str, namespace: &str) -> Vec<String> {
    vec![
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.{CLUSTER_DOMAIN}"),
    ]
}

/// The URL of `name` inside.
pub(crate) fn cluster_url(name: &str, namespace: &str) -> String {
    format!("http://{name}.{namespace}.{CLUSTER_DOMAIN}")
}

/// The name of the gateway's private side that placeholder Services point at.
pub(crate) const INTERNAL_GATEWAY: &str = "gateway-internal.knative-serving.svc.cluster.local";
