//! How lists and maps of built-in kinds merge: for strategic merge patches and for server-side apply.
//!
//! Only what departs from the default is written down. The default, also for fields without an entry: objects merge
//! field by field, lists are replaced whole.

use dormouse_api::kind::KindInfo;

/// How the fields of one type merge.
#[derive(Debug)]
pub(crate) struct Type {
    fields: &'static [Field],
}

/// How one field merges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// The type of the value, or of the items when it is a list.
    pub(crate) inner: &'static Type,
    /// In a strategic merge patch.
    pub(crate) patch: Patch,
    /// Whether a strategic merge patch may name the keys to keep.
    pub(crate) retain_keys: bool,
    /// In server-side apply.
    pub(crate) apply: Apply,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patch {
    /// Objects merge, lists are replaced.
    Default,
    /// A list whose items are told apart by this key.
    Keyed(&'static str),
    /// A list of scalars used as a set.
    Set,
    /// Replaced even though it is an object.
    Replace,
}

/// How server-side apply treats a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apply {
    /// Objects merge, lists are atomic.
    Default,
    /// One value with one owner.
    Atomic,
    /// A list of scalars, each with its owners.
    Set,
    /// A list whose items are told apart by these keys; a missing key has the default beside it.
    Keyed(&'static [(&'static str, Option<&'static str>)]),
}

impl Type {
    /// The rule for a field.
    pub(crate) fn field(&self, name: &str) -> Field {
        self.fields.iter().find(|field| field.name == name).copied().unwrap_or(DEFAULT)
    }
}

impl Field {
    /// The rule for a whole object of a type.
    pub(crate) fn whole(inner: &'static Type) -> Self {
        Self { inner, ..DEFAULT }
    }
}

/// A type without exceptions.
pub(crate) static ANY: Type = Type { fields: &[] };

const DEFAULT: Field =
    Field { name: "", inner: &ANY, patch: Patch::Default, retain_keys: false, apply: Apply::Default };

const fn inside(name: &'static str, inner: &'static Type) -> Field {
    Field { name, inner, ..DEFAULT }
}

const fn atomic(name: &'static str) -> Field {
    Field { name, apply: Apply::Atomic, ..DEFAULT }
}

const fn set(name: &'static str) -> Field {
    Field { name, patch: Patch::Set, apply: Apply::Set, ..DEFAULT }
}

const fn keyed(
    name: &'static str,
    inner: &'static Type,
    key: &'static str,
    keys: &'static [(&'static str, Option<&'static str>)],
) -> Field {
    Field { name, inner, patch: Patch::Keyed(key), apply: Apply::Keyed(keys), ..DEFAULT }
}

const NAME: &[(&str, Option<&str>)] = &[("name", None)];
const TYPE: &[(&str, Option<&str>)] = &[("type", None)];
const IP: &[(&str, Option<&str>)] = &[("ip", None)];

const CONDITIONS: Field = keyed("conditions", &ANY, "type", TYPE);
const METADATA: Field = inside("metadata", &OBJECT_META);

static OBJECT_META: Type =
    Type { fields: &[keyed("ownerReferences", &ANY, "uid", &[("uid", None)]), set("finalizers")] };

static VALUE_FROM: Type = Type {
    fields: &[
        atomic("fieldRef"),
        atomic("resourceFieldRef"),
        atomic("configMapKeyRef"),
        atomic("secretKeyRef"),
        atomic("fileKeyRef"),
    ],
};
static ENV: Type = Type { fields: &[inside("valueFrom", &VALUE_FROM)] };
static RESOURCES: Type = Type { fields: &[Field { name: "claims", apply: Apply::Keyed(NAME), ..DEFAULT }] };
static CONTAINER: Type = Type {
    fields: &[
        keyed("ports", &ANY, "containerPort", &[("containerPort", None), ("protocol", Some("TCP"))]),
        keyed("env", &ENV, "name", NAME),
        keyed("volumeMounts", &ANY, "mountPath", &[("mountPath", None)]),
        keyed("volumeDevices", &ANY, "devicePath", &[("devicePath", None)]),
        inside("resources", &RESOURCES),
    ],
};
static VOLUME: Type = Type { fields: &[inside("csi", &CSI)] };
static CSI: Type = Type { fields: &[atomic("nodePublishSecretRef")] };
static SPREAD: Type = Type { fields: &[atomic("labelSelector")] };
static AFFINITY: Type = Type { fields: &[inside("nodeAffinity", &NODE_AFFINITY)] };
static NODE_AFFINITY: Type = Type { fields: &[atomic("requiredDuringSchedulingIgnoredDuringExecution")] };

static POD_SPEC: Type = Type {
    fields: &[
        Field { retain_keys: true, ..keyed("volumes", &VOLUME, "name", NAME) },
        keyed("initContainers", &CONTAINER, "name", NAME),
        keyed("containers", &CONTAINER, "name", NAME),
        keyed("ephemeralContainers", &CONTAINER, "name", NAME),
        keyed("imagePullSecrets", &ANY, "name", NAME),
        keyed("schedulingGates", &ANY, "name", NAME),
        Field { retain_keys: true, ..keyed("resourceClaims", &ANY, "name", NAME) },
        keyed("hostAliases", &ANY, "ip", IP),
        keyed(
            "topologySpreadConstraints",
            &SPREAD,
            "topologyKey",
            &[("topologyKey", None), ("whenUnsatisfiable", None)],
        ),
        inside("affinity", &AFFINITY),
        atomic("nodeSelector"),
    ],
};
static CONTAINER_STATUS: Type = Type {
    fields: &[
        keyed("volumeMounts", &ANY, "mountPath", &[("mountPath", None)]),
        keyed("allocatedResourcesStatus", &ANY, "name", NAME),
    ],
};
static POD_STATUS: Type = Type {
    fields: &[
        CONDITIONS,
        keyed("podIPs", &ANY, "ip", IP),
        Field { apply: Apply::Default, ..keyed("hostIPs", &ANY, "ip", IP) },
        Field { retain_keys: true, ..keyed("resourceClaimStatuses", &ANY, "name", NAME) },
        inside("containerStatuses", &CONTAINER_STATUS),
        inside("initContainerStatuses", &CONTAINER_STATUS),
        inside("ephemeralContainerStatuses", &CONTAINER_STATUS),
    ],
};
static POD: Type = Type { fields: &[METADATA, inside("spec", &POD_SPEC), inside("status", &POD_STATUS)] };
static POD_TEMPLATE: Type = Type { fields: &[METADATA, inside("spec", &POD_SPEC)] };

static DEPLOYMENT_SPEC: Type = Type {
    fields: &[
        atomic("selector"),
        inside("template", &POD_TEMPLATE),
        Field { name: "strategy", retain_keys: true, ..DEFAULT },
    ],
};
static DEPLOYMENT: Type =
    Type { fields: &[METADATA, inside("spec", &DEPLOYMENT_SPEC), inside("status", &STATUS)] };
static STATUS: Type = Type { fields: &[CONDITIONS] };

static SERVICE_SPEC: Type = Type {
    fields: &[keyed("ports", &ANY, "port", &[("port", None), ("protocol", Some("TCP"))]), atomic("selector")],
};
static SERVICE: Type = Type { fields: &[METADATA, inside("spec", &SERVICE_SPEC), inside("status", &STATUS)] };
static SERVICE_ACCOUNT: Type = Type { fields: &[METADATA, keyed("secrets", &ANY, "name", NAME)] };
static EVENT: Type =
    Type { fields: &[METADATA, atomic("involvedObject"), atomic("related"), atomic("regarding")] };

static NODE_SPEC: Type = Type { fields: &[set("podCIDRs")] };
static NODE_STATUS: Type = Type { fields: &[CONDITIONS, keyed("addresses", &ANY, "type", TYPE)] };
static NODE: Type = Type { fields: &[METADATA, inside("spec", &NODE_SPEC), inside("status", &NODE_STATUS)] };

static RESOURCE_QUOTA_SPEC: Type = Type { fields: &[atomic("scopeSelector")] };
static RESOURCE_QUOTA: Type = Type { fields: &[METADATA, inside("spec", &RESOURCE_QUOTA_SPEC)] };

static ENDPOINT: Type =
    Type { fields: &[Field { patch: Patch::Default, ..set("addresses") }, atomic("targetRef")] };
static ENDPOINT_SLICE: Type = Type { fields: &[METADATA, inside("endpoints", &ENDPOINT)] };

static WITH_CONDITIONS: Type = Type { fields: &[METADATA, inside("status", &STATUS)] };
static PLAIN: Type = Type { fields: &[METADATA] };

/// How objects of a kind merge. Custom kinds have exceptions in their metadata only.
pub(crate) fn of(kind: &KindInfo) -> &'static Type {
    match (kind.group, kind.kind) {
        ("", "Pod") => &POD,
        ("apps", "Deployment" | "ReplicaSet") => &DEPLOYMENT,
        ("", "Service") => &SERVICE,
        ("", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("", "Node") => &NODE,
        ("", "Namespace") => &WITH_CONDITIONS,
        ("", "ResourceQuota") => &RESOURCE_QUOTA,
        ("" | "events.k8s.io", "Event") => &EVENT,
        ("discovery.k8s.io", "EndpointSlice") => &ENDPOINT_SLICE,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &WITH_CONDITIONS,
        _ => &PLAIN,
    }
}
