//! Every label, annotation, header and fixed name that leaks out of the program, in one place.

/// API group of Service, Configuration, Revision and Route.
pub const SERVING_GROUP: &str = "serving.knative.dev";
/// API group of KIngress.
pub const NETWORKING_GROUP: &str = "networking.internal.knative.dev";
/// API group of PodAutoscaler.
pub const AUTOSCALING_GROUP: &str = "autoscaling.internal.knative.dev";
/// Where the platform's own ConfigMaps live.
pub const SYSTEM_NAMESPACE: &str = "knative-serving";
/// The suffix of names that only resolve inside.
pub const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// Who created an object.
pub const CREATOR: &str = "serving.knative.dev/creator";
/// Who changed an object's spec last.
pub const LAST_MODIFIER: &str = "serving.knative.dev/lastModifier";
/// Comma list of the Routes that point at a Configuration or Revision.
pub const ROUTES: &str = "serving.knative.dev/routes";
/// `pending`, `active` or `reserve`.
pub const ROUTING_STATE: &str = "serving.knative.dev/routingState";
/// When the routing state changed last (RFC 3339).
pub const ROUTING_STATE_MODIFIED: &str = "serving.knative.dev/routingStateModified";
/// Legacy bookkeeping that must not reach a Deployment.
pub const LAST_PINNED: &str = "serving.knative.dev/lastPinned";
/// `"true"` keeps a Revision from garbage collection.
pub const NO_GC: &str = "serving.knative.dev/no-gc";
/// Length of a gradual rollout.
pub const ROLLOUT_DURATION: &str = "serving.knative.dev/rollout-duration";
/// The older spelling of [`ROLLOUT_DURATION`].
pub const ROLLOUT_DURATION_ALIAS: &str = "serving.knative.dev/rolloutDuration";
/// How long a Deployment may take to make progress.
pub const PROGRESS_DEADLINE: &str = "serving.knative.dev/progress-deadline";
/// The older spelling of [`PROGRESS_DEADLINE`].
pub const PROGRESS_DEADLINE_ALIAS: &str = "serving.knative.dev/progressDeadline";
/// Name of the owning Service.
pub const SERVICE_LABEL: &str = "serving.knative.dev/service";
/// Uid of the owning Service.
pub const SERVICE_UID_LABEL: &str = "serving.knative.dev/serviceUID";
/// Name of the owning Configuration.
pub const CONFIGURATION_LABEL: &str = "serving.knative.dev/configuration";
/// Uid of the owning Configuration.
pub const CONFIGURATION_UID_LABEL: &str = "serving.knative.dev/configurationUID";
/// The Configuration's generation that a Revision was made from.
pub const CONFIGURATION_GENERATION_LABEL: &str = "serving.knative.dev/configurationGeneration";
/// Name of the Revision that a Deployment or Pod belongs to.
pub const REVISION_LABEL: &str = "serving.knative.dev/revision";
/// Uid of that Revision.
pub const REVISION_UID_LABEL: &str = "serving.knative.dev/revisionUID";
/// Name of the Route that an Ingress or placeholder belongs to.
pub const ROUTE_LABEL: &str = "serving.knative.dev/route";
/// Namespace of that Route.
pub const ROUTE_NAMESPACE_LABEL: &str = "serving.knative.dev/routeNamespace";
/// Hash of the Deployment as planned; a difference means drift.
pub const DEPLOYMENT_HASH_LABEL: &str = "serving.knative.dev/deployment-hash";
/// `cluster-local` keeps a Route private.
pub const VISIBILITY_LABEL: &str = "networking.knative.dev/visibility";
/// The value of [`VISIBILITY_LABEL`] that means private.
pub const CLUSTER_LOCAL: &str = "cluster-local";
/// Which controller acts on an Ingress.
pub const INGRESS_CLASS: &str = "networking.knative.dev/ingress.class";
/// Our own Ingress class.
pub const OUR_INGRESS_CLASS: &str = "dormouse.ingress.networking.knative.dev";
/// State of a gradual rollout (JSON).
pub const ROLLOUT_STATE: &str = "networking.internal.knative.dev/rollout";
/// Tag → hosts (JSON).
pub const TAG_TO_HOST: &str = "networking.internal.knative.dev/tag-to-host";
/// What `kubectl apply` remembers.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Which container `kubectl logs` reads.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Prefix of every scaling annotation.
pub const AUTOSCALING_PREFIX: &str = "autoscaling.knative.dev/";
/// Hosts that a WebAssembly component may call, separated by commas: `name`, `*.name` or `*`, each with an optional `:port`.
pub const WASM_ALLOWED_HOSTS: &str = "wasm.dormouse.dev/allowed-hosts";
/// How many requests an instance of a WebAssembly component serves, one after the other; 1 unless told otherwise.
pub const WASM_REQUESTS_PER_INSTANCE: &str = "wasm.dormouse.dev/requests-per-instance";
/// Reason of a component that needs what the platform does not have.
pub const WASM_IMPORT_NOT_GRANTED: &str = "ImportNotGranted";
/// Reason of a component that is none, is damaged, or does not answer HTTP.
pub const WASM_INVALID_COMPONENT: &str = "InvalidComponent";
/// Reason of an annotation that grants nothing that could be granted.
pub const WASM_INVALID_GRANT: &str = "InvalidGrant";
/// HTTP/1 full duplex for a Revision.
pub const FULL_DUPLEX: &str = "features.knative.dev/http-full-duplex";

/// Header naming the Revision that a request was routed to.
pub const HEADER_REVISION: &str = "Knative-Serving-Revision";
/// Header naming that Revision's namespace.
pub const HEADER_NAMESPACE: &str = "Knative-Serving-Namespace";

/// A request header that chooses a tag.
pub const TAG_HEADER: &str = "Knative-Serving-Tag";
/// Set on requests that no tag was chosen for.
pub const DEFAULT_ROUTE: &str = "Knative-Serving-Default-Route";

/// The name of a serving container that was given none.
pub const USER_CONTAINER: &str = "user-container";
/// The name of an init container that was given none.
pub const INIT_CONTAINER: &str = "init-container";
/// The name of the port of the serving container in a Deployment.
pub const USER_PORT_NAME: &str = "user-port";
/// The port used when a container names none.
pub const DEFAULT_USER_PORT: i32 = 8080;
/// `timeoutSeconds` when unset.
pub const DEFAULT_TIMEOUT_SECONDS: i64 = 300;
/// The largest allowed `timeoutSeconds`.
pub const MAX_TIMEOUT_SECONDS: i64 = 600;
/// The largest allowed `containerConcurrency`.
pub const MAX_CONTAINER_CONCURRENCY: i64 = 1000;
/// The class of our autoscaler.
pub const KPA_CLASS: &str = "kpa.autoscaling.knative.dev";
/// The class of the Kubernetes autoscaler, which this version does not offer.
pub const HPA_CLASS: &str = "hpa.autoscaling.knative.dev";

/// Routing state of a new Revision.
pub const PENDING: &str = "pending";
/// Routing state of a Revision that receives traffic.
pub const ACTIVE: &str = "active";
/// Routing state of a Revision that no Route names.
pub const RESERVE: &str = "reserve";
