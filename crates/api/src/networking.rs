//! KIngress: what a Route asks of the gateway.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::condition::{self, Condition, Manager, Set};
use crate::resource::object;
use crate::vocabulary::NETWORKING_GROUP;

object! {
    /// Hosts, paths and the weighted backends behind them.
    Ingress(IngressSpec, IngressStatus) = NETWORKING_GROUP, "v1alpha1", "ingresses"
}

/// What is routed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressSpec {
    /// `Enabled`, or `Redirected` to https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_option: Option<String>,
    /// The rules.
    #[serde(default)]
    pub rules: Vec<IngressRule>,
    /// Certificates per host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<IngressTls>,
}

/// Hosts that share paths and visibility.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRule {
    /// The hosts.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Who may reach them.
    #[serde(default)]
    pub visibility: Visibility,
    /// The paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpIngressRule>,
}

/// Who may reach a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Visibility {
    /// Everybody.
    #[default]
    ExternalIP,
    /// Only what runs inside.
    ClusterLocal,
}

/// Paths of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpIngressRule {
    /// The paths.
    #[serde(default)]
    pub paths: Vec<HttpIngressPath>,
}

/// One match and its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpIngressPath {
    /// A path prefix; everything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Replaces the host that the backend sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite_host: Option<String>,
    /// Headers that must match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Weighted backends; percents add up to 100.
    #[serde(default)]
    pub splits: Vec<IngressBackendSplit>,
    /// Headers set on every request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

/// How a header must look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// The exact value.
    #[serde(default)]
    pub exact: String,
}

/// One backend and its share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressBackendSplit {
    /// The backend's namespace.
    #[serde(default)]
    pub service_namespace: String,
    /// The backend: a Revision's name.
    #[serde(default)]
    pub service_name: String,
    /// The backend's port: 80 for HTTP/1, 81 for h2c.
    #[serde(default)]
    pub service_port: i32,
    /// Share of the requests; 100 when absent and alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i64>,
    /// Headers set on requests to this backend.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

/// A certificate and its hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressTls {
    /// The hosts.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The secret.
    #[serde(default)]
    pub secret_name: String,
    /// The secret's namespace.
    #[serde(default)]
    pub secret_namespace: String,
}

/// What was last observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressStatus {
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Annotations of the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Where the public hosts are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_load_balancer: Option<LoadBalancerStatus>,
    /// Where the inner hosts are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_load_balancer: Option<LoadBalancerStatus>,
}

/// Addresses of a balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerStatus {
    /// The addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One address of a balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// An IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// A public name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// A name that resolves inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_internal: Option<String>,
    /// Reached through a mesh only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_only: Option<bool>,
}

/// The condition that sums up.
pub const READY: &str = "Ready";
/// The gateway's table contains the Ingress.
pub const NETWORK_CONFIGURED: &str = "NetworkConfigured";
/// The balancers answer.
pub const LOAD_BALANCER_READY: &str = "LoadBalancerReady";
/// The conditions of an Ingress.
pub static CONDITIONS: Set = Set { happy: READY, dependents: &[NETWORK_CONFIGURED, LOAD_BALANCER_READY] };

impl IngressStatus {
    /// A writer over the conditions that stamps changes with `now`.
    pub fn manage(&mut self, now: Timestamp) -> Manager<'_> {
        CONDITIONS.manage(&mut self.conditions, now)
    }
    /// The condition of type `type_`.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        condition::find(&self.conditions, type_)
    }
}
