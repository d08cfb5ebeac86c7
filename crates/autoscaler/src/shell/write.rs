//! Writes statuses behind the decisions: only what changed, several at once, the newest state of each.

use std::collections::HashSet;
use std::time::Duration;

use dormouse_api::autoscaling::PodAutoscaler;
use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use dormouse_base::task::Tasks;
use futures::StreamExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::{Autoscaler, lock};

/// Writes at once: they share one commit.
const WRITERS: usize = 16;
/// An instance that starts from nothing is usually ready after this: one status is written instead of two.
const COALESCE: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_millis(250);

pub(super) fn start(client: kube::Client, autoscaler: Autoscaler, tasks: &Tasks) {
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("autoscaler-status", async move {
        let work = async {
            loop {
                autoscaler.0.written.notified().await;
                clock::sleep(COALESCE).await;
                autoscaler.0.scale.settled().await;
                let dirty: HashSet<RevisionKey> = lock(&autoscaler.0.dirty).drain(..).collect();
                futures::stream::iter(dirty)
                    .for_each_concurrent(WRITERS, |key| write(client.clone(), autoscaler.clone(), key))
                    .await;
            }
        };
        tokio::select! { () = shutdown.wait() => {}, () = work => {} }
    });
}

async fn write(client: kube::Client, autoscaler: Autoscaler, key: RevisionKey) {
    let Some(slot) = autoscaler.slot(&key) else { return };
    let status = {
        let entry = slot.lock();
        if entry.status == entry.known {
            return;
        }
        entry.status.clone()
    };
    let api: Api<PodAutoscaler> = Api::namespaced(client, &key.namespace);
    let patch = Patch::Merge(json!({ "status": status }));
    match api.patch_status(&key.name, &PatchParams::default(), &patch).await {
        Ok(_) => slot.lock().known = status,
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        Err(error) => {
            tracing::warn!(revision = %key, error = %dormouse_base::chain(&error), "cannot write the status");
            clock::sleep(RETRY).await;
            autoscaler.tell(&key);
        }
    }
}
