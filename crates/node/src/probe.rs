//! Probes: what is asked of an instance, how often, and how the answer counts.
//!
//! Readiness at the start decides how long a cold start takes, so it is asked at once and then every 0.2 ms, 0.3 ms, …
//! growing to 50 ms: the kernel tells in microseconds whether somebody listens ([`Listening`]). tokio's timers have a grain of 1 ms; the short waits
//! use a kernel timer.

mod grpc;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::launcher::Launcher;
use crate::network::listening::Listening;

const USER_AGENT: &str = "kube-probe/1.35";
/// As much of an answer as is looked at: the status line.
const ANSWER_MAX: usize = 1024;
/// One attempt while starting; a program that listens but does not answer yet is asked again after this.
const AGGRESSIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between probes of a running container when the user says nothing.
const DEFAULT_PERIOD: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// A connection is accepted.
    Tcp(u16),
    /// A GET is answered with 200–399.
    Http { port: u16, path: String, headers: Vec<(String, String)> },
    /// A command exits with 0.
    Exec(Vec<String>),
    /// The gRPC health service says SERVING.
    Grpc { port: u16, service: String },
    /// Nothing: what runs is well.
    Passed,
}

/// One probe with its thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) check: Check,
    pub(crate) initial_delay: Duration,
    /// Zero asks as often as useful while starting and every ten seconds later.
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) success_threshold: u32,
    pub(crate) failure_threshold: u32,
}

// === impl Probe ===

impl Probe {
    /// The default: the port accepts connections.
    pub(crate) fn tcp(port: u16) -> Self {
        Self {
            check: Check::Tcp(port),
            initial_delay: Duration::ZERO,
            period: Duration::ZERO,
            timeout: AGGRESSIVE_TIMEOUT,
            success_threshold: 1,
            failure_threshold: 3,
        }
    }

    /// Of a container that is ready as soon as it runs.
    pub(crate) fn passed() -> Self {
        Self { check: Check::Passed, ..Self::tcp(0) }
    }

    /// The same for a component, whose port is not the template's and which answers as soon as it is served: only a
    /// question over HTTP can find something out.
    pub(crate) fn on_component(&self, at: u16) -> Self {
        let check = match &self.check {
            Check::Http { path, headers, .. } => {
                Check::Http { port: at, path: path.clone(), headers: headers.clone() }
            }
            Check::Grpc { service, .. } => Check::Grpc { port: at, service: service.clone() },
            Check::Tcp(_) | Check::Exec(_) | Check::Passed => Check::Passed,
        };
        Self { check, ..self.clone() }
    }

    /// Reads a container's probe; `port` stands for a port of 0 and names are looked up in `ports`.
    ///
    /// # Errors
    /// It has no handler that is supported, or names a port that does not exist.
    pub(crate) fn read(
        probe: &core::Probe,
        port: u16,
        ports: &[core::ContainerPort],
    ) -> Result<Self, String> {
        let resolve = |given: &IntOrString| match given {
            IntOrString::Int(0) => Ok(port),
            IntOrString::Int(number) => u16::try_from(*number).map_err(|_| format!("{number} is not a port")),
            IntOrString::String(name) => name
                .parse()
                .ok()
                .or_else(|| {
                    ports.iter().find(|port| port.name.as_ref() == Some(name))?.container_port.try_into().ok()
                })
                .ok_or_else(|| format!("no port is named {name:?}")),
        };
        let check = if let Some(http) = &probe.http_get {
            if http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
                return Err("HTTPS probes are not supported yet".to_owned());
            }
            let headers = http.http_headers.iter().flatten();
            Check::Http {
                port: resolve(&http.port)?,
                path: http.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
                headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
            }
        } else if let Some(tcp) = &probe.tcp_socket {
            Check::Tcp(resolve(&tcp.port)?)
        } else if let Some(exec) = &probe.exec {
            Check::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(grpc) = &probe.grpc {
            Check::Grpc {
                port: resolve(&IntOrString::Int(grpc.port))?,
                service: grpc.service.clone().unwrap_or_default(),
            }
        } else {
            Check::Tcp(port)
        };
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.map_or(default, |value| u64::try_from(value).unwrap_or(0)))
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Ok(Self {
            check,
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1).max(AGGRESSIVE_TIMEOUT),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
        })
    }

    /// The wait before attempt number `attempt` (1 is the second) of a container that is starting.
    pub(crate) fn wait_while_starting(&self, attempt: u32) -> Duration {
        const STEPS_US: [u64; 17] =
            [200, 200, 200, 200, 200, 200, 200, 200, 300, 300, 500, 500, 1000, 2000, 5000, 10_000, 20_000];
        let step = usize::try_from(attempt.saturating_sub(1)).ok().and_then(|at| STEPS_US.get(at).copied());
        let fast = Duration::from_micros(step.unwrap_or(50_000));
        // A command is a process start inside the instance: not every 0.2 ms.
        let fast =
            if matches!(self.check, Check::Exec(_)) { fast.max(Duration::from_millis(10)) } else { fast };
        match self.period {
            period if period > Duration::from_secs(1) && attempt > 100 => period,
            _ => fast,
        }
    }

    /// The wait between attempts of a running container.
    pub(crate) fn wait_while_running(&self) -> Duration {
        if self.period.is_zero() { DEFAULT_PERIOD } else { self.period }
    }

    /// What the kernel alone can answer: that nobody listens yet, and for a TCP probe that somebody does. `None` when
    /// the program must be asked.
    pub(crate) fn ask_kernel(&self, address: Ipv4Addr, listening: &Listening) -> Option<Result<(), String>> {
        let (Check::Tcp(port) | Check::Http { port, .. } | Check::Grpc { port, .. }) = &self.check else {
            return None;
        };
        match (listening.on(address, *port).ok()?, &self.check) {
            (true, Check::Tcp(_)) => Some(Ok(())),
            (true, _) => None,
            (false, _) => Some(Err(format!("dial tcp {address}:{port}: connection refused"))),
        }
    }

    /// Asks once.
    ///
    /// # Errors
    /// What went wrong, in the words of the kubelet's events.
    pub(crate) async fn ask(
        &self,
        address: Ipv4Addr,
        launcher: &dyn Launcher,
        id: &str,
    ) -> Result<(), String> {
        match &self.check {
            Check::Passed => Ok(()),
            Check::Grpc { port, service } => {
                let to = SocketAddr::from((address, *port));
                match tokio::time::timeout(self.timeout, grpc::check(to, service)).await {
                    Ok(result) => result,
                    Err(_) => {
                        Err(format!("timeout: failed to connect service {to:?} within {:?}", self.timeout))
                    }
                }
            }
            Check::Exec(command) => exec(launcher, id, command, self.timeout).await,
            Check::Tcp(port) => {
                let to = SocketAddr::from((address, *port));
                match tokio::time::timeout(self.timeout, TcpStream::connect(to)).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(format!("dial tcp {to}: {error}")),
                    Err(_) => Err(format!("dial tcp {to}: i/o timeout")),
                }
            }
            Check::Http { port, path, headers } => {
                let to = SocketAddr::from((address, *port));
                match tokio::time::timeout(self.timeout, http(to, path, headers)).await {
                    Ok(result) => result,
                    Err(_) => Err(format!("Get \"http://{to}{path}\": context deadline exceeded")),
                }
            }
        }
    }
}

async fn exec(
    launcher: &dyn Launcher,
    id: &str,
    command: &[String],
    timeout: Duration,
) -> Result<(), String> {
    match launcher.exec(id, command.to_vec(), timeout).await {
        Ok(result) if result.exit_code == 0 => Ok(()),
        Ok(result) => Err(format!("command exited with {}: {}", result.exit_code, result.output.trim())),
        Err(error) => Err(dormouse_base::chain(&error)),
    }
}

async fn http(to: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("Get \"http://{to}{path}\": {error}");
    let mut stream = TcpStream::connect(to).await.map_err(failed)?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = format!("GET {slash}{path} HTTP/1.1\r\n");
    let given = |name: &str| headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
    for (name, value) in
        [("Host", to.to_string()), ("User-Agent", USER_AGENT.to_owned()), ("Accept", "*/*".to_owned())]
    {
        if !given(name) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    // A line break inside a header would let a manifest forge requests.
    let clean = |text: &str| text.replace(['\r', '\n'], " ");
    for (name, value) in headers {
        request.push_str(&format!("{}: {}\r\n", clean(name), clean(value)));
    }
    request.push_str("Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    while answer.len() < ANSWER_MAX && !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
            break;
        }
    }
    match status(&answer) {
        Some(code) if (200..400).contains(&code) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err(format!("Get \"http://{to}{path}\": malformed HTTP response")),
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\n').next()?).ok()?;
    line.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()
}

/// Waits with the grain of the kernel's high-resolution timers when it is short, else on the runtime's clock. Cancel-safe.
pub(crate) async fn pause(wait: Duration) {
    if wait >= Duration::from_millis(5) || kernel_pause(wait).await.is_err() {
        dormouse_base::clock::sleep(wait).await;
    }
}

async fn kernel_pause(wait: Duration) -> std::io::Result<()> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().max(1).into() };
    rustix::time::timerfd_settime(
        &timer,
        TimerfdTimerFlags::empty(),
        &Itimerspec { it_interval: zero, it_value: value },
    )?;
    #[expect(unsafe_code, reason = "tokio asks for the promise that the descriptor stays open")]
    // SAFETY: the timer is owned by the `AsyncFd` until both are dropped here; an `OwnedFd` answers the same descriptor
    // for as long as it lives.
    let timer = unsafe { AsyncFd::register(timer)? };
    drop(timer.readable().await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_start_is_seen_within_a_fifth_of_a_millisecond_and_a_slow_one_costs_little() {
        let probe = Probe::tcp(8080);
        let waits: Vec<Duration> = (1..=19).map(|attempt| probe.wait_while_starting(attempt)).collect();
        assert_eq!(waits[0], Duration::from_micros(200));
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits[17], Duration::from_millis(50));
        assert!(waits[..12].iter().sum::<Duration>() < Duration::from_millis(4));
    }

    #[test]
    fn ports_by_number_name_and_default() {
        let ports = [core::ContainerPort {
            name: Some("user-port".into()),
            container_port: 9000,
            ..Default::default()
        }];
        let read = |port: IntOrString| {
            let tcp_socket = Some(core::TCPSocketAction { port, host: None });
            Probe::read(&core::Probe { tcp_socket, ..Default::default() }, 8080, &ports)
                .map(|probe| probe.check)
        };
        assert_eq!(read(IntOrString::Int(0)), Ok(Check::Tcp(8080)));
        assert_eq!(read(IntOrString::String("user-port".into())), Ok(Check::Tcp(9000)));
        assert_eq!(read(IntOrString::String("x".into())), Err("no port is named \"x\"".into()));
    }

    #[test]
    fn a_component_is_asked_over_http_only_and_where_it_is() {
        assert_eq!(Probe::tcp(8080).on_component(4000).check, Check::Passed);
        let check = Check::Http { port: 8080, path: "/ready".into(), headers: vec![] };
        let moved = Probe { check, ..Probe::tcp(8080) }.on_component(4000).check;
        assert_eq!(moved, Check::Http { port: 4000, path: "/ready".into(), headers: vec![] });
    }

    #[test]
    fn status_lines() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n"), Some(500));
        assert_eq!(status(b"SSH-2.0-x\r\n"), None);
    }

    #[tokio::test]
    async fn http_200_to_399_is_ready_and_500_is_not() {
        for (answer, good) in [("HTTP/1.1 302 Found\r\n\r\n", true), ("HTTP/1.1 500 X\r\n\r\n", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&request[..length]).into_owned()
            };
            let headers = [("X-A".to_owned(), "b".to_owned())];
            let (result, request) = tokio::join!(http(address, "/ready", &headers), server);
            assert_eq!(result.is_ok(), good);
            assert!(
                request.starts_with("GET /ready HTTP/1.1\r\n") && request.contains("X-A: b\r\n"),
                "{request}"
            );
            assert!(request.contains("User-Agent: kube-probe/1.35\r\n"));
        }
    }
}
