//! The life of one instance: wait for the image, take a network and a slot, launch, probe, serve, drain, end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dormouse_base::clock;

use super::component;
use super::deaf::is_deaf;
use super::hush::Starting;
use crate::instance::{Event, Exit, Lifecycle, Phase, Step};
use crate::manager::cell::{Cell, Container, Ended, Label, Part};
use crate::manager::{Manager, Preparation};
use crate::network::Network;
use crate::pool::Slot;
use crate::probe::{self, Probe};
use crate::tell::Note;
use crate::template::{Identity, Restart, Skeleton};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// A container that is not ready after so many attempts (about a second) is worth an event.
const ATTEMPTS_BEFORE_NOTE: u32 = 30;
/// A container that is not ready after so many attempts (a few milliseconds) is told as starting.
const ATTEMPTS_BEFORE_TELLING: u32 = 14;
/// The keeper does not answer that a killed sandbox is gone: give up waiting after this.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How an instance is asked whether it is well.
#[derive(Clone, Debug)]
pub(super) struct Care {
    pub(super) port: u16,
    pub(super) readiness: Probe,
    pub(super) liveness: Option<Probe>,
    pub(super) startup: Option<Probe>,
    pub(super) grace: Duration,
}

/// What an instance runs in.
enum Ground {
    Sandbox(Slot),
    Component(component::Running),
}

/// Where an instance is reached and how it is ended.
struct Place<'a> {
    id: &'a str,
    address: Ipv4Addr,
    network: Option<&'a Network>,
    component: Option<&'a component::Running>,
}

impl From<&Skeleton> for Care {
    fn from(skeleton: &Skeleton) -> Self {
        Self {
            port: skeleton.port,
            readiness: skeleton.readiness.clone(),
            liveness: skeleton.liveness.clone(),
            startup: skeleton.startup.clone(),
            grace: skeleton.grace,
        }
    }
}

/// A running sandbox that is taken over.
pub(super) struct Adopted {
    pub(super) id: String,
    pub(super) label: Label,
    pub(super) network: Network,
    pub(super) slot: Slot,
}

/// When which probe is due, and how often it has failed or passed in a row.
struct Schedule {
    started: Instant,
    attempt: u32,
    passed: u32,
    failed: u32,
    live_failed: u32,
    next_ready: Option<Instant>,
    next_live: Option<Instant>,
    startup: bool,
}

enum Checked {
    Ready(Result<(), String>),
    Live(Result<(), String>),
}

/// The network of a container: its own until it is taken, or the one that the containers of its pod share.
enum Net<'a> {
    Own(&'a mut Option<Network>),
    Shared { network: &'a Network, scratch: &'a Path },
}

/// The whole life. Everything it took is given back when it returns.
pub(super) async fn run(manager: Manager, cell: Arc<Cell>, adopted: Option<Adopted>) {
    let mut network = None;
    if cell.has_several() && adopted.is_none() {
        together(&manager, &cell, &mut network).await;
    } else {
        live(&manager, &cell, Net::Own(&mut network), adopted).await;
    }
    cell.facts().ready = false;
    manager.finished(&cell, network);
}

/// The life of a pod with several containers: those that run before, one after the other, then the rest side by side.
async fn together(manager: &Manager, cell: &Arc<Cell>, network: &mut Option<Network>) {
    if prepared(manager, cell).await.is_none() {
        return;
    }
    let mut life = Lifecycle::new(Duration::from_secs(30), 0, clock::now());
    let (own, slot) = loop {
        let taken = match manager.networks().take().await {
            Ok(taken) => {
                let own = network.insert(taken);
                manager.slots().take().map(|slot| (&*own, slot))
            }
            Err(error) => Err(error),
        };
        match taken {
            Ok(both) => break both,
            Err(error) => {
                if let Some(network) = network.take() {
                    manager.networks().give_back(network);
                }
                failed(manager, cell, Failure::create(&error));
                if !after_exit(manager, cell, &mut life, Restart::Always).await {
                    return;
                }
            }
        }
    };
    // What the containers share outlives each of them.
    let scratch = slot.work_dir.join("volumes");
    let shared = || Net::Shared { network: own, scratch: &scratch };
    let mut done = true;
    for init in &cell.before {
        done = done && first(manager, cell, init, shared()).await;
    }
    if done {
        let beside = cell.beside.iter().map(|part| live(manager, part, shared(), None));
        let serving = async {
            live(manager, cell, shared(), None).await;
            for part in &cell.beside {
                part.stop(None);
            }
        };
        futures::future::join(serving, futures::future::join_all(beside)).await;
    }
    manager.slots().discard(slot);
}

/// Runs an init container until it has succeeded; `false` when the instance is asked to end first.
async fn first(manager: &Manager, cell: &Arc<Cell>, init: &Arc<Cell>, network: Net<'_>) -> bool {
    let mut running = std::pin::pin!(live(manager, init, network, None));
    loop {
        if let Some(grace) = cell.stop_asked() {
            init.stop(grace);
        }
        tokio::select! {
            biased; // A request to end is passed on; it keeps until the container has ended.
            () = cell.wake.notified() => {}
            () = &mut running => break,
        }
    }
    let succeeded = matches!(&init.facts().container, Container::Ended(ended) if ended.code == 0);
    succeeded && cell.stop_asked().is_none()
}

/// The life of one container, through all its restarts.
async fn live(manager: &Manager, cell: &Arc<Cell>, mut network: Net<'_>, adopted: Option<Adopted>) {
    let mut restarts = 0;
    let mut running = None;
    let mut starting = None;
    if let (Some(adopted), Net::Own(network)) = (adopted, &mut network) {
        restarts = adopted.label.restarts;
        **network = Some(adopted.network);
        let care = Care {
            port: adopted.label.port,
            readiness: Probe::tcp(adopted.label.port),
            liveness: None,
            startup: None,
            grace: Duration::from_secs(adopted.label.grace_seconds),
        };
        running = Some((adopted.id, Ground::Sandbox(adopted.slot), care));
    }
    let grace = running.as_ref().map_or(Duration::from_secs(30), |(_, _, care)| care.grace);
    let mut life = Lifecycle::new(grace, restarts, clock::now());
    loop {
        let (id, ground, mut care) = match running.take() {
            Some(running) => running,
            None => {
                let Some(skeleton) = prepared(manager, cell).await else { break };
                let Some(part) = skeleton.part(cell.part) else { break };
                starting = Some(manager.inner.hush.begin(clock::now()));
                life.set_grace(part.grace);
                match launch(manager, cell, part, &mut network, life.restarts).await {
                    Ok(started) => {
                        if let Some(starting) = &starting {
                            starting.launched(clock::now());
                        }
                        started
                    }
                    Err(failure) => {
                        starting = None;
                        failed(manager, cell, failure);
                        if !after_exit(manager, cell, &mut life, Restart::Always).await {
                            break;
                        }
                        continue;
                    }
                }
            }
        };
        // Probes of an adopted instance come from its Deployment, if that still says the same.
        if let Preparation::Ready(skeleton) = manager.preparation(cell)
            && care.liveness.is_none()
            && matches!(ground, Ground::Sandbox(_))
            && let Some(part) = skeleton.part(cell.part)
        {
            care = Care::from(part);
            life.set_grace(care.grace);
        }
        let own = match &network {
            Net::Own(own) => own.as_ref(),
            Net::Shared { network, .. } => Some(*network),
        };
        let place = match (&ground, own) {
            (Ground::Component(running), _) => {
                Place { id: &id, address: Ipv4Addr::LOCALHOST, network: None, component: Some(running) }
            }
            (Ground::Sandbox(_), Some(own)) => {
                Place { id: &id, address: own.address, network: Some(own), component: None }
            }
            (Ground::Sandbox(_), None) => break,
        };
        let exit = attend(manager, cell, &mut life, &care, &place, &mut starting).await;
        manager.forget_sandbox(&id);
        let started = match cell.facts().container {
            Container::Running { since } => Some(since),
            _ => None,
        };
        let ended = Ended {
            code: exit.code,
            signal: exit.signal,
            reason: exit.reason().to_owned(),
            message: if exit.code == 0 || exit.oom { String::new() } else { manager.last_words(cell) },
            started,
            finished: clock::timestamp(),
            sandbox: id,
        };
        ended_now(cell, ended);
        match ground {
            Ground::Sandbox(slot) => manager.slots().discard(slot),
            Ground::Component(running) => running.discard(),
        }
        let restart = match (cell.part, manager.preparation(cell)) {
            (Part::Before(_), _) => Restart::OnFailure,
            (_, Preparation::Ready(skeleton)) => skeleton.restart,
            _ => Restart::Always,
        };
        if !after_exit(manager, cell, &mut life, restart).await {
            break;
        }
    }
}

/// A container that could not be started.
fn failed(manager: &Manager, cell: &Arc<Cell>, failure: Failure) {
    cell.facts().container =
        Container::Waiting { reason: failure.reason.to_owned(), message: failure.message.clone() };
    manager.note(cell, Note::warning("Failed", failure.message.clone()));
    if let Some(mut ended) = failure.ended {
        ended.message = failure.message;
        ended_now(cell, ended);
    }
    manager.pod_changed(cell);
}

fn ended_now(cell: &Cell, ended: Ended) {
    let mut facts = cell.facts();
    facts.container = Container::Ended(ended.clone());
    facts.last = Some(ended);
    facts.passed = false;
    facts.ready = false;
    facts.ready_changed = clock::timestamp();
    facts.sandbox = None;
    facts.pid = None;
    facts.previous_log = facts.log.take();
}

/// Waits for the image and the plan; `None` when the instance is asked to end first.
async fn prepared(manager: &Manager, cell: &Arc<Cell>) -> Option<Arc<Skeleton>> {
    let mut preparation = manager.preparations(cell)?;
    loop {
        if cell.stop_asked().is_some() {
            return None;
        }
        let now = preparation.borrow_and_update().clone();
        match now {
            Preparation::Ready(skeleton) => return Some(skeleton),
            Preparation::Failed { reason, message } => {
                manager.note(cell, Note::warning("Failed", message.clone()));
                cell.facts().container = Container::Waiting { reason, message };
                manager.pod_changed(cell);
            }
            Preparation::Pending => manager.pod_changed(cell),
        }
        tokio::select! {
            biased; // Both only wake the loop, which looks again.
            () = cell.wake.notified() => {}
            changed = preparation.changed() => if changed.is_err() { return None },
        }
    }
}

pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) ended: Option<Ended>,
}

impl Failure {
    fn create(error: &crate::Error) -> Self {
        Self { reason: "CreateContainerError", message: dormouse_base::chain(error), ended: None }
    }
}

async fn launch(
    manager: &Manager,
    cell: &Arc<Cell>,
    skeleton: &Skeleton,
    network: &mut Net<'_>,
    restarts: u32,
) -> Result<(String, Ground, Care), Failure> {
    if skeleton.component.is_some() {
        let (id, running, care) = component::launch(manager, cell, skeleton, restarts).await?;
        return Ok((id, Ground::Component(running), care));
    }
    let (own, shared) = match network {
        Net::Own(network) => {
            let own = match network.take() {
                Some(network) => network,
                None => manager.networks().take().await.map_err(|error| Failure::create(&error))?,
            };
            (&*network.insert(own), None)
        }
        Net::Shared { network, scratch } => (*network, Some(*scratch)),
    };
    let slot = manager.slots().take().map_err(|error| Failure::create(&error))?;
    let result = launch_in(manager, cell, skeleton, own, &slot, shared, restarts).await;
    match result {
        Ok(id) => Ok((id, Ground::Sandbox(slot), Care::from(skeleton))),
        Err(failure) => {
            manager.slots().discard(slot);
            Err(failure)
        }
    }
}

async fn launch_in(
    manager: &Manager,
    cell: &Arc<Cell>,
    skeleton: &Skeleton,
    network: &Network,
    slot: &Slot,
    shared: Option<&Path>,
    restarts: u32,
) -> Result<String, Failure> {
    let id = format!("{}{restarts}", cell.sandbox_prefix());
    let log = manager.log_path(&id);
    let failed = |error: crate::Error| Failure::create(&error);
    slot.limit(&skeleton.limits).map_err(failed)?;
    let scratch = shared.map_or_else(|| slot.work_dir.join("volumes"), Path::to_path_buf);
    for name in skeleton.scratch() {
        make_scratch(&scratch.join(name)).map_err(failed)?;
    }
    let now = clock::timestamp();
    let label = Label {
        namespace: cell.key.namespace.to_string(),
        deployment: cell.key.name.to_string(),
        pod: cell.pod.clone(),
        uid: cell.uid.clone(),
        hash: cell.template.hash.clone(),
        network: network.number,
        slot: slot.name.clone(),
        restarts,
        container: if shared.is_some() { cell.container_name().to_owned() } else { String::new() },
        owns_network: cell.part == Part::Serving,
        port: skeleton.port,
        grace_seconds: skeleton.grace.as_secs(),
        digest: skeleton.digest.clone(),
        log: log.clone(),
        created: cell.facts().created.as_second(),
        started: now.as_second(),
    };
    let plan = skeleton.plan(Identity {
        id: id.clone(),
        label: serde_json::to_string(&label).unwrap_or_default(),
        pod: &cell.pod,
        uid: &cell.uid,
        address: network.address,
        gateway: manager.networks().gateway(),
        netns: network.netns.clone(),
        cgroup: slot.cgroup.plan(),
        work_dir: slot.work_dir.clone(),
        scratch,
        log: log.clone(),
    });
    manager.expect_sandbox(&id, cell);
    match manager.launcher().launch(plan).await {
        Ok(pid) => {
            let mut facts = cell.facts();
            facts.address = Some(SocketAddr::from((network.address, skeleton.port)));
            facts.container = Container::Running { since: now };
            facts.restarts = restarts;
            facts.sandbox = Some(id.clone());
            facts.pid = Some(pid);
            facts.digest.clone_from(&skeleton.digest);
            facts.log = Some(log);
            drop(facts);
            if restarts == 0 {
                started_notes(manager, cell);
            }
            Ok(id)
        }
        Err(error) => {
            manager.forget_sandbox(&id);
            let message = dormouse_base::chain(&error);
            let is_theirs = matches!(error.class().origin, dormouse_base::class::Origin::Caller);
            // The program of the image cannot be executed: told as an exit, as container engines do.
            let ended = is_theirs.then(|| Ended {
                code: 127,
                signal: None,
                reason: "StartError".to_owned(),
                message: message.clone(),
                started: Some(now),
                finished: now,
                sandbox: id,
            });
            Err(Failure {
                reason: if is_theirs { "RunContainerError" } else { "CreateContainerError" },
                message,
                ended,
            })
        }
    }
}

/// What `kubectl describe pod` shows of a start.
pub(super) fn started_notes(manager: &Manager, cell: &Arc<Cell>) {
    let Some(container) = cell.container() else { return };
    let image = container.image.as_deref().unwrap_or_default();
    let name = &container.name;
    manager.note(
        cell,
        Note::normal("Pulled", format!("Container image \"{image}\" already present on machine")),
    );
    manager.note(cell, Note::normal("Created", format!("Created container: {name}")));
    manager.note(cell, Note::normal("Started", format!("Started container {name}")));
}

pub(super) fn make_scratch(path: &PathBuf) -> crate::Result<()> {
    std::fs::create_dir_all(path).map_err(crate::Error::path("create", path))?;
    // Any user of the image may write its scratch space.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(path, mode).map_err(crate::Error::path("open to all", path))
}

/// After an exit: waits for the next start. `false` when the instance is over.
async fn after_exit(manager: &Manager, cell: &Arc<Cell>, life: &mut Lifecycle, restart: Restart) -> bool {
    if cell.stop_asked().is_some() {
        life.on(&Event::StopRequested, clock::now());
    }
    let clean = matches!(&cell.facts().container, Container::Ended(ended) if ended.code == 0);
    let over = match restart {
        Restart::Always => false,
        Restart::OnFailure => clean,
        Restart::Never => true,
    };
    if over || life.on(&Event::Exited, clock::now()) == Step::Finish {
        return false;
    }
    manager.withdraw(cell).await;
    let Phase::Waiting(until) = life.phase else { return false };
    let wait = until.saturating_duration_since(clock::now());
    if !wait.is_zero() {
        let message = format!(
            "back-off {}s restarting failed container={} pod={}",
            wait.as_secs(),
            cell.container_name(),
            cell.pod
        );
        cell.facts().container =
            Container::Waiting { reason: "CrashLoopBackOff".to_owned(), message: message.clone() };
        manager.note(cell, Note::warning("BackOff", message));
    }
    manager.pod_changed(cell);
    loop {
        if cell.stop_asked().is_some() {
            life.on(&Event::StopRequested, clock::now());
            return false;
        }
        tokio::select! {
            biased; // A request to end goes first.
            () = cell.wake.notified() => {}
            () = clock::sleep_until(until) => break,
        }
    }
    life.on(&Event::BackoffOver, clock::now()) == Step::Launch
}

/// Looks after a running container until it has ended.
async fn attend(
    manager: &Manager,
    cell: &Arc<Cell>,
    life: &mut Lifecycle,
    care: &Care,
    place: &Place<'_>,
    starting: &mut Option<Starting>,
) -> Exit {
    let (id, address) = (place.id, place.address);
    let mut schedule = Schedule::new(care, clock::now());
    let mut kill_at: Option<Instant> = None;
    let mut noted = false;
    loop {
        if let Some(exit) = cell.exit_of(id) {
            return exit;
        }
        if let Some(grace) = cell.stop_asked()
            && life.counts()
        {
            if let Some(grace) = grace {
                life.set_grace(grace.min(care.grace));
            }
            let step = life.on(&Event::StopRequested, clock::now());
            manager.withdraw(cell).await;
            if step == Step::Terminate {
                terminate(manager, cell, place).await;
            }
            continue;
        }
        match life.phase {
            // Requests go to the serving container only.
            Phase::Draining if cell.part != Part::Serving => {
                life.on(&Event::Drained, clock::now());
                terminate(manager, cell, place).await;
            }
            Phase::Draining => {
                let endpoint = SocketAddr::from((address, care.port));
                let limit = clock::now() + life.grace();
                tokio::select! {
                    biased; // The end of the container goes first; the drain may be asked for again.
                    () = cell.wake.notified() => {}
                    () = manager.idle(endpoint, limit) => {
                        life.on(&Event::Drained, clock::now());
                        terminate(manager, cell, place).await;
                    }
                }
            }
            Phase::Stopping(until) => {
                let until = kill_at.unwrap_or(until);
                tokio::select! {
                    biased; // The end of the container goes first.
                    () = cell.wake.notified() => {}
                    () = clock::sleep_until(until) => {
                        if kill_at.is_some() {
                            tracing::warn!(sandbox = id, "killed, but its end was not told");
                            return Exit::new(None, Some(SIGKILL), false);
                        }
                        life.on(&Event::GraceOver, clock::now());
                        kill(manager, cell, place).await;
                        kill_at = Some(clock::now() + KILL_PATIENCE);
                    }
                }
            }
            _ => {
                let wake = cell.wake.notified();
                let checked = tokio::select! {
                    biased; // What happened goes before what is asked; a probe that is dropped is asked again.
                    () = wake => None,
                    checked = schedule.next(care, life.phase, place, manager) => Some(checked),
                };
                let Some(checked) = checked else { continue };
                let (step, unhealthy) = schedule.take(checked, care, life);
                if schedule.attempt == ATTEMPTS_BEFORE_TELLING {
                    manager.pod_changed(cell);
                }
                if let Some((what, why)) = unhealthy {
                    let fatal = what != "Readiness" && schedule.is_fatal(care);
                    let slow = life.phase != Phase::Starting || schedule.attempt > ATTEMPTS_BEFORE_NOTE;
                    if fatal || (!noted && slow) {
                        noted = true;
                        manager.note(cell, Note::warning("Unhealthy", format!("{what} probe failed: {why}")));
                    }
                    if fatal {
                        manager.withdraw(cell).await;
                        manager.note(
                            cell,
                            Note::normal(
                                "Killing",
                                format!("Container failed {} probe, will be restarted", what.to_lowercase()),
                            ),
                        );
                        kill(manager, cell, place).await;
                        schedule.rest(clock::now());
                    }
                }
                match step {
                    Step::Publish => {
                        manager.ready(cell);
                        *starting = None;
                    }
                    Step::Withdraw => manager.withdraw(cell).await,
                    _ => {}
                }
            }
        }
    }
}

async fn terminate(manager: &Manager, cell: &Arc<Cell>, place: &Place<'_>) {
    if let Some(network) = place.network.filter(|_| cell.part == Part::Serving) {
        manager.networks().ending(network).await;
    }
    for part in &cell.beside {
        part.stop(None);
    }
    manager.note(cell, Note::normal("Killing", format!("Stopping container {}", cell.container_name())));
    if let Some(component) = place.component {
        return component.end(cell, place.id, Exit::new(Some(0), None, false)).await;
    }
    let deaf = cell.facts().pid.is_some_and(is_deaf);
    // It may have ended meanwhile; its end is in the inbox then.
    let _ = manager.launcher().signal(place.id, if deaf { SIGKILL } else { SIGTERM }).await;
}

async fn kill(manager: &Manager, cell: &Arc<Cell>, place: &Place<'_>) {
    if let Some(component) = place.component {
        return component.end(cell, place.id, Exit::new(None, Some(SIGKILL), false)).await;
    }
    let _ = manager.launcher().signal(place.id, SIGKILL).await;
}

// === impl Schedule ===

impl Schedule {
    fn new(care: &Care, now: Instant) -> Self {
        let delay = care.startup.as_ref().unwrap_or(&care.readiness).initial_delay;
        Self {
            started: now,
            attempt: 0,
            passed: 0,
            failed: 0,
            live_failed: 0,
            next_ready: (!delay.is_zero()).then(|| now + delay),
            next_live: care
                .liveness
                .as_ref()
                .map(|live| now + live.initial_delay.max(live.wait_while_running())),
            startup: care.startup.is_some(),
        }
    }

    /// After a kill nothing is asked until the end is told.
    fn rest(&mut self, now: Instant) {
        self.next_ready = Some(now + KILL_PATIENCE);
        self.next_live = None;
        self.live_failed = 0;
        self.failed = 0;
    }

    /// Waits for the next probe that is due and asks it. Cancel-safe: nothing changes before it is complete.
    async fn next(&self, care: &Care, phase: Phase, place: &Place<'_>, manager: &Manager) -> Checked {
        let (id, address) = (place.id, place.address);
        let now = clock::now();
        let launcher = manager.launcher();
        if let (Some(at), Some(live), false) = (self.next_live, &care.liveness, self.startup)
            && at <= self.next_ready.unwrap_or(now + Duration::from_millis(50)).max(now)
        {
            clock::sleep_until(at).await;
            return Checked::Live(live.ask(address, launcher, id).await);
        }
        let probe = care.startup.as_ref().filter(|_| self.startup).unwrap_or(&care.readiness);
        match self.next_ready {
            Some(at) => clock::sleep_until(at).await,
            None if phase == Phase::Starting && self.attempt > 0 => {
                probe::pause(probe.wait_while_starting(self.attempt)).await;
            }
            None => {}
        }
        // What comes at short intervals asks the kernel first; the rest is as the user wants it, whatever the kernel says.
        if phase == Phase::Starting
            && self.attempt < ATTEMPTS_BEFORE_TELLING
            && let Some(listening) = place.network.and_then(|network| network.listening.as_ref())
            && let Some(answer) = probe.ask_kernel(address, listening)
        {
            return Checked::Ready(answer);
        }
        Checked::Ready(probe.ask(address, launcher, id).await)
    }

    /// Counts an answer; tells the step and what is unhealthy.
    fn take(
        &mut self,
        checked: Checked,
        care: &Care,
        life: &mut Lifecycle,
    ) -> (Step, Option<(&'static str, String)>) {
        let now = clock::now();
        match checked {
            Checked::Live(result) => {
                let wait = care.liveness.as_ref().map(Probe::wait_while_running);
                self.next_live = wait.map(|wait| now + wait);
                match result {
                    Ok(()) => {
                        self.live_failed = 0;
                        (Step::Stay, None)
                    }
                    Err(why) => {
                        self.live_failed += 1;
                        (Step::Stay, Some(("Liveness", why)))
                    }
                }
            }
            Checked::Ready(result) => {
                self.attempt = self.attempt.saturating_add(1);
                let probe = care.startup.as_ref().filter(|_| self.startup).unwrap_or(&care.readiness);
                match result {
                    Ok(()) => {
                        self.failed = 0;
                        self.passed += 1;
                        self.next_ready = None;
                        if self.startup {
                            self.startup = false;
                            self.passed = 0;
                            self.next_live = care.liveness.as_ref().map(|live| now + live.initial_delay);
                            return (Step::Stay, None);
                        }
                        if self.passed < probe.success_threshold {
                            return (Step::Stay, None);
                        }
                        self.next_ready = Some(now + probe.wait_while_running());
                        (life.on(&Event::ProbePassed, now), None)
                    }
                    Err(why) => {
                        self.passed = 0;
                        self.failed += 1;
                        if life.phase == Phase::Starting {
                            self.next_ready = None;
                            let what = if self.startup { "Startup" } else { "Readiness" };
                            return (Step::Stay, Some((what, why)));
                        }
                        self.next_ready = Some(now + probe.wait_while_running());
                        if self.failed < probe.failure_threshold {
                            return (Step::Stay, None);
                        }
                        (life.on(&Event::ProbeFailed, now), Some(("Readiness", why)))
                    }
                }
            }
        }
    }

    /// Whether the container must be restarted.
    fn is_fatal(&self, care: &Care) -> bool {
        let live = care.liveness.as_ref().is_some_and(|live| self.live_failed >= live.failure_threshold);
        let startup = care.startup.as_ref().is_some_and(|startup| {
            let allowed = startup.wait_while_running() * startup.failure_threshold + startup.initial_delay;
            self.startup && clock::now().saturating_duration_since(self.started) >= allowed
        });
        live || startup
    }
}
