//! Two hundred sleeping services woken at once: the rate of cold starts, from the first byte sent to the last first
//! byte received.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dormouse_base::clock;
use dormouse_e2e::http::Request;
use dormouse_e2e::{Options, Platform};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::figures::Figures;
use crate::fleet::{self, Fleet, since};
use crate::{Verdict, report};

/// Services woken at once.
const SERVICES: usize = 200;

/// How often.
const ROUNDS: usize = 3;

/// The goal, per second.
const RATE: f64 = 300.0;

pub(crate) fn run() -> Result<Verdict> {
    let platform = fleet::platform(Options::default())?;
    report::say(&format!("creating {SERVICES} services at zero"));
    let fleet = Fleet::create(&platform, SERVICES)?;
    let mut table =
        "| round | services | all answered after ms | starts/s | first byte p50 ms | p99 ms |\n".to_owned();
    table.push_str("|---|---|---|---|---|---|\n");
    let mut rates = Vec::new();
    for round in 1..=ROUNDS {
        fleet.asleep(&platform)?;
        report::say(&format!("round {round}"));
        let (wall, figures) = wake(&platform, &fleet)?;
        let rate = figures.len() as f64 / wall.as_secs_f64();
        rates.push(rate);
        table.push_str(&format!(
            "| {round} | {SERVICES} | {:.0} | {rate:.0} | {:.0} | {:.0} |\n",
            wall.as_secs_f64() * 1e3,
            figures.ms(50),
            figures.ms(99),
        ));
    }
    platform.take_down()?;
    let rate = crate::figures::median(rates);
    report::publish("wake", &table, &[("wake_rate_per_s", rate)])?;
    let kept = rate >= RATE;
    Ok(if kept { Verdict::Kept } else { Verdict::Broken(format!("{rate:.0} starts/s (≥ {RATE})")) })
}

/// One thread sends to all and then waits for all, so that the client's own threads are not what is measured.
fn wake(platform: &Platform, fleet: &Fleet) -> Result<(Duration, Figures)> {
    let mut clients = Vec::new();
    for name in &fleet.names {
        let stream = TcpStream::connect(platform.state().gateway)?;
        stream.set_nodelay(true)?;
        clients.push((name, stream, Request::get(&platform.host(name), "/").encode()));
    }
    let begun = clock::now();
    for (_, stream, request) in &mut clients {
        stream.write_all(request)?;
    }
    let mut waiting = clients;
    let mut taken = Vec::new();
    while !waiting.is_empty() {
        let mut set: Vec<PollFd<'_>> =
            waiting.iter().map(|(_, stream, _)| PollFd::new(stream, PollFlags::IN)).collect();
        let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
        let ready = poll(&mut set, Some(&limit)).context("poll")?;
        ensure!(ready > 0, "{} services do not answer", waiting.len());
        let now = since(begun);
        let readable: Vec<bool> = set.iter().map(|one| !one.revents().is_empty()).collect();
        drop(set);
        let mut still = Vec::new();
        for ((name, mut stream, request), readable) in waiting.into_iter().zip(readable) {
            if !readable {
                still.push((name, stream, request));
                continue;
            }
            taken.push(now);
            let mut answer = [0_u8; 256];
            let length = stream.read(&mut answer)?;
            let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
            ensure!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
        }
        waiting = still;
    }
    let figures = Figures::of(taken);
    Ok((figures.percentile(100), figures))
}
