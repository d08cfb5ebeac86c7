//! Watches PodAutoscalers and the ConfigMap.

use std::collections::HashSet;

use dormouse_api::autoscaling::{PodAutoscaler, keys};
use dormouse_api::key::RevisionKey;
use dormouse_api::vocabulary::{KPA_CLASS, SYSTEM_NAMESPACE};
use dormouse_base::clock;
use dormouse_base::task::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};

use super::Autoscaler;
use crate::config::Config;

const CONFIG: &str = "config-autoscaler";

pub(super) fn start(client: kube::Client, autoscaler: Autoscaler, tasks: &Tasks) {
    let shutdown = tasks.shutdown().clone();
    let watching = watch_config(client.clone(), autoscaler.clone());
    tasks.spawn("autoscaler-config", async move {
        tokio::select! { () = shutdown.wait() => {}, () = watching => {} }
    });
    let shutdown = tasks.shutdown().clone();
    let watching = watch_autoscalers(client, autoscaler);
    tasks.spawn("autoscaler-watch", async move {
        tokio::select! { () = shutdown.wait() => {}, () = watching => {} }
    });
}

async fn watch_config(client: kube::Client, autoscaler: Autoscaler) {
    let api: Api<ConfigMap> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let selected = watcher::Config::default().fields(&format!("metadata.name={CONFIG}"));
    let mut stream = std::pin::pin!(watcher(api, selected).default_backoff());
    let mut seen = Config::default();
    while let Some(event) = stream.next().await {
        let data = match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) if map.metadata.name.as_deref() == Some(CONFIG) => {
                map.data.unwrap_or_default()
            }
            Ok(Event::Delete(map)) if map.metadata.name.as_deref() == Some(CONFIG) => Default::default(),
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(error = %dormouse_base::chain(&error), "watching {CONFIG}; trying again");
                continue;
            }
        };
        match Config::parse(&data) {
            Ok(config) if config != seen => {
                seen = config.clone();
                autoscaler.configure(config);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the configuration before it stays in force"),
        }
    }
}

fn is_ours(pa: &PodAutoscaler) -> bool {
    let annotations = pa.metadata.annotations.as_ref();
    annotations.and_then(|all| keys::CLASS.get(all)).is_none_or(|(_, class)| class == KPA_CLASS)
        && pa.metadata.deletion_timestamp.is_none()
}

async fn watch_autoscalers(client: kube::Client, autoscaler: Autoscaler) {
    let stream = watcher(Api::<PodAutoscaler>::all(client), watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed: HashSet<RevisionKey> = HashSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pa)) => listed.extend(take(&autoscaler, &pa)),
            Ok(Event::InitDone) => {
                for key in autoscaler.keys() {
                    if !listed.contains(&key) {
                        autoscaler.forget(&key);
                    }
                }
                listed.clear();
            }
            Ok(Event::Apply(pa)) => {
                take(&autoscaler, &pa);
            }
            Ok(Event::Delete(pa)) => drop_one(&autoscaler, &pa),
            Err(error) => {
                tracing::warn!(error = %dormouse_base::chain(&error), "watching autoscalers; trying again");
            }
        }
    }
}

fn take(autoscaler: &Autoscaler, pa: &PodAutoscaler) -> Option<RevisionKey> {
    if is_ours(pa) {
        return autoscaler.learn(pa, clock::now());
    }
    drop_one(autoscaler, pa);
    None
}

fn drop_one(autoscaler: &Autoscaler, pa: &PodAutoscaler) {
    if let (Some(namespace), Some(name)) = (&pa.metadata.namespace, &pa.metadata.name) {
        autoscaler.forget(&RevisionKey::new(namespace.as_str(), name.as_str()));
    }
}
