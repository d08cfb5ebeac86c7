//! `dormouse image …`: the content store from the command line.

use std::io::Write;
use std::path::Path;
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
    let auth = Auth::from_environment();
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
                writeln!(out, "{}\t{}\t{}", image.name, image.digest, image.size)?;
            }
        }
        ImageVerb::Rm { reference } => {
            images.remove(reference).await?;
        }
        ImageVerb::Import { path, name } => {
            for (name, digest) in images.import(path, name.as_deref()).await? {
                writeln!(out, "{name}\t{digest}")?;
            }
        }
        ImageVerb::Build { path, name, entrypoint, env, user } => {
            Reference::parse(name)?;
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

/// Opens the store of the platform on `data_dir`, running or not.
fn open(data_dir: &Path) -> anyhow::Result<Images> {
    let registry = State::read(data_dir)?.map_or_else(|| DEFAULT_REGISTRY.to_owned(), |state| state.registry);
    Images::open(&data_dir.join("images"), Config { local_hosts: local_hosts(&registry), ..Config::default() })
        .with_context(|| format!("open the image store in {}", data_dir.display()))
}

/// The names under which the registry at `address` is reached from this machine.
pub fn local_hosts(address: &str) -> Vec<String> {
    let port = address.rsplit_once(':').map_or("5000", |(_, port)| port);
    vec![format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::1]:{port}")]
}
