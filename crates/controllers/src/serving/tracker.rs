//! Who refers to whom across ownership: a Route must be looked at again when a Revision it names changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

/// `namespace/name` of an object.
pub(crate) type Name = (String, String);

/// References from Routes to Configurations and Revisions.
///
/// Bounded by the references that exist: [`Tracker::set`] replaces what a Route referred to before.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    referrers: HashMap<Name, BTreeSet<String>>,
    references: HashMap<Name, Vec<String>>,
}

impl Tracker {
    /// `route` now refers to exactly `names` (kind-prefixed, in its own namespace).
    pub(crate) fn set(&self, namespace: &str, route: &str, mut names: Vec<String>) {
        names.sort();
        names.dedup();
        let Ok(mut inner) = self.inner.lock() else { return };
        let key = (namespace.to_owned(), route.to_owned());
        let before = inner.references.remove(&key).unwrap_or_default();
        for name in before {
            let target = (namespace.to_owned(), name);
            if let Some(routes) = inner.referrers.get_mut(&target) {
                routes.remove(route);
                if routes.is_empty() {
                    inner.referrers.remove(&target);
                }
            }
        }
        for name in &names {
            inner.referrers.entry((namespace.to_owned(), name.clone())).or_default().insert(route.to_owned());
        }
        if !names.is_empty() {
            inner.references.insert(key, names);
        }
    }

    /// The Routes that refer to `name`.
    pub(crate) fn referrers(&self, namespace: &str, name: &str) -> Vec<String> {
        let Ok(inner) = self.inner.lock() else { return Vec::new() };
        inner
            .referrers
            .get(&(namespace.to_owned(), name.to_owned()))
            .map(|routes| routes.iter().cloned().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_found_by_what_it_refers_to_now() {
        let tracker = Tracker::default();
        tracker.set("default", "hello", vec!["cfg/hello".into(), "rev/hello-00001".into()]);
        tracker.set("default", "other", vec!["cfg/hello".into()]);
        assert_eq!(tracker.referrers("default", "cfg/hello"), ["hello", "other"]);
        tracker.set("default", "hello", vec!["rev/hello-00002".into()]);
        assert_eq!(tracker.referrers("default", "cfg/hello"), ["other"]);
        assert!(tracker.referrers("default", "rev/hello-00001").is_empty());
        tracker.set("default", "other", vec![]);
        assert!(tracker.referrers("default", "cfg/hello").is_empty());
    }
}
