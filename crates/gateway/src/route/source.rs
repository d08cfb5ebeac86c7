//! The translation of a KIngress into rules.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use dormouse_api::key::RevisionKey;
use dormouse_api::networking::{HttpIngressPath, Ingress, Visibility};
use http::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::{Claim, HostRules, PathRule, Split};

/// What decides who owns a host: age, then name.
pub(super) fn claim(ingress: &Ingress) -> Claim {
    let metadata = &ingress.metadata;
    let text = |field: &Option<String>| Arc::from(field.as_deref().unwrap_or_default());
    Claim {
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        key: (text(&metadata.namespace), text(&metadata.name)),
    }
}

/// Identifies the configuration that a data plane runs: sha256 over spec, namespace and name.
fn hash(ingress: &Ingress) -> HeaderValue {
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(&ingress.spec).unwrap_or_default());
    digest.update(ingress.metadata.namespace.as_deref().unwrap_or_default());
    digest.update(ingress.metadata.name.as_deref().unwrap_or_default());
    let mut text = String::with_capacity(64);
    for byte in digest.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

pub(super) fn compile(ingress: &Ingress) -> HashMap<Arc<str>, Arc<HostRules>> {
    let redirect = ingress.spec.http_option.as_deref() == Some("Redirected");
    let hash = hash(ingress);
    let namespace: Arc<str> = ingress.metadata.namespace.as_deref().unwrap_or_default().into();
    let mut hosts: HashMap<Arc<str>, HostRules> = HashMap::new();
    for rule in &ingress.spec.rules {
        let external = rule.visibility == Visibility::ExternalIP;
        for host in &rule.hosts {
            let entry = hosts.entry(host.to_ascii_lowercase().into()).or_insert_with(|| HostRules {
                paths: Vec::new(),
                hash: hash.clone(),
                redirect: false,
            });
            entry.redirect |= redirect && external;
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                entry.paths.push(path_rule(&namespace, path, external));
            }
        }
    }
    hosts
        .into_iter()
        .map(|(host, mut rules)| {
            // Stable: equal rules keep the order of the object.
            rules.paths.sort_by(|one, other| {
                let length = other.prefix.len().cmp(&one.prefix.len());
                length.then(other.headers.len().cmp(&one.headers.len()))
            });
            (host, Arc::new(rules))
        })
        .collect()
}

fn path_rule(own: &Arc<str>, path: &HttpIngressPath, external: bool) -> PathRule {
    let mut total = 0u32;
    let only = path.splits.len() == 1;
    let mut splits = Vec::with_capacity(path.splits.len());
    for split in &path.splits {
        let percent = if only { 100 } else { split.percent.unwrap_or(0).clamp(0, 1_000_000) };
        let Some(upto) = u32::try_from(percent).ok().filter(|share| *share > 0).map(|share| total + share)
        else {
            continue;
        };
        total = upto;
        let namespace = match split.service_namespace.as_str() {
            "" => own.clone(),
            other => other.into(),
        };
        splits.push(Split {
            revision: RevisionKey::new(namespace, split.service_name.as_str()),
            upto,
            headers: pairs(&split.append_headers),
            state: OnceLock::new(),
        });
    }
    let matches = path.headers.iter();
    PathRule {
        prefix: path.path.clone().unwrap_or_default(),
        external,
        headers: matches
            .filter_map(|(name, value)| Some((name.parse().ok()?, value.exact.clone())))
            .collect(),
        rewrite_host: path
            .rewrite_host
            .as_deref()
            .filter(|host| !host.is_empty())
            .and_then(|host| HeaderValue::from_str(host).ok()),
        append: pairs(&path.append_headers),
        splits,
        total,
    }
}

/// Headers to set. What Serving tells its own data plane is of no use to the workload and is left out.
fn pairs(headers: &BTreeMap<String, String>) -> Vec<(HeaderName, HeaderValue)> {
    headers
        .iter()
        .filter(|(name, _)| !crate::headers::is_internal(name))
        .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?)))
        .collect()
}
