//! Which Revisions a Configuration has, kept from the watch: a list with a selector would read every Revision there is,
//! for each reconcile of each Configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use dormouse_api::serving::revision::Revision;
use dormouse_api::vocabulary::CONFIGURATION_LABEL;
use kube::ResourceExt;

/// Namespace and name of a Configuration.
type Key = (String, String);

/// Names of Revisions by Configuration. A name may be of a Revision that is gone: read it, then [`Family::forget`] it.
#[derive(Debug, Default)]
pub(crate) struct Family(Mutex<BTreeMap<Key, BTreeSet<String>>>);

impl Family {
    /// Remembers `revision`; answers the name of its Configuration.
    pub(crate) fn learn(&self, revision: &Revision) -> Option<String> {
        let configuration = revision.labels().get(CONFIGURATION_LABEL)?.clone();
        let key = (revision.namespace().unwrap_or_default(), configuration.clone());
        if let Ok(mut map) = self.0.lock() {
            map.entry(key).or_default().insert(revision.name_any());
        }
        Some(configuration)
    }

    /// The names known for a Configuration.
    pub(crate) fn of(&self, namespace: &str, configuration: &str) -> BTreeSet<String> {
        let key = (namespace.to_owned(), configuration.to_owned());
        self.0.lock().ok().and_then(|map| map.get(&key).cloned()).unwrap_or_default()
    }

    /// A Revision is gone.
    pub(crate) fn forget(&self, namespace: &str, configuration: &str, revision: &str) {
        let key = (namespace.to_owned(), configuration.to_owned());
        if let Ok(mut map) = self.0.lock()
            && let Some(names) = map.get_mut(&key)
        {
            names.remove(revision);
            if names.is_empty() {
                map.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_knows_its_revisions_until_they_are_forgotten() {
        let family = Family::default();
        let mut revision = Revision::default();
        revision.metadata.name = Some("a-1".into());
        revision.metadata.namespace = Some("n".into());
        assert_eq!(family.learn(&revision), None);
        revision.labels_mut().insert(CONFIGURATION_LABEL.into(), "a".into());
        assert_eq!(family.learn(&revision).as_deref(), Some("a"));
        assert_eq!(family.of("n", "a"), BTreeSet::from(["a-1".to_owned()]));
        family.forget("n", "a", "a-1");
        assert!(family.of("n", "a").is_empty());
    }
}
