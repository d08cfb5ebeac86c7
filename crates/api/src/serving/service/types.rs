use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::resource::object;
use crate::serving::Addressable;
use crate::serving::revision::RevisionTemplateSpec;
use crate::serving::route::TrafficTarget;
use crate::vocabulary::SERVING_GROUP;

object! {
    /// A Configuration and the Route to it, managed as one.
    Service(ServiceSpec, ServiceStatus) = SERVING_GROUP, "v1", "services"
}

/// The specs of the Configuration and of the Route in one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// What Revisions are stamped from.
    #[serde(default)]
    pub template: RevisionTemplateSpec,
    /// Who receives how much.
    #[serde(default)]
    pub traffic: Vec<TrafficTarget>,
}

/// What was last observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Annotations of the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The newest Revision that was ever Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_ready_revision_name: Option<String>,
    /// The Revision of the current generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_created_revision_name: Option<String>,
    /// The public URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The URL inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Addressable>,
    /// The Route's targets with Revisions and URLs filled in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
}
