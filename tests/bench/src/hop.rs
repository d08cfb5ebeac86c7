//! CPU per proxied request: our gateway, with routing, concurrency gate and metrics on, beside nginx and HAProxy, all
//! in front of the same instance of the same function, over kept-alive connections.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dormouse_e2e::http::{self, Request};
use dormouse_e2e::{Options, Platform, Said, tools, until};
use serde_json::{Value, json};

use crate::figures::median;
use crate::process::Cpu;
use crate::{Verdict, fleet, report};

/// How often each is measured, in turns.
const ROUNDS: usize = 3;

/// How long a measurement loads one proxy.
const SECONDS: &str = "4s";

/// Open connections of the load generator.
const CONNECTIONS: [usize; 2] = [1, 32];

/// The goal: our CPU time ÷ nginx's.
const RATIO: f64 = 2.5;

const SERVICE: &str = "hop";

struct Proxy {
    name: &'static str,
    address: SocketAddr,
    pid: i32,
    child: Option<Child>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(dormouse_e2e::platform::kill(self.pid, rustix::process::Signal::TERM));
            drop(child.wait());
        }
    }
}

/// One measurement.
struct Sample {
    cpu_us: f64,
    rate: f64,
}

pub(crate) fn run() -> Result<Verdict> {
    let platform = fleet::platform(Options::default())?;
    let upstream = upstream(&platform)?;
    let folder = tempfile::tempdir()?;
    let ours =
        Proxy { name: "dormouse", address: platform.state().gateway, pid: platform.state().pid, child: None };
    let proxies = [nginx(folder.path(), upstream)?, haproxy(folder.path(), upstream)?, ours];
    let host = platform.host(SERVICE);
    for proxy in &proxies {
        until(&format!("{} answers", proxy.name), Duration::from_secs(10), || {
            let answer = http::send(proxy.address, &Request::get(&host, "/"))?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(Some(()))
        })?;
    }
    let mut table =
        "| connections | | CPU µs/request | requests/s | CPU ÷ nginx |\n|---|---|---|---|---|\n".to_owned();
    let mut result = Vec::new();
    let mut broken = Vec::new();
    for connections in CONNECTIONS {
        let mut samples: Vec<Vec<Sample>> = proxies.iter().map(|_| Vec::new()).collect();
        for round in 1..=ROUNDS {
            report::say(&format!("{connections} connection(s), round {round}"));
            for (proxy, samples) in proxies.iter().zip(&mut samples) {
                samples.push(measure(proxy, &host, connections)?);
            }
        }
        let middles: Vec<(f64, f64)> = samples
            .iter()
            .map(|all| {
                let of = |pick: fn(&Sample) -> f64| median(all.iter().map(pick).collect());
                (of(|sample| sample.cpu_us), of(|sample| sample.rate))
            })
            .collect();
        let nginx = middles.first().map_or(f64::NAN, |(cpu, _)| *cpu);
        for (proxy, (cpu, rate)) in proxies.iter().zip(&middles) {
            let ratio = cpu / nginx;
            table.push_str(&format!(
                "| {connections} | {} | {cpu:.1} | {rate:.0} | {ratio:.2} |\n",
                proxy.name
            ));
            if proxy.child.is_none() {
                result.push((if connections == 1 { "hop_ratio_1" } else { "hop_ratio_32" }, ratio));
                result.push((if connections == 1 { "hop_cpu_us_1" } else { "hop_cpu_us_32" }, *cpu));
                if ratio > RATIO {
                    broken.push(format!("{connections} connections: {ratio:.2} × nginx (≤ {RATIO})"));
                }
            }
        }
    }
    drop(proxies);
    platform.take_down()?;
    report::publish("hop", &table, &result)?;
    Ok(if broken.is_empty() { Verdict::Kept } else { Verdict::Broken(broken.join("; ")) })
}

/// The one instance that all three proxy to.
fn upstream(platform: &Platform) -> Result<SocketAddr> {
    let mut manifest = fleet::manifest(SERVICE);
    let annotations = manifest.pointer_mut("/spec/template/metadata/annotations").context("annotations")?;
    *annotations =
        json!({ "autoscaling.knative.dev/min-scale": "1", "autoscaling.knative.dev/max-scale": "1" });
    platform.deploy(SERVICE, &manifest.to_string())?;
    let pods = platform.api()?.get("/api/v1/namespaces/default/pods")?;
    let address =
        pods.pointer("/items/0/status/podIP").and_then(Value::as_str).context("the Pod's address")?;
    Ok(SocketAddr::new(address.parse().context("the Pod's address")?, 8080))
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn spawn(name: &'static str, address: SocketAddr, arguments: &[&str]) -> Result<Proxy> {
    let mut command = Command::new(tools::find(name)?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().with_context(|| format!("start {name}"))?;
    Ok(Proxy { name, address, pid: i32::try_from(child.id())?, child: Some(child) })
}

fn nginx(folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let (address, at) = (free()?, folder.display());
    let text = format!(
        "daemon off; user root; worker_processes auto; pid {at}/nginx.pid; error_log {at}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
  upstream function {{ server {upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://function; proxy_http_version 1.1;
      proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, text)?;
    spawn("nginx", address, &["-c", &path.display().to_string()])
}

fn haproxy(folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let address = free()?;
    let text = format!(
        "global
  maxconn 1024
defaults
  mode http
  option http-keep-alive
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind {address}
  default_backend function
backend function
  server one {upstream}
"
    );
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, text)?;
    spawn("haproxy", address, &["-db", "-f", &path.display().to_string()])
}

fn measure(proxy: &Proxy, host: &str, connections: usize) -> Result<Sample> {
    let cpu = || match proxy.child {
        Some(_) => Cpu::of(&[proxy.pid]),
        // Our children are not in the way of a request: the keeper only starts instances.
        None => Cpu::alone(proxy.pid),
    };
    load(proxy.name, proxy.address, host, connections, "1s")?;
    let before = cpu()?;
    let (requests, rate) = load(proxy.name, proxy.address, host, connections, SECONDS)?;
    let used = cpu()?.since(&before);
    Ok(Sample { cpu_us: used.as_secs_f64() * 1e6 / requests, rate })
}

/// Runs the load generator; gives the number of requests and their rate.
pub(crate) fn load(
    name: &str,
    address: SocketAddr,
    host: &str,
    connections: usize,
    duration: &str,
) -> Result<(f64, f64)> {
    let output = Command::new(tools::find("wrk")?)
        .args(["-t1", &format!("-c{connections}"), &format!("-d{duration}")])
        .args(["-H", &format!("Host: {host}"), &format!("http://{address}/")])
        .output()?;
    let text = Said::from(output).ok().context("wrk")?;
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{name} failed requests:\n{text}");
    let number =
        |line: Option<&str>| line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    let requests = number(text.lines().find(|line| line.contains(" requests in ")));
    let rate = number(text.lines().find_map(|line| line.strip_prefix("Requests/sec:")));
    Ok((requests.with_context(|| text.clone())?, rate.with_context(|| text.clone())?))
}
