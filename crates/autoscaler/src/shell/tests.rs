use std::sync::atomic::{AtomicUsize, Ordering};

use dormouse_api::autoscaling::{ACTIVE, READY, SCALE_TARGET_INITIALIZED};
use serde_json::json;

use super::*;

#[derive(Default)]
struct Node(Mutex<Vec<u32>>);

impl Scale for Node {
    fn scale(&self, _: &RevisionKey, desired: u32) {
        lock(&self.0).push(desired);
    }
}

#[derive(Default)]
struct Gateway {
    concurrency: Mutex<f64>,
    observed: AtomicUsize,
}

impl Loads for Gateway {
    fn observe(&self, _: &RevisionKey) -> Load {
        self.observed.fetch_add(1, Ordering::Relaxed);
        let concurrency = *lock(&self.concurrency);
        Load { concurrency, in_flight: concurrency as usize, ..Load::default() }
    }
}

struct Fixture {
    node: Arc<Node>,
    gateway: Arc<Gateway>,
    autoscaler: Autoscaler,
    deferred: mpsc::Receiver<RevisionKey>,
    now: Instant,
    seconds: u64,
    key: RevisionKey,
}

impl Fixture {
    fn new() -> Self {
        let node = Arc::new(Node::default());
        let gateway = Arc::new(Gateway::default());
        let now = clock::now();
        let (autoscaler, deferred) = Autoscaler::new(node.clone(), gateway.clone(), now);
        let key = RevisionKey::new("default", "hello-00001");
        Self { node, gateway, autoscaler, deferred, now, seconds: 0, key }
    }

    fn learn(&self, annotations: serde_json::Value, concurrency: i64, status: serde_json::Value) {
        let pa = json!({
            "metadata": {"namespace": "default", "name": "hello-00001", "generation": 1, "annotations": annotations},
            "spec": {"containerConcurrency": concurrency, "reachability": "Reachable"},
            "status": status
        });
        self.autoscaler.learn(&serde_json::from_value(pa).unwrap(), self.now);
    }

    fn asleep(&self) -> bool {
        lock(&self.autoscaler.0.active).is_empty()
    }

    fn calls(&self) -> Vec<u32> {
        lock(&self.node.0).clone()
    }

    fn status(&self, condition: &str) -> (String, String) {
        let slot = self.autoscaler.slot(&self.key).unwrap();
        let entry = slot.lock();
        let found = entry.status.condition(condition).unwrap();
        (format!("{:?}", found.is_true()), found.reason().to_owned())
    }

    fn ready(&self, ready: u32) {
        self.autoscaler.ready_at(&self.key, ready, self.now);
    }

    fn demand(&self, queued: usize) {
        self.autoscaler.demand_at(&self.key, queued, self.now);
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += SAMPLE;
            self.seconds += 1;
            self.autoscaler.sample(self.now, self.seconds.is_multiple_of(SAMPLES_PER_TICK));
        }
    }

    fn moments(&mut self) {
        self.now += DEMAND_SPACING;
        while let Ok(key) = self.deferred.try_recv() {
            self.autoscaler.decide_again(&key, self.now);
        }
    }
}

fn sleeping() -> serde_json::Value {
    json!({"conditions": [
        {"type": "Active", "status": "False", "reason": "NoTraffic"},
        {"type": "ScaleTargetInitialized", "status": "True"}
    ]})
}

#[test]
fn an_initial_scale_of_zero_is_complete_asleep_and_wakes_on_demand() {
    let mut fixture = Fixture::new();
    fixture.learn(json!({"autoscaling.knative.dev/initial-scale": "0"}), 0, json!(null));
    assert_eq!(fixture.status(SCALE_TARGET_INITIALIZED).0, "true");
    assert_eq!(fixture.status(ACTIVE).1, "NoTraffic");
    fixture.pass(10);
    assert!(fixture.calls().is_empty() && fixture.asleep());
    fixture.demand(1);
    assert_eq!(fixture.calls(), [1]);
}

#[test]
fn a_new_revision_is_started_without_traffic_and_falls_asleep() {
    let mut fixture = Fixture::new();
    fixture.learn(json!({}), 0, json!(null));
    assert_eq!(fixture.calls(), [1], "before any traffic and at once");
    assert_eq!(fixture.status(ACTIVE).1, "Queued");
    fixture.pass(10);
    assert_eq!(fixture.calls(), [1], "not given up while it starts");
    fixture.ready(1);
    assert_eq!(fixture.status(SCALE_TARGET_INITIALIZED).0, "true");
    assert_eq!(fixture.status(READY).0, "true");
    fixture.pass(59);
    assert_eq!(fixture.status(ACTIVE).0, "true");
    fixture.pass(5);
    assert_eq!(fixture.status(ACTIVE).1, "NoTraffic");
    assert_eq!(fixture.calls(), [1], "the grace has not passed");
    fixture.pass(30);
    assert_eq!(fixture.calls(), [1, 0]);
    fixture.ready(0);
    fixture.pass(3);
    assert!(fixture.asleep());
}

#[test]
fn a_sleeping_revision_costs_nothing_and_the_first_held_request_decides_at_once() {
    let mut fixture = Fixture::new();
    fixture.learn(json!({}), 0, sleeping());
    fixture.pass(100);
    assert_eq!(fixture.gateway.observed.load(Ordering::Relaxed), 0);
    assert!(fixture.calls().is_empty());
    fixture.demand(1);
    assert_eq!(fixture.calls(), [1], "within the call");
}

#[test]
fn a_growing_queue_of_a_limited_revision_adds_instances_within_moments() {
    let mut fixture = Fixture::new();
    fixture.learn(json!({"autoscaling.knative.dev/max-scale": "40"}), 1, sleeping());
    for queued in 1..=50 {
        fixture.demand(queued);
    }
    assert_eq!(fixture.calls(), [2]);
    fixture.moments();
    assert_eq!(fixture.calls(), [2, 40], "once for the whole burst, up to the maximum");
}

#[test]
fn a_request_held_before_its_autoscaler_is_known_is_not_forgotten() {
    let fixture = Fixture::new();
    fixture.demand(1);
    assert!(fixture.calls().is_empty());
    fixture.learn(json!({}), 0, sleeping());
    assert_eq!(fixture.calls(), [1]);
}

#[test]
fn activation_scale_counts_for_the_first_request() {
    let fixture = Fixture::new();
    fixture.learn(json!({"autoscaling.knative.dev/activation-scale": "5"}), 0, sleeping());
    fixture.demand(1);
    assert_eq!(fixture.calls(), [5]);
}

#[test]
fn after_a_restart_ready_instances_are_kept_for_a_stable_window() {
    let mut fixture = Fixture::new();
    let running = json!({"desiredScale": 7, "conditions": [
        {"type": "Active", "status": "True"}, {"type": "ScaleTargetInitialized", "status": "True"}
    ]});
    fixture.ready(7);
    fixture.learn(json!({}), 0, running);
    fixture.pass(50);
    assert!(fixture.calls().iter().all(|desired| *desired == 7), "{:?}", fixture.calls());
    fixture.pass(20);
    assert!(fixture.calls().last().is_some_and(|desired| *desired < 7));
}

#[test]
fn what_ran_before_a_reboot_and_is_gone_counts_as_asleep() {
    let mut fixture = Fixture::new();
    let running = json!({"desiredScale": 1, "conditions": [
        {"type": "Active", "status": "True"}, {"type": "ScaleTargetInitialized", "status": "True"}
    ]});
    fixture.learn(json!({}), 0, running);
    fixture.pass(4);
    assert_eq!(fixture.status(ACTIVE).1, "NoTraffic");
    assert!(fixture.calls().is_empty());
    assert!(fixture.asleep());
    fixture.demand(1);
    assert_eq!(fixture.calls(), [1]);
}

#[test]
fn a_constant_load_settles_and_min_scale_holds() {
    let mut fixture = Fixture::new();
    fixture.learn(
        json!({"autoscaling.knative.dev/min-scale": "2", "autoscaling.knative.dev/target": "10"}),
        0,
        sleeping(),
    );
    assert_eq!(fixture.calls(), [2]);
    fixture.ready(2);
    *lock(&fixture.gateway.concurrency) = 28.0;
    fixture.pass(130);
    assert_eq!(fixture.calls().last(), Some(&4));
    fixture.ready(4);
    *lock(&fixture.gateway.concurrency) = 0.0;
    fixture.pass(300);
    assert_eq!(fixture.calls().last(), Some(&2));
}
