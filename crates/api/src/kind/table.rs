//! The data of the registry.

use super::{Column, KindInfo, Storage};

/// A durable, namespaced kind of the core group with a status.
const WITH_STATUS: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: true,
    scale: false,
    custom: false,
    storage: Storage::Durable,
    labels: &[],
    columns: &[],
};

/// The same without a status.
const PLAIN: KindInfo = KindInfo { status: false, ..WITH_STATUS };
/// A kind that is presented as a custom resource.
const CUSTOM: KindInfo = KindInfo { custom: true, labels: INSTALLED, ..WITH_STATUS };

const INSTALL: (&str, &str) = ("knative.dev/crd-install", "true");
const ADDRESSABLE: (&str, &str) = ("duck.knative.dev/addressable", "true");
const PODSPECABLE: (&str, &str) = ("duck.knative.dev/podspecable", "true");
const INSTALLED: &[(&str, &str)] = &[INSTALL];

const fn text(name: &'static str, path: &'static str) -> Column {
    Column { name, kind: "string", path, wide: false }
}

const fn number(name: &'static str, path: &'static str) -> Column {
    Column { name, kind: "integer", path, wide: false }
}

const READY: Column = text("Ready", ".status.conditions[?(@.type=='Ready')].status");
const REASON: Column = text("Reason", ".status.conditions[?(@.type=='Ready')].reason");
const URL: Column = text("URL", ".status.url");
const LATEST_CREATED: Column = text("LatestCreated", ".status.latestCreatedRevisionName");
const LATEST_READY: Column = text("LatestReady", ".status.latestReadyRevisionName");

const SERVING: &str = "serving.knative.dev";
const ALL_SERVING: &[&str] = &["all", "knative", "serving"];

pub(super) const KINDS: &[KindInfo] = &[
    // === core ===
    KindInfo {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        ..WITH_STATUS
    },
    KindInfo {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        storage: Storage::Ephemeral,
        ..WITH_STATUS
    },
    KindInfo {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        ..WITH_STATUS
    },
    KindInfo {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        storage: Storage::Ephemeral,
        ..PLAIN
    },
    KindInfo {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        ..PLAIN
    },
    KindInfo { kind: "Secret", plural: "secrets", singular: "secret", ..PLAIN },
    KindInfo {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        ..PLAIN
    },
    KindInfo {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        storage: Storage::Ephemeral,
        ..PLAIN
    },
    KindInfo {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        storage: Storage::Ephemeral,
        ..WITH_STATUS
    },
    KindInfo {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        ..WITH_STATUS
    },
    KindInfo {
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        ..PLAIN
    },
    // === apps ===
    KindInfo {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        scale: true,
        ..WITH_STATUS
    },
    KindInfo {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        scale: true,
        ..WITH_STATUS
    },
    // === other built-in groups ===
    KindInfo {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        storage: Storage::Ephemeral,
        ..PLAIN
    },
    KindInfo {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        storage: Storage::Ephemeral,
        ..PLAIN
    },
    KindInfo {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        storage: Storage::Ephemeral,
        ..PLAIN
    },
    KindInfo {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        ..WITH_STATUS
    },
    // === Knative Serving ===
    KindInfo {
        group: SERVING,
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["kservice", "ksvc"],
        categories: ALL_SERVING,
        labels: &[INSTALL, ADDRESSABLE, PODSPECABLE],
        columns: &[URL, LATEST_CREATED, LATEST_READY, READY, REASON],
        ..CUSTOM
    },
    KindInfo {
        group: SERVING,
        kind: "Configuration",
        plural: "configurations",
        singular: "configuration",
        short_names: &["config", "cfg"],
        categories: ALL_SERVING,
        labels: &[INSTALL, PODSPECABLE],
        columns: &[LATEST_CREATED, LATEST_READY, READY, REASON],
        ..CUSTOM
    },
    KindInfo {
        group: SERVING,
        kind: "Revision",
        plural: "revisions",
        singular: "revision",
        short_names: &["rev"],
        categories: ALL_SERVING,
        columns: &[
            text("Config Name", r".metadata.labels['serving\.knative\.dev/configuration']"),
            text("Generation", r".metadata.labels['serving\.knative\.dev/configurationGeneration']"),
            READY,
            REASON,
            number("Actual Replicas", ".status.actualReplicas"),
            number("Desired Replicas", ".status.desiredReplicas"),
        ],
        ..CUSTOM
    },
    KindInfo {
        group: SERVING,
        kind: "Route",
        plural: "routes",
        singular: "route",
        short_names: &["rt"],
        categories: ALL_SERVING,
        labels: &[INSTALL, ADDRESSABLE],
        columns: &[URL, READY, REASON],
        ..CUSTOM
    },
    KindInfo {
        group: SERVING,
        version: "v1beta1",
        kind: "DomainMapping",
        plural: "domainmappings",
        singular: "domainmapping",
        short_names: &["dm"],
        categories: ALL_SERVING,
        columns: &[URL, READY, REASON],
        ..CUSTOM
    },
    KindInfo {
        group: "autoscaling.internal.knative.dev",
        version: "v1alpha1",
        kind: "PodAutoscaler",
        plural: "podautoscalers",
        singular: "podautoscaler",
        short_names: &["kpa", "pa"],
        categories: &["knative-internal", "autoscaling"],
        columns: &[
            number("DesiredScale", ".status.desiredScale"),
            number("ActualScale", ".status.actualScale"),
            READY,
            REASON,
        ],
        ..CUSTOM
    },
    KindInfo {
        group: "networking.internal.knative.dev",
        version: "v1alpha1",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["kingress", "king"],
        categories: &["knative-internal", "networking"],
        columns: &[READY, REASON],
        ..CUSTOM
    },
    KindInfo {
        group: "networking.internal.knative.dev",
        version: "v1alpha1",
        kind: "ClusterDomainClaim",
        plural: "clusterdomainclaims",
        singular: "clusterdomainclaim",
        short_names: &["cdc"],
        categories: &["knative-internal", "networking"],
        namespaced: false,
        ..CUSTOM
    },
];
