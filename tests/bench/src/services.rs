//! A thousand services at zero: time from create to Ready, memory for each, and what the platform costs at boot and at
//! rest, empty and with all of them.

use std::collections::HashSet;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use dormouse_base::clock;
use dormouse_e2e::platform::{condition, service_path};
use dormouse_e2e::{Options, Platform};
use serde_json::Value;

use crate::figures::Figures;
use crate::fleet::{self, since};
use crate::process::{Cpu, resident_kib};
use crate::{Verdict, report};

/// Services at zero.
const SERVICES: usize = 1_000;

/// How long rest is observed.
const REST: Duration = Duration::from_secs(10);

/// What `dormouse up` costs when nobody asks for anything.
struct Rest {
    boot_ms: f64,
    resident_mib: f64,
    keeper_mib: f64,
    cpu_percent: f64,
}

pub(crate) fn run() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    let options = Options { data: Some(data), ..Options::default() };

    let platform = fleet::platform(options.clone())?;
    platform.take_down()?;
    let platform = fleet::platform(options.clone())?;
    let empty = rest(&platform)?;
    let before = resident_kib(platform.state().pid)?;
    let ready = create(&platform)?;
    std::thread::sleep(REST);
    let each = (resident_kib(platform.state().pid)? - before) / SERVICES as f64;
    platform.take_down()?;

    report::say("starting again with all of them");
    let platform = fleet::platform(options)?;
    let booted = platform.booted();
    let answer = fleet::first_byte(&platform, "many-0")?;
    let first_answer_ms = (booted + answer).as_secs_f64() * 1e3;
    let full = rest(&platform)?;
    platform.take_down()?;
    publish(&ready, each, &empty, &full, first_answer_ms)
}

/// Creates the services one after another, each when the one before is Ready as a watch tells.
fn create(platform: &Platform) -> Result<Figures> {
    report::say(&format!("creating {SERVICES} services, one after another"));
    let (told, heard) = mpsc::channel();
    let api = platform.api()?;
    let last = format!("many-{}", SERVICES - 1);
    let watcher = std::thread::spawn(move || -> Result<()> {
        let path = format!("{}?watch=true", service_path("").trim_end_matches('/'));
        let mut seen = HashSet::new();
        api.connect()?.watch(&path, |event| {
            let Some(object) = event.get("object") else { return true };
            let name =
                object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
            if condition(object, "Ready").0 != "True" || !seen.insert(name.clone()) {
                return true;
            }
            let moment = clock::now();
            let done = name == last;
            told.send((name, moment)).is_ok() && !done
        })
    });
    let mut session = platform.api()?.connect()?;
    let mut taken = Vec::new();
    for index in 0..SERVICES {
        let name = format!("many-{index}");
        let begun = clock::now();
        fleet::create(&mut session, &name)?;
        let moment = loop {
            let (ready, moment) = heard
                .recv_timeout(Duration::from_secs(60))
                .with_context(|| format!("{name} does not become Ready"))?;
            if ready == name {
                break moment;
            }
        };
        taken.push(moment.duration_since(begun));
    }
    watcher.join().expect("the watcher does not panic")?;
    Ok(Figures::of(taken))
}

fn rest(platform: &Platform) -> Result<Rest> {
    let (main, keeper) = (platform.state().pid, platform.state().keeper);
    // What the start left to be done in the background is not rest.
    std::thread::sleep(REST);
    let before = Cpu::of(&[main, keeper])?;
    let begun = clock::now();
    std::thread::sleep(REST);
    let used = Cpu::of(&[main, keeper])?.since(&before);
    Ok(Rest {
        boot_ms: platform.booted().as_secs_f64() * 1e3,
        resident_mib: resident_kib(main)? / 1024.0,
        keeper_mib: resident_kib(keeper)? / 1024.0,
        cpu_percent: used.as_secs_f64() / since(begun).as_secs_f64() * 100.0,
    })
}

fn publish(
    ready: &Figures,
    each_kib: f64,
    empty: &Rest,
    full: &Rest,
    first_answer_ms: f64,
) -> Result<Verdict> {
    let mut table = format!("| create → Ready, {SERVICES} services | |\n|---|---|\n");
    let mut row = |name: &str, value: String| table.push_str(&format!("| {name} | {value} |\n"));
    row("p50", format!("{:.1} ms", ready.ms(50)));
    row("p90", format!("{:.1} ms", ready.ms(90)));
    row("p99", format!("{:.1} ms", ready.ms(99)));
    row("resident memory of each", format!("{each_kib:.1} KiB"));
    table.push_str(&format!("\n| platform at rest | empty | with {SERVICES} services |\n|---|---|---|\n"));
    let mut row = |name: &str, empty: f64, full: f64, unit: &str| {
        table.push_str(&format!("| {name} | {empty:.1} {unit} | {full:.1} {unit} |\n"));
    };
    row("boot: `up` to ready", empty.boot_ms, full.boot_ms, "ms");
    row("resident memory, main", empty.resident_mib, full.resident_mib, "MiB");
    row("resident memory, keeper", empty.keeper_mib, full.keeper_mib, "MiB");
    row("CPU over 10 s", empty.cpu_percent, full.cpu_percent, "%");
    table.push_str(&format!(
        "\nFrom `up` with {SERVICES} services to the first answer of one: {first_answer_ms:.1} ms.\n"
    ));
    let result = [
        ("create_ready_p50_ms", ready.ms(50)),
        ("create_ready_p99_ms", ready.ms(99)),
        ("service_kib", each_kib),
        ("boot_ms", empty.boot_ms),
        ("boot_full_ms", full.boot_ms),
        ("first_answer_ms", first_answer_ms),
        ("idle_mib", empty.resident_mib + empty.keeper_mib),
        ("idle_full_mib", full.resident_mib + full.keeper_mib),
        ("idle_cpu_percent", empty.cpu_percent),
        ("idle_full_cpu_percent", full.cpu_percent),
    ];
    report::publish("services", &table, &result)?;
    // The issue asks for these to be measured; it sets no bar.
    Ok(Verdict::Kept)
}
