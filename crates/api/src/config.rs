//! The platform's ConfigMaps in `knative-serving`, read: what is absent has Knative's default, what cannot be read is
//! refused when it is written. Pure.

mod defaults;
mod domain;
mod features;
mod network;
mod template;

use std::collections::BTreeMap;

pub use defaults::Defaults;
pub use domain::Domains;
pub use features::{Features, Flag, SecurePods};
pub use network::Network;
pub use template::{Template, Values};

use crate::autoscaling::Allowed;

/// The `data` of a ConfigMap.
pub type Data = BTreeMap<String, String>;

/// What config-autoscaler's part that concerns admission is called.
pub const AUTOSCALER: &str = "config-autoscaler";
/// Defaults and bounds of Revisions.
pub const DEFAULTS: &str = "config-defaults";
/// What may be used beyond the core.
pub const FEATURES: &str = "config-features";
/// Where public hosts live.
pub const DOMAIN: &str = "config-domain";
/// How hosts are named, and how traffic moves.
pub const NETWORK: &str = "config-network";

/// What admission must know beside the object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// From config-autoscaler.
    pub scaling: Allowed,
    /// config-defaults.
    pub defaults: Defaults,
    /// config-features.
    pub features: Features,
}

impl Settings {
    /// The ConfigMaps that are read.
    pub const MAPS: [&'static str; 3] = [AUTOSCALER, DEFAULTS, FEATURES];

    /// Reads them; one that cannot be read counts as empty, for the platform must go on.
    pub fn read(data: impl Fn(&str) -> Option<Data>) -> Self {
        Self {
            scaling: data(AUTOSCALER).map(|data| Allowed::read(&data)).unwrap_or_default(),
            defaults: data(DEFAULTS).and_then(|data| Defaults::read(&data).ok()).unwrap_or_default(),
            features: data(FEATURES).and_then(|data| Features::read(&data).ok()).unwrap_or_default(),
        }
    }
}

/// Whether the platform can read the ConfigMap `name` of its own namespace.
///
/// # Errors
/// A sentence that names the key.
pub fn check(name: &str, data: &Data) -> Result<(), String> {
    match name {
        DEFAULTS => Defaults::read(data).map(drop),
        FEATURES => Features::read(data).map(drop),
        DOMAIN => Domains::read(data).map(drop),
        NETWORK => Network::read(data).map(drop),
        _ => Ok(()),
    }
}

/// The value of the first of these keys, trimmed.
fn value<'a>(data: &'a Data, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| data.get(*key)).map(|text| text.trim())
}

fn whole_seconds(data: &Data, key: &str, default: i64) -> Result<i64, String> {
    match value(data, &[key]) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("failed to parse {key:?}: {text:?} is not a number")),
    }
}

fn boolean(data: &Data, key: &str, default: bool) -> bool {
    value(data, &[key]).map_or(default, |text| text.eq_ignore_ascii_case("true"))
}

fn enabled(data: &Data, keys: &[&str]) -> bool {
    value(data, keys).is_some_and(|text| text.eq_ignore_ascii_case("enabled"))
}

/// The refusal of what Knative offers and this version cannot honour.
fn unsupported(key: &str, value: &str) -> String {
    format!("{key}={value} is not supported by this version of Dormouse")
}

#[cfg(test)]
mod tests;
