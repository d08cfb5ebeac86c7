use super::*;

const NOW: &str = "2026-01-02T03:04:05Z";

fn read(text: &str) -> Spec {
    parse(text, NOW).unwrap().0
}

fn nothing(_: &str) -> Option<String> {
    None
}

/// Reads, writes and reads again: nothing may be lost.
fn round(text: &str) -> (Spec, String) {
    let spec = read(text);
    let written = Function::new("/nowhere", spec.clone()).text();
    assert_eq!(read(&written), spec, "{written}");
    (spec, written)
}

#[test]
fn every_old_version_becomes_the_newest() {
    let (spec, written) = round(
        "name: f\nnamespace: \"\"\nruntime: go\nimage: \"\"\nimageDigest: \"\"\nbuilder: gcr.io/paketo-buildpacks/builder:base\n\
         builders:\n  base: gcr.io/paketo-buildpacks/builder:base\nbuildpacks:\n- a/b\nhealthEndpoints:\n  liveness: /l\n  readiness: /r\n\
         volumes: []\nbuildEnvs: []\nenvs:\n- name: A\n  value: 1.10\nannotations: {}\noptions: {}\nlabels: []\n",
    );
    assert_eq!(spec.created.0, NOW, "0.19: what has a name and a runtime was created once");
    assert_eq!(spec.build.buildpacks, ["a/b"]);
    assert!(spec.build.builder_images.is_empty() && spec.build.builder.is_empty());
    assert_eq!(spec.deploy.health.liveness, "/l");
    assert_eq!(spec.run.envs, [Env::new("A", "1.10")]);
    assert!(!written.contains("imageDigest") && !written.contains("builders"), "{written}");

    let old = "version: 0.0.0\nname: f\nruntime: go\nbuild: local\ngit: {}\nbuilder: example.com/b\ncreated: 2022-05-25T22:44:47.36886+09:00\n\
               invocation:\n  format: cloudevent\n";
    let (spec, written) = round(old);
    assert_eq!(spec.build.builder_images["pack"], "example.com/b", "0.23");
    assert_eq!((spec.invoke.as_str(), spec.build.builder.as_str()), ("cloudevent", ""), "0.35");
    assert!(
        written.contains("created: 2022-05-25T22:44:47.36886+09:00\n"),
        "times stand without quotes: {written}"
    );

    let (spec, _) = round(
        "specVersion: 0.25.0\nname: f\nnamespace: ns\nruntime: go\nbuilder: s2i\ngit:\n  url: http://u\n  revision: main\n  contextDir: d\n\
         builderImages:\n  s2i: x\nlabels:\n- key: k\noptions:\n  scale:\n    min: 1\n    target: 0.5\ncreated: 2022-09-19T09:56:17.933191+01:00\n",
    );
    assert_eq!((spec.build.git.url.as_str(), spec.build.git.context_dir.as_str()), ("http://u", "d"), "0.34");
    assert_eq!((spec.deploy.namespace.as_str(), spec.build.builder.as_str()), ("ns", "s2i"));
    assert_eq!(spec.deploy.options.scale.unwrap().target, Some(0.5));

    let (spec, _) = round(
        "specVersion: 0.35.0\nname: f\nruntime: go\ncreated: 2022-01-01T00:00:00Z\nrun:\n  volumes:\n  - path: /p\n    presistentVolumeClaim:\n      claimName: c\n      readOnly: true\n",
    );
    let claim = spec.run.volumes[0].claim.clone().unwrap();
    assert_eq!((claim.name.as_deref(), claim.read_only), (Some("c"), true), "0.36");
    assert!(spec.run.volumes[0].unknown.is_empty());
}

#[test]
fn what_nobody_knows_is_kept_and_told() {
    let text = "specVersion: 0.36.0\nname: f\nruntime: go\ncreated: 2026-01-01T00:00:00Z\nfuture:\n- a: 1\n  b: \"2\"\nrun:\n  envs:\n  - name: A\n    value: x\n    why: because\nbuild:\n  builder: host\n  cache: {}\n";
    let (spec, warnings) = parse(text, NOW).unwrap();
    let fields = [(5, "future"), (12, "why"), (15, "cache")];
    assert_eq!(warnings, fields.map(|(line, field)| format!("line {line}: unknown field \"{field}\"")));
    let written = Function::new("/", spec).text();
    for part in ["future:\n- a: 1\n  b: \"2\"\n", "    why: because\n", "  cache: {}\n"] {
        assert!(written.contains(part), "{part} in {written}");
    }
}

#[test]
fn values_of_the_wrong_kind_are_told_in_gos_words() {
    let text = "specVersion: 0.36.0\nname: f\nruntime: go\ncreated: 2026-01-01T00:00:00Z\nbuild: local\ndeploy:\n  options:\n    scale:\n      min: many\n";
    let (spec, warnings) = parse(text, NOW).unwrap();
    assert_eq!(
        warnings,
        [
            "line 5: cannot unmarshal !!str `local` into functions.BuildSpec",
            "line 9: cannot unmarshal !!str `many` into int64",
        ]
    );
    assert_eq!(spec.name, "f");
    assert!(parse("a: [", NOW).unwrap_err().message.starts_with("'func.yaml' is not valid:"));
    assert!(parse("specVersion: new\n", NOW).unwrap_err().message.contains("is not a version"));
}

#[test]
fn validation_has_upstreams_texts() {
    let base = "specVersion: 0.36.0\nname: f\nruntime: node\ncreated: 2026-01-01T00:00:00Z\n";
    for (part, expected) in [
        ("run:\n  envs:\n  - name: A\n", "env entry #0 is missing value field, only name 'A' is set"),
        ("run:\n  envs:\n  - {}\n", "env entry #0 is not properly set"),
        (
            "run:\n  envs:\n  - {name: A, value: a}\n  - {name: A, value: b}\n",
            "env entry #1 has duplicate name \"A\" (first defined at entry #0)",
        ),
        (
            "run:\n  envs:\n  - value: x\n",
            "env entry #0 has invalid value field set, it has 'x', but allowed is only '{{ secret:secretName }}' or '{{ configMap:configMapName }}'",
        ),
        (
            "run:\n  envs:\n  - {name: 1A, value: a}\n",
            "env entry #0 has invalid name set: \"1A\"; a valid environment variable name must consist of",
        ),
        (
            "run:\n  envs:\n  - name: A\n    value: '{{ secret:s }}'\n",
            "env entry #0 with name 'A' has invalid value field set, it has '{{ secret:s }}', but allowed is only '{{ env:MY_ENV }}', '{{ secret:secretName:key }}' or '{{ configMap:configMapName:key }}'",
        ),
        (
            "build:\n  buildEnvs:\n  - name: A\n    value: '{{ secret:s:k }}'\n",
            "env entry #0 with name 'A' has invalid value field set, it has '{{ secret:s:k }}', but allowed is only '{{ env:MY_ENV }}'",
        ),
        ("build:\n  buildEnvs:\n  - value: x\n", "env entry #0 is missing name field, only value 'x' is set"),
        (
            "build:\n  git:\n    url: nonsense\n",
            "specified option \"git.url=nonsense\" is not valid, error: no scp URL found in \"nonsense\"",
        ),
        (
            "run:\n  volumes:\n  - path: /a\n",
            "volume entry #0 (No volume type at path: \"/a\") is missing a volume type",
        ),
        ("run:\n  volumes:\n  - secret: s\n", "volume entry #0 (Secret \"s\") is missing path field"),
        (
            "run:\n  volumes:\n  - {secret: s, configMap: c, path: /a}\n",
            "volume entry #0 (ConfigMap \"c\" at path: \"/a\") may not specify more than one volume type",
        ),
        (
            "run:\n  volumes:\n  - {secret: s, path: /a}\n  - {secret: t, path: /a/}\n",
            "volume entry #1 has duplicate path \"/a/\" (first defined at entry #0)",
        ),
        (
            "run:\n  volumes:\n  - {emptyDir: {medium: Disk}, path: /a}\n",
            "volume entry #0 (EmptyDir at path: \"/a\") has invalid storage medium (Disk)",
        ),
        (
            "run:\n  volumes:\n  - {persistentVolumeClaim: {readOnly: true}, path: /a}\n",
            "volume entry #0 (PersistentVolumeClaim at path: \"/a\") is missing claim name",
        ),
        (
            "deploy:\n  options:\n    scale: {min: -1}\n",
            "options field \"scale.min\" has invalid value set: -1, the value must be greater than \"0\"",
        ),
        (
            "deploy:\n  options:\n    scale: {min: 2, max: 1}\n",
            "options field \"scale.max\" value must be greater or equal to \"scale.min\"",
        ),
        (
            "deploy:\n  options:\n    scale: {metric: cpu}\n",
            "options field \"scale.metric\" has invalid value set: cpu, allowed is only \"concurrency\" or \"rps\"",
        ),
        (
            "deploy:\n  options:\n    scale: {target: 0.001}\n",
            "options field \"scale.target\" has value set to \"0.001000\", but it must not be less than 0.01",
        ),
        (
            "deploy:\n  options:\n    scale: {utilization: 110}\n",
            "options field \"scale.utilization\" has value set to \"110.000000\", but it must not be less than 1 or greater than 100",
        ),
        (
            "deploy:\n  options:\n    resources: {requests: {cpu: lots}}\n",
            "options field \"resources.requests.cpu\" has invalid value set: \"lots\"; \"quantities must match the regular expression",
        ),
        (
            "deploy:\n  options:\n    resources: {limits: {memory: 1Kib}}\n",
            "options field \"resources.limits.memory\" has invalid value set: \"1Kib\"; \"",
        ),
        (
            "deploy:\n  options:\n    resources: {limits: {concurrency: -1}}\n",
            "options field \"resources.limits.concurrency\" has value set to \"-1\", but it must not be less than 0",
        ),
        ("deploy:\n  labels:\n  - value: v\n", "label entry #0 is missing key field, only value 'v' is set"),
        ("deploy:\n  labels:\n  - {}\n", "label entry #0 is not properly set"),
        (
            "deploy:\n  labels:\n  - key: a/b/c\n",
            "label entry #0 has invalid key set: \"a/b/c\"; a valid label key must consist of",
        ),
        (
            "deploy:\n  labels:\n  - {key: k, value: -v}\n",
            "label entry #0 has invalid value set: \"-v\"; a valid label must be an empty string",
        ),
        (
            "deploy:\n  labels:\n  - {key: k, value: '{{ secret:a }}'}\n",
            "label entry #0 with key 'k' has invalid value field set, it has '{{ secret:a }}', but allowed is only '{{ env:MY_ENV }}'",
        ),
        ("run:\n  kafka: {brokers: b}\n", "run.kafka is currently only supported for the Go runtime"),
    ] {
        let function = Function::new("/", read(&format!("{base}{part}")));
        let error = function.validate(&nothing).unwrap_err().message;
        let prefix = "'func.yaml' contains errors:\n\t";
        assert!(error.starts_with(&format!("{prefix}{expected}")), "{error}\n{expected}");
    }
    for good in ["1", "0.5", "100m", "1Gi", "1e3", "5E", "-1", "1.5Ki", "2E3"] {
        assert_eq!(names::quantity(good), None, "{good}");
    }
    for bad in ["", "Gi", "1.1.1", "1 Gi", "1Gib", "1e", "1mi"] {
        assert!(names::quantity(bad).is_some(), "{bad}");
    }
    for url in ["https://a/b.git", "git@github.com:a/b.git", "ssh://a/b", "host:path"] {
        assert_eq!(names::git_url(url), None, "{url}");
    }
}

#[test]
fn a_service_says_what_func_yaml_says() {
    let spec = read(
        "specVersion: 0.36.0\nname: f\nruntime: go\ndomain: example.com\ncreated: 2026-01-01T00:00:00Z\nrun:\n  envs:\n  - {name: A, value: 1.10}\n  - {name: L, value: '{{ env:LOCAL }}'}\n\
         \x20 - {name: S, value: '{{ secret:s:k }}'}\n  - value: '{{ configMap:m }}'\n  volumes:\n  - {secret: s, path: /s}\n  - {secret: s, path: /t}\n  - {emptyDir: {medium: Memory, sizeLimit: 1Mi}, path: /e}\n\
         deploy:\n  annotations: {a: b}\n  labels:\n  - {key: k, value: '{{ env:LOCAL }}'}\n  serviceAccountName: sa\n  imagePullSecret: pull\n  options:\n    scale: {min: 1, max: 3, metric: rps, target: 10, utilization: 70}\n\
         \x20   resources: {requests: {cpu: 100m}, limits: {memory: 1Gi, concurrency: 5}}\n  subscriptions:\n  - {source: default, filters: {type: t}}\n",
    );
    let function = Function::new("/", spec);
    let local = |name: &str| (name == "LOCAL").then(|| "here".to_owned());
    let service = function.service("r/f@sha256:1", "ns", &local).unwrap();
    let at = |pointer: &str| service.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(at("/metadata/labels/boson.dev~1function"), "true");
    assert_eq!(at("/metadata/labels/k"), "here");
    assert_eq!(at("/metadata/labels/func.domain"), "example.com");
    assert_eq!(at("/metadata/annotations/a"), "b");
    assert_eq!(at("/metadata/annotations/autoscaling.knative.dev~1min-scale"), serde_json::Value::Null);
    assert_eq!(at("/spec/template/metadata/annotations/autoscaling.knative.dev~1target"), "10.000000");
    let env = serde_json::json!([
        {"name": "A", "value": "1.10"}, {"name": "L", "value": "here"},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]);
    assert_eq!(at("/spec/template/spec/containers/0/env"), env);
    assert_eq!(at("/spec/template/spec/containers/0/envFrom/0/configMapRef/name"), "m");
    assert_eq!(
        at("/spec/template/spec/volumes").as_array().unwrap().len(),
        2,
        "one Secret twice is one volume"
    );
    assert_eq!(at("/spec/template/spec/containers/0/volumeMounts").as_array().unwrap().len(), 3);
    assert_eq!(at("/spec/template/spec/containerConcurrency"), 5);
    assert_eq!(at("/spec/template/spec/containers/0/resources/limits"), serde_json::json!({"memory": "1Gi"}));
    assert_eq!(at("/spec/template/spec/imagePullSecrets/0/name"), "pull");
    let trigger = function.triggers("ns", "u").remove(0);
    assert_eq!(trigger.pointer("/metadata/name").unwrap(), "f-function-trigger-0");
    assert_eq!(trigger.pointer("/spec/filter/attributes/type").unwrap(), "t");
    let error = function.service("i", "ns", &nothing).unwrap_err();
    assert_eq!(error.message, "expected environment variable 'LOCAL' not found");
}

#[test]
fn names_and_durations() {
    assert_eq!(names::function_name("my-f"), None);
    let error = names::function_name("My_F").unwrap();
    assert!(error.starts_with("Function name 'My_F' must consist of lower case"), "{error}");
    assert!(names::namespace("1a").unwrap().starts_with("Namespace '1a' must"));
    assert!(names::domain("a_b").unwrap().starts_with("Domain 'a_b' must"));
    for (text, seconds) in [
        ("1m0s", Some(60.0)),
        ("1h2m3.5s", Some(3723.5)),
        ("150ms", Some(0.15)),
        ("", None),
        ("5", None),
        ("x", None),
    ] {
        assert_eq!(duration(text).map(|duration| duration.as_secs_f64()), seconds, "{text}");
    }
}

#[test]
fn created_functions_read_back_and_are_written_once() {
    for template in templates() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("my-function");
        template.create(&root, "my-function", NOW).unwrap();
        let function = Function::open(&root, "never").unwrap();
        assert!(function.initialized() && function.warnings.is_empty(), "{:?}", function.warnings);
        assert_eq!(function.spec.runtime, template.language);
        assert_eq!(function.spec.invoke == "cloudevent", template.name == "cloudevents");
        let request = function.request(&nothing).unwrap();
        assert_eq!(request.name.as_deref(), Some("my-function"));
        let error = template.create(&root, "my-function", NOW).unwrap_err().message;
        assert!(error.ends_with("already initialized"), "{error}");
        assert!(std::fs::read_to_string(root.join(".gitignore")).unwrap().contains("/.func\n"));
    }
}

#[test]
fn a_directory_with_files_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let template = Template::find("go", "http").unwrap();
    assert!(template.create(dir.path(), "f", NOW).unwrap_err().message.contains("must be empty"));
    assert!(template.create(dir.path(), "Bad", NOW).unwrap_err().message.starts_with("Function name 'Bad'"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let mut function = Function::open(dir.path(), NOW).unwrap();
    assert!(!function.initialized());
    assert!(
        function.request(&nothing).unwrap_err().message.ends_with("does not contain an initialized function")
    );
    function.write(&nothing).unwrap();
}
