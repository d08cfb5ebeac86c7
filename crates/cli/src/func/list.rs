//! `func list`: what is deployed.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use dormouse_build::function::yaml;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::args::List;
use super::table;
use crate::cluster;

/// Every function carries it; what `kn` deploys does not.
const SELECTOR: &str = "boson.dev/function=true";

pub(super) async fn run(args: &List, data_dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = cluster::client(&cluster::running(data_dir)?).await?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("serving.knative.dev", "v1", "Service"));
    let services: Api<DynamicObject> = match args.all_namespaces {
        true => Api::all_with(client.clone(), &kind),
        false => Api::namespaced_with(client.clone(), &args.namespace, &kind),
    };
    let found = services.list(&ListParams::default().labels(SELECTOR)).await.context("list functions")?.items;
    if found.is_empty() && matches!(args.output.as_str(), "human" | "plain") {
        let place = match args.all_namespaces {
            true => String::new(),
            false => format!(" in namespace '{}'", args.namespace),
        };
        writeln!(
            out,
            "no functions found{place}\n\nTo see one here:\n  dormouse func create --language go myfunction\n  dormouse func deploy --path myfunction"
        )?;
        return Ok(());
    }
    let mut items = Vec::new();
    for service in &found {
        items.push(item(service, replicas(&client, service).await?));
    }
    match args.output.as_str() {
        "json" => writeln!(out, "{}", serde_json::to_string(&items)?)?,
        "yaml" => write!(out, "{}", yaml(&json!(items)))?,
        "url" => {
            for item in &items {
                writeln!(out, "{}", text(item, "/url"))?;
            }
        }
        _ => {
            let names = ["name", "namespace", "runtime", "deployer", "url", "ready", "replicas"];
            let mut rows = vec![names.map(str::to_uppercase).to_vec()];
            let cell = |item: &Value, name: &str| match item.get(name) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            rows.extend(items.iter().map(|item| names.map(|name| cell(item, name)).to_vec()));
            table(&rows, out)?;
        }
    }
    Ok(())
}

/// How many instances the service's newest ready revision has.
async fn replicas(client: &kube::Client, service: &DynamicObject) -> anyhow::Result<i64> {
    let Some(revision) = service.data.pointer("/status/latestReadyRevisionName").and_then(Value::as_str)
    else {
        return Ok(0);
    };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("serving.knative.dev", "v1", "Revision"));
    let revisions: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let found = revisions.get_opt(revision).await.with_context(|| format!("read Revision {revision}"))?;
    let actual = found.and_then(|found| found.data.pointer("/status/actualReplicas")?.as_i64());
    Ok(actual.unwrap_or_default())
}

fn item(service: &DynamicObject, replicas: i64) -> Value {
    let labels = service.metadata.labels.clone().unwrap_or_default();
    let annotations = service.metadata.annotations.clone().unwrap_or_default();
    json!({
        "name": service.metadata.name,
        "namespace": service.metadata.namespace,
        "runtime": labels.get("function.knative.dev/runtime").cloned().unwrap_or_default(),
        "url": text(&service.data, "/status/url"),
        "ready": ready(&service.data),
        "deployer": annotations.get("function.knative.dev/deployer").cloned().unwrap_or_default(),
        "replicas": replicas,
    })
}

/// The status of the condition Ready.
pub(super) fn ready(service: &Value) -> String {
    let conditions = service.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"));
    ready.map_or_else(|| "Unknown".to_owned(), |condition| text(condition, "/status"))
}

pub(super) fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
