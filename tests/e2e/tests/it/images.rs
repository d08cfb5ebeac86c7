//! Registries and images that misbehave: the service's conditions tell what and which.

use anyhow::ensure;
use dormouse_e2e::registry::{Entry, Registry, layer};
use dormouse_e2e::{Outcome, Platform, tools};

use crate::manifest::service;

fn hello_layer() -> anyhow::Result<Vec<u8>> {
    let hello = std::fs::read(tools::hello()?)?;
    Ok(layer(&[Entry { path: "hello", content: &hello }]))
}

/// The service never becomes ready, and its condition tells all of `told`.
fn refused(platform: &Platform, name: &str, image: &str, secret: Option<&str>, told: &[&str]) -> Outcome {
    let mut manifest = service(name).image(image).annotation("serving.knative.dev/progress-deadline", "5s");
    if let Some(secret) = secret {
        manifest = manifest.spec(&format!("imagePullSecrets: [{{name: {secret}}}]"));
    }
    platform.apply(&manifest.yaml())?.ok()?;
    let text = platform.refused(name)?;
    for part in told {
        ensure!(text.to_lowercase().contains(&part.to_lowercase()), "{name}: {part:?} is not told: {text}");
    }
    platform.kubectl(&["delete", "ksvc", name])?.ok()?;
    Ok(())
}

#[test]
fn an_image_that_does_not_exist_is_told() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let registry = Registry::start()?;
    let image = registry.missing("nothing");
    refused(&platform, "absent", &image, None, &["Unable to fetch image", &image, "does not exist"])?;
    let ours = format!("{}/nothing:v1", platform.state().registry);
    refused(&platform, "absent-here", &ours, None, &[&ours])
}

#[test]
fn a_registry_that_is_down_is_told() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let image = {
        // Dropped at once: nobody listens on its port any more.
        let registry = Registry::start()?;
        registry.missing("hello")
    };
    refused(&platform, "downed", &image, None, &["Unable to fetch image", &image, "refused"])
}

#[test]
fn wrong_credentials_are_told_and_right_ones_pull() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let registry = Registry::start()?;
    let image = registry.add("private", &hello_layer()?);
    registry.require("me:right");
    let host = image.split('/').next().unwrap_or_default().to_owned();
    for (secret, password) in [("bad-login", "wrong"), ("good-login", "right")] {
        let create = ["create", "secret", "docker-registry", secret, "--docker-username=me"];
        let server = format!("--docker-server={host}");
        let password = format!("--docker-password={password}");
        let mut arguments = create.to_vec();
        arguments.extend([server.as_str(), password.as_str()]);
        platform.kubectl(&arguments)?.ok()?;
    }
    refused(&platform, "locked-out", &image, Some("bad-login"), &[&image, "401"])?;
    let manifest = service("let-in").image(&image).spec("imagePullSecrets: [{name: good-login}]");
    platform.deploy("let-in", &manifest.yaml())?;
    let answer = platform.get("let-in", "/")?;
    ensure!(answer.text() == "Hello from let-in-00001!\n", "{answer:?}");
    Ok(())
}

#[test]
fn a_corrupt_layer_is_told_and_not_kept() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let registry = Registry::start()?;
    let image = registry.add_corrupt("torn", &hello_layer()?);
    refused(&platform, "torn", &image, None, &["sha256:", "digest"])
}

#[test]
fn a_manifest_of_another_digest_is_told() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let registry = Registry::start()?;
    let image = registry.add_mismatched("swapped", &hello_layer()?);
    refused(&platform, "swapped", &image, None, &["sha256:", "digest"])
}

#[test]
fn a_layer_that_climbs_out_is_refused_and_writes_nothing() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let registry = Registry::start()?;
    let name = format!("climbed-{}", std::process::id());
    let path = format!("../../../../../../../../../../tmp/{name}");
    let image = registry.add("climber", &layer(&[Entry { path: &path, content: b"outside" }]));
    refused(&platform, "climber", &image, None, &[&name])?;
    let outside = std::path::Path::new("/tmp").join(&name);
    ensure!(!outside.exists(), "{} was written", outside.display());
    Ok(())
}
