//! config-domain.

use serde::Deserialize;

use super::Data;
use crate::names;

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    selector: Data,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

/// Which suffix the hosts of a Route get, by the Route's labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains(Vec<(String, Data)>);

// === impl Domains ===

impl Domains {
    /// Reads the ConfigMap.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn read(data: &Data) -> Result<Self, String> {
        let mut domains = Vec::new();
        for (domain, text) in data.iter().filter(|(key, _)| *key != "_example") {
            if let Some(why) = names::subdomain_error(domain) {
                return Err(format!("invalid domain {domain:?}: {why}"));
            }
            let entry: Entry = match text.trim() {
                "" => Entry::default(),
                text => serde_saphyr::from_str(text).map_err(|why| format!("{domain}: {why}"))?,
            };
            if let Some(kind) = entry.kind.filter(|kind| kind != "wildcard") {
                return Err(format!("{domain}: invalid domain type {kind:?}"));
            }
            domains.push((domain.clone(), entry.selector));
        }
        // The most particular selector first; equal ones in the order of their domains.
        domains.sort_by(|(one, few), (other, many)| many.len().cmp(&few.len()).then(one.cmp(other)));
        Ok(Self(domains))
    }

    /// The suffix for a Route with these labels; `None` when nothing is said about it.
    pub fn choose(&self, labels: Option<&Data>) -> Option<&str> {
        let matches = |selector: &Data| {
            selector.iter().all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
        };
        self.0.iter().find(|(_, selector)| matches(selector)).map(|(domain, _)| domain.as_str())
    }
}
