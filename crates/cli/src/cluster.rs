//! The platform's API as a client sees it: over TLS, with the credentials of the kubeconfig that `up` has written.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use dormouse_base::clock;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};

use crate::state::State;

/// How long a failure must last to count, as long as `kn` waits.
const ERROR_WINDOW: Duration = Duration::from_secs(2);

/// Who writes what the commands apply.
pub const FIELD_MANAGER: &str = "dormouse";

/// The running platform on `data_dir`.
///
/// # Errors
/// When none runs: the text says how to start one.
pub fn running(data_dir: &Path) -> anyhow::Result<State> {
    match State::read(data_dir)? {
        Some(state) if state.runs() => Ok(state),
        _ => bail!("no platform runs on {}; start one with `dormouse up`", data_dir.display()),
    }
}

/// A client of the running platform.
///
/// # Errors
/// Names the kubeconfig that cannot be used.
pub async fn client(state: &State) -> anyhow::Result<kube::Client> {
    let file = &state.kubeconfig;
    let config = Kubeconfig::read_from(file).with_context(|| format!("read {}", file.display()))?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("use {}", file.display()))?;
    kube::Client::try_from(config).context("connect to the platform's API")
}

/// The Knative Services of a namespace.
pub fn services(client: kube::Client, namespace: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("serving.knative.dev", "v1", "Service"));
    Api::namespaced_with(client, namespace, &kind)
}

/// Applies `manifest` and waits until this very generation is Ready; answers its URL.
///
/// # Errors
/// What the API refused, or the condition's own reason and message when it cannot become Ready within `patience`.
pub async fn apply_service(
    services: &Api<DynamicObject>,
    manifest: &serde_json::Value,
    patience: Duration,
) -> anyhow::Result<String> {
    let name = manifest.pointer("/metadata/name").and_then(|name| name.as_str()).context("metadata.name")?;
    let applied = services
        .patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(manifest))
        .await
        .with_context(|| format!("apply Service {name}"))?;
    let generation = applied.metadata.generation.unwrap_or_default();
    let until = clock::now() + patience;
    let mut window = None;
    let object = loop {
        // A failure counts when it lasts: what fails while controllers catch up with the change passes.
        let settled =
            |object: Option<&DynamicObject>| match object.map(|object| readiness(object, generation)) {
                None | Some(Readiness::Ready) => true,
                Some(Readiness::Failed(_)) => window.is_none(),
                Some(Readiness::Pending(_)) => window.is_some(),
            };
        let left = window.unwrap_or(until).min(until).saturating_duration_since(clock::now());
        let wait = kube::runtime::wait::await_condition(services.clone(), name, settled);
        let object = match tokio::time::timeout(left, wait).await {
            Ok(object) => object.context("watch the Service")?,
            Err(_) => break services.get_opt(name).await.context("get the Service")?,
        };
        window = match object.as_ref().map(|object| readiness(object, generation)) {
            None | Some(Readiness::Ready) => break object,
            Some(Readiness::Failed(_)) => Some(clock::now() + ERROR_WINDOW),
            Some(Readiness::Pending(_)) => None,
        };
    };
    let object = object.with_context(|| format!("Service {name} was deleted meanwhile"))?;
    match readiness(&object, generation) {
        Readiness::Ready => object
            .data
            .pointer("/status/url")
            .and_then(|url| url.as_str())
            .map(str::to_owned)
            .context("the Service is Ready and has no URL"),
        Readiness::Failed(why) => bail!("Service {name} cannot become Ready: {why}"),
        Readiness::Pending(why) => bail!("Service {name} did not become Ready within {patience:?}: {why}"),
    }
}

enum Readiness {
    Ready,
    Failed(String),
    Pending(String),
}

fn readiness(object: &DynamicObject, generation: i64) -> Readiness {
    let observed = object.data.pointer("/status/observedGeneration").and_then(serde_json::Value::as_i64);
    if observed.unwrap_or_default() < generation {
        return Readiness::Pending("it has not been looked at".to_owned());
    }
    let conditions = object.data.pointer("/status/conditions").and_then(|list| list.as_array());
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"));
    let text =
        |field: &str| ready.and_then(|ready| ready.get(field)?.as_str()).unwrap_or_default().to_owned();
    let why = format!("{} {}", text("reason"), text("message")).trim().to_owned();
    match text("status").as_str() {
        "True" => Readiness::Ready,
        "False" => Readiness::Failed(why),
        _ => Readiness::Pending(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(observed: i64, status: &str) -> DynamicObject {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "x"},
            "status": {"observedGeneration": observed, "conditions": [
                {"type": "ConfigurationsReady", "status": "False"},
                {"type": "Ready", "status": status, "reason": "RevisionFailed", "message": "it exits"},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn an_older_generations_condition_says_nothing() {
        assert!(matches!(readiness(&service(1, "True"), 2), Readiness::Pending(_)));
        assert!(matches!(readiness(&service(2, "True"), 2), Readiness::Ready));
        assert!(matches!(readiness(&service(2, "Unknown"), 2), Readiness::Pending(_)));
        let Readiness::Failed(why) = readiness(&service(3, "False"), 2) else { panic!("not failed") };
        assert_eq!(why, "RevisionFailed it exits");
    }

    #[test]
    fn without_a_platform_the_error_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(running(dir.path()).unwrap_err().to_string().contains("dormouse up"));
    }
}
