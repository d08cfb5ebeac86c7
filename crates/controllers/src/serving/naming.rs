//! How the hosts of Routes are named: the platform's own suffix and port, and what config-network, config-domain and
//! config-features say.

use std::collections::BTreeSet;
use std::sync::Arc;

use dormouse_api::config::{self, Data, Domains, Features, Network, Values};
use dormouse_api::serving::route::Route;
use dormouse_api::vocabulary::{CLUSTER_DOMAIN, CLUSTER_LOCAL, SYSTEM_NAMESPACE, VISIBILITY_LABEL};
use dormouse_base::clock;
use futures::StreamExt;
use futures::channel::mpsc;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};

use super::Domain;
use super::context::Context;
use super::domain::{cluster_hosts, cluster_url};

/// The ConfigMaps that decide about names.
const MAPS: [&str; 3] = [config::NETWORK, config::DOMAIN, config::FEATURES];

/// The rules for all Routes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Naming {
    own: Domain,
    pub(crate) network: Network,
    domains: Domains,
    tag_header: bool,
}

/// The names of one Route.
#[derive(Clone, Debug)]
pub(crate) struct Names<'a> {
    naming: &'a Naming,
    route: &'a Route,
    /// Tags, and the empty one, that somebody made private through their placeholder Service.
    private: BTreeSet<String>,
}

// === impl Naming ===

impl Naming {
    /// The rules of a platform whose ConfigMaps say nothing.
    pub(crate) fn new(own: Domain) -> Self {
        Self { own, network: Network::default(), domains: Domains::default(), tag_header: false }
    }

    fn read(own: Domain, data: impl Fn(&str) -> Option<Data>) -> Self {
        // What cannot be read is refused when it is written; what is older than that counts as empty.
        Self {
            own,
            network: data(config::NETWORK).and_then(|data| Network::read(&data).ok()).unwrap_or_default(),
            domains: data(config::DOMAIN).and_then(|data| Domains::read(&data).ok()).unwrap_or_default(),
            tag_header: data(config::FEATURES)
                .and_then(|data| Features::read(&data).ok())
                .is_some_and(|features| features.tag_header == config::Flag::Enabled),
        }
    }

    /// The names of `route`; `private` are the tags that are private by themselves.
    pub(crate) fn of<'a>(&'a self, route: &'a Route, private: BTreeSet<String>) -> Names<'a> {
        Names { naming: self, route, private }
    }

    /// The URL of a public host.
    pub(crate) fn public_url(&self, host: &str) -> String {
        match self.own.port {
            Some(port) => format!("http://{host}:{port}"),
            None => format!("http://{host}"),
        }
    }
}

// === impl Names ===

impl Names<'_> {
    /// Whether a header may choose the tag.
    pub(crate) fn tag_header(&self) -> bool {
        self.naming.tag_header
    }

    /// The first label of a tag's host; the Route's name for the empty tag.
    pub(crate) fn label(&self, tag: &str) -> String {
        let name = self.route.metadata.name.as_deref().unwrap_or_default();
        if tag.is_empty() {
            return name.to_owned();
        }
        self.naming.network.tag_template.fill(&Values { name, tag, ..Values::default() })
    }

    fn namespace(&self) -> &str {
        self.route.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn suffix(&self) -> &str {
        let labels = self.route.metadata.labels.as_ref();
        self.naming.domains.choose(labels).unwrap_or(&self.naming.own.suffix)
    }

    /// Whether a tag must not be reachable from outside.
    pub(crate) fn is_private(&self, tag: &str) -> bool {
        let labels = self.route.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(VISIBILITY_LABEL)).is_some_and(|value| value == CLUSTER_LOCAL)
            || self.suffix() == CLUSTER_DOMAIN
            || self.private.contains(tag)
    }

    /// The public host of a tag.
    pub(crate) fn host(&self, tag: &str) -> String {
        let metadata = &self.route.metadata;
        self.naming.network.domain_template.fill(&Values {
            name: &self.label(tag),
            namespace: self.namespace(),
            domain: self.suffix(),
            tag: "",
            labels: metadata.labels.as_ref(),
            annotations: metadata.annotations.as_ref(),
        })
    }

    /// The hosts of a tag inside, shortest first.
    pub(crate) fn cluster_hosts(&self, tag: &str) -> Vec<String> {
        cluster_hosts(&self.label(tag), self.namespace())
    }

    /// The URL of a tag inside.
    pub(crate) fn cluster_url(&self, tag: &str) -> String {
        cluster_url(&self.label(tag), self.namespace())
    }

    /// The URL of a tag.
    pub(crate) fn url(&self, tag: &str) -> String {
        if self.is_private(tag) { self.cluster_url(tag) } else { self.naming.public_url(&self.host(tag)) }
    }
}

/// Reads the rules; answers whether they have changed.
pub(crate) async fn load(ctx: &Context) -> bool {
    let mut found = std::collections::BTreeMap::new();
    for name in MAPS {
        match ctx.get::<ConfigMap>(SYSTEM_NAMESPACE, name).await {
            Ok(map) => found.extend(map.and_then(|map| map.data).map(|data| (name, data))),
            Err(error) => {
                tracing::warn!(error = %dormouse_base::chain(&error), "cannot read the settings; the old ones stay");
                return false;
            }
        }
    }
    let before = ctx.naming();
    let naming = Naming::read(before.own.clone(), |name| found.get(name).cloned());
    let changed = *before != naming;
    if changed {
        ctx.set_naming(Arc::new(naming));
    }
    changed
}

/// Follows the ConfigMaps; each item means that every Route must be looked at again.
pub(crate) async fn follow(ctx: Arc<Context>) -> mpsc::Receiver<()> {
    let (mut sender, receiver) = mpsc::channel(1);
    load(&ctx).await;
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), SYSTEM_NAMESPACE);
    let shutdown = ctx.tasks.shutdown().clone();
    let tasks = ctx.tasks.clone();
    let work = async move {
        let mut events = watch(api, watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = events.next().await {
            let ours = match event {
                Ok(Event::Apply(map) | Event::Delete(map)) => {
                    map.metadata.name.as_deref().is_some_and(|name| MAPS.contains(&name))
                }
                Ok(Event::InitDone) => true,
                Ok(Event::Init | Event::InitApply(_)) => false,
                Err(error) => {
                    tracing::warn!(error = %dormouse_base::chain(&error), "watching the settings; trying again");
                    false
                }
            };
            if ours && load(&ctx).await {
                tracing::info!(at = %clock::timestamp(), "the naming of hosts has changed");
                // A full channel already asks for the same.
                let _ = sender.try_send(());
            }
        }
    };
    tasks.spawn("serving-settings", async move {
        tokio::select! {
            biased; // A stop ends it.
            () = shutdown.wait() => {}
            () = work => {}
        }
    });
    receiver
}
