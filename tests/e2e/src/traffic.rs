//! Continuous load that counts every failure: the judge of "not one failed request".

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use dormouse_base::clock;

use crate::http::{Connection, Request};

/// What a load does.
#[derive(Clone, Debug)]
pub struct Load {
    /// The gateway.
    pub gateway: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// How many clients send one request after another.
    pub clients: usize,
    /// Whether a client that lost its connection goes on (for tests that kill the server).
    pub reconnect: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Responses with status 200.
    pub succeeded: usize,
    /// Everything else: the time since the load's start and what happened.
    pub failures: Vec<(Duration, String)>,
    /// How long each successful request took.
    pub latencies: Vec<Duration>,
    /// Bodies and how often each came.
    pub bodies: std::collections::BTreeMap<String, usize>,
}

/// A load that runs until it is stopped.
pub struct Running {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    clients: Vec<JoinHandle<()>>,
}

/// Most bodies of distinct text that are kept: they are for counting revisions, not for reading.
const BODIES: usize = 100;

impl Load {
    /// Starts the clients.
    pub fn start(self) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(Report::default()));
        let begun = clock::now();
        let clients = (0..self.clients).map(|_| {
            let (load, stop, report) = (self.clone(), Arc::clone(&stop), Arc::clone(&report));
            std::thread::spawn(move || load.client(begun, &stop, &report))
        });
        let clients = clients.collect();
        Running { stop, report, clients }
    }

    fn client(&self, begun: Instant, stop: &AtomicBool, report: &Mutex<Report>) {
        let mut connection = None;
        while !stop.load(Ordering::Relaxed) {
            let sent = clock::now();
            let outcome = self.once(&mut connection);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(body) => {
                    report.succeeded += 1;
                    report.latencies.push(sent.elapsed());
                    if report.bodies.len() < BODIES || report.bodies.contains_key(&body) {
                        *report.bodies.entry(body).or_default() += 1;
                    }
                }
                Err(error) => {
                    report.failures.push((begun.elapsed(), format!("{error:#}")));
                    drop(report);
                    connection = None;
                    if !self.reconnect {
                        return;
                    }
                }
            }
        }
    }

    fn once(&self, connection: &mut Option<Connection<std::net::TcpStream>>) -> Result<String> {
        let open = match connection.take() {
            Some(open) => open,
            None => Connection::open(self.gateway)?,
        };
        let open = connection.insert(open);
        let response = open.send(&Request::get(&self.host, &self.path))?;
        anyhow::ensure!(response.status == 200, "{} {}", response.status, response.text());
        Ok(response.text())
    }
}

impl Running {
    /// How many requests succeeded so far.
    pub fn succeeded(&self) -> usize {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).succeeded
    }

    /// Stops the clients after their current request.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client thread does not panic");
        }
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
