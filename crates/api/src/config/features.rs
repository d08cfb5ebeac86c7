//! config-features.

use super::{Data, unsupported};

/// Whether a feature may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// By all.
    Enabled,
    /// By those who ask for it.
    Allowed,
    /// By nobody.
    Disabled,
}

impl Flag {
    /// Whether an object may use it.
    pub fn is_on(self) -> bool {
        self != Self::Disabled
    }
}

/// How far containers are hardened by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurePods {
    /// Not beyond what every container gets.
    Disabled,
    /// In everything but the user.
    AllowRootBounded,
    /// Also in that root is refused.
    Enabled,
}

macro_rules! features {
    ($($(#[$doc:meta])* $field:ident: $key:literal = $default:ident,)*) => {
        /// What may be used beyond the core.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Features {
            /// `secure-pod-defaults`
            pub secure_pods: SecurePods,
            $($(#[$doc])* pub $field: Flag,)*
        }

        impl Default for Features {
            fn default() -> Self {
                Self { secure_pods: SecurePods::Disabled, $($field: Flag::$default,)* }
            }
        }

        impl Features {
            fn set(&mut self, key: &str, flag: Flag) -> bool {
                match key {
                    $($key => self.$field = flag,)*
                    _ => return false,
                }
                true
            }
        }
    };
}

features! {
    /// `multi-container`
    multi_container: "multi-container" = Enabled,
    /// `multi-container-probing`
    multi_container_probing: "multi-container-probing" = Disabled,
    /// `kubernetes.podspec-init-containers`
    init_containers: "kubernetes.podspec-init-containers" = Disabled,
    /// `kubernetes.podspec-volumes-emptydir`
    empty_dir: "kubernetes.podspec-volumes-emptydir" = Enabled,
    /// `kubernetes.podspec-fieldref`
    field_ref: "kubernetes.podspec-fieldref" = Disabled,
    /// `kubernetes.podspec-securitycontext`
    security_context: "kubernetes.podspec-securitycontext" = Disabled,
    /// `kubernetes.podspec-hostaliases`
    host_aliases: "kubernetes.podspec-hostaliases" = Disabled,
    /// `kubernetes.containerspec-addcapabilities`
    add_capabilities: "kubernetes.containerspec-addcapabilities" = Disabled,
    /// `tag-header-based-routing`
    tag_header: "tag-header-based-routing" = Disabled,
}

/// Features whose state makes no difference here: what they switch is always on, or there is nothing to switch.
const INDIFFERENT: &[&str] = &[
    "autodetect-http2",
    "domainmapping-direct-route-traffic",
    "queueproxy.mount-podinfo",
    "queueproxy.resource-defaults",
];

/// Features that this version does not have.
const MISSING: &[&str] = &[
    "kubernetes.podspec-affinity",
    "kubernetes.podspec-dnsconfig",
    "kubernetes.podspec-dnspolicy",
    "kubernetes.podspec-hostipc",
    "kubernetes.podspec-hostnetwork",
    "kubernetes.podspec-hostpid",
    "kubernetes.podspec-nodeselector",
    "kubernetes.podspec-persistent-volume-claim",
    "kubernetes.podspec-persistent-volume-write",
    "kubernetes.podspec-priorityclassname",
    "kubernetes.podspec-runtimeclassname",
    "kubernetes.podspec-schedulername",
    "kubernetes.podspec-shareprocessnamespace",
    "kubernetes.podspec-tolerations",
    "kubernetes.podspec-topologyspreadconstraints",
    "kubernetes.podspec-volumes-csi",
    "kubernetes.podspec-volumes-ephemeral",
    "kubernetes.podspec-volumes-hostpath",
    "kubernetes.podspec-volumes-image",
    "kubernetes.podspec-volumes-mount-propagation",
];

// === impl Features ===

impl Features {
    /// Reads the ConfigMap. As upstream, a value that means nothing leaves the default.
    ///
    /// # Errors
    /// A sentence that names a feature which is switched on and does not exist here.
    pub fn read(data: &Data) -> Result<Self, String> {
        let mut features = Self::default();
        for (key, text) in data {
            let text = text.trim();
            if key == "secure-pod-defaults" {
                features.secure_pods = match text.to_ascii_lowercase().as_str() {
                    "enabled" => SecurePods::Enabled,
                    "allowrootbounded" => SecurePods::AllowRootBounded,
                    _ => SecurePods::Disabled,
                };
                continue;
            }
            let flag = match text.to_ascii_lowercase().as_str() {
                "enabled" => Flag::Enabled,
                "allowed" => Flag::Allowed,
                "disabled" => Flag::Disabled,
                _ => continue,
            };
            let known = INDIFFERENT.contains(&key.as_str()) || features.set(key, flag);
            if !known && flag.is_on() && MISSING.contains(&key.as_str()) {
                return Err(unsupported(key, text));
            }
        }
        Ok(features)
    }
}
