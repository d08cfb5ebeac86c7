use jiff::Timestamp;

use super::{Revision, RevisionStatus};
use crate::condition::{self, Condition, Manager, Set};

/// The condition that sums up.
pub const READY: &str = "Ready";
/// Whether instances receive traffic; informational.
pub const ACTIVE: &str = "Active";
/// The container starts and stays up.
pub const CONTAINER_HEALTHY: &str = "ContainerHealthy";
/// Everything that an instance needs exists.
pub const RESOURCES_AVAILABLE: &str = "ResourcesAvailable";
/// The conditions of a Revision.
pub static CONDITIONS: Set = Set { happy: READY, dependents: &[RESOURCES_AVAILABLE, CONTAINER_HEALTHY] };

impl RevisionStatus {
    /// A writer over the conditions that stamps changes with `now`.
    pub fn manage(&mut self, now: Timestamp) -> Manager<'_> {
        CONDITIONS.manage(&mut self.conditions, now)
    }
    /// The condition of type `type_`.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        condition::find(&self.conditions, type_)
    }
}

impl Revision {
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
