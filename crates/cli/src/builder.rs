//! The build engine as commands use it: the platform's store, the user's tools and settings.

use std::path::{Path, PathBuf};

use anyhow::Context;
use dormouse_build::{Engine, Host};
use dormouse_image::{Config, Images};

use crate::image::local_hosts;
use crate::state::State;

/// The engine over the store in `data_dir`; images are named in the registry of `state`.
///
/// # Errors
/// Names the directory that cannot be opened.
pub fn open(data_dir: &Path, state: Option<&State>) -> anyhow::Result<Engine> {
    let registry = state.map_or("127.0.0.1:5000", |state| state.registry.as_str());
    let config = Config { local_hosts: local_hosts(registry), ..Config::default() };
    let images = Images::open(&data_dir.join("images"), config)
        .with_context(|| format!("open the image store in {}", data_dir.display()))?;
    Ok(Engine::open(images, &data_dir.join("build"), registry, host())?)
}

/// What builds may know of the user's surroundings.
fn host() -> Host {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Host {
        path: std::env::split_paths(&path).collect(),
        home: std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(|| PathBuf::from("/")),
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| Host::passes(name))
            .collect(),
    }
}
