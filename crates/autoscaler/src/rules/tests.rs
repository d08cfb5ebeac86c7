use proptest::prelude::*;

use super::*;
use crate::decide::{Decider, Spec};
use crate::window::Window;

fn limits() -> Limits {
    Limits {
        min: 0,
        max: 0,
        initial: 1,
        initialized: true,
        reachable: true,
        scale_to_zero: true,
        grace: Duration::from_secs(30),
        retention: Duration::ZERO,
        stable_window: Duration::from_secs(60),
        progress_deadline: Duration::from_secs(600),
    }
}

#[test]
fn zero_comes_after_the_stable_window_and_the_grace() {
    let start = dormouse_base::clock::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let limits = limits();
    let active = Activity::Active(start);
    assert_eq!(limits.judge(Some(0), active, at(59)), Verdict { want: Some(1), apply: Some(1) });
    assert_eq!(limits.judge(Some(0), active, at(60)), Verdict { want: Some(0), apply: None });
    let inactive = limits.activity(active, Some(0), 1, at(60));
    assert_eq!(inactive, Activity::Inactive { since: at(60), timed_out: false });
    assert_eq!(limits.judge(Some(0), inactive, at(89)).apply, None);
    assert_eq!(limits.judge(Some(0), inactive, at(90)).apply, Some(0));
    let longer = Limits { retention: Duration::from_secs(100), ..limits.clone() };
    assert_eq!(longer.judge(Some(0), inactive, at(90)).apply, None);
    assert_eq!(longer.judge(Some(0), inactive, at(160)).apply, Some(0));
    let never = Limits { scale_to_zero: false, ..limits };
    assert_eq!(never.judge(Some(0), inactive, at(1000)).apply, Some(1));
}

#[test]
fn an_activation_may_take_its_deadline_and_then_times_out() {
    let start = dormouse_base::clock::now();
    let limits = limits();
    let activating = Activity::Activating(start);
    let early = start + Duration::from_secs(629);
    let late = start + Duration::from_secs(630);
    assert_eq!(limits.judge(Some(0), activating, early), Verdict { want: None, apply: None });
    assert_eq!(limits.judge(Some(0), activating, late).apply, Some(0));
    let given_up = limits.activity(activating, Some(0), 0, late);
    assert_eq!(given_up, Activity::Inactive { since: late, timed_out: true });
    assert!(matches!(limits.activity(given_up, Some(1), 0, late), Activity::Activating(_)));
}

#[test]
fn initial_scale_must_be_reached_once_and_unreachable_revisions_have_no_minimum() {
    let now = dormouse_base::clock::now();
    let fresh = Limits { initial: 3, initialized: false, ..limits() };
    assert_eq!(fresh.judge(Some(0), Activity::Activating(now), now).apply, Some(3));
    assert!(matches!(fresh.activity(Activity::Activating(now), Some(3), 2, now), Activity::Activating(_)));
    assert!(matches!(fresh.activity(Activity::Activating(now), Some(3), 3, now), Activity::Active(_)));
    let minimum = Limits { min: 2, ..limits() };
    assert_eq!(minimum.judge(Some(0), Activity::Active(now), now).apply, Some(2));
    let unreachable = Limits { min: 2, reachable: false, ..limits() };
    assert_eq!(unreachable.floor(), 0);
}

proptest! {
    #[test]
    fn what_is_applied_lies_within_the_bounds(
        min in 0u32..5, more in 0u32..5, unlimited: bool, desired in 0u32..100, seconds in 0u64..1000, kind in 0u8..3,
    ) {
        let start = dormouse_base::clock::now();
        let max = if unlimited { 0 } else { (min + more).max(1) };
        let limits = Limits { min, max, ..limits() };
        let activity = match kind {
            0 => Activity::Activating(start),
            1 => Activity::Active(start),
            _ => Activity::Inactive { since: start, timed_out: false },
        };
        if let Some(count) = limits.judge(Some(desired), activity, start + Duration::from_secs(seconds)).apply {
            prop_assert!(count >= min);
            prop_assert!(max == 0 || count <= max);
        }
    }
}

/// Runs a load through windows, decider and rules, one second a step; instances become ready a second later.
fn simulate(seconds: u64, load: impl Fn(u64) -> f64) -> Vec<(u64, f64, u32)> {
    let start = dormouse_base::clock::now();
    let spec = Spec {
        target: 7.0,
        total: 10.0,
        target_burst_capacity: -1.0,
        max_scale_up_rate: 1000.0,
        max_scale_down_rate: 2.0,
        activation_scale: 1,
        panic_threshold: 2.0,
        stable_window: Duration::from_secs(60),
        scale_down_delay: Duration::ZERO,
        reachable: true,
    };
    let limits = limits();
    let mut decider = Decider::new(1, start);
    let (mut stable, mut panic) = (Window::new(60), Window::new(6));
    let mut activity = Activity::Active(start);
    let (mut ready, mut applied) = (1, 1);
    let mut trace = Vec::new();
    for second in 0..seconds {
        let now = start + Duration::from_secs(second);
        stable.record(second, load(second));
        panic.record(second, load(second));
        if second % 2 == 0 {
            let averages = (stable.linear(second).unwrap(), panic.linear(second).unwrap());
            let decision = decider.decide(&spec, averages.0, averages.1, ready, now);
            let verdict = limits.judge(Some(decision.desired), activity, now);
            applied = verdict.apply.unwrap_or(applied);
            activity = limits.activity(activity, verdict.want, ready, now);
        }
        trace.push((second, load(second), applied));
        ready = applied;
    }
    trace
}

#[test]
fn a_constant_load_settles() {
    for load in [1.0, 6.5, 50.0, 333.0] {
        let trace = simulate(400, |_| load);
        let settled: Vec<u32> = trace.iter().skip(150).map(|(_, _, applied)| *applied).collect();
        assert!(settled.windows(2).all(|pair| pair[0] == pair[1]), "load {load}: {settled:?}");
        assert_eq!(settled[0], (load / 7.0f64).ceil() as u32);
    }
}

#[test]
fn nothing_runs_only_after_the_windows_of_silence() {
    for seed in 0..50u64 {
        let busy_until = 20 + seed * 7 % 90;
        let trace =
            simulate(400, |second| if second < busy_until { 1.0 + (seed % 9) as f64 * 5.0 } else { 0.0 });
        let zero = trace.iter().find(|(_, _, applied)| *applied == 0).map(|(second, ..)| *second).unwrap();
        assert!(zero >= busy_until + 60 + 28, "seed {seed}: zero at {zero}, busy until {busy_until}");
        assert!(
            zero <= busy_until + 60 + 60 + 30 + 8,
            "seed {seed}: zero at {zero}, busy until {busy_until}"
        );
        assert!(trace.iter().skip(zero as usize).all(|(_, _, applied)| *applied == 0));
    }
}
