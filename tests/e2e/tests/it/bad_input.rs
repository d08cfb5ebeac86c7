//! What a user mistypes is told with the field's name, and nothing of it is stored.

use anyhow::{Context, ensure};
use dormouse_e2e::{Outcome, Platform};

use crate::manifest::{Service, service};

/// A manifest and what `kubectl apply` must say to it.
struct Mistake<'a> {
    manifest: String,
    told: &'a [&'a str],
}

fn mistake<'a>(manifest: Service<'_>, told: &'a [&'a str]) -> Mistake<'a> {
    Mistake { manifest: manifest.yaml(), told }
}

#[test]
fn each_mistake_is_told_with_its_field() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let good = service("wrong").yaml();
    let mistakes = [
        Mistake {
            manifest: good.replace("kind: Service", "kind: [Service"),
            told: &["error parsing", "yaml"],
        },
        Mistake { manifest: good.replace("kind: Service", "kind: Servant"), told: &["Servant"] },
        Mistake {
            manifest: good.replace("containers:", "contaners:"),
            told: &["unknown field \"spec.template.spec.contaners\""],
        },
        mistake(service("wrong").container("imagePullPolice: Always"), &["unknown field", "imagePullPolice"]),
        Mistake {
            manifest: good.replace("name: wrong", "name: Wrong_Name"),
            told: &["Wrong_Name", "metadata.name"],
        },
        mistake(
            service("wrong").image("UPPER/case"),
            &["image reference", "spec.template.spec.containers[0].image"],
        ),
        mistake(
            service("wrong").spec("containerConcurrency: -1"),
            &["spec.template.spec.containerConcurrency"],
        ),
        mistake(service("wrong").spec("timeoutSeconds: 100000"), &["spec.template.spec.timeoutSeconds"]),
        mistake(
            service("wrong").environment("K_REVISION", "x"),
            &["\"K_REVISION\" is a reserved environment variable"],
        ),
        mistake(
            service("wrong").traffic("{latestRevision: true, percent: 50}"),
            &["Traffic targets sum to 50, want 100", "spec.traffic"],
        ),
        mistake(service("wrong").revision("other"), &["\"other\" must have prefix \"wrong-\""]),
        mistake(service("wrong").annotation("autoscaling.knative.dev/min-scale", "many"), &["min-scale"]),
        mistake(service("wrong").annotation("autoscaling.knative.dev/max-scale", "-3"), &["max-scale"]),
        mistake(service("wrong").spec("nodeName: elsewhere"), &["must not set the field(s)", "nodeName"]),
        mistake(
            service("wrong").container("ports: [{containerPort: 8080}, {containerPort: 8081}]"),
            &["more than one container port is set"],
        ),
        mistake(service("wrong").container("resources: {limits: {memory: lots}}"), &["memory"]),
    ];
    for Mistake { manifest, told } in mistakes {
        let said = platform.apply(&manifest)?.failed().with_context(|| manifest.clone())?;
        for part in told {
            ensure!(said.contains(part), "{part:?} is not told:\n{said}\nfor:\n{manifest}");
        }
    }
    let stored = platform.kubectl(&["get", "ksvc", "wrong"])?.failed()?;
    ensure!(stored.contains("NotFound") || stored.contains("not found"), "something was stored: {stored}");
    Ok(())
}

#[test]
fn a_field_that_is_not_honoured_yet_is_refused_and_not_ignored() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let init = service("future").spec("initContainers: [{name: first, image: dev.local/hello:v1}]");
    let claim = service("future").spec("volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]");
    for (manifest, told) in
        [(init, "init-containers is off"), (claim, "Persistent volume claim support is disabled")]
    {
        let said = platform.apply(&manifest.yaml())?.failed()?;
        ensure!(said.contains(told), "{told:?} is not told: {said}");
    }
    Ok(())
}
