//! `func build`, and the building that `deploy` shares.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use dormouse_build::Built;
use dormouse_build::function::Function;
use dormouse_image::{Auth, Config, Images, Silent};
use serde_json::json;

use super::args::{Build, Building};
use super::{confirmed, deployed_in, initialized, say, variable};
use crate::builder;
use crate::image::{local_hosts, stored_credentials};
use crate::show::{Display, failure};
use crate::state::State;

/// Where upstream notes the image that was built last.
const BUILT: &str = "built-image";

pub(super) async fn run(args: &Build, data_dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut function = initialized(&args.place.path, "build")?;
    apply(&mut function, &args.building)?;
    let target = target(&function, &args.building, args.push);
    let shown = target.clone().unwrap_or_else(|| "(the platform's registry)".to_owned());
    if !confirmed(args.building.confirm, &[("Function", &function.spec.name), ("Image", &shown)])? {
        bail!("nothing was built");
    }
    let namespace = deployed_in(&function);
    let built = build(&function, &namespace, data_dir, &args.building, args.output == "json").await?;
    let image = match target {
        Some(target) => push(&built, &target, &function, data_dir, &args.building).await?,
        None => by_digest(&built),
    };
    function.write(&variable).map_err(failure)?;
    note(&function, &image)?;
    if args.output == "json" {
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({"image": image, "build": built}))?)?;
    } else {
        say("Function built, its image is:");
        writeln!(out, "{image}")?;
    }
    Ok(())
}

/// What the flags say about the build goes into the function, as upstream keeps it.
pub(super) fn apply(function: &mut Function, args: &Building) -> anyhow::Result<()> {
    let spec = &mut function.spec;
    match args.builder.as_deref() {
        Some("host") => "host".clone_into(&mut spec.build.builder),
        Some(other) => bail!(
            "EngineUnavailable: the builder {other} needs a container daemon\n  → leave --builder out: the host builder uses the tools of this machine"
        ),
        None => {}
    }
    if let Some(platform) = &args.platform {
        let own = format!("linux/{}", architecture());
        if *platform != own {
            bail!("cannot build for {platform} on this machine, which is {own}");
        }
    }
    if let Some(image) = &args.builder_image {
        let builder = if spec.build.builder.is_empty() { "pack" } else { &spec.build.builder };
        spec.build.builder_images.insert(builder.to_owned(), image.clone());
    }
    if let Some(image) = &args.base_image {
        spec.build.base_image.clone_from(image);
    }
    if let Some(image) = &args.image {
        dormouse_image::Reference::parse(image)?;
        spec.image.clone_from(image);
    }
    if let Some(registry) = &args.registry {
        spec.registry = registry.trim_matches('/').to_owned();
        // The name follows the registry unless it is told too.
        if args.image.is_none() {
            spec.image.clear();
        }
    }
    spec.registry_insecure |= args.registry_insecure;
    Ok(())
}

/// The architecture as images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Where the image is pushed: only where this command says so. What func.yaml remembers of other days and platforms is
/// not pushed to unasked.
pub(super) fn target(function: &Function, args: &Building, push: bool) -> Option<String> {
    let told = args.image.is_some() || args.registry.is_some();
    if !push || !told { None } else { function.image() }
}

/// Builds the function's image into the platform's store.
pub(super) async fn build(
    function: &Function,
    namespace: &str,
    data_dir: &Path,
    args: &Building,
    silent: bool,
) -> anyhow::Result<Built> {
    if matches!(function.spec.build.builder.as_str(), "pack" | "s2i") {
        say(&format!(
            "func.yaml names the builder {}; this platform builds with the machine's tools",
            function.spec.build.builder
        ));
    }
    let mut request = function.request(&variable).map_err(failure)?;
    request.offline = args.offline;
    let state = State::read(data_dir)?;
    let engine = builder::open(data_dir, state.as_ref())?;
    let display = Arc::new(Display::new(silent));
    let repository = format!("{namespace}/{}", function.spec.name);
    let built = tokio::select! {
        built = engine.build(request, Some(&repository), display.clone()) => built.map_err(failure)?,
        _ = tokio::signal::ctrl_c() => {
            display.cancel();
            bail!("interrupted; nothing was built");
        }
    };
    display.end();
    Ok(built)
}

/// Copies a built image to another registry; answers its name there, with its digest.
pub(super) async fn push(
    built: &Built,
    target: &str,
    function: &Function,
    data_dir: &Path,
    args: &Building,
) -> anyhow::Result<String> {
    let state = State::read(data_dir)?;
    let registry = state.map_or_else(|| "127.0.0.1:5000".to_owned(), |state| state.registry);
    let host = target.split('/').next().filter(|_| function.spec.registry_insecure);
    let config = Config {
        local_hosts: local_hosts(&registry),
        insecure_hosts: host.map(str::to_owned).into_iter().collect(),
        ..Config::default()
    };
    let images = Images::open(&data_dir.join("images"), config)
        .with_context(|| format!("open the image store in {}", data_dir.display()))?;
    let auth = credentials(args)?;
    let digest = images
        .push(&built.image, target, &auth, Arc::new(Silent))
        .await
        .with_context(|| format!("push {target}"))?;
    Ok(format!("{}@{digest}", without_tag(target)))
}

/// The flags' credentials, then the file's, then those that other tools have stored.
fn credentials(args: &Building) -> anyhow::Result<Auth> {
    let mut auth = Auth::anonymous();
    if let (Some(user), Some(password)) = (&args.username, &args.password) {
        auth = auth.or(Auth::basic(user, password));
    }
    if let Some(file) = &args.registry_authfile {
        auth = auth.or(Auth::from_file(file)?);
    }
    Ok(auth.or(stored_credentials()?))
}

/// A built image's name in the platform's registry, with its digest: every build is one of its own.
pub(super) fn by_digest(built: &Built) -> String {
    format!("{}@{}", without_tag(&built.image), built.digest)
}

/// `host:5000/a/b:tag` without the tag.
fn without_tag(image: &str) -> &str {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

/// Notes the image that was built last.
pub(super) fn note(function: &Function, image: &str) -> anyhow::Result<()> {
    let file = function.local_dir().map_err(failure)?.join(BUILT);
    std::fs::write(&file, image).with_context(|| format!("write {}", file.display()))
}

/// The image that was built last.
pub(super) fn noted(function: &Function) -> anyhow::Result<String> {
    let file = function.root.join(dormouse_build::function::LOCAL_DIR).join(BUILT);
    std::fs::read_to_string(&file)
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .with_context(|| format!("not built: there is no {}\n  → leave --build=false out", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_go_and_ports_stay() {
        for (image, expected) in
            [("h:5000/a/b:latest", "h:5000/a/b"), ("h:5000/a/b", "h:5000/a/b"), ("a/b", "a/b")]
        {
            assert_eq!(without_tag(image), expected);
        }
    }
}
