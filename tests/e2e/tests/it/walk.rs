//! The way of a user who knows Knative: other people's tools, unmodified, from an image to its logs.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use dormouse_e2e::{Outcome, Platform, Said, tools, until};

use crate::manifest::service;

/// Builds FROM scratch with buildah and copies the result into our registry with skopeo.
fn push_with_other_tools(platform: &Platform, name: &str) -> anyhow::Result<String> {
    let work = tempfile::tempdir()?;
    std::fs::copy(tools::hello()?, work.path().join("hello"))?;
    std::fs::write(
        work.path().join("Containerfile"),
        "FROM scratch\nCOPY hello /hello\nENTRYPOINT [\"/hello\"]\n",
    )?;
    // Debian's packages recommend, but do not need, the one that brings a policy for signatures.
    let policy = work.path().join("policy.json");
    std::fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
    let policy = policy.display().to_string();
    let layout = format!("oci:{}:v1", work.path().join("layout").display());
    let storage = [
        "--root".to_owned(),
        work.path().join("root").display().to_string(),
        "--runroot".to_owned(),
        work.path().join("runroot").display().to_string(),
        "--storage-driver".to_owned(),
        "vfs".to_owned(),
    ];
    let buildah = |arguments: &[&str]| -> anyhow::Result<String> {
        let mut command = Command::new(tools::find("buildah")?);
        command.args(&storage).args(arguments).current_dir(work.path()).env("HOME", work.path());
        Said::from(command.output()?).ok().with_context(|| format!("buildah {arguments:?}"))
    };
    buildah(&["bud", "--signature-policy", &policy, "--isolation", "chroot", "-t", "hello", "."])?;
    buildah(&["push", "--signature-policy", &policy, "hello", &layout])?;
    let reference = format!("{}/{name}:v1", platform.state().registry);
    let copied = Command::new(tools::find("skopeo")?)
        .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
        .args([&layout, &format!("docker://{reference}")])
        .output()?;
    Said::from(copied).ok().context("skopeo copy")?;
    Ok(reference)
}

#[test]
fn an_image_of_other_tools_becomes_a_service_that_reads_as_on_knative() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let image = push_with_other_tools(&platform, "walk")?;
    platform.apply(&service("walk").image(&image).yaml())?.ok()?;
    platform.kubectl(&["wait", "--for=condition=Ready", "ksvc/walk", "--timeout=30s"])?.ok()?;

    let url = platform.kubectl(&["get", "ksvc", "walk", "-o", "jsonpath={.status.url}"])?.ok()?;
    let port = platform.state().gateway.port();
    ensure!(url == format!("http://walk.default.localhost:{port}"), "status.url is {url}");
    let answer =
        Command::new(tools::find("curl")?).args(["-sS", "--fail", "--max-time", "20", &url]).output()?;
    let answer = Said::from(answer).ok()?;
    ensure!(answer == "Hello from walk-00001!\n", "curl {url}: {answer:?}");

    let listed = platform.kubectl(&["get", "ksvc,cfg,rev,rt,deploy,pods"])?.ok()?;
    for expected in [
        "service.serving.knative.dev/walk",
        "configuration.serving.knative.dev/walk",
        "revision.serving.knative.dev/walk-00001",
        "route.serving.knative.dev/walk",
        "deployment.apps/walk-00001-deployment",
        "pod/walk-00001-deployment-",
        "LATESTCREATED",
        "LATESTREADY",
        "CONFIG NAME",
        "ACTUAL REPLICAS",
        &url,
    ] {
        ensure!(listed.contains(expected), "kubectl get lacks {expected}:\n{listed}");
    }
    let described = platform.kubectl(&["describe", "ksvc", "walk"])?.ok()?;
    for expected in
        ["Name:         walk", "Latest Ready Revision Name:", "walk-00001", "Type:", "RoutesReady", "Created"]
    {
        ensure!(described.contains(expected), "kubectl describe lacks {expected}:\n{described}");
    }
    Ok(())
}

#[test]
fn logs_are_read_and_followed() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    platform
        .deploy("talks", &service("talks").annotation("autoscaling.knative.dev/min-scale", "1").yaml())?;
    platform.get("talks", "/log?before")?;
    let selector = ["-l", "serving.knative.dev/service=talks", "-c", "user-container"];
    until("the log has the first line", Duration::from_secs(10), || {
        let mut arguments = vec!["logs"];
        arguments.extend(selector);
        let text = platform.kubectl(&arguments)?.ok()?;
        Ok(text.contains("hello: logged before").then_some(()))
    })?;
    let pod = [
        "get",
        "pods",
        "-l",
        "serving.knative.dev/service=talks",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ];
    let pod = platform.kubectl(&pod)?.ok()?;
    let mut follower = platform
        .kubectl_command()?
        .args(["logs", "-f", &pod, "-c", "user-container"])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(follower.stdout.take().context("its output")?).lines();
    let (seen, heard) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if seen.send(line).is_err() {
                return;
            }
        }
    });
    let followed = (|| -> Outcome {
        loop {
            let line = heard.recv_timeout(Duration::from_secs(20)).context("kubectl logs -f says nothing")?;
            if line.contains("logged before") {
                platform.get("talks", "/log?after")?;
            }
            if line.contains("logged after") {
                return Ok(());
            }
        }
    })();
    follower.kill()?;
    follower.wait()?;
    drop(heard);
    reader.join().expect("the reader does not panic");
    followed
}
