//! `dormouse image …`: the content store from the command line.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use dormouse_image::{Auth, BuildInput, BuildOptions, Config, Images, Reference, Silent};

use crate::args::{Image, ImageVerb};
use crate::state::State;

/// The registry address that names in the store carry while no platform runs.
const DEFAULT_REGISTRY: &str = "127.0.0.1:5000";

/// Runs the verb; what it prints goes to `out`.
///
/// # Errors
/// Names the reference, the file or the digest that failed.
pub async fn run(args: &Image, out: &mut dyn Write) -> anyhow::Result<()> {
    let images = open(&args.data.data_dir)?;
    let auth = stored_credentials()?;
    match &args.verb {
        ImageVerb::Pull { reference } => {
            let digest = images.pull(reference, &auth, Arc::new(Silent)).await?;
            writeln!(out, "{digest}")?;
        }
        ImageVerb::Push { reference, target } => {
            let target = target.as_deref().unwrap_or(reference);
            let digest = images.push(reference, target, &auth, Arc::new(Silent)).await?;
            writeln!(out, "{digest}")?;
        }
        ImageVerb::Ls => {
            for image in images.list().await? {
                writeln!(out, "{}\t{}\t{}", image.reference, image.digest, image.bytes)?;
            }
        }
        ImageVerb::Rm { reference } => {
            // While a platform runs the sweep is postponed to it: it knows what its revisions need.
            images.remove(reference, &HashSet::new()).await?;
        }
        ImageVerb::Import { path, name } => {
            for (name, digest) in images.import(path, name.as_deref()).await? {
                writeln!(out, "{name}\t{digest}")?;
            }
        }
        ImageVerb::Build { path, name, entrypoint, env, user } => {
            Reference::parse(name)?;
            if is_component(path) {
                if !entrypoint.is_empty() || !env.is_empty() || user.is_some() {
                    bail!(
                        "a WebAssembly component has no entry point, environment or user of its own: give them to the service"
                    );
                }
                writeln!(out, "{}", images.build_component(path, name).await?)?;
                return Ok(());
            }
            let input = if path.is_dir() {
                if entrypoint.is_empty() {
                    bail!("--entrypoint is needed: {} is a directory", path.display());
                }
                BuildInput::Directory(path.clone())
            } else {
                BuildInput::Binary(path.clone())
            };
            let options = BuildOptions {
                entrypoint: entrypoint.clone(),
                env: env.clone(),
                user: user.clone(),
                ..BuildOptions::default()
            };
            let digest = images.build(input, name, options).await?;
            writeln!(out, "{digest}")?;
        }
    }
    Ok(())
}

/// Whether it begins as WebAssembly does.
fn is_component(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\0asm"
}

/// Opens the store of the platform on `data_dir`, running or not.
fn open(data_dir: &Path) -> anyhow::Result<Images> {
    let registry = State::read(data_dir)?.map_or_else(|| DEFAULT_REGISTRY.to_owned(), |state| state.registry);
    Images::open(
        &data_dir.join("images"),
        Config { local_hosts: local_hosts(&registry), ..Config::default() },
    )
    .with_context(|| format!("open the image store in {}", data_dir.display()))
}

/// The credentials that docker, podman and skopeo have stored for this user, first found first.
#[expect(clippy::disallowed_methods, reason = "command-line tools share these variables")]
pub(crate) fn stored_credentials() -> anyhow::Result<Auth> {
    let home = std::env::var("HOME").unwrap_or_default();
    let mut files = Vec::new();
    files.extend(std::env::var("REGISTRY_AUTH_FILE").ok().map(PathBuf::from));
    files.extend(
        std::env::var("DOCKER_CONFIG").ok().map(|directory| Path::new(&directory).join("config.json")),
    );
    files.push(Path::new(&home).join(".docker/config.json"));
    files.push(Path::new(&home).join(".config/containers/auth.json"));
    let mut auth = Auth::anonymous();
    for file in files.iter().filter(|file| file.is_file()) {
        auth = auth.or(Auth::from_file(file)?);
    }
    Ok(auth)
}

/// The names under which the registry at `address` is reached from this machine.
pub fn local_hosts(address: &str) -> Vec<String> {
    let port = address.rsplit_once(':').map_or("5000", |(_, port)| port);
    vec![format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::1]:{port}")]
}
