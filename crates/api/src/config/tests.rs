use super::*;

fn data(pairs: &[(&str, &str)]) -> Data {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn empty_maps_mean_knatives_defaults() {
    let empty = Data::new();
    assert_eq!(Defaults::read(&empty).unwrap(), Defaults::default());
    assert_eq!(Features::read(&empty).unwrap(), Features::default());
    assert_eq!(Network::read(&empty).unwrap(), Network::default());
    assert_eq!(Domains::read(&empty).unwrap().choose(None), None);
    assert!(Features::default().multi_container.is_on() && !Features::default().tag_header.is_on());
}

#[test]
fn examples_are_not_settings() {
    let only = data(&[("_example", "revision-timeout-seconds: \"1\"")]);
    for name in [DEFAULTS, FEATURES, DOMAIN, NETWORK] {
        assert_eq!(check(name, &only), Ok(()), "{name}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_key() {
    let cases = [
        (DEFAULTS, "revision-timeout-seconds", "x", "is not a number"),
        (
            DEFAULTS,
            "revision-timeout-seconds",
            "601",
            "cannot be greater than max-revision-timeout-seconds (600)",
        ),
        (
            DEFAULTS,
            "revision-idle-timeout-seconds",
            "400",
            "cannot be greater than revision-timeout-seconds (300)",
        ),
        (DEFAULTS, "container-concurrency", "2000", "expected 0 <= 2000 <= 1000"),
        (DEFAULTS, "revision-cpu-request", "many", "is not a quantity"),
        (DEFAULTS, "container-name-template", "{{.Nope}}", "is not understood"),
        (DEFAULTS, "enable-service-links", "maybe", "none of true, false and default"),
        (FEATURES, "kubernetes.podspec-hostnetwork", "enabled", "is not supported by this version"),
        (NETWORK, "external-domain-tls", "Enabled", "is not supported by this version"),
        (NETWORK, "domain-template", "{{.Name", "is not closed"),
        (NETWORK, "rollout-duration", "-1", "must be a positive integer"),
        (DOMAIN, "Not a domain", "", "invalid domain"),
        (DOMAIN, "a.example", "selector: [", "a.example"),
        (DOMAIN, "a.example", "type: private", "invalid domain type"),
    ];
    for (name, key, value, text) in cases {
        let error = check(name, &data(&[(key, value)])).unwrap_err();
        assert!(error.contains(text), "{name} {key}={value}: {error}");
    }
}

#[test]
fn features_read_as_upstream_does() {
    let read = Features::read(&data(&[
        ("multi-container", "Disabled"),
        ("tag-header-based-routing", "ENABLED"),
        ("kubernetes.podspec-fieldref", "allowed"),
        ("kubernetes.podspec-hostpid", "disabled"),
        ("secure-pod-defaults", "AllowRootBounded"),
        ("autodetect-http2", "Enabled"),
        ("kubernetes.podspec-securitycontext", "perhaps"),
    ]));
    let read = read.unwrap();
    assert_eq!((read.multi_container, read.tag_header), (Flag::Disabled, Flag::Enabled));
    assert_eq!((read.field_ref, read.security_context), (Flag::Allowed, Flag::Disabled));
    assert_eq!(read.secure_pods, SecurePods::AllowRootBounded);
}

#[test]
fn the_most_particular_domain_wins() {
    let domains = Domains::read(&data(&[
        ("example.com", ""),
        ("b.example.org", "selector:\n  app: prod\n"),
        ("a.example.org", "selector:\n  app: prod\ntype: wildcard\n"),
        ("both.example.org", "selector: {app: prod, tier: one}"),
    ]));
    let domains = domains.unwrap();
    assert_eq!(domains.choose(None), Some("example.com"));
    assert_eq!(domains.choose(Some(&data(&[("app", "test")]))), Some("example.com"));
    assert_eq!(domains.choose(Some(&data(&[("app", "prod")]))), Some("a.example.org"));
    assert_eq!(domains.choose(Some(&data(&[("app", "prod"), ("tier", "one")]))), Some("both.example.org"));
}

#[test]
fn templates_know_fields_and_keys() {
    let labels = data(&[("team", "x")]);
    let annotations = data(&[("sub", "y")]);
    let values = Values {
        name: "hello",
        namespace: "default",
        domain: "example.com",
        tag: "v1",
        labels: Some(&labels),
        annotations: Some(&annotations),
    };
    let fill = |text: &str| Template::parse(text).unwrap().fill(&values);
    assert_eq!(fill("{{.Name}}.{{ .Namespace }}.{{.Domain}}"), "hello.default.example.com");
    assert_eq!(fill("{{.Tag}}-{{.Name}}"), "v1-hello");
    assert_eq!(fill("{{index .Labels \"team\"}}.{{.Annotations.sub}}.z"), "x.y.z");
    assert_eq!(fill("{{index .Labels \"none\"}}plain"), "plain");
    assert!(Template::parse("{{if .Name}}").is_err());
}
