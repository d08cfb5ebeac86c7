//! A component at work on one request: where it runs, and how it ends.
//!
//! It starts in the task that waits for its answer, for that costs no hop between threads. It moves to the background when
//! it turns out to compute for long, and into a task of its own when its response is streamed, so that a reader who stops
//! reading does not keep it beyond its deadline.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use dormouse_base::clock;
use futures::future::{AbortHandle, BoxFuture, abortable};
use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::error::{Error, Result, cause};
use crate::function::Inner;
use crate::host::Host;
use crate::state::{self, DeadlinePassed, Signs, State};

/// What a component answers.
pub(crate) type Answer = std::result::Result<Response<WasiBody>, ErrorCode>;

/// An instance with its place in the pool. The place is freed last.
pub(crate) struct Live {
    pub(crate) store: Store<State>,
    proxy: Proxy,
    pub(crate) served: u32,
    _place: OwnedSemaphorePermit,
}

/// A component at work. Dropping it ends the work.
pub(crate) struct Guest {
    host: Host,
    pub(crate) signs: Arc<Signs>,
    place: Place,
}

/// Where it works. Here => (Away | Done); Away => Done.
enum Place {
    Here(BoxFuture<'static, Result<()>>),
    Away {
        result: oneshot::Receiver<Result<()>>,
        abort: AbortHandle,
    },
    /// The result, until it is taken.
    Done(Option<Result<()>>),
}

// === impl Guest ===

impl Guest {
    /// Prepares the work; nothing happens before it is polled.
    pub(crate) fn start(
        function: Arc<Inner>,
        request: Request<WasiBody>,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let signs = Arc::<Signs>::default();
        let host = function.component.host.clone();
        let work = Box::pin(work(function, request, answer, signs.clone()));
        (Self { host, signs, place: Place::Here(work) }, answered)
    }

    /// Works on. Ready when the work is over.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Place::Here(work) = &mut self.place {
            match work.as_mut().poll(context) {
                Poll::Ready(result) => self.place = Place::Done(Some(result)),
                Poll::Pending if self.signs.busy.load(Ordering::Relaxed) => self.move_to_background(),
                Poll::Pending => return Poll::Pending,
            }
        }
        if let Place::Away { result, .. } = &mut self.place {
            match Pin::new(result).poll(context) {
                // Nobody but us can have ended it, unless the threads it ran on are gone.
                Poll::Ready(result) => {
                    self.place = Place::Done(Some(result.unwrap_or(Err(Error::BrokenOff))))
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// How the work ended; once, and only after it has.
    pub(crate) fn take_result(&mut self) -> Result<()> {
        match &mut self.place {
            Place::Done(result) => result.take().unwrap_or(Ok(())),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.place, Place::Done(_))
    }

    fn move_to_background(&mut self) {
        let host = self.host.clone();
        self.send_away(|work| host.0.background.spawn(work), |work| work);
    }

    /// Goes on in a task of its own.
    pub(crate) fn move_to_task(mut self) -> Self {
        if matches!(self.place, Place::Here(_)) {
            let (host, signs) = (self.host.clone(), self.signs.clone());
            let tasks = host.0.tasks.clone();
            self.send_away(
                |work| tasks.spawn_connection("wasm-response", work),
                |work| {
                    // There it can still turn out to compute for long.
                    let mut guest = Self { host, signs, place: Place::Here(work) };
                    Box::pin(async move {
                        poll_fn(|context| guest.poll(context)).await;
                        guest.take_result()
                    })
                },
            );
        }
        self
    }

    /// The response is complete: what is left goes on alone.
    pub(crate) fn detach(self) {
        if !self.is_done() {
            let mut guest = self.move_to_task();
            guest.place = match std::mem::replace(&mut guest.place, Place::Done(None)) {
                Place::Away { result, abort: _ } => Place::Away { result, abort: AbortHandle::new_pair().0 },
                place => place,
            };
        }
    }

    fn send_away(
        &mut self,
        spawn: impl FnOnce(BoxFuture<'static, ()>),
        wrap: impl FnOnce(BoxFuture<'static, Result<()>>) -> BoxFuture<'static, Result<()>>,
    ) {
        let Place::Here(work) = std::mem::replace(&mut self.place, Place::Done(None)) else { return };
        let (over, result) = oneshot::channel();
        let (work, abort) = abortable(wrap(work));
        spawn(Box::pin(async move {
            if let Ok(result) = work.await {
                // Whoever waited may have gone away.
                let _ = over.send(result);
            }
        }));
        self.place = Place::Away { result, abort };
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Place::Away { abort, .. } = &self.place {
            abort.abort();
        }
    }
}

/// The whole work on one request. An error is told in the component's log before it is returned.
async fn work(
    function: Arc<Inner>,
    request: Request<WasiBody>,
    answer: oneshot::Sender<Answer>,
    signs: Arc<Signs>,
) -> Result<()> {
    let deadline = clock::now() + function.limits.request_timeout;
    let _ticking = function.component.host.0.epoch.run();
    let result = match instance(&function, deadline).await {
        Ok(live) => {
            let handled = handle(&function, live, request, answer, &signs, deadline);
            within(deadline, &signs, handled)
                .await
                .unwrap_or(Err(Error::Deadline(function.limits.request_timeout)))
        }
        Err(error) => {
            signs.failed.store(true, Ordering::Release);
            Err(error)
        }
    };
    result.inspect_err(|error| function.report(error))
}

/// `None` if `deadline` comes first; the component then counts as failed before it is dropped.
async fn within<T>(deadline: Instant, signs: &Signs, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut timer = pin!(clock::sleep_until(deadline));
    poll_fn(|context| {
        if let Poll::Ready(value) = work.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        timer.as_mut().poll(context).map(|()| {
            signs.failed.store(true, Ordering::Release);
            None
        })
    })
    .await
}

/// An instance that is free, or a new one as soon as there is a place for it.
async fn instance(function: &Arc<Inner>, deadline: Instant) -> Result<Live> {
    if let Some(live) = function.take_idle() {
        return Ok(live);
    }
    let host = &function.component.host;
    let slots = host.0.slots.clone();
    let place = match slots.clone().try_acquire_owned() {
        Ok(place) => place,
        Err(_) => {
            let deadline = tokio::time::Instant::from_std(deadline);
            let place = tokio::time::timeout_at(deadline, slots.acquire_owned()).await;
            place.map_err(|_| Error::Overloaded)?.map_err(|_| Error::Overloaded)?
        }
    };
    let mut store = state::store(host, &function.limits, &function.grants)?;
    store.data_mut().deadline = deadline;
    store.set_epoch_deadline(1);
    match function.component.proxy.instantiate_async(&mut store).await {
        Ok(proxy) => Ok(Live { store, proxy, served: 0, _place: place }),
        Err(error) => Err(explain(function, &store, error)),
    }
}

async fn handle(
    function: &Arc<Inner>,
    mut live: Live,
    request: Request<WasiBody>,
    answer: oneshot::Sender<Answer>,
    signs: &Arc<Signs>,
    deadline: Instant,
) -> Result<()> {
    let store = &mut live.store;
    store.data_mut().deadline = deadline;
    store.data_mut().signs = signs.clone();
    store.set_epoch_deadline(1);
    let answered = signs.clone();
    let respond = move |given: Answer| {
        answered.answered.store(true, Ordering::Release);
        // Whoever asked may have gone away.
        let _ = answer.send(given);
    };
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request);
    let request = request.map_err(|error| Error::Request(cause(error)));
    let outparam = store.data_mut().http().new_response_outparam_from_callback(respond);
    let outparam = outparam.map_err(|error| Error::Request(cause(error)));
    let called = match (request, outparam) {
        (Ok(request), Ok(outparam)) => {
            let call =
                live.proxy.wasi_http_incoming_handler().call_handle(&mut live.store, request, outparam).await;
            call.map_err(|error| explain(function, &live.store, error))
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    if called.is_err() {
        signs.failed.store(true, Ordering::Release);
        return called;
    }
    if !signs.answered.load(Ordering::Acquire) {
        signs.failed.store(true, Ordering::Release);
        return Err(Error::NoResponse);
    }
    live.served += 1;
    function.give_back(live);
    Ok(())
}

/// What an error of the engine means.
fn explain(function: &Inner, store: &Store<State>, error: wasmtime::Error) -> Error {
    if error.is::<DeadlinePassed>() {
        Error::Deadline(function.limits.request_timeout)
    } else if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        Error::Exit(*code)
    } else if error.is::<PoolConcurrencyLimitError>() {
        Error::Overloaded
    } else if store.data().memory.exhausted {
        Error::OutOfMemory { limit: function.limits.memory_bytes }
    } else {
        Error::Trap(cause(error))
    }
}
