//! Host, path and header rules: compiled from KIngress objects (pure), looked up per request.
//!
//! A host belongs to the oldest object that names it. Only the shards of hosts that changed are copied when a table
//! is taken, so one change among thousands of objects stays cheap.

use std::collections::{BTreeSet, HashMap, hash_map::RandomState};
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

use dormouse_api::key::RevisionKey;
use dormouse_api::networking::Ingress;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::revision::Revision;

mod source;

const SHARDS: usize = 256;

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// From outside: rules with visibility `ClusterLocal` do not exist there.
    External,
    /// From inside: all rules.
    ClusterLocal,
}

/// One weighted target.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) revision: RevisionKey,
    /// The upper end of this split's share of 0..total.
    upto: u32,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The revision's state, found at the first request.
    pub(crate) state: OnceLock<Arc<Revision>>,
}

/// One path of one rule.
#[derive(Debug)]
pub(crate) struct PathRule {
    prefix: String,
    external: bool,
    headers: Vec<(HeaderName, String)>,
    pub(crate) rewrite_host: Option<HeaderValue>,
    pub(crate) append: Vec<(HeaderName, HeaderValue)>,
    splits: Vec<Split>,
    total: u32,
}

impl PathRule {
    fn matches(&self, path: &str, headers: &HeaderMap, visibility: Visibility) -> bool {
        (self.external || visibility == Visibility::ClusterLocal)
            && path.starts_with(self.prefix.as_str())
            && self.headers.iter().all(|(name, value)| {
                headers.get(name).is_some_and(|given| given.as_bytes() == value.as_bytes())
            })
    }
}

/// Everything about one host.
#[derive(Debug)]
pub(crate) struct HostRules {
    /// Longest prefix first, then more headers first.
    paths: Vec<PathRule>,
    /// What a probe with `K-Network-Hash: override` is told.
    pub(crate) hash: HeaderValue,
    /// External requests are sent to https.
    pub(crate) redirect: bool,
}

impl HostRules {
    /// Which rule a request falls under.
    pub(crate) fn find(&self, path: &str, headers: &HeaderMap, visibility: Visibility) -> Option<usize> {
        self.paths.iter().position(|rule| rule.matches(path, headers, visibility))
    }

    /// Which of the rule's splits a request goes to; `random` is asked only if there is a choice.
    pub(crate) fn choose(&self, rule: usize, random: impl FnOnce() -> u32) -> Option<(usize, &Split)> {
        let rule = self.paths.get(rule)?;
        match rule.splits.as_slice() {
            [only] => Some((0, only)),
            splits => {
                let point = random().checked_rem(rule.total)?;
                splits.iter().enumerate().find(|(_, split)| point < split.upto)
            }
        }
    }

    /// A rule and one of its splits.
    pub(crate) fn at(&self, rule: usize, split: usize) -> Option<(&PathRule, &Split)> {
        let rule = self.paths.get(rule)?;
        Some((rule, rule.splits.get(split)?))
    }
}

type Shard = Hosts;

/// An immutable snapshot of all hosts; cheap to clone.
#[derive(Clone, Debug)]
pub struct RouteTable {
    shards: Vec<Arc<Shard>>,
    hasher: RandomState,
}

impl Default for RouteTable {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Self { shards: vec![empty; SHARDS], hasher: RandomState::new() }
    }
}

impl RouteTable {
    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    /// The rules of `host` as a client wrote it: a port and letter case do not matter.
    pub(crate) fn host(&self, host: &str) -> Option<&Arc<HostRules>> {
        let name = without_port(host);
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.exact(&name.to_ascii_lowercase())
        } else {
            self.exact(name)
        }
    }

    fn exact(&self, name: &str) -> Option<&Arc<HostRules>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.shards.get(self.shard_of(name))?.get(name)
    }

    fn shard_of(&self, name: &str) -> usize {
        (self.hasher.hash_one(name) as usize) % SHARDS
    }

    fn set(&mut self, name: &Arc<str>, rules: Option<Arc<HostRules>>) {
        let index = self.shard_of(name);
        if let Some(shard) = self.shards.get_mut(index) {
            let shard = Arc::make_mut(shard);
            match rules {
                Some(rules) => shard.insert(name.clone(), rules),
                None => shard.remove(name),
            };
        }
    }
}

/// The host without `:port`; IPv6 literals keep their brackets.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// Names one KIngress.
pub(crate) type IngressKey = (Arc<str>, Arc<str>);

/// Older objects first; equal ages by name. The first one owns a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: Option<jiff::Timestamp>,
    key: IngressKey,
}

type Hosts = HashMap<Arc<str>, Arc<HostRules>>;

/// The compiler's state: what each object contributes, and who claims each host.
#[derive(Debug, Default)]
pub struct Routes {
    table: RouteTable,
    objects: HashMap<IngressKey, (Claim, Hosts)>,
    claims: HashMap<Arc<str>, BTreeSet<Claim>>,
}

impl Routes {
    /// Adds or replaces one object. Answers the hosts it names that an older object owns.
    pub fn apply(&mut self, ingress: &Ingress) -> Vec<Arc<str>> {
        let claim = source::claim(ingress);
        let hosts = source::compile(ingress);
        let old = self.objects.remove(&claim.key);
        let mut touched: BTreeSet<Arc<str>> = hosts.keys().cloned().collect();
        if let Some((old_claim, old_hosts)) = old {
            for host in old_hosts.into_keys() {
                if let Some(claims) = self.claims.get_mut(&host) {
                    claims.remove(&old_claim);
                }
                touched.insert(host);
            }
        }
        for host in hosts.keys() {
            self.claims.entry(host.clone()).or_default().insert(claim.clone());
        }
        let key = claim.key.clone();
        self.objects.insert(key.clone(), (claim, hosts));
        self.settle(touched, &key)
    }

    /// Takes one object out.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        let key = (Arc::from(namespace), Arc::from(name));
        if let Some((claim, hosts)) = self.objects.remove(&key) {
            for host in hosts.keys() {
                if let Some(claims) = self.claims.get_mut(host) {
                    claims.remove(&claim);
                }
            }
            self.settle(hosts.into_keys().collect(), &key);
        }
    }

    /// The names of all objects.
    pub(crate) fn keys(&self) -> Vec<IngressKey> {
        self.objects.keys().cloned().collect()
    }

    /// The table as it is now.
    pub fn table(&self) -> RouteTable {
        self.table.clone()
    }

    fn settle(&mut self, hosts: BTreeSet<Arc<str>>, asking: &IngressKey) -> Vec<Arc<str>> {
        let mut lost = Vec::new();
        for host in hosts {
            let owner = self.claims.get(&host).and_then(|claims| claims.first());
            match owner {
                Some(owner) => {
                    let rules = self.objects.get(&owner.key).and_then(|(_, hosts)| hosts.get(&host)).cloned();
                    let asked = self.objects.get(asking).is_some_and(|(_, hosts)| hosts.contains_key(&host));
                    if asked && owner.key != *asking {
                        lost.push(host.clone());
                    }
                    self.table.set(&host, rules);
                }
                None => {
                    self.claims.remove(&host);
                    self.table.set(&host, None);
                }
            }
        }
        lost
    }
}

/// Compiles a whole set of objects; their order does not matter.
pub fn compile(ingresses: &[Arc<Ingress>]) -> RouteTable {
    let mut routes = Routes::default();
    for ingress in ingresses {
        routes.apply(ingress);
    }
    routes.table()
}

#[cfg(test)]
mod tests;
