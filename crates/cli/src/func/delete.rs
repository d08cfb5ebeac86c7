//! `func delete`: undeploys; files stay.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use kube::api::{DeleteParams, ListParams};

use super::args::Delete;
use super::deploy::{ignore_absent, triggers};
use super::list::text;
use super::{confirmed, identity, initialized, say, variable};
use crate::cluster;
use crate::show::failure;

pub(super) async fn run(args: &Delete, data_dir: &Path, _out: &mut dyn Write) -> anyhow::Result<()> {
    if args.name.is_some() && args.place.path != Path::new(".") {
        bail!("only one of --path and NAME should be provided");
    }
    let (name, namespace) =
        identity(args.name.as_deref(), args.namespace.as_deref(), &args.place.path, "delete")?;
    let all = if args.all { "true" } else { "false" };
    let lines = [("Function", name.as_str()), ("Namespace", namespace.as_str()), ("Dependents", all)];
    if !confirmed(args.confirm, &lines)? {
        bail!("nothing was deleted");
    }
    let client = cluster::client(&cluster::running(data_dir)?).await?;
    if args.all {
        let api = triggers(client.clone(), &namespace);
        let found = match api.list(&ListParams::default()).await {
            Ok(found) => found.items,
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => return Err(error).context("list Triggers"),
        };
        for trigger in found {
            let trigger_name = trigger.metadata.name.clone().unwrap_or_default();
            let ours = text(&trigger.data, "/spec/subscriber/ref/name") == name
                && trigger_name.starts_with(&format!("{name}-function-trigger-"));
            if ours {
                ignore_absent(api.delete(&trigger_name, &DeleteParams::default()).await.map(drop))
                    .with_context(|| format!("delete Trigger {trigger_name}"))?;
            }
        }
    }
    let services = cluster::services(client, &namespace);
    match services.delete(&name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("function not found: {name} in namespace {namespace}");
        }
        Err(error) => return Err(error).with_context(|| format!("delete Service {name}")),
    }
    say(&format!("Function '{name}' undeployed from namespace '{namespace}'"));
    if args.name.is_none() {
        let mut function = initialized(&args.place.path, "delete")?;
        function.spec.deploy.namespace.clear();
        function.spec.deploy.image.clear();
        function.spec.deploy.deployer.clear();
        function.write(&variable).map_err(failure)?;
    }
    Ok(())
}
