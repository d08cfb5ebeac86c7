//! One instance as the rest of the node sees it: its facts, and an inbox for what it should react to.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as core, PodSpec};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::instance::Exit;
use crate::manager::WorkKey;

/// The pod template of a Deployment.
#[derive(Debug)]
pub(crate) struct Template {
    /// Part of the pods' names; changes with the template.
    pub(crate) hash: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) spec: PodSpec,
}

/// Which container of its pod something is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    /// The one that requests go to; the only one of most pods.
    #[default]
    Serving,
    /// One that runs beside it, by its place in `containers`.
    Beside(usize),
    /// One that runs to its end before the others start, by its place in `initContainers`.
    Before(usize),
}

/// A container that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
    pub(crate) sandbox: String,
}

/// What the container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Waiting { reason: String, message: String },
    Running { since: Timestamp },
    Ended(Ended),
}

/// What is known of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) container: Container,
    pub(crate) last: Option<Ended>,
    pub(crate) restarts: u32,
    /// This container's own probe passes.
    pub(crate) passed: bool,
    /// The instance takes requests: every container's probe passes.
    pub(crate) ready: bool,
    pub(crate) ready_changed: Timestamp,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) sandbox: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) created: Timestamp,
    pub(crate) digest: String,
    /// Log file of the running container and of the one before.
    pub(crate) log: Option<PathBuf>,
    pub(crate) previous_log: Option<PathBuf>,
    /// The instance is over; the pod may be removed.
    pub(crate) gone: bool,
}

#[derive(Debug, Default)]
struct Inbox {
    stop: Option<Option<Duration>>,
    exits: VecDeque<(String, Exit)>,
}

/// One instance, or one of the further containers of an instance.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) key: WorkKey,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) template: Arc<Template>,
    pub(crate) born: Instant,
    pub(crate) part: Part,
    /// The containers that run beside the serving one.
    pub(crate) beside: Vec<Arc<Cell>>,
    /// The containers that run before it, in their order.
    pub(crate) before: Vec<Arc<Cell>>,
    /// Of a further container: the instance.
    whole: Weak<Cell>,
    /// Rings when the inbox has something new.
    pub(crate) wake: Notify,
    inbox: Mutex<Inbox>,
    facts: Mutex<Facts>,
}

/// What the keeper holds for us about a sandbox: enough to adopt it after a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Label {
    pub(crate) namespace: String,
    pub(crate) deployment: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) hash: String,
    pub(crate) network: u16,
    pub(crate) slot: String,
    pub(crate) restarts: u32,
    /// The container, of a pod that has several.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) container: String,
    /// Whether the network goes when this sandbox does; the containers of a pod share one.
    #[serde(default = "yes")]
    pub(crate) owns_network: bool,
    pub(crate) port: u16,
    pub(crate) grace_seconds: u64,
    pub(crate) digest: String,
    pub(crate) log: PathBuf,
    pub(crate) created: i64,
    pub(crate) started: i64,
}

fn yes() -> bool {
    true
}

/// The place of the container that requests go to: the one with a port, else the first.
pub(crate) fn serving(spec: &PodSpec) -> usize {
    let has_port =
        |container: &core::Container| container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
    spec.containers.iter().position(has_port).unwrap_or(0)
}

// === impl Facts ===

impl Facts {
    fn new(wall: Timestamp) -> Self {
        Self {
            container: Container::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() },
            last: None,
            restarts: 0,
            passed: false,
            ready: false,
            ready_changed: wall,
            address: None,
            sandbox: None,
            pid: None,
            created: wall,
            digest: String::new(),
            log: None,
            previous_log: None,
            gone: false,
        }
    }
}

// === impl Cell ===

impl Cell {
    pub(crate) fn new(
        key: WorkKey,
        pod: String,
        uid: String,
        template: Arc<Template>,
        now: Instant,
        wall: Timestamp,
    ) -> Arc<Self> {
        let one = |part: Part, whole: Weak<Self>, beside, before| Self {
            key: key.clone(),
            pod: pod.clone(),
            uid: uid.clone(),
            template: template.clone(),
            born: now,
            part,
            beside,
            before,
            whole,
            wake: Notify::new(),
            inbox: Mutex::default(),
            facts: Mutex::new(Facts::new(wall)),
        };
        let serving = serving(&template.spec);
        let containers = template.spec.containers.len();
        let inits = template.spec.init_containers.as_ref().map_or(0, Vec::len);
        Arc::new_cyclic(|whole| {
            let further = |part| Arc::new(one(part, whole.clone(), Vec::new(), Vec::new()));
            let beside = (0..containers).filter(|at| *at != serving).map(Part::Beside).map(further).collect();
            let before = (0..inits).map(Part::Before).map(further).collect();
            one(Part::Serving, Weak::new(), beside, before)
        })
    }

    /// The instance that this container belongs to.
    pub(crate) fn whole(self: &Arc<Self>) -> Arc<Self> {
        self.whole.upgrade().unwrap_or_else(|| self.clone())
    }

    /// Whether the instance has more than one container.
    pub(crate) fn has_several(&self) -> bool {
        !self.beside.is_empty() || !self.before.is_empty()
    }

    /// The container in the template.
    pub(crate) fn container(&self) -> Option<&core::Container> {
        let spec = &self.template.spec;
        match self.part {
            Part::Serving => spec.containers.get(serving(spec)),
            Part::Beside(at) => spec.containers.get(at),
            Part::Before(at) => spec.init_containers.as_ref()?.get(at),
        }
    }

    /// The name of the container.
    pub(crate) fn container_name(&self) -> &str {
        self.container().map(|container| container.name.as_str()).unwrap_or_default()
    }

    /// What the names of this container's sandboxes begin with; a number follows.
    pub(crate) fn sandbox_prefix(&self) -> String {
        let (namespace, pod) = (&self.key.namespace, &self.pod);
        match self.part {
            Part::Serving => format!("{namespace}_{pod}_"),
            Part::Beside(_) | Part::Before(_) => format!("{namespace}_{pod}_{}_", self.container_name()),
        }
    }

    /// All containers of the instance: those that ran before, the serving one, those beside it.
    pub(crate) fn all(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        self.before.iter().chain(std::iter::once(self)).chain(&self.beside)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The facts; held only for a moment.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it to end; a shorter grace period than the template's may be given. Idempotent.
    pub(crate) fn stop(&self, grace: Option<Duration>) {
        let mut inbox = self.inbox();
        let shorter = match (inbox.stop, grace) {
            (Some(Some(had)), Some(new)) => Some(had.min(new)),
            (Some(had), None) => had,
            (_, new) => new,
        };
        inbox.stop = Some(shorter);
        drop(inbox);
        self.wake.notify_one();
    }

    /// Whether it was asked to end, and the grace period if one was given.
    pub(crate) fn stop_asked(&self) -> Option<Option<Duration>> {
        self.inbox().stop
    }

    /// Whether it counts towards the desired number.
    pub(crate) fn counts(&self) -> bool {
        self.inbox().stop.is_none() && !self.facts().gone
    }

    /// Tells that the sandbox `id` has ended.
    pub(crate) fn exited(&self, id: String, exit: Exit) {
        self.inbox().exits.push_back((id, exit));
        self.wake.notify_one();
    }

    /// How the sandbox `id` ended, if it did.
    pub(crate) fn exit_of(&self, id: &str) -> Option<Exit> {
        let mut inbox = self.inbox();
        let at = inbox.exits.iter().position(|(have, _)| have == id)?;
        inbox.exits.remove(at).map(|(_, exit)| exit)
    }

    /// Its address, when it takes requests.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        let facts = self.facts();
        facts.address.filter(|_| facts.ready)
    }

    pub(crate) fn ip(&self) -> Option<Ipv4Addr> {
        match self.facts().address {
            Some(SocketAddr::V4(address)) => Some(*address.ip()),
            _ => None,
        }
    }
}
