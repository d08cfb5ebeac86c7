use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Pairs that Kubernetes' own Go types produced: a body and the JSON of the same object.
fn fixtures() -> Vec<(Vec<u8>, Value)> {
    let pairs: Vec<Value> = serde_json::from_str(include_str!("fixtures.json")).unwrap();
    pairs
        .into_iter()
        .map(|mut pair| (STANDARD.decode(pair["protobuf"].as_str().unwrap()).unwrap(), pair["json"].take()))
        .collect()
}

/// Without fields that have their zero value: the Go side writes them or not as it likes.
fn without_zeros(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), without_zeros(value)))
            .filter(|(_, value)| !is_zero(value) && *value != json!({}))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(without_zeros).collect(),
        other => other.clone(),
    }
}

#[test]
fn bodies_decode_to_what_go_writes_as_json() {
    for (bytes, expect) in fixtures() {
        assert!(is_protobuf(&bytes));
        let found = decode(&bytes).unwrap_or_else(|error| panic!("{}: {error}", expect["kind"]));
        assert_eq!(without_zeros(&found), without_zeros(&expect), "{}", expect["kind"]);
    }
}

#[test]
fn zeros_stay_only_where_they_were_set() {
    let (bytes, _) = fixtures().into_iter().find(|(_, json)| json["metadata"]["name"] == "d").unwrap();
    let deployment = decode(&bytes).unwrap();
    assert_eq!(deployment["spec"]["replicas"], 0);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 0);
    assert_eq!(pod["volumes"], json!([{"name": "v", "emptyDir": {}}]));
    let container = &pod["containers"][0];
    assert_eq!(container["args"], json!(["", "x"]));
    assert_eq!(container["env"], json!([{"name": "E"}]));
    assert_eq!(container["livenessProbe"], json!({"httpGet": {"path": "/", "port": 80}}));
    assert_eq!(deployment["metadata"], json!({"name": "d"}));
}

#[test]
fn delete_options_of_any_group_decode() {
    let mut found = fixtures().into_iter().map(|(bytes, _)| decode(&bytes).unwrap());
    let options = found.find(|value| value["kind"] == "DeleteOptions").unwrap();
    assert_eq!(
        options,
        json!({"apiVersion": "serving.knative.dev/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
               "propagationPolicy": "Foreground", "dryRun": ["All"]})
    );
}

#[test]
fn unknown_kinds_and_foreign_bytes_are_refused() {
    assert!(decode(b"{}").is_err());
    assert!(!is_protobuf(b"{}"));
    // A Service of Knative: the envelope is fine, the kind has no protobuf form.
    let mut body = b"k8s\0".to_vec();
    let meta = b"\x0a\x16serving.knative.dev/v1\x12\x07Service";
    body.extend([0x0a, u8::try_from(meta.len()).unwrap()]);
    body.extend(meta);
    assert!(decode(&body).unwrap_err().contains("no kind \"Service\""));
}

#[test]
fn a_body_cut_anywhere_never_panics() {
    for (bytes, _) in fixtures() {
        for end in 0..bytes.len().min(400) {
            let _ = decode(&bytes[..end]);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut body = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod".to_vec();
        body.push(0x12);
        body.push(u8::try_from(bytes.len().min(127)).unwrap());
        body.extend(bytes);
        let _ = decode(&body);
    }
}
