//! `func describe`: one deployed function.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use dormouse_build::function::yaml;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::args::Describe;
use super::deploy::triggers;
use super::identity;
use super::list::{ready, text};
use crate::cluster;

pub(super) async fn run(args: &Describe, data_dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    if args.name.is_none() && args.namespace.is_some() {
        bail!("must also specify a name when specifying namespace");
    }
    if args.name.is_some() && args.place.path != Path::new(".") {
        bail!("only one of --path and NAME should be provided");
    }
    let (name, namespace) =
        identity(args.name.as_deref(), args.namespace.as_deref(), &args.place.path, "describe")?;
    let client = cluster::client(&cluster::running(data_dir)?).await?;
    let instance = instance(client, &name, &namespace).await?;
    write(&instance, &args.output, out)
}

/// The function as it is deployed.
pub(super) async fn instance(client: kube::Client, name: &str, namespace: &str) -> anyhow::Result<Value> {
    let services = cluster::services(client.clone(), namespace);
    let found = services.get_opt(name).await.with_context(|| format!("read Service {name}"))?;
    let service = found.with_context(|| format!("function not found: {name} in namespace {namespace}"))?;
    let subscriptions = match triggers(client, namespace).list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error).context("list Triggers"),
    };
    let subscriptions: Vec<_> = subscriptions
        .iter()
        .filter(|trigger| text(&trigger.data, "/spec/subscriber/ref/name") == name)
        .map(|trigger| {
            let filter = "/spec/filter/attributes";
            json!({
                "source": text(&trigger.data, &format!("{filter}/source")),
                "type": text(&trigger.data, &format!("{filter}/type")),
                "broker": text(&trigger.data, "/spec/broker"),
            })
        })
        .collect();
    let url = text(&service.data, "/status/url");
    let annotations = service.metadata.annotations.clone().unwrap_or_default();
    Ok(json!({
        "name": name,
        "namespace": namespace,
        "image": text(&service.data, "/spec/template/spec/containers/0/image"),
        "route": url,
        "routes": [url],
        "deployer": annotations.get("function.knative.dev/deployer").cloned().unwrap_or_default(),
        "subscriptions": subscriptions,
        "labels": service.metadata.labels.clone().unwrap_or_default(),
        "revision": text(&service.data, "/status/latestReadyRevisionName"),
        "generation": service.metadata.generation,
        "ready": ready(&service.data),
    }))
}

fn write(instance: &Value, output: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    let list = |name: &str| instance.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let at = |pointer: &str| text(instance, pointer);
    let labels = instance.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let subscriptions = list("subscriptions");
    let event = |entry: &Value| {
        format!("{} {} {}", text(entry, "/source"), text(entry, "/type"), text(entry, "/broker"))
    };
    match output {
        "json" => writeln!(out, "{}", serde_json::to_string(instance)?)?,
        "yaml" => write!(out, "{}", yaml(instance))?,
        "url" => writeln!(out, "{}", at("/route"))?,
        "plain" => {
            for (name, pointer) in [
                ("Name", "/name"),
                ("Image", "/image"),
                ("Namespace", "/namespace"),
                ("Route", "/route"),
                ("Ready", "/ready"),
                ("Deployer", "/deployer"),
            ] {
                writeln!(out, "{name} {}", at(pointer))?;
            }
            for entry in &subscriptions {
                writeln!(out, "Subscription {}", event(entry))?;
            }
            for (key, value) in &labels {
                writeln!(out, "Label {key} {}", value.as_str().unwrap_or_default())?;
            }
        }
        _ => {
            for (name, pointer) in [
                ("Function name", "/name"),
                ("Function is built in image", "/image"),
                ("Function is deployed in namespace", "/namespace"),
                ("Routes", "/route"),
                ("Function is ready", "/ready"),
                ("Deployer", "/deployer"),
            ] {
                writeln!(out, "{name}:\n  {}", at(pointer))?;
            }
            if !subscriptions.is_empty() {
                writeln!(out, "Subscriptions (Source, Type, Broker):")?;
            }
            for entry in &subscriptions {
                writeln!(out, "  {}", event(entry))?;
            }
            if !labels.is_empty() {
                writeln!(out, "Labels:")?;
            }
            for (key, value) in &labels {
                writeln!(out, "  {key}: {}", value.as_str().unwrap_or_default())?;
            }
        }
    }
    Ok(())
}
