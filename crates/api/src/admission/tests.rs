use serde_json::{Value, json};

use super::*;
use crate::kind;

fn request(group: &str, name: &str) -> Request<'static> {
    static PLAIN: std::sync::LazyLock<Settings> = std::sync::LazyLock::new(Settings::default);
    Request {
        kind: kind::by_kind(group, name).unwrap(),
        operation: Operation::Create,
        subresource: None,
        user: "kubernetes-admin",
        old: None,
        strict: Strictness::Strict,
        settings: &PLAIN,
        now: Timestamp::UNIX_EPOCH,
    }
}

fn hello() -> Value {
    json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": "ghcr.io/knative/helloworld-go:latest"}]}}}
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut object = hello();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut at = &mut object;
    for step in parent.split('/').skip(1) {
        at = match step.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[step],
        };
        if at.is_null() {
            *at = json!({});
        }
    }
    at[key] = value;
    object
}

fn service() -> Request<'static> {
    request("serving.knative.dev", "Service")
}

const CONTAINER: &str = "/spec/template/spec/containers/0";

#[test]
fn service_is_defaulted_as_upstream_does() {
    let admitted = admit(&service(), hello()).unwrap();
    let object = admitted.object;
    assert_eq!(object["metadata"]["annotations"]["serving.knative.dev/creator"], "kubernetes-admin");
    assert_eq!(object["metadata"]["annotations"]["serving.knative.dev/lastModifier"], "kubernetes-admin");
    assert_eq!(object["spec"]["traffic"], json!([{"latestRevision": true, "percent": 100}]));
    assert_eq!(
        object["spec"]["template"]["spec"],
        json!({
            "containerConcurrency": 0, "timeoutSeconds": 300, "enableServiceLinks": false,
            "containers": [{
                "name": "user-container", "image": "ghcr.io/knative/helloworld-go:latest", "resources": {},
                "readinessProbe": {"successThreshold": 1, "tcpSocket": {"port": 0}}
            }]
        })
    );
}

#[test]
fn admission_is_idempotent() {
    let once = admit(&service(), hello()).unwrap().object;
    let again = Request { operation: Operation::Update, old: Some(&once), user: "other", ..service() };
    assert_eq!(admit(&again, once.clone()).unwrap().object, once);
}

#[test]
fn every_rejection_has_upstreams_text() {
    let t = "spec.template";
    let c = "spec.template.spec.containers[0]";
    let cases: Vec<(String, Value, String)> = vec![
        ("/spec/template/spec/timeoutSeconds".into(), json!(601), format!("expected 0 <= 601 <= 600: {t}.spec.timeoutSeconds")),
        ("/spec/template/spec/containerConcurrency".into(), json!(-1), format!("expected 0 <= -1 <= 1000: {t}.spec.containerConcurrency")),
        ("/spec/template/spec/containers".into(), json!([]), format!("missing field(s): {t}.spec.containers")),
        ("/spec/template/spec/containers".into(), json!([{"image": "a"}, {"image": "b"}]), format!("missing field(s): {t}.spec.containers[*].ports")),
        (format!("{CONTAINER}/image"), json!(""), format!("missing field(s): {c}.image")),
        (format!("{CONTAINER}/lifecycle"), json!({}), format!("must not set the field(s): {c}.lifecycle")),
        (format!("{CONTAINER}/env"), json!([{"name": "PORT", "value": "1"}]), format!("\"PORT\" is a reserved environment variable: {c}.env[0].name")),
        (format!("{CONTAINER}/ports"), json!([{"containerPort": 8012}]), format!("invalid value: 8012 is a reserved port: {c}.ports.containerPort\n8012 is a reserved port, please use a different value")),
        (format!("{CONTAINER}/ports"), json!([{"containerPort": 80, "name": "web"}]), format!("Port name web is not allowed: {c}.ports\nName must be empty, or one of: 'h2c', 'http1'")),
        (format!("{CONTAINER}/readinessProbe"), json!({"httpGet": {"path": "/", "port": 9000}}), format!("invalid value: 9000: {c}.readinessProbe.httpGet.port\nProbe port must match container port")),
        (format!("{CONTAINER}/securityContext"), json!({"privileged": true}), format!("must not set the field(s): {c}.securityContext.privileged")),
        (format!("{CONTAINER}/securityContext"), json!({"runAsUser": -1}), format!("expected 0 <= -1 <= 2147483647: {c}.securityContext.runAsUser")),
        (format!("{CONTAINER}/volumeMounts"), json!([{"name": "x", "mountPath": "/dev"}]), format!("mountPath \"/dev\" is a reserved path: {c}.volumeMounts[0].mountPath\nvolumeMount has no matching volume: {c}.volumeMounts[0].name")),
        ("/spec/template/spec/hostNetwork".into(), json!(true), format!("must not set the field(s): {t}.spec.hostNetwork")),
        ("/spec/template/spec/volumes".into(), json!([{"name": "v", "emptyDir": {}}]), format!("volume with name \"v\" not mounted: {t}.spec.volumes[0].name")),
        ("/spec/template/spec/serviceAccountName".into(), json!("foo@bar.baz"), "invalid value: foo@bar.baz: spec.template.spec.serviceAccountName\na lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".into()),
        ("/spec/template/metadata/name".into(), json!("other"), "invalid value: \"other\" must have prefix \"hello-\": spec.template.metadata.name".into()),
        ("/spec/template/metadata/annotations".into(), json!({"autoscaling.knative.dev/min-scale": "-1"}), "expected 0 <= -1 <= 2147483647: spec.template.metadata.annotations.autoscaling.knative.dev/min-scale".into()),
        ("/metadata/annotations".into(), json!({"autoscaling.knative.dev/min-scale": "1"}), "invalid key name \"autoscaling.knative.dev/min-scale\": metadata.annotations\nautoscaling annotations must be put under \"spec.template.metadata.annotations\" to work".into()),
        ("/metadata/annotations".into(), json!({"serving.knative.dev/rollout-duration": "1.5s"}), "rollout-duration=1.5s is not at second precision: metadata.annotations.serving.knative.dev/rollout-duration".into()),
        ("/metadata/annotations".into(), json!({"serving.knative.dev/rollout-duration": "60s"}), "a gradual rollout is not supported by this version of Dormouse: metadata.annotations.serving.knative.dev/rollout-duration".into()),
        ("/spec/traffic".into(), json!([{"percent": 90}]), "Traffic targets sum to 90, want 100: spec.traffic".into()),
        ("/spec/traffic".into(), json!([{"percent": 50, "tag": "t"}, {"percent": 50, "tag": "t", "revisionName": "r"}]), "Multiple definitions for \"t\": spec.traffic[1].tag, spec.traffic[0].tag".into()),
        ("/spec/traffic".into(), json!([{"percent": 100, "configurationName": "c"}]), "must not set the field(s): spec.traffic[0].configurationName".into()),
        ("/spec/traffic".into(), json!([{"percent": 100, "latestRevision": true, "revisionName": "r"}]), "may not set revisionName \"r\" when latestRevision is true: spec.traffic[0].latestRevision".into()),
    ];
    for (pointer, value, expected) in cases {
        let denied = admit(&service(), with(&pointer, value)).unwrap_err();
        assert_eq!(
            denied.to_string(),
            format!(
                "admission webhook \"validation.webhook.serving.knative.dev\" denied the request: validation failed: {expected}"
            ),
            "{pointer}"
        );
    }
}

#[test]
fn unknown_fields_are_refused_reported_or_dropped() {
    let object = with("/spec/foo", json!(1));
    assert_eq!(
        admit(&service(), object.clone()).unwrap_err().to_string(),
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown field \"spec.foo\""
    );
    let warned = admit(&Request { strict: Strictness::Warn, ..service() }, object.clone()).unwrap();
    assert_eq!(warned.warnings, ["unknown field \"spec.foo\""]);
    let silent = admit(&Request { strict: Strictness::Ignore, ..service() }, object).unwrap();
    assert!(silent.warnings.is_empty() && silent.object["spec"].get("foo").is_none());
    admit(&service(), with("/spec/foo", Value::Null)).unwrap();
}

#[test]
fn a_wrong_type_names_its_field() {
    let text = |pointer: &str, value| admit(&service(), with(pointer, value)).unwrap_err().to_string();
    let denied = text(&format!("{CONTAINER}/ports"), json!([{"containerPort": "x"}]));
    assert!(denied.contains("spec.template.spec.containers[0].ports[0].containerPort: "), "{denied}");
    let denied = text("/spec/template/spec/timeoutSeconds", json!("soon"));
    assert!(denied.contains("spec.template.spec.timeoutSeconds: "), "{denied}");
}

#[test]
fn a_named_template_must_change_its_name_with_its_content() {
    let old = admit(&service(), with("/spec/template/metadata/name", json!("hello-one"))).unwrap().object;
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
    let update = Request { operation: Operation::Update, old: Some(&old), ..service() };
    let text = admit(&update, new).unwrap_err().to_string();
    assert!(
        text.contains("Saw the following changes without a name change (-old +new): spec.template.metadata.name\nspec.containers[0].image:"),
        "{text}"
    );
}

#[test]
fn a_revisions_spec_and_a_services_creator_are_immutable() {
    let revision = request("serving.knative.dev", "Revision");
    let object = json!({"metadata": {"name": "r"}, "spec": {"containers": [{"image": "a"}]}});
    let old = admit(&revision, object).unwrap().object;
    let mut new = old.clone();
    new["spec"]["timeoutSeconds"] = json!(5);
    let update = Request { operation: Operation::Update, old: Some(&old), ..revision };
    assert!(
        admit(&update, new).unwrap_err().to_string().contains("Immutable fields changed (-old +new): spec\n")
    );

    let old = admit(&service(), hello()).unwrap().object;
    let mut new = old.clone();
    new["metadata"]["annotations"]["serving.knative.dev/creator"] = json!("someone");
    let update = Request { operation: Operation::Update, old: Some(&old), ..service() };
    assert!(
        admit(&update, new)
            .unwrap_err()
            .to_string()
            .ends_with("annotation value is immutable: metadata.annotations.serving.knative.dev/creator")
    );
}

#[test]
fn a_status_write_is_not_validated_or_stamped() {
    let mut object = with("/spec/template/spec/timeoutSeconds", json!(9999));
    object["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}], "url": "http://x"});
    let status = Request { subresource: Some("status"), operation: Operation::Update, ..service() };
    let object = admit(&status, object).unwrap().object;
    assert_eq!(object["status"]["url"], "http://x");
    assert!(object["metadata"].get("annotations").is_none());
}

#[test]
fn deployments_are_defaulted_and_their_selector_checked() {
    let deployment = request("apps", "Deployment");
    let object = |labels: Value| {
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
    };
    let good = admit(&deployment, object(json!({"a": "b"}))).unwrap().object;
    assert_eq!(good["spec"]["replicas"], 1);
    assert_eq!(good["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    assert_eq!(good["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(good["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 30);
    let Err(Denied::Invalid { message, causes }) = admit(&deployment, object(json!({"a": "c"}))) else {
        panic!()
    };
    assert_eq!(
        message,
        "Deployment.apps \"d\" is invalid: spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
    );
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].field.as_str()),
        ("FieldValueInvalid", "spec.template.metadata.labels")
    );
}

#[test]
fn secrets_fold_string_data_and_need_their_keys() {
    let secret = request("", "Secret");
    let good = admit(&secret, json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}})).unwrap().object;
    assert_eq!(
        (&good["data"]["k"], &good["type"], good.get("stringData")),
        (&json!("dg=="), &json!("Opaque"), None)
    );
    let bad = json!({"metadata": {"name": "s"}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}});
    assert_eq!(
        admit(&secret, bad).unwrap_err().to_string(),
        "Secret \"s\" is invalid: data[tls.key]: Required value"
    );
}

#[test]
fn names_follow_the_dns_rule_of_their_kind() {
    let object = json!({"metadata": {"name": "1abc"}, "spec": {"ports": [{"port": 80}]}});
    let text = admit(&request("", "Service"), object).unwrap_err().to_string();
    assert!(
        text.starts_with(
            "Service \"1abc\" is invalid: metadata.name: Invalid value: \"1abc\": a DNS-1035 label must"
        ),
        "{text}"
    );
    admit(&request("", "ConfigMap"), json!({"metadata": {"name": "1abc.d"}})).unwrap();
    assert!(admit(&request("", "ConfigMap"), json!({"metadata": {"name": "A"}})).is_err());
}
