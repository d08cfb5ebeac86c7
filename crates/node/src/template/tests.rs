use super::*;

fn pod(yaml: serde_json::Value) -> core::PodSpec {
    serde_json::from_value(yaml).unwrap()
}

fn around(dir: &Path) -> Surroundings<'_> {
    Surroundings { namespace: "default", node_name: "dormouse", nameservers: &[], volume_dir: dir }
}

fn image() -> ImageFacts {
    ImageFacts {
        entrypoint: vec!["/app".into()],
        cmd: vec!["serve".into()],
        env: vec!["PATH=/bin".into(), "LANG=C".into(), "GREETING=image".into()],
        layers: vec!["/nonexistent".into()],
        digest: "sha256:1".into(),
        ..ImageFacts::default()
    }
}

fn build(spec: serde_json::Value, referenced: &Referenced) -> Result<(Skeleton, Volumes), String> {
    let labels = BTreeMap::from([("app".to_owned(), "hello".to_owned())]);
    skeleton(&pod(spec), &labels, &BTreeMap::new(), &[image()], referenced, &around(Path::new("/volumes")))
}

fn plan(skeleton: &Skeleton) -> Plan {
    skeleton.plan(Identity {
        id: "p.0".into(),
        label: String::new(),
        pod: "hello-abc",
        uid: "u-1",
        address: Ipv4Addr::new(10, 64, 0, 9),
        gateway: Ipv4Addr::new(10, 64, 0, 1),
        netns: "/netns".into(),
        cgroup: CgroupPlan::default(),
        work_dir: "/work".into(),
        scratch: "/work/volumes".into(),
        log: "/log".into(),
    })
}

fn of(container: serde_json::Value) -> serde_json::Value {
    serde_json::json!({"containers": [container]})
}

fn args(container: serde_json::Value) -> Vec<String> {
    plan(&build(of(container), &Referenced::default()).unwrap().0).args
}

#[test]
fn command_replaces_the_entrypoint_and_args_replace_the_arguments() {
    use serde_json::json;
    assert_eq!(args(json!({"name": "c"})), ["/app", "serve"]);
    assert_eq!(args(json!({"name": "c", "args": ["x"]})), ["/app", "x"]);
    assert_eq!(args(json!({"name": "c", "command": ["/sh"]})), ["/sh"]);
    assert_eq!(
        args(json!({"name": "c", "command": ["/sh"], "args": ["$(P)", "$(Q)"],
        "env": [{"name": "P", "value": "1"}]})),
        ["/sh", "1", "$(Q)"]
    );
}

#[test]
fn the_environment_is_image_then_sources_then_variables() {
    let referenced = Referenced {
        secrets: BTreeMap::from([("s".into(), BTreeMap::from([("KEY".into(), b"secret".to_vec())]))]),
        config_maps: BTreeMap::from([("m".into(), BTreeMap::from([("GREETING".into(), b"map".to_vec())]))]),
        ..Referenced::default()
    };
    let spec = of(serde_json::json!({
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "m"}}],
        "env": [
            {"name": "PORT", "value": "8080"},
            {"name": "URL", "value": "http://$(IP):$(PORT)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "AFTER", "value": "$(IP)"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "KEY"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]
    }));
    let env = plan(&build(spec, &referenced).unwrap().0).env;
    for expected in [
        "PATH=/bin",
        "LANG=C",
        "GREETING=map",
        "PORT=8080",
        "URL=http://$(IP):8080",
        "AFTER=10.64.0.9",
        "KEY=secret",
        "APP=hello",
        "POD=hello-abc",
        "HOSTNAME=hello-abc",
    ] {
        assert!(env.iter().any(|line| line == expected), "{expected} is not in {env:?}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let missing = |container: serde_json::Value| build(of(container), &Referenced::default()).unwrap_err();
    let env = |from: serde_json::Value| {
        missing(serde_json::json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]}))
    };
    assert_eq!(env(serde_json::json!({"secretKeyRef": {"name": "s", "key": "k"}})), "secret \"s\" not found");
    assert!(env(serde_json::json!({"fieldRef": {"fieldPath": "x.y"}})).contains("\"x.y\" is not supported"));
}

#[test]
fn each_container_of_a_pod_has_its_own_part() {
    let spec = pod(serde_json::json!({
        "initContainers": [{"name": "first", "command": ["/init"]}],
        "containers": [
            {"name": "side", "env": [{"name": "PORT", "value": "8882"}]},
            {"name": "main", "ports": [{"containerPort": 8881}],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]},
        ],
        "volumes": [{"name": "shared", "emptyDir": {"medium": "Memory"}}],
    }));
    let images = [image(), image(), image()];
    let labels = BTreeMap::new();
    let around = around(Path::new("/volumes"));
    let (skeleton, _) =
        super::skeleton(&spec, &labels, &labels, &images, &Referenced::default(), &around).unwrap();
    assert_eq!(skeleton.port, 8881);
    assert_eq!(skeleton.readiness.check, crate::probe::Check::Tcp(8881));
    // Memory cannot be shared between containers.
    assert_eq!(skeleton.scratch().collect::<Vec<_>>(), ["shared"]);
    let side = skeleton.part(Part::Beside(0)).unwrap();
    assert_eq!((side.port, &side.readiness.check), (8882, &crate::probe::Check::Passed));
    assert_eq!(plan(skeleton.part(Part::Before(0)).unwrap()).args, ["/init"]);
    assert!(skeleton.part(Part::Beside(1)).is_none());
}

#[test]
fn volumes_become_files_and_mounts() {
    let referenced = Referenced {
        config_maps: BTreeMap::from([("m".into(), BTreeMap::from([("a.txt".into(), b"A".to_vec())]))]),
        ..Referenced::default()
    };
    let spec = |path: &str| {
        serde_json::json!({
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "conf", "mountPath": "/etc/conf"},
                {"name": "tmp", "mountPath": "/scratch"},
                {"name": "mem", "mountPath": "/mem"}]}],
            "volumes": [
                {"name": "conf", "configMap": {"name": "m", "items": [{"key": "a.txt", "path": path, "mode": 256}]}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
        })
    };
    let (skeleton, volumes) = build(spec("sub/b.txt"), &referenced).unwrap();
    assert_eq!(volumes.files.len(), 1);
    assert_eq!(volumes.files[0].path, Path::new("/volumes/conf/sub/b.txt"));
    assert_eq!(volumes.files[0].mode, 0o400);
    let mounts = plan(&skeleton).mounts;
    assert_eq!(mounts[0].source, MountSource::Bind("/volumes/conf".into()));
    assert!(mounts[0].read_only);
    assert_eq!(mounts[1].source, MountSource::Bind("/work/volumes/tmp".into()));
    assert_eq!(mounts[2].source, MountSource::Tmpfs { size: Some(1 << 20) });
    assert!(build(spec("../x"), &referenced).unwrap_err().contains("leads out of its volume"));
}

#[test]
fn quantities() {
    let check = |text: &str, expect: u64| assert_eq!(milli(text), Ok(expect), "{text}");
    check("250m", 250);
    check("1", 1000);
    check("1.5", 1500);
    check("64Mi", 64 * 1024 * 1024 * 1000);
    check("1e3", 1_000_000);
    check("128M", 128_000_000_000);
    assert!(milli("many").is_err());
    assert!(milli("-1").is_err());
}

#[test]
fn resources_become_limits() {
    let container =
        serde_json::json!({"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}});
    let limits = build(of(container), &Referenced::default()).unwrap().0.limits;
    assert_eq!(limits.cpu_millis, Some(500));
    assert_eq!(limits.cpu_request_millis, Some(500));
    assert_eq!(limits.memory_bytes, Some(64 << 20));
}

#[test]
fn the_user_port_is_the_named_one_the_first_or_the_default() {
    let port = |container: serde_json::Value| user_port(&serde_json::from_value(container).unwrap());
    assert_eq!(port(serde_json::json!({"name": "c"})), 8080);
    assert_eq!(port(serde_json::json!({"name": "c", "ports": [{"containerPort": 9}]})), 9);
    let two = serde_json::json!([{"containerPort": 9}, {"name": "user-port", "containerPort": 10}]);
    assert_eq!(port(serde_json::json!({"name": "c", "ports": two})), 10);
}

#[test]
fn stubs_on_the_loopback_are_not_given_to_instances() {
    let texts = [
        "nameserver 127.0.0.53\noptions edns0\n".to_owned(),
        "# x\nnameserver 9.9.9.9\nnameserver ::1\n".to_owned(),
    ];
    assert_eq!(nameservers(&texts), ["9.9.9.9"]);
}

#[test]
fn hosts_hostname_and_resolver_are_given() {
    let plan = plan(&build(of(serde_json::json!({"name": "c"})), &Referenced::default()).unwrap().0);
    let hosts = &plan.files.iter().find(|(path, _)| path == Path::new("/etc/hosts")).unwrap().1;
    assert!(hosts.contains("10.64.0.9\thello-abc\n"), "{hosts}");
    assert_eq!(plan.hostname, "hello-abc");
}

#[test]
fn a_component_is_given_what_the_manifest_lists_and_nothing_else() {
    use serde_json::json;
    let image = ImageFacts {
        digest: "sha256:1".into(),
        component: Some(("sha256:2".into(), "/blob".into())),
        ..ImageFacts::default()
    };
    let annotations = BTreeMap::from([
        ("wasm.dormouse.dev/allowed-hosts".to_owned(), "a.example, *.b.example:81,".to_owned()),
        ("wasm.dormouse.dev/requests-per-instance".to_owned(), "7".to_owned()),
    ]);
    let spec = pod(json!({
        "terminationGracePeriodSeconds": 9,
        "containers": [{"name": "c", "args": ["$(WHO)"], "resources": {"limits": {"memory": "64Mi"}},
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "conf", "mountPath": "/conf"}, {"name": "own", "mountPath": "/own"}]}],
        "volumes": [{"name": "conf", "configMap": {"name": "m"}}, {"name": "own", "emptyDir": {}}]
    }));
    let config_maps = BTreeMap::from([("m".to_owned(), BTreeMap::from([("k".to_owned(), b"v".to_vec())]))]);
    let referenced = Referenced { config_maps, ..Referenced::default() };
    let dir = Path::new("/volumes");
    let build = |spec: &core::PodSpec, annotations: &BTreeMap<String, String>| {
        skeleton(spec, &BTreeMap::new(), annotations, std::slice::from_ref(&image), &referenced, &around(dir))
    };
    let (skeleton, _) = build(&spec, &annotations).unwrap();
    let plan = skeleton.component_plan("p-1", "u", Path::new("/scratch"), "/log".into()).unwrap();
    assert_eq!((plan.source.digest.as_str(), plan.source.path.as_path()), ("sha256:2", Path::new("/blob")));
    assert_eq!(plan.source.allowed_hosts, ["a.example", "*.b.example:81"]);
    assert_eq!(plan.arguments, ["c", "p-1"]);
    let environment = [("WHO", "p-1"), ("HOSTNAME", "p-1")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(plan.environment, environment);
    let directories: Vec<_> = plan
        .directories
        .iter()
        .map(|one| (one.host.to_str().unwrap(), one.guest.as_str(), one.writable))
        .collect();
    assert_eq!(directories, [("/volumes/conf", "/conf", false), ("/scratch/own", "/own", true)]);
    assert_eq!(plan.memory_bytes, Some(64 << 20));
    assert_eq!(plan.request_timeout, Duration::from_secs(9));
    assert_eq!(plan.requests_per_instance.get(), 7);
    assert!(skeleton.check_directories().unwrap_err().contains("/conf"), "nobody has written it");

    let none = BTreeMap::new();
    let exec = pod(of(json!({"name": "c", "readinessProbe": {"exec": {"command": ["x"]}}})));
    assert!(build(&exec, &none).unwrap_err().contains("httpGet"));
    let zero = BTreeMap::from([("wasm.dormouse.dev/requests-per-instance".to_owned(), "0".to_owned())]);
    assert!(build(&spec, &zero).unwrap_err().contains("not a positive number"));
    let memory =
        pod(json!({"containers": [{"name": "c", "volumeMounts": [{"name": "m", "mountPath": "/m"}]}],
        "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}]}));
    assert!(build(&memory, &none).unwrap().0.check_directories().unwrap_err().contains("/m"));
}
