//! The one thread that decides about writes, commits them and makes them visible.
//!
//! Group commit comes by itself: while one commit waits for the disk, further commands gather in the queue and become
//! the next batch. A batch that holds only ephemeral changes touches no disk.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, oneshot, watch};

use crate::disk::{Disk, Row};
use crate::error::Error;
use crate::index::Index;
use crate::object::{Change, Draft, Durability, Event, ObjectKey, Stored};

/// Commands decided together at most.
const BATCH_MAX: usize = 512;
/// Revisions reserved on disk at once.
const RESERVE: u64 = 50_000;

pub(crate) type Answer = Result<Arc<Stored>, Error>;

pub(crate) enum Command {
    Write { key: ObjectKey, write: Write, reply: oneshot::Sender<Answer> },
    Close { reply: oneshot::Sender<()> },
}

#[derive(Clone)]
pub(crate) enum Write {
    Create { draft: Draft, durability: Durability },
    Update { draft: Draft, expected: u64, durability: Durability },
    Delete { last: Option<Draft>, expected: u64 },
}

struct Pending {
    key: ObjectKey,
    write: Write,
    reply: oneshot::Sender<Answer>,
}

/// What a batch would do.
struct Plan {
    outcomes: Vec<Result<Arc<Event>, Error>>,
    rows: Vec<Row>,
    revision: u64,
}

pub(crate) struct Writer {
    pub(crate) disk: Disk,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) revision: watch::Sender<u64>,
}

impl Writer {
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let count = commands.blocking_recv_many(&mut batch, BATCH_MAX);
            if count == 0 {
                break;
            }
            let mut closing = None;
            let mut pending = Vec::with_capacity(count);
            for command in batch.drain(..) {
                match command {
                    Command::Write { key, write, reply } if closing.is_none() => {
                        pending.push(Pending { key, write, reply });
                    }
                    Command::Write { reply, .. } => drop(reply.send(Err(Error::Closed))),
                    Command::Close { reply } => closing = Some(reply),
                }
            }
            self.serve(pending);
            if let Some(reply) = closing {
                commands.close();
                let revision = self.current();
                self.disk.close(revision);
                let _ = reply.send(());
                return;
            }
        }
        let revision = self.current();
        self.disk.close(revision);
    }

    fn current(&self) -> u64 {
        *self.revision.borrow()
    }

    fn serve(&mut self, pending: Vec<Pending>) {
        let plan = self.plan(&pending, None);
        let refused = match self.commit(&plan) {
            Ok(()) => return self.publish(plan, pending),
            Err(error) => error,
        };
        tracing::warn!(error = %dormouse_base::chain(&refused), "durable writes refused");
        // What needs no disk must still work when the disk does not.
        let plan = self.plan(&pending, Some(&refused));
        let plan = match self.commit(&plan) {
            Ok(()) => plan,
            Err(error) => Plan {
                outcomes: pending.iter().map(|_| Err(error.clone())).collect(),
                rows: Vec::new(),
                revision: self.current(),
            },
        };
        self.publish(plan, pending);
    }

    fn commit(&mut self, plan: &Plan) -> Result<(), Error> {
        let reserve = (plan.revision > self.disk.reserved).then(|| plan.revision + RESERVE);
        if plan.rows.is_empty() && reserve.is_none() {
            return Ok(());
        }
        self.disk.commit(&plan.rows, reserve)
    }

    fn publish(&self, plan: Plan, pending: Vec<Pending>) {
        {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for event in plan.outcomes.iter().flatten() {
                index.publish(event.clone());
            }
        }
        self.revision
            .send_if_modified(|revision| std::mem::replace(revision, plan.revision) != plan.revision);
        for (outcome, pending) in plan.outcomes.into_iter().zip(pending) {
            let _ = pending.reply.send(outcome.map(|event| event.object.clone()));
        }
    }

    /// Decides every write against what is visible and what the batch did before it.
    fn plan(&self, pending: &[Pending], durable_refused: Option<&Error>) -> Plan {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut overlay: HashMap<ObjectKey, Option<Arc<Stored>>> = HashMap::new();
        let mut plan = Plan {
            outcomes: Vec::with_capacity(pending.len()),
            rows: Vec::new(),
            revision: index.revision(),
        };
        for Pending { key, write, .. } in pending {
            let present = overlay.get(key).cloned().unwrap_or_else(|| index.get(key));
            let decided = decide(key, write, present, plan.revision + 1).and_then(|event| {
                let durable = event.object.durability == Durability::Durable;
                match durable_refused {
                    Some(error) if durable => Err(error.clone()),
                    _ => Ok(event),
                }
            });
            if let Ok(event) = &decided {
                plan.revision = event.object.revision;
                if event.object.durability == Durability::Durable {
                    plan.rows.push(Row {
                        change: event.change,
                        key: key.clone(),
                        revision: plan.revision,
                        previous: event.previous.as_ref().map(|previous| previous.revision),
                        bytes: event.object.bytes.clone(),
                    });
                }
                let now = (event.change != Change::Deleted).then(|| event.object.clone());
                overlay.insert(key.clone(), now);
            }
            plan.outcomes.push(decided.map(Arc::new));
        }
        plan
    }
}

fn decide(
    key: &ObjectKey,
    write: &Write,
    present: Option<Arc<Stored>>,
    revision: u64,
) -> Result<Event, Error> {
    let state = |durability, bytes| Arc::new(Stored { key: key.clone(), revision, durability, bytes });
    match write {
        Write::Create { draft, durability } => match present {
            Some(_) => Err(Error::Exists { key: key.clone() }),
            None => Ok(Event {
                change: Change::Added,
                object: state(*durability, draft.at(revision)),
                previous: None,
            }),
        },
        Write::Update { draft, expected, durability } => {
            let previous = expect(key, present, *expected)?;
            Ok(Event {
                change: Change::Modified,
                object: state(*durability, draft.at(revision)),
                previous: Some(previous),
            })
        }
        Write::Delete { last, expected } => {
            let previous = expect(key, present, *expected)?;
            let bytes = match last {
                Some(draft) => draft.at(revision),
                None => Draft::new(previous.value()).at(revision),
            };
            Ok(Event {
                change: Change::Deleted,
                object: state(previous.durability, bytes),
                previous: Some(previous),
            })
        }
    }
}

fn expect(key: &ObjectKey, present: Option<Arc<Stored>>, expected: u64) -> Result<Arc<Stored>, Error> {
    let present = present.ok_or_else(|| Error::Missing { key: key.clone() })?;
    if present.revision == expected {
        Ok(present)
    } else {
        Err(Error::Conflict { key: key.clone(), current: present.revision })
    }
}
