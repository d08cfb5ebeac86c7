//! PodAutoscaler and the scaling annotations that users write.

mod knobs;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use serde::{Deserialize, Serialize};

use crate::condition::{self, Condition, Manager, Set};
use crate::resource::object;
use crate::vocabulary::AUTOSCALING_GROUP;

pub use knobs::{Aggregation, Allowed, Key, Knobs, Metric, keys, parse_duration, validate};

object! {
    /// How many instances a Revision should have.
    PodAutoscaler(PodAutoscalerSpec, PodAutoscalerStatus) = AUTOSCALING_GROUP, "v1alpha1", "podautoscalers"
}

/// What is scaled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodAutoscalerSpec {
    /// Requests that an instance may serve at once; 0 is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_concurrency: Option<i64>,
    /// The Deployment.
    #[serde(default)]
    pub scale_target_ref: ObjectReference,
    /// Whether any Route points here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachability: Option<Reachability>,
    /// `http1` or `h2c`.
    #[serde(default)]
    pub protocol_type: String,
}

/// Whether any Route points at a Revision; not known while it is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reachability {
    /// Not known yet.
    #[serde(rename = "")]
    Unknown,
    /// Some Route points here.
    Reachable,
    /// No Route points here.
    Unreachable,
}

/// What was last observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodAutoscalerStatus {
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Annotations of the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The name that requests are sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The name that metrics are read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_service_name: Option<String>,
    /// Instances that are wanted; −1 before the first decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_scale: Option<i32>,
    /// Instances that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_scale: Option<i32>,
}

/// The condition that sums up.
pub const READY: &str = "Ready";
/// Whether instances receive traffic.
pub const ACTIVE: &str = "Active";
/// The initial scale was reached once.
pub const SCALE_TARGET_INITIALIZED: &str = "ScaleTargetInitialized";
/// Requests find their way.
pub const SKS_READY: &str = "SKSReady";
/// The conditions of a PodAutoscaler.
pub static CONDITIONS: Set = Set { happy: READY, dependents: &[ACTIVE, SCALE_TARGET_INITIALIZED, SKS_READY] };

impl PodAutoscalerStatus {
    /// A writer over the conditions that stamps changes with `now`.
    pub fn manage(&mut self, now: Timestamp) -> Manager<'_> {
        CONDITIONS.manage(&mut self.conditions, now)
    }
    /// The condition of type `type_`.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        condition::find(&self.conditions, type_)
    }
}
