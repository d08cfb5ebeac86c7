use serde_json::{Value, json};

use super::*;

fn ingress(name: &str, created: &str, spec: Value) -> Arc<Ingress> {
    let object = json!({"metadata": {"namespace": "default", "name": name, "creationTimestamp": created}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn rule(hosts: &[&str], visibility: &str, paths: Value) -> Value {
    json!({"hosts": hosts, "visibility": visibility, "http": {"paths": paths}})
}

fn target(name: &str) -> Value {
    json!([{"serviceNamespace": "default", "serviceName": name, "servicePort": 80, "percent": 100}])
}

fn find(table: &RouteTable, host: &str, path: &str, headers: &HeaderMap, from: Visibility) -> Option<String> {
    let rules = table.host(host)?;
    let index = rules.find(path, headers, from)?;
    Some(rules.choose(index, || 0)?.1.revision.name.to_string())
}

fn simple(name: &str, created: &str, revision: &str) -> Arc<Ingress> {
    let spec =
        json!({"rules": [rule(&["h.example.com"], "ExternalIP", json!([{"splits": target(revision)}]))]});
    ingress(name, created, spec)
}

#[test]
fn port_and_letter_case_of_the_host_do_not_matter() {
    let table = compile(&[simple("a", "2026-01-01T00:00:00Z", "r1")]);
    let none = HeaderMap::new();
    for host in ["h.example.com", "H.Example.COM:8080", "h.example.com:80", "h.example.com."] {
        assert_eq!(find(&table, host, "/", &none, Visibility::External).as_deref(), Some("r1"), "{host}");
    }
    assert_eq!(find(&table, "other.example.com", "/", &none, Visibility::External), None);
    assert_eq!(without_port("[::1]:80"), "[::1]");
    assert_eq!(without_port("[::1]"), "[::1]");
}

#[test]
fn the_longest_path_wins_then_more_headers() {
    let paths = json!([
        {"splits": target("root")},
        {"path": "/api", "splits": target("api")},
        {"path": "/api/v2", "splits": target("v2")},
        {"headers": {"a": {"exact": "1"}}, "splits": target("one")},
        {"headers": {"a": {"exact": "1"}, "b": {"exact": "2"}}, "splits": target("two")}
    ]);
    let table = compile(&[ingress(
        "a",
        "2026-01-01T00:00:00Z",
        json!({"rules": [rule(&["h"], "ExternalIP", paths)]}),
    )]);
    let mut headers = HeaderMap::new();
    let go =
        |path: &str, headers: &HeaderMap| find(&table, "h", path, headers, Visibility::External).unwrap();
    assert_eq!(go("/", &headers), "root");
    assert_eq!(go("/api/x", &headers), "api");
    assert_eq!(go("/api/v2/x", &headers), "v2");
    headers.insert("a", HeaderValue::from_static("1"));
    assert_eq!(go("/", &headers), "one");
    headers.insert("b", HeaderValue::from_static("2"));
    assert_eq!(go("/", &headers), "two");
    headers.insert("a", HeaderValue::from_static("other"));
    assert_eq!(go("/", &headers), "root");
}

#[test]
fn cluster_local_rules_do_not_exist_outside() {
    let spec = json!({"rules": [rule(&["h.default.svc"], "ClusterLocal", json!([{"splits": target("r")}]))]});
    let table = compile(&[ingress("a", "2026-01-01T00:00:00Z", spec)]);
    let none = HeaderMap::new();
    assert_eq!(find(&table, "h.default.svc", "/", &none, Visibility::External), None);
    assert_eq!(find(&table, "h.default.svc", "/", &none, Visibility::ClusterLocal).as_deref(), Some("r"));
}

#[test]
fn splits_get_exactly_their_share_and_zero_gets_nothing() {
    let splits = json!([
        {"serviceName": "a", "percent": 90}, {"serviceName": "none", "percent": 0}, {"serviceName": "b", "percent": 10}
    ]);
    let spec = json!({"rules": [rule(&["h"], "ExternalIP", json!([{"splits": splits}]))]});
    let table = compile(&[ingress("a", "2026-01-01T00:00:00Z", spec)]);
    let rules = table.host("h").unwrap();
    let path = rules.find("/", &HeaderMap::new(), Visibility::External).unwrap();
    let count = |name: &str| {
        (0..100)
            .filter(|random| rules.choose(path, || *random).unwrap().1.revision.name.as_ref() == name)
            .count()
    };
    assert_eq!((count("a"), count("b"), count("none")), (90, 10, 0));
}

#[test]
fn the_oldest_object_owns_a_host_whatever_the_order_and_loses_it_when_removed() {
    let old = simple("z", "2026-01-01T00:00:00Z", "old");
    let new = simple("a", "2026-02-01T00:00:00Z", "new");
    let none = HeaderMap::new();
    for order in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
        let table = compile(&order);
        assert_eq!(find(&table, "h.example.com", "/", &none, Visibility::External).as_deref(), Some("old"));
    }
    let mut routes = Routes::default();
    assert!(routes.apply(&old).is_empty());
    assert_eq!(routes.apply(&new).len(), 1);
    routes.remove("default", "z");
    let table = routes.table();
    assert_eq!(find(&table, "h.example.com", "/", &none, Visibility::External).as_deref(), Some("new"));
    routes.remove("default", "a");
    assert!(routes.table().is_empty());
    assert_eq!(table.len(), 1, "a snapshot does not change");
}

#[test]
fn hosts_that_an_object_no_longer_names_are_gone() {
    let mut routes = Routes::default();
    routes.apply(&simple("a", "2026-01-01T00:00:00Z", "r1"));
    let spec = json!({"rules": [rule(&["other"], "ExternalIP", json!([{"splits": target("r1")}]))]});
    routes.apply(&ingress("a", "2026-01-01T00:00:00Z", spec));
    assert!(routes.table().host("h.example.com").is_none());
    assert!(routes.table().host("other").is_some());
}

#[test]
fn the_hash_changes_with_the_spec() {
    let one = compile(&[simple("a", "2026-01-01T00:00:00Z", "r1")]);
    let two = compile(&[simple("a", "2026-01-01T00:00:00Z", "r2")]);
    let hash = |table: &RouteTable| table.host("h.example.com").unwrap().hash.clone();
    assert_eq!(hash(&one).len(), 64);
    assert_ne!(hash(&one), hash(&two));
}

#[test]
fn redirected_applies_to_external_rules_only() {
    let spec = json!({"httpOption": "Redirected", "rules": [
        rule(&["out"], "ExternalIP", json!([{"splits": target("r")}])),
        rule(&["in"], "ClusterLocal", json!([{"splits": target("r")}]))
    ]});
    let table = compile(&[ingress("a", "2026-01-01T00:00:00Z", spec)]);
    assert!(table.host("out").unwrap().redirect);
    assert!(!table.host("in").unwrap().redirect);
}
