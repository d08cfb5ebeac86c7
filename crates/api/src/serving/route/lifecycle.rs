use jiff::Timestamp;

use super::{Route, RouteStatus};
use crate::condition::{self, Condition, Manager, Set};

/// The condition that sums up.
pub const READY: &str = "Ready";
/// All targets resolve to ready Revisions.
pub const ALL_TRAFFIC_ASSIGNED: &str = "AllTrafficAssigned";
/// The gateway serves the routing object.
pub const INGRESS_READY: &str = "IngressReady";
/// TLS is provided as wanted.
pub const CERTIFICATE_PROVISIONED: &str = "CertificateProvisioned";
/// The conditions of a Route.
pub static CONDITIONS: Set =
    Set { happy: READY, dependents: &[ALL_TRAFFIC_ASSIGNED, INGRESS_READY, CERTIFICATE_PROVISIONED] };

impl RouteStatus {
    /// A writer over the conditions that stamps changes with `now`.
    pub fn manage(&mut self, now: Timestamp) -> Manager<'_> {
        CONDITIONS.manage(&mut self.conditions, now)
    }
    /// The condition of type `type_`.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        condition::find(&self.conditions, type_)
    }
}

impl Route {
    /// Whether the current generation was observed and is Ready.
    pub fn is_ready(&self) -> bool {
        self.settled(Condition::is_true)
    }
    /// Whether the current generation was observed and failed.
    pub fn is_failed(&self) -> bool {
        self.settled(Condition::is_false)
    }

    fn settled(&self, wanted: fn(&Condition) -> bool) -> bool {
        self.status.as_ref().is_some_and(|status| {
            status.observed_generation == self.metadata.generation
                && status.condition(READY).is_some_and(wanted)
        })
    }
}
