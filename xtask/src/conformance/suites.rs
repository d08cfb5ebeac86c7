//! The suites, what each needs switched on, and what is known not to work, with the reason.

/// One of upstream's suites.
pub(crate) struct Suite {
    /// How it is called here.
    pub(crate) name: &'static str,
    /// The Go package.
    pub(crate) package: &'static str,
    /// How long it may take.
    pub(crate) timeout: &'static str,
    /// Keys of the platform's ConfigMaps that are set meanwhile.
    pub(crate) settings: &'static [(&'static str, &'static str, &'static str)],
    /// Tests that are not run, and why.
    pub(crate) gaps: &'static [(&'static str, &'static str)],
}

const PLAIN: Suite = Suite { name: "", package: "", timeout: "10m", settings: &[], gaps: &[] };
const FEATURES: &str = "config-features";

const SERVERLESS_SERVICE: &str = "looks into Knative's ServerlessService objects and their Endpoints, which have no place here: the gateway holds requests itself";
const QUEUE_PROXY: &str = "looks into the queue-proxy container, and there is none";

/// In the order of upstream's own runs.
pub(crate) const SUITES: &[Suite] = &[
    Suite { name: "conformance-api-v1", package: "./test/conformance/api/v1", ..PLAIN },
    Suite { name: "conformance-api-v1beta1", package: "./test/conformance/api/v1beta1", ..PLAIN },
    Suite { name: "conformance-runtime", package: "./test/conformance/runtime", ..PLAIN },
    Suite { name: "e2e", package: "./test/e2e", timeout: "50m", gaps: E2E_GAPS, ..PLAIN },
    Suite {
        name: "e2e-tagheader",
        package: "./test/e2e/tagheader",
        settings: &[(FEATURES, "tag-header-based-routing", "Enabled")],
        ..PLAIN
    },
    Suite {
        name: "e2e-initscale",
        package: "./test/e2e/initscale",
        settings: &[("config-autoscaler", "allow-zero-initial-scale", "true")],
        ..PLAIN
    },
    Suite { name: "e2e-domainmapping", package: "./test/e2e/domainmapping", ..PLAIN },
    Suite {
        name: "e2e-gc",
        package: "./test/e2e/gc",
        settings: &[
            ("config-gc", "retain-since-create-time", "disabled"),
            ("config-gc", "retain-since-last-active-time", "disabled"),
            ("config-gc", "min-non-active-revisions", "0"),
            ("config-gc", "max-non-active-revisions", "0"),
        ],
        ..PLAIN
    },
    Suite {
        name: "e2e-initcontainers",
        package: "./test/e2e/initcontainers",
        settings: &[(FEATURES, "kubernetes.podspec-init-containers", "Enabled")],
        ..PLAIN
    },
    Suite {
        name: "e2e-multicontainerprobing",
        package: "./test/e2e/multicontainerprobing",
        settings: &[(FEATURES, "multi-container-probing", "Enabled")],
        ..PLAIN
    },
    Suite {
        name: "e2e-securedefaults",
        package: "./test/e2e/securedefaults",
        settings: &[(FEATURES, "secure-pod-defaults", "Enabled")],
        ..PLAIN
    },
];

const E2E_GAPS: &[(&str, &str)] = &[
    ("TestMinScale", SERVERLESS_SERVICE),
    ("TestMinScaleAnnotationChange", SERVERLESS_SERVICE),
    ("TestMinScaleTransition", SERVERLESS_SERVICE),
    ("TestWebSocketViaActivator", SERVERLESS_SERVICE),
    ("TestQueueSideCarResourceLimit", QUEUE_PROXY),
];
