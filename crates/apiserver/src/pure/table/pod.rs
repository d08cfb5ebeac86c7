//! The columns of Pods: the one status that sums up phases, containers and their reasons.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Definition, age_of, column, name, wide};
use crate::pure::{age, items, number, text};

pub(super) fn columns() -> Vec<Definition> {
    let mut columns: Vec<Definition> = ["Name", "Ready", "Status", "Restarts", "Age"].map(column).into();
    columns.extend(["IP", "Node", "Nominated Node", "Readiness Gates"].map(wide));
    columns
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let main = items(pod, "/status/containerStatuses");
    let ready = main.iter().filter(|status| is_ready(status)).count();
    let total = items(pod, "/spec/containers").len();
    let or_none = |text: &str| json!(if text.is_empty() { "<none>" } else { text });
    vec![
        name(pod),
        json!(format!("{ready}/{total}")),
        json!(status(pod)),
        json!(restarts(pod, now)),
        age_of(pod, now),
        or_none(text(pod, "/status/podIP")),
        or_none(text(pod, "/spec/nodeName")),
        or_none(text(pod, "/status/nominatedNodeName")),
        json!(readiness_gates(pod)),
    ]
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true)) && status.pointer("/state/running").is_some()
}

/// Why a container is not running, if it says so.
fn reason(status: &Value) -> Option<String> {
    match text(status, "/state/waiting/reason") {
        "" => {}
        reason => return Some(reason.to_owned()),
    }
    let terminated = status.pointer("/state/terminated")?;
    Some(
        match (text(terminated, "/reason"), number(terminated, "/signal"), number(terminated, "/exitCode")) {
            ("", 0, code) => format!("ExitCode:{code}"),
            ("", signal, _) => format!("Signal:{signal}"),
            (reason, _, _) => reason.to_owned(),
        },
    )
}

fn status(pod: &Value) -> String {
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        let lost = text(pod, "/status/reason") == "NodeLost";
        return if lost { "Unknown" } else { "Terminating" }.to_owned();
    }
    let mut result = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    if let Some(initialising) = initialising(pod) {
        return initialising;
    }
    let main = items(pod, "/status/containerStatuses");
    // The first container's reason wins, as people expect of the first one listed.
    if let Some(reason) = main.iter().find_map(reason) {
        result = reason;
    }
    let running = main.iter().any(is_ready);
    if result == "Completed" && running {
        result = if condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
    result
}

fn condition(pod: &Value, kind: &str) -> bool {
    items(pod, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "/type") == kind && text(condition, "/status") == "True")
}

fn initialising(pod: &Value) -> Option<String> {
    let total = items(pod, "/spec/initContainers").len();
    let statuses = items(pod, "/status/initContainerStatuses");
    for (index, status) in statuses.iter().enumerate() {
        if let Some(terminated) = status.pointer("/state/terminated") {
            if number(terminated, "/exitCode") == 0 {
                continue;
            }
            return Some(format!("Init:{}", reason(status).unwrap_or_default()));
        }
        return Some(match text(status, "/state/waiting/reason") {
            "" | "PodInitializing" => format!("Init:{index}/{total}"),
            reason => format!("Init:{reason}"),
        });
    }
    None
}

fn restarts(pod: &Value, now: Timestamp) -> String {
    let statuses = items(pod, "/status/containerStatuses");
    let count: i64 = statuses.iter().map(|status| number(status, "/restartCount")).sum();
    // All moments are UTC with the same precision, so the latest is also the greatest text.
    let last = statuses.iter().map(|status| text(status, "/lastState/terminated/finishedAt")).max();
    match last {
        Some(last) if count > 0 && !last.is_empty() => format!("{count} ({} ago)", age::since(last, now)),
        _ => count.to_string(),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = gates.iter().filter(|gate| condition(pod, text(gate, "/conditionType"))).count();
    format!("{passed}/{}", gates.len())
}
