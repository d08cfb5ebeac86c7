//! Paths to targets.

use dormouse_api::kind::{self, KindInfo};

use crate::query::segment;

/// What a path names.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Root,
    Health,
    Version,
    CoreVersions,
    Groups,
    Group(String),
    Resources {
        group: String,
        version: String,
    },
    OpenApiIndex,
    OpenApiV2,
    OpenApi {
        group: String,
        version: String,
    },
    /// A review: something to be asked, not stored.
    Review {
        group: String,
        resource: String,
    },
    Resource(Resource),
    /// Who issues tokens.
    Issuer,
    /// The keys that tokens are verified with.
    Keys,
    Unknown,
}

/// A collection or one object of it, or a part of that object.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) kind: &'static KindInfo,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

pub(crate) fn target(path: &str) -> Target {
    let segments: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(segment).collect();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let owned = |text: &str| text.to_owned();
    match parts.as_slice() {
        [] => Target::Root,
        ["healthz" | "livez" | "readyz", ..] => Target::Health,
        ["version"] => Target::Version,
        [".well-known", "openid-configuration"] => Target::Issuer,
        ["openid", "v1", "jwks"] => Target::Keys,
        ["api"] => Target::CoreVersions,
        ["apis"] => Target::Groups,
        ["apis", group] => Target::Group(owned(group)),
        ["api", version] => Target::Resources { group: String::new(), version: owned(version) },
        ["apis", group, version] => Target::Resources { group: owned(group), version: owned(version) },
        ["openapi", "v2"] => Target::OpenApiV2,
        ["openapi", "v3"] => Target::OpenApiIndex,
        ["openapi", "v3", "api", version] => {
            Target::OpenApi { group: String::new(), version: owned(version) }
        }
        ["openapi", "v3", "apis", group, version] => {
            Target::OpenApi { group: owned(group), version: owned(version) }
        }
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Target::Unknown,
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Target {
    if let (["selfsubjectreviews"], "authentication.k8s.io", "v1")
    | (
        ["selfsubjectaccessreviews" | "selfsubjectrulesreviews" | "subjectaccessreviews"],
        "authorization.k8s.io",
        "v1",
    ) = (rest, group, version)
    {
        let resource = rest.first().copied().unwrap_or_default().to_owned();
        return Target::Review { group: group.into(), resource };
    }
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest),
        ["namespaces", namespace, tail @ ..] if !tail.is_empty() => (Some((*namespace).to_owned()), tail),
        _ => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(*name), None),
        [plural, name, subresource] => (plural, Some(*name), Some(*subresource)),
        _ => return Target::Unknown,
    };
    let Some(kind) = kind::find(group, version, plural) else { return Target::Unknown };
    if namespace.is_some() != kind.namespaced && (namespace.is_some() || name.is_some()) {
        return Target::Unknown;
    }
    Target::Resource(Resource {
        kind,
        namespace,
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        match target(path) {
            Target::Resource(Resource { kind, namespace, name, subresource }) => {
                format!("{} {namespace:?} {name:?} {subresource:?}", kind.kind)
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_name_what_kubernetes_says() {
        for (path, expected) in [
            ("/api/v1/pods", "Pod None None None"),
            ("/api/v1/namespaces", "Namespace None None None"),
            ("/api/v1/namespaces/x", "Namespace None Some(\"x\") None"),
            ("/api/v1/namespaces/x/finalize", "Namespace None Some(\"x\") Some(\"finalize\")"),
            ("/api/v1/namespaces/x/pods", "Pod Some(\"x\") None None"),
            ("/api/v1/namespaces/x/pods/p/log", "Pod Some(\"x\") Some(\"p\") Some(\"log\")"),
            (
                "/apis/serving.knative.dev/v1/namespaces/a/services/s%2Fx",
                "Service Some(\"a\") Some(\"s/x\") None",
            ),
            ("/api/v1/pods/p", "Unknown"),
            ("/apis/nope/v1/x", "Unknown"),
            ("/apis/apps/v1", "Resources { group: \"apps\", version: \"v1\" }"),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
    }
}
