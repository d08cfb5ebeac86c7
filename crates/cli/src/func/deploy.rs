//! `func deploy`: from a function project to a URL.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use dormouse_build::function::{Env, Function, names};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use super::args::Deploy;
use super::{build, confirmed, deployed_in, initialized, say, variable};
use crate::cluster::{self, FIELD_MANAGER};
use crate::show::failure;

pub(super) async fn run(args: &Deploy, data_dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut function = initialized(&args.place.path, "deploy")?;
    build::apply(&mut function, &args.building)?;
    apply(&mut function, args)?;
    let before = function.spec.deploy.namespace.clone();
    let namespace = args.namespace.clone().unwrap_or_else(|| deployed_in(&function));
    if let Some(why) = names::namespace(&namespace) {
        bail!("{why}");
    }
    function.validate(&variable).map_err(failure)?;
    let lines = [("Function", function.spec.name.as_str()), ("Namespace", namespace.as_str())];
    if !confirmed(args.building.confirm, &lines)? {
        bail!("nothing was deployed");
    }
    if args.remote {
        say("--remote: the platform builds on this machine anyway");
    }
    let state = cluster::running(data_dir)?;
    let image = match image(&function, args, &namespace, data_dir).await? {
        (Some(built), None) => build::by_digest(&built),
        (Some(built), Some(target)) => {
            build::push(&built, &target, &function, data_dir, &args.building).await?
        }
        (None, _) => match &args.building.image {
            // An image that is named by its digest is deployed as it is.
            Some(image) if image.contains('@') => image.clone(),
            _ => build::noted(&function)?,
        },
    };
    build::note(&function, &image)?;
    let client = cluster::client(&state).await?;
    let manifest = function.service(&image, &namespace, &variable).map_err(failure)?;
    let services = cluster::services(client.clone(), &namespace);
    let patience = Duration::from_secs(args.timeout_seconds).max(function.start_timeout());
    let url = cluster::apply_service(&services, &manifest, patience).await?;
    let service = services.get(&function.spec.name).await.context("read the Service")?;
    let uid = service.metadata.uid.unwrap_or_default();
    subscribe(client.clone(), &function, &namespace, &uid).await?;
    if !before.is_empty() && before != namespace {
        // As upstream: a function is in one namespace.
        let old = cluster::services(client, &before);
        ignore_absent(old.delete(&function.spec.name, &DeleteParams::default()).await.map(drop))
            .with_context(|| format!("delete Service {} in {before}", function.spec.name))?;
        say(&format!("moved from namespace {before}"));
    }
    let deploy = &mut function.spec.deploy;
    deploy.namespace.clone_from(&namespace);
    deploy.image.clone_from(&image);
    "knative".clone_into(&mut deploy.deployer);
    function.write(&variable).map_err(failure)?;
    match args.output.as_str() {
        "json" => {
            let report = json!({
                "name": function.spec.name, "namespace": namespace, "image": image, "url": url,
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        }
        "url" => writeln!(out, "{url}")?,
        _ => {
            say(&format!("Function deployed in namespace {namespace:?} and exposed at URL:"));
            writeln!(out, "{url}")?;
        }
    }
    Ok(())
}

/// Builds unless told not to; and where the image shall be pushed.
async fn image(
    function: &Function,
    args: &Deploy,
    namespace: &str,
    data_dir: &Path,
) -> anyhow::Result<(Option<dormouse_build::Built>, Option<String>)> {
    let fixed = args.building.image.as_deref().is_some_and(|image| image.contains('@'));
    if args.build == "false" || fixed {
        return Ok((None, None));
    }
    let silent = args.output == "json";
    let built = build::build(function, namespace, data_dir, &args.building, silent).await?;
    Ok((Some(built), build::target(function, &args.building, args.push)))
}

/// What the flags say goes into the function.
fn apply(function: &mut Function, args: &Deploy) -> anyhow::Result<()> {
    let spec = &mut function.spec;
    for entry in &args.env {
        match entry.split_once('=') {
            Some((name, value)) => {
                let known = spec.run.envs.iter_mut().find(|env| env.name.as_deref() == Some(name));
                match known {
                    Some(env) => env.value = Some(value.to_owned()),
                    None => spec.run.envs.push(Env::new(name, value)),
                }
            }
            None => {
                let name = entry
                    .strip_suffix('-')
                    .with_context(|| format!("--env {entry}: expected NAME=VALUE, or NAME- to remove it"))?;
                spec.run.envs.retain(|env| env.name.as_deref() != Some(name));
            }
        }
    }
    if let Some(domain) = &args.domain {
        if let Some(why) = names::domain(domain) {
            bail!("{why}");
        }
        spec.domain.clone_from(domain);
    }
    if let Some(namespace) = &args.namespace {
        spec.namespace.clone_from(namespace);
    }
    for (told, field) in [
        (&args.service_account, &mut spec.deploy.service_account),
        (&args.image_pull_secret, &mut spec.deploy.image_pull_secret),
        (&args.deployer, &mut spec.deployer),
    ] {
        if let Some(told) = told {
            field.clone_from(told);
        }
    }
    if !matches!(spec.deployer.as_str(), "" | "knative") {
        bail!(
            "func.yaml asks for the deployer {:?}; this platform deploys Knative Services: set it to knative",
            spec.deployer
        );
    }
    spec.deploy.management_disabled |= args.management_disabled;
    Ok(())
}

pub(super) fn triggers(client: kube::Client, namespace: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("eventing.knative.dev", "v1", "Trigger"));
    Api::namespaced_with(client, namespace, &kind)
}

/// Applies the Triggers of the function's subscriptions and deletes those that are of none any more.
async fn subscribe(
    client: kube::Client,
    function: &Function,
    namespace: &str,
    uid: &str,
) -> anyhow::Result<()> {
    let api = triggers(client, namespace);
    let wanted = function.triggers(namespace, uid);
    let mut names = Vec::new();
    for trigger in &wanted {
        let name = trigger.pointer("/metadata/name").and_then(|name| name.as_str()).unwrap_or_default();
        api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(trigger))
            .await
            .with_context(|| format!("apply Trigger {name}"))?;
        names.push(name.to_owned());
    }
    let existing = match api.list(&ListParams::default()).await {
        Ok(existing) => existing.items,
        // A platform without eventing has no stale ones either.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error).context("list Triggers"),
    };
    let prefix = format!("{}-function-trigger-", function.spec.name);
    for trigger in existing {
        let name = trigger.metadata.name.unwrap_or_default();
        let numbered = name.strip_prefix(&prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
        if numbered && !names.contains(&name) {
            ignore_absent(api.delete(&name, &DeleteParams::default()).await.map(drop))
                .with_context(|| format!("delete Trigger {name}"))?;
        }
    }
    Ok(())
}

/// What is gone already need not be deleted.
pub(super) fn ignore_absent(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}
