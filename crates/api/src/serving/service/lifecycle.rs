use jiff::Timestamp;

use super::{Service, ServiceStatus};
use crate::condition::{self, Condition, Manager, Set};

/// The condition that sums up.
pub const READY: &str = "Ready";
/// The Configuration is Ready at its current generation.
pub const CONFIGURATIONS_READY: &str = "ConfigurationsReady";
/// The Route is Ready and serves what is wanted.
pub const ROUTES_READY: &str = "RoutesReady";
/// The conditions of a Service.
pub static CONDITIONS: Set = Set { happy: READY, dependents: &[CONFIGURATIONS_READY, ROUTES_READY] };

impl ServiceStatus {
    /// A writer over the conditions that stamps changes with `now`.
    pub fn manage(&mut self, now: Timestamp) -> Manager<'_> {
        CONDITIONS.manage(&mut self.conditions, now)
    }
    /// The condition of type `type_`.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        condition::find(&self.conditions, type_)
    }
}

impl Service {
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
