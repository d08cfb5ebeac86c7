//! One instance as the rest of the node sees it: its facts, and an inbox for what it should react to.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
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

/// One instance.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) key: WorkKey,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) template: Arc<Template>,
    pub(crate) born: Instant,
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
    pub(crate) port: u16,
    pub(crate) grace_seconds: u64,
    pub(crate) digest: String,
    pub(crate) log: PathBuf,
    pub(crate) created: i64,
    pub(crate) started: i64,
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
    ) -> Self {
        let facts = Facts {
            container: Container::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() },
            last: None,
            restarts: 0,
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
        };
        Self {
            key,
            pod,
            uid,
            template,
            born: now,
            wake: Notify::new(),
            inbox: Mutex::default(),
            facts: Mutex::new(facts),
        }
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
