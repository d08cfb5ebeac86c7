use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn address(n: u16) -> (String, SocketAddr) {
    (format!("i{n}"), SocketAddr::from(([127, 0, 0, 1], 10_000 + n)))
}

#[test]
fn an_instance_never_gets_more_than_its_limit_and_the_queue_is_first_in_first_out() {
    let now = dormouse_base::clock::now();
    let mut gate: Gate<u32> = Gate::new(10, now);
    gate.set_limit(1);
    assert!(gate.arrive(now).is_none());
    gate.hold(1).unwrap();
    assert!(gate.arrive(now).is_none());
    gate.hold(2).unwrap();
    assert!(gate.arrive(now).is_none());
    gate.hold(3).unwrap();
    let (woken, _) = gate.set_endpoints(vec![address(1), address(2)]);
    assert_eq!(woken.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>(), [1, 2]);
    assert_ne!(woken[0].1.address, woken[1].1.address);
    let (waiter, _) = gate.release(&woken[0].1).unwrap();
    assert_eq!(waiter, 3);
    assert!(gate.release(&woken[1].1).is_none());
    assert_eq!(gate.busy(), 1);
}

#[test]
fn without_a_limit_the_least_loaded_instance_is_chosen() {
    let now = dormouse_base::clock::now();
    let mut gate: Gate<()> = Gate::new(10, now);
    gate.set_endpoints(vec![address(1), address(2), address(3)]);
    let taken: Vec<_> = (0..9).map(|_| gate.arrive(now).unwrap()).collect();
    assert!(gate.endpoints().iter().all(|endpoint| endpoint.in_flight() == 3));
    gate.release(&taken[4]);
    assert_eq!(gate.arrive(now).unwrap().address, taken[4].address);
}

#[test]
fn a_removed_instance_gets_nothing_new_and_keeps_what_it_has() {
    let now = dormouse_base::clock::now();
    let mut gate: Gate<()> = Gate::new(10, now);
    gate.set_endpoints(vec![address(1)]);
    let first = gate.arrive(now).unwrap();
    gate.set_endpoints(Vec::<Instance>::new());
    assert!(first.is_removed());
    assert_eq!(first.in_flight(), 1);
    assert!(gate.arrive(now).is_none());
    gate.release(&first);
    assert_eq!(first.in_flight(), 0);
}

#[test]
fn queued_requests_count_as_concurrency() {
    let now = dormouse_base::clock::now();
    let mut gate: Gate<()> = Gate::new(10, now);
    assert!(gate.arrive(now).is_none());
    gate.hold(()).unwrap();
    let load = gate.observe(now + Duration::from_secs(1));
    assert_eq!((load.concurrency, load.requests, load.in_flight, load.queued), (1.0, 1, 0, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Arrive,
    Finish(usize),
    Cancel(usize),
    Endpoints(u16, u16),
    Limit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Arrive),
        4 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (0u16..4, 0u16..4).prop_map(|(from, count)| Step::Endpoints(from, count)),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_or_over_the_limit(limit in 0usize..4, steps in prop::collection::vec(step(), 1..300)) {
        const BOUND: usize = 5;
        let now = dormouse_base::clock::now();
        let mut gate: Gate<u64> = Gate::new(BOUND, now);
        let mut steps = steps;
        steps.insert(0, Step::Limit(limit));
        let mut number = 0u64;
        let mut waiting: Vec<(u64, Ticket)> = Vec::new();
        let mut running: Vec<(u64, Arc<Endpoint>)> = Vec::new();
        let mut finished: HashSet<u64> = HashSet::new();
        let mut refused = 0u64;
        for step in steps {
            let mut granted: Vec<Grant<u64>> = Vec::new();
            match step {
                Step::Arrive => {
                    number += 1;
                    match gate.arrive(now) {
                        Some(endpoint) => running.push((number, endpoint)),
                        None => match gate.hold(number) {
                            Ok(ticket) => waiting.push((number, ticket)),
                            Err(Full) => { gate.leave(now); refused += 1; }
                        },
                    }
                }
                Step::Finish(index) if !running.is_empty() => {
                    let (id, endpoint) = running.swap_remove(index % running.len());
                    prop_assert!(finished.insert(id), "finished twice");
                    gate.leave(now);
                    granted.extend(gate.release(&endpoint));
                }
                Step::Cancel(index) if !waiting.is_empty() => {
                    let (id, ticket) = waiting.remove(index % waiting.len());
                    prop_assert_eq!(gate.forget(ticket), Some(id));
                    gate.leave(now);
                    finished.insert(id);
                }
                Step::Endpoints(from, count) => {
                    let list = (from..from + count).map(address);
                    granted.extend(gate.set_endpoints(list).0);
                }
                Step::Limit(limit) => granted.extend(gate.set_limit(limit)),
                Step::Finish(_) | Step::Cancel(_) => {}
            }
            for (id, endpoint) in granted {
                prop_assert!(!waiting.is_empty() && waiting[0].0 == id, "first in, first out");
                waiting.remove(0);
                running.push((id, endpoint));
            }
            prop_assert!(gate.queued() <= BOUND);
            prop_assert_eq!(gate.queued(), waiting.len());
            prop_assert_eq!(gate.busy(), running.len());
            prop_assert_eq!(number, (waiting.len() + running.len() + finished.len()) as u64 + refused);
            for endpoint in gate.endpoints() {
                prop_assert!(limit == 0 || endpoint.in_flight() <= limit);
                let room = limit == 0 || endpoint.in_flight() < limit;
                prop_assert!(!room || waiting.is_empty(), "somebody waits although there is room");
            }
        }
    }
}
