use proptest::prelude::*;

use super::*;

fn spec() -> Spec {
    Spec {
        target: 70.0,
        total: 100.0,
        target_burst_capacity: 211.0,
        max_scale_up_rate: 1000.0,
        max_scale_down_rate: 2.0,
        activation_scale: 1,
        panic_threshold: 2.0,
        stable_window: Duration::from_secs(60),
        scale_down_delay: Duration::ZERO,
        reachable: true,
    }
}

struct Run {
    spec: Spec,
    decider: Decider,
    start: Instant,
}

impl Run {
    fn new(spec: Spec, ready: u32) -> Self {
        let start = dormouse_base::clock::now();
        Self { spec, decider: Decider::new(ready, start), start }
    }

    fn at(&mut self, t: u64, stable: f64, panic: f64, ready: u32) -> (u32, i64) {
        let now = self.start + Duration::from_secs(t);
        let decision = self.decider.decide(&self.spec, stable, panic, ready, now);
        (decision.desired, decision.excess_burst_capacity)
    }
}

#[test]
fn the_main_golden_run_is_upstreams() {
    let mut run = Run::new(spec(), 1);
    let rows: [(u64, f64, f64, u32, u32, i64); 14] = [
        (0, 0.0, 0.0, 1, 0, -111),
        (2, 10.0, 60.0, 1, 1, -171),
        (4, 71.0, 71.0, 1, 2, -182),
        (6, 100.0, 139.0, 1, 2, -250),
        (8, 120.0, 141.0, 1, 3, -252),
        (10, 130.0, 300.0, 2, 5, -311),
        (12, 140.0, 600.0, 5, 9, -311),
        (14, 200.0, 100.0, 9, 9, 589),
        (40, 200.0, 50.0, 9, 9, 639),
        (73, 60.0, 20.0, 9, 4, 669),
        (77, 0.0, 0.0, 9, 4, 689),
        (79, 0.0, 0.0, 4, 2, 189),
        (81, 0.0, 0.0, 2, 1, -11),
        (83, 0.0, 0.0, 1, 0, -111),
    ];
    for (t, stable, panic, ready, desired, excess) in rows {
        assert_eq!(run.at(t, stable, panic, ready), (desired, excess), "t={t}");
    }
}

#[test]
fn one_request_at_a_time_is_decided_as_upstream_does() {
    let one = Spec { target: 0.7, total: 1.0, target_burst_capacity: 0.0, ..spec() };
    let mut run = Run::new(one, 0);
    let rows = [(1.0, 1.0, 0, 2), (1.0, 3.0, 0, 5), (2.0, 5.0, 2, 8), (2.0, 5.0, 4, 8), (1.0, 1.0, 8, 8)];
    for (index, (stable, panic, ready, desired)) in rows.into_iter().enumerate() {
        assert_eq!(run.at(index as u64 * 2, stable, panic, ready), (desired, 0), "row {index}");
    }
}

#[test]
fn activation_scale_is_a_floor_only_while_there_is_demand() {
    let activation = Spec { activation_scale: 5, target_burst_capacity: -1.0, ..spec() };
    let mut run = Run::new(activation, 0);
    assert_eq!(run.at(0, 0.0, 0.0, 0), (0, -1));
    assert_eq!(run.at(2, 1.0, 1.0, 0), (5, -1));
    let activation = Spec { activation_scale: 5, target_burst_capacity: -1.0, ..spec() };
    let mut run = Run::new(activation, 0);
    assert_eq!(run.at(0, 1.0, 1.0, 0).0, 5);
    assert_eq!(run.at(2, 0.0, 1.0, 5).0, 2);
}

#[test]
fn scale_down_waits_for_the_delay() {
    let delayed = Spec { scale_down_delay: Duration::from_secs(6), ..spec() };
    let mut run = Run::new(delayed, 1);
    let rows = [(0, 350.0, 5), (2, 70.0, 5), (4, 70.0, 5), (6, 70.0, 2)];
    for (t, stable, desired) in rows {
        assert_eq!(run.at(t, stable, stable, 5).0, desired, "t={t}");
    }
}

#[test]
fn a_restart_shrinks_nothing_for_a_stable_window() {
    let mut run = Run::new(spec(), 7);
    for (t, ready, desired) in [(0, 7, 7), (30, 7, 7), (60, 7, 7), (62, 7, 3), (64, 3, 1)] {
        assert_eq!(run.at(t, 0.0, 0.0, ready).0, desired, "t={t}");
    }
    let mut run = Run::new(Spec { reachable: false, ..spec() }, 9);
    for (t, desired) in [(0, 9), (60, 9), (62, 0)] {
        assert_eq!(run.at(t, 0.0, 0.0, 9).0, desired, "t={t}");
    }
}

#[test]
fn growth_is_limited_by_its_rate() {
    let slow = Spec { max_scale_up_rate: 1.1, target: 1.0, total: 1.0, ..spec() };
    let mut run = Run::new(slow.clone(), 1);
    assert_eq!(run.at(0, 3.0, 3.0, 2).0, 3);
    let mut run = Run::new(slow.clone(), 1);
    assert_eq!(run.at(0, 50.0, 3.0, 10).0, 11);
    let mut run = Run::new(slow, 1);
    assert_eq!(run.at(0, 50.0, 50.0, 10).0, 11);
}

proptest! {
    #[test]
    fn panic_never_shrinks(loads in prop::collection::vec((0.0f64..2000.0, 0.0f64..2000.0, 0u32..50), 1..60)) {
        let mut run = Run::new(spec(), 1);
        let mut before: Option<u32> = None;
        for (index, (stable, panic, ready)) in loads.into_iter().enumerate() {
            let was = run.decider.is_panicking();
            let (desired, _) = run.at(index as u64 * 2, stable, panic, ready);
            if was && run.decider.is_panicking() {
                prop_assert!(before.is_none_or(|before| desired >= before));
            }
            before = run.decider.is_panicking().then_some(desired);
        }
    }

    #[test]
    fn more_load_never_asks_for_fewer(
        stable in 0.0f64..2000.0, panic in 0.0f64..2000.0, more in 0.0f64..500.0, ready in 0u32..100,
    ) {
        let less = Run::new(spec(), 1).at(0, stable, panic, ready).0;
        prop_assert!(Run::new(spec(), 1).at(0, stable + more, panic + more, ready).0 >= less);
    }

    #[test]
    fn a_decision_stays_within_its_rates(stable in 0.0f64..1e6, panic in 0.0f64..1e6, ready in 0u32..100) {
        let desired = Run::new(spec(), 1).at(0, stable, panic, ready).0;
        let present = ready.max(1);
        prop_assert!(desired <= present * 1000);
        prop_assert!(desired >= present / 2);
    }
}
