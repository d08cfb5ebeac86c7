//! Functions that misbehave are stopped with their reason, and nobody else notices.

use std::time::Duration;

use dormouse_base::class::Origin;
use dormouse_base::clock;
use dormouse_wasm::{BodyError, Error, Stream};
use http_body_util::BodyExt;

use crate::support::{Machine, SOON, call, failure, get, limits, since, until};

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_loop_without_end_is_stopped_at_the_deadline_and_delays_nobody() {
    let machine = Machine::new();
    let hostile = machine.function(limits(SHORT), |_| {});
    let good = machine.plain();
    call(&good, "/hello").await;
    let start = clock::now();
    // One thread for all: without turns nobody else would be served before the loops end.
    let loops = futures::future::join_all((0..8).map(|_| failure(&hostile, "/loop")));
    let others = async {
        let mut slowest = Duration::ZERO;
        let mut served = 0;
        while since(start) < SHORT {
            let asked = clock::now();
            assert_eq!(call(&good, "/hello").await.0, 200);
            slowest = slowest.max(since(asked));
            served += 1;
            tokio::task::yield_now().await;
        }
        (slowest, served)
    };
    let (errors, (slowest, served)) = tokio::join!(loops, others);
    assert!(
        errors.iter().all(|error| matches!(error, Error::Deadline(after) if *after == SHORT)),
        "{errors:?}"
    );
    assert!(errors.iter().all(|error| error.status() == 504 && error.class().origin == Origin::Upstream));
    assert!(served >= 10, "{served} requests were served beside the loops, the slowest after {slowest:?}");
    machine.log.says(Stream::Stderr, "the component was not done after 200ms").await;
}

#[tokio::test]
async fn long_computing_goes_on_in_the_background_and_answers() {
    let machine = Machine::new();
    assert_eq!(call(&machine.plain(), "/spin?100").await, (200, "spun".to_owned()));
}

#[tokio::test]
async fn waiting_ends_at_the_deadline_too() {
    let machine = Machine::new();
    let error = failure(&machine.function(limits(SHORT), |_| {}), "/sleep?60000").await;
    assert!(matches!(error, Error::Deadline(_)), "{error:?}");
    assert_eq!(call(&machine.plain(), "/sleep?20").await, (200, "slept".to_owned()));
}

#[tokio::test]
async fn memory_is_bounded() {
    let machine = Machine::new();
    let error = failure(&machine.plain(), "/memory").await;
    assert!(matches!(error, Error::OutOfMemory { limit } if limit == 32 << 20), "{error:?}");
    machine.log.says(Stream::Stderr, "needs more than its limit of 33554432 bytes of memory").await;
    assert_eq!(call(&machine.plain(), "/hello").await.0, 200);
}

#[tokio::test]
async fn traps_panics_and_exits_are_told_apart() {
    let machine = Machine::new();
    let function = machine.plain();
    let error = failure(&function, "/trap").await;
    assert!(matches!(&error, Error::Trap(_)), "{error:?}");
    assert!(dormouse_base::chain(&error).contains("unreachable"), "{}", dormouse_base::chain(&error));
    assert!(matches!(failure(&function, "/panic").await, Error::Trap(_)));
    machine.log.says(Stream::Stderr, "the function panics on purpose").await;
    assert!(matches!(failure(&function, "/exit").await, Error::Exit(1 | 3)));
    let overflow = failure(&function, "/recurse").await;
    assert!(matches!(overflow, Error::Trap(_)), "{overflow:?}");
    assert!(matches!(failure(&function, "/silent").await, Error::NoResponse));
    assert!(matches!(failure(&function, "/refuse").await, Error::Refused(_)));
    assert_eq!(call(&function, "/hello").await.0, 200);
}

#[tokio::test]
async fn a_failure_before_anybody_saw_the_head_is_a_failure_of_the_call() {
    let machine = Machine::new();
    assert!(matches!(failure(&machine.plain(), "/trap-early").await, Error::Trap(_)));
}

#[tokio::test]
async fn a_failure_in_the_middle_of_the_body_breaks_the_body() {
    let machine = Machine::new();
    let response = machine.plain().call(get("/trap-late")).await.unwrap();
    assert!(matches!(response.into_body().collect().await, Err(BodyError::Failed)));
}

#[tokio::test]
async fn a_reader_that_stops_reading_does_not_keep_the_instance() {
    let machine = Machine::with(|config| config.instances_max = 1);
    let response = machine.function(limits(SHORT), |_| {}).call(get("/huge?1000000000")).await.unwrap();
    // The only place becomes free at the deadline although the body was neither read nor dropped.
    assert_eq!(call(&machine.plain(), "/hello").await.0, 200);
    assert!(matches!(response.into_body().collect().await, Err(BodyError::Failed)));
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_work() {
    let machine = Machine::with(|config| config.instances_max = 1);
    let function = machine.plain();
    let response = function.call(get("/huge?1000000000")).await.unwrap();
    drop(response);
    let waiting = tokio::time::timeout(SHORT, function.call(get("/sleep?60000"))).await;
    assert!(waiting.is_err());
    assert_eq!(call(&function, "/hello").await.0, 200);
}

#[tokio::test]
async fn requests_wait_for_a_free_instance_until_their_deadline() {
    let machine = Machine::with(|config| config.instances_max = 1);
    let function = machine.function(limits(SHORT), |_| {});
    let slow = machine.function(limits(SOON), |_| {});
    let busy = crate::support::spawn(async move { call(&slow, "/sleep?600").await });
    until("the only place is taken", || busy.is_finished() || machine.host.free_instances() == 0).await;
    let error = failure(&function, "/hello").await;
    assert!(matches!(error, Error::Overloaded), "{error:?}");
    assert_eq!(busy.await.unwrap().0, 200);
    assert_eq!(call(&function, "/hello").await.0, 200);
}
