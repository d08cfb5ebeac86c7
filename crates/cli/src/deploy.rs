//! `dormouse deploy`: from a directory to a URL.

use std::collections::BTreeMap;
use std::io::Write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dormouse_base::clock;
use dormouse_build::{Built, Engine, Language, Request};
use serde_json::json;

use crate::args::Deploy;
use crate::show::{Display, failure};
use crate::state::State;
use crate::{builder, cluster};

/// How often `--watch` looks for changes.
const LOOK: Duration = Duration::from_millis(200);

/// Builds, applies, waits, prints the URL; what is for machines goes to `out`, progress to stderr.
///
/// # Errors
/// The build's reason with the tool's own words and the remedy, what the API refused, or why the Service is not Ready.
pub async fn run(args: &Deploy, out: &mut dyn Write) -> anyhow::Result<()> {
    let request = request(args)?;
    if args.plan {
        let engine = builder::open(&args.data.data_dir, None)?;
        let (_, plan) = engine.plan(&request).map_err(failure)?;
        writeln!(out, "{}", serde_json::to_string_pretty(&plan)?)?;
        return Ok(());
    }
    let state = cluster::running(&args.data.data_dir)?;
    let engine = builder::open(&args.data.data_dir, Some(&state))?;
    if args.watch {
        return watch(args, &request, &engine, &state, out).await;
    }
    deploy(args, request, &engine, &state, out).await
}

/// Deploys at every change until it is interrupted. A failed build is told and the next change tried.
async fn watch(
    args: &Deploy,
    request: &Request,
    engine: &Engine,
    state: &State,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let stamp = dormouse_build::stamp(request).map_err(failure)?;
        if last != Some(stamp) {
            last = Some(stamp);
            if let Err(error) = deploy(args, request.clone(), engine, state, out).await {
                writeln!(std::io::stderr(), "dormouse: {error:#}\nwaiting for the next change")?;
            }
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            interrupted = tokio::signal::ctrl_c() => return interrupted.context("wait for Ctrl-C"),
        }
    }
}

async fn deploy(
    args: &Deploy,
    request: Request,
    engine: &Engine,
    state: &State,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let started = clock::now();
    let display = Arc::new(Display::new(args.output == "json"));
    let name = request.name.clone();
    let repository = name.as_deref().map(|name| format!("{}/{name}", args.namespace));
    let (built, url) = tokio::select! {
        done = async {
            let built = engine.build(request, repository.as_deref(), display.clone()).await.map_err(failure)?;
            display.phase("deploy");
            let client = cluster::client(state).await?;
            let services = cluster::services(client, &args.namespace);
            let patience = Duration::from_secs(args.timeout_seconds);
            let url = cluster::apply_service(&services, &manifest(args, &built, state)?, patience).await?;
            anyhow::Ok((built, url))
        } => done?,
        _ = tokio::signal::ctrl_c() => {
            display.cancel();
            bail!("interrupted; nothing was deployed");
        }
    };
    display.end();
    tell(args, &built, &url, started, out)
}

fn tell(
    args: &Deploy,
    built: &Built,
    url: &str,
    started: Instant,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let took = clock::now() - started;
    if args.output == "json" {
        let report = json!({"url": url, "seconds": took.as_secs_f64(), "build": built});
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    writeln!(
        std::io::stderr(),
        "{} is Ready after {:.2} s ({})",
        built.name,
        took.as_secs_f64(),
        built.digest
    )?;
    writeln!(out, "{url}")?;
    Ok(())
}

/// What is asked of the builder.
fn request(args: &Deploy) -> anyhow::Result<Request> {
    let mut request = Request::new(&args.path);
    request.name.clone_from(&args.name);
    request.language = args
        .language
        .as_deref()
        .map(|name| {
            let known = || Language::ALL.map(Language::name).join(", ");
            Language::parse(name).with_context(|| format!("--language {name}: known are {}", known()))
        })
        .transpose()?;
    request.build_env = pairs("--build-env", &args.build_env)?;
    request.command.clone_from(&args.command);
    request.base.clone_from(&args.base_image);
    request.port = args.port;
    request.offline = args.offline;
    request.limits.timeout = Duration::from_secs(args.build_timeout_seconds);
    if request.name.is_none() {
        // Detection gives the name; the image's repository needs it before.
        request.name = Some(dormouse_build::name_of(&args.path).map_err(failure)?);
    }
    Ok(request)
}

/// `NAME=VALUE` of a flag that may be repeated.
pub(crate) fn pairs(flag: &str, list: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    list.iter()
        .map(|entry| {
            let (name, value) =
                entry.split_once('=').with_context(|| format!("{flag} {entry}: expected NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The Service: the image by its digest, so that every build is a revision of its own and the same build is none.
fn manifest(args: &Deploy, built: &Built, state: &State) -> anyhow::Result<serde_json::Value> {
    let repository = built.image.strip_suffix(":latest").unwrap_or(&built.image);
    debug_assert!(repository.starts_with(&state.registry), "images are named in the platform's registry");
    let env: Vec<_> = pairs("--env", &args.env)?
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let mut container = json!({"image": format!("{repository}@{}", built.digest)});
    if let Some(fields) = container.as_object_mut() {
        if !env.is_empty() {
            fields.insert("env".to_owned(), json!(env));
        }
        if built.port != dormouse_build::DEFAULT_PORT {
            fields.insert("ports".to_owned(), json!([{"containerPort": built.port}]));
        }
    }
    Ok(json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": built.name, "namespace": args.namespace},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(arguments: &[&str]) -> Deploy {
        let all = ["dormouse", "deploy"].iter().chain(arguments);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Deploy(deploy) => deploy,
            _ => panic!("not deploy"),
        }
    }

    #[test]
    fn the_name_comes_from_the_directory_and_flags_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("My_App");
        std::fs::create_dir(&app).unwrap();
        let path = app.display().to_string();
        assert_eq!(request(&parsed(&[&path])).unwrap().name.as_deref(), Some("my-app"));
        let error = request(&parsed(&[&path, "--language", "cobol"])).unwrap_err().to_string();
        assert!(error.contains("--language cobol") && error.contains("python"), "{error}");
        let error = request(&parsed(&[&path, "--build-env", "X"])).unwrap_err().to_string();
        assert!(error.contains("--build-env X"), "{error}");
    }

    #[test]
    fn the_manifest_names_the_image_by_digest() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let built: Built = serde_json::from_value(json!({
            "image": "127.0.0.1:5000/default/x:latest", "digest": digest, "language": "go", "name": "x", "port": 9000,
            "plan": digest, "bytes": 1, "reused": false, "phases": [],
        }))
        .unwrap();
        let state = State {
            pid: 1,
            keeper_pid: 2,
            api: String::new(),
            gateway: String::new(),
            internal_gateway: String::new(),
            registry: "127.0.0.1:5000".into(),
            admin: String::new(),
            kubeconfig: "k".into(),
        };
        let manifest = manifest(&parsed(&[".", "--env", "A=b=c"]), &built, &state).unwrap();
        let container = manifest.pointer("/spec/template/spec/containers/0").unwrap();
        assert_eq!(container["image"], format!("127.0.0.1:5000/default/x@{digest}"));
        assert_eq!(container["env"][0], json!({"name": "A", "value": "b=c"}));
        assert_eq!(container["ports"][0]["containerPort"], 9000);
    }
}
