//! A request to a sleeping service, from its first byte sent to its first byte received, beside `runc run` of the same
//! root file system, which serves nobody yet: no routing, no network, no gate.

use std::time::Duration;

use anyhow::Result;
use dormouse_e2e::{Options, Platform};

use crate::figures::Figures;
use crate::fleet::{self, Fleet};
use crate::runc::Bundle;
use crate::{Verdict, report};

/// Cold starts of each kind.
const STARTS: usize = 200;

/// Ours and runc's take turns in blocks of this size, so that both see the same machine.
const BLOCK: usize = 20;

/// Long enough for the kernel to be idle: its grace periods then show, which a loop hides.
const IDLE: Duration = Duration::from_millis(300);

/// The goal.
const P50_MS: f64 = 4.0;
const P99_MS: f64 = 20.0;

pub(crate) fn run() -> Result<Verdict> {
    let platform = fleet::platform(Options::default())?;
    report::say(&format!("creating {STARTS} services at zero"));
    let fleet = Fleet::create(&platform, STARTS)?;
    let bundle = Bundle::new()?;
    let mut kinds = Vec::new();
    for (kind, idle) in [("back to back", Duration::ZERO), ("after 300 ms of idleness", IDLE)] {
        fleet.asleep(&platform)?;
        report::say(&format!("{STARTS} cold starts {kind}"));
        let (ours, runc) = measure(&platform, &fleet, &bundle, idle)?;
        kinds.push((kind, ours, runc));
    }
    platform.take_down()?;
    publish(&kinds)
}

fn measure(
    platform: &Platform,
    fleet: &Fleet,
    bundle: &Bundle,
    idle: Duration,
) -> Result<(Figures, Figures)> {
    let (mut ours, mut runc) = (Vec::new(), Vec::new());
    for (block, names) in fleet.names.chunks(BLOCK).enumerate() {
        // The API closes connections that idle, as they do while the peer has its turn.
        let mut session = platform.api()?.connect()?;
        for name in names {
            fleet::prove_zero(platform, &mut session, name)?;
            std::thread::sleep(idle);
            ours.push(fleet::first_byte(platform, name)?);
        }
        for index in 0..names.len() {
            std::thread::sleep(idle);
            runc.push(bundle.start(&format!("bench-{}-{block}-{index}", std::process::id()))?);
        }
    }
    Ok((Figures::of(ours), Figures::of(runc)))
}

fn publish(kinds: &[(&str, Figures, Figures)]) -> Result<Verdict> {
    let mut table =
        "| | n | p50 ms | p90 ms | p99 ms | runc p50 | runc p90 | runc p99 | runc ÷ ours, p50 |\n".to_owned();
    table.push_str("|---|---|---|---|---|---|---|---|---|\n");
    let mut broken = Vec::new();
    for (kind, ours, runc) in kinds {
        let columns: Vec<String> = [ours, runc]
            .iter()
            .flat_map(|figures| [50, 90, 99].map(|percent| format!("{:.2}", figures.ms(percent))))
            .collect();
        let ratio = runc.ms(50) / ours.ms(50);
        table.push_str(&format!("| {kind} | {} | {} | {ratio:.1} |\n", ours.len(), columns.join(" | ")));
        if ours.ms(50) > P50_MS || ours.ms(99) > P99_MS {
            broken.push(format!(
                "{kind}: p50 {:.2} ms (≤ {P50_MS}), p99 {:.2} ms (≤ {P99_MS})",
                ours.ms(50),
                ours.ms(99)
            ));
        }
    }
    let [(_, loop_ours, loop_runc), (_, idle_ours, idle_runc)] = kinds else {
        anyhow::bail!("two kinds are measured")
    };
    let result = [
        ("cold_start_p50_ms", loop_ours.ms(50)),
        ("cold_start_p99_ms", loop_ours.ms(99)),
        ("cold_start_idle_p50_ms", idle_ours.ms(50)),
        ("cold_start_idle_p99_ms", idle_ours.ms(99)),
        ("runc_p50_ms", loop_runc.ms(50)),
        ("runc_idle_p50_ms", idle_runc.ms(50)),
    ];
    report::publish("cold-start", &table, &result)?;
    Ok(if broken.is_empty() { Verdict::Kept } else { Verdict::Broken(broken.join("; ")) })
}
