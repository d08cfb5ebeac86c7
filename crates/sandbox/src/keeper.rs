//! The keeper: a small process of one thread that owns what must outlive the main process — sandboxes, their logs,
//! listening sockets — and that is cheap to clone from.
//!
//! It serves one client at a time, the newest. What happens while nobody is attached is kept, up to [`MAX_EVENTS`], and
//! told to the next client. When the keeper dies, the kernel kills every sandbox with it.

mod connection;
mod instances;

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::Resource;

use crate::error::Errno;
use crate::launch::Launcher;
use crate::plan::KeeperEvent;
use crate::wire::{Call, Failure, Message, PROTOCOL, Reply, Request};
use connection::Connection;
use instances::{Command, Instance};

/// Name of the socket in the keeper's directory.
pub(crate) const SOCKET: &str = "keeper.sock";
/// Name of the keeper's own log.
pub(crate) const LOG: &str = "keeper.log";
/// Held by the keeper that lives.
const LOCK: &str = "keeper.lock";
/// Events kept while nobody is attached; beyond it the oldest are forgotten: the next client lists what runs anyway.
const MAX_EVENTS: usize = 16 << 10;
/// Pending connections of a listening socket.
const BACKLOG: i32 = 4096;
/// How long `Stop` waits for killed sandboxes.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the keeper until it is stopped: the entry of `dormouse keeper --dir DIR`.
///
/// The directory must exist. Errors go to stderr, which the client points at `keeper.log`.
pub fn keeper_main(socket_dir: &Path) -> ExitCode {
    match Keeper::new(socket_dir).and_then(|mut keeper| keeper.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("cannot run in {}: {error}", socket_dir.display()));
            ExitCode::FAILURE
        }
    }
}

fn note(text: impl Display) {
    let time = jiff::Timestamp::try_from(dormouse_base::clock::wall()).unwrap_or_default();
    // Nobody is left to tell when even this fails.
    let _ = writeln!(io::stderr(), "{time:.3} keeper: {text}");
}

/// What a readable descriptor means; packed into epoll's 64 bits together with the number of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Client,
    Listener,
    Exit,
    Stdout,
    Stderr,
    CommandExit,
    CommandOutput,
}

impl Source {
    const ALL: [Self; 7] = [
        Self::Client,
        Self::Listener,
        Self::Exit,
        Self::Stdout,
        Self::Stderr,
        Self::CommandExit,
        Self::CommandOutput,
    ];

    fn token(self, number: u64) -> epoll::EventData {
        epoll::EventData::new_u64(number << 3 | self as u64)
    }

    fn of(data: epoll::EventData) -> (Self, u64) {
        let value = data.u64();
        let source = Self::ALL.get((value & 7) as usize).copied().unwrap_or(Self::Client);
        (source, value >> 3)
    }
}

struct Keeper {
    socket_path: PathBuf,
    epoll: OwnedFd,
    listener: UnixListener,
    _lock: fs::File,
    client: Option<Connection>,
    launcher: Launcher,
    instances: HashMap<u64, Instance>,
    by_id: HashMap<String, u64>,
    commands: HashMap<u64, Command>,
    next: u64,
    sockets: HashMap<SocketAddr, OwnedFd>,
    events: VecDeque<KeeperEvent>,
    /// Number of the request to stop, and until when sandboxes are waited for.
    stopping: Option<(u64, Instant)>,
    buffer: Vec<u8>,
}

impl Keeper {
    fn new(dir: &Path) -> io::Result<Self> {
        // A leader of a process group cannot, but then it is not the child of a main process either.
        let _ = rustix::process::setsid();
        for signal in 1..=64 {
            if signal != libc::SIGPIPE {
                crate::sys::default_signal(signal);
            }
        }
        let mut files = rustix::process::getrlimit(Resource::Nofile);
        files.current = files.maximum;
        rustix::process::setrlimit(Resource::Nofile, files)?;
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::new(io::ErrorKind::AlreadyExists, "another keeper runs here"))?;
        let launcher = Launcher::new(dir)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let socket_path = dir.join(SOCKET);
        // Whoever holds the lock owns the name; an old file is the trace of a dead keeper.
        match fs::remove_file(&socket_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Bound under another name first, so that the socket appears only when it can be connected to, and is private.
        let fresh = dir.join("keeper.sock.new");
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        epoll::add(&epoll, &listener, Source::Listener.token(0), epoll::EventFlags::IN)?;
        fs::rename(&fresh, &socket_path)?;
        Ok(Self {
            socket_path,
            epoll,
            listener,
            _lock: lock,
            client: None,
            launcher,
            instances: HashMap::new(),
            by_id: HashMap::new(),
            commands: HashMap::new(),
            next: 0,
            sockets: HashMap::new(),
            events: VecDeque::new(),
            stopping: None,
            buffer: vec![0; 64 << 10],
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); 256];
        loop {
            let wait = self.next_deadline().map(|deadline| {
                let left = deadline.saturating_duration_since(dormouse_base::clock::now());
                // Rounded up, so that it does not spin in the last part of a millisecond.
                let left = left + Duration::from_millis(1);
                rustix::event::Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            let ready = match epoll::wait(&self.epoll, &mut space, wait.as_ref()) {
                Ok((ready, _)) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let mut ready: Vec<_> = ready.iter().map(|event| (event.data, event.flags)).collect();
            // Launches first: a talkative instance must not delay a cold start.
            ready.sort_unstable_by_key(|(data, _)| Source::of(*data).0);
            for (data, flags) in ready {
                let (source, number) = Source::of(data);
                match source {
                    Source::Client => self.serve(number, flags),
                    Source::Listener => self.accept(),
                    Source::Exit => self.exited(number),
                    Source::Stdout | Source::Stderr => self.read_log(source, number),
                    Source::CommandExit => self.command_exited(number),
                    Source::CommandOutput => self.command_output(number),
                }
            }
            self.kill_late_commands();
            self.tell();
            if self.finish_stop() {
                let _ = fs::remove_file(&self.socket_path);
                return Ok(());
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let commands = self.commands.values().map(|command| command.deadline);
        commands.chain(self.stopping.map(|(_, deadline)| deadline)).min()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn watch(&self, fd: impl AsFd, source: Source, number: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, source.token(number), epoll::EventFlags::IN)?)
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => {
                let number = self.number();
                if let Err(error) = self.watch(&stream, Source::Client, number) {
                    note(format_args!("cannot watch a client: {error}"));
                    return;
                }
                // The newest wins: its predecessor is a process that is going away.
                self.client = Some(Connection::new(number, stream));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => note(format_args!("accept: {error}")),
        }
    }

    fn serve(&mut self, number: u64, flags: epoll::EventFlags) {
        let Some(client) = self.client.as_mut().filter(|client| client.number == number) else { return };
        if flags.contains(epoll::EventFlags::OUT) && !client.flush() {
            self.client = None;
            return;
        }
        if !client.fill(&mut self.buffer) {
            self.client = None;
            return;
        }
        while let Some(client) = self.client.as_mut().filter(|client| client.number == number) {
            match client.decoder.next::<Request>() {
                Ok(Some(request)) => self.answer(request),
                Ok(None) => break,
                Err(error) => {
                    note(format_args!("client says what cannot be understood: {error}"));
                    self.client = None;
                }
            }
        }
    }

    fn answer(&mut self, Request { number, call }: Request) {
        let reply = match call {
            Call::Hello { protocol } => {
                if protocol == PROTOCOL
                    && let Some(client) = &mut self.client
                {
                    client.greeted = true;
                }
                Ok(Reply::Hello { protocol: PROTOCOL, pid: std::process::id() })
            }
            Call::Launch(plan) => {
                let launched = self.launch(*plan);
                let started = launched.as_ref().ok().copied();
                self.send(number, launched.map(|(_, pid)| Reply::Launched { pid }));
                if let Some((instance, _)) = started {
                    self.after_launch(instance);
                }
                return;
            }
            Call::Signal { id, signal } => self.signal(&id, signal).map(|()| Reply::Done),
            Call::Exec { id, args, timeout_ms } => {
                match self.execute(number, &id, &args, Duration::from_millis(timeout_ms)) {
                    Ok(()) => return,
                    Err(failure) => Err(failure),
                }
            }
            Call::List => Ok(Reply::Running(self.running())),
            Call::Listen { address } => match self.listen(address) {
                Ok(()) => return self.send_socket(number, address),
                Err(errno) => Err(Failure::Listen { errno }),
            },
            Call::Unlisten { address } => {
                self.sockets.remove(&address);
                Ok(Reply::Done)
            }
            Call::Stop => {
                note(format_args!("stopping {} sandboxes", self.instances.len()));
                for instance in self.instances.values() {
                    let _ = crate::sys::send_signal(instance.pidfd.as_fd(), libc::SIGKILL);
                }
                self.stopping = Some((number, dormouse_base::clock::now() + STOP_PATIENCE));
                return;
            }
        };
        self.send(number, reply);
    }

    fn send(&mut self, number: u64, reply: Result<Reply, Failure>) {
        let epoll = &self.epoll;
        if let Some(client) = &mut self.client
            && !client.send(&Message::Reply { number, reply }, epoll)
        {
            self.client = None;
        }
    }

    fn send_socket(&mut self, number: u64, address: SocketAddr) {
        let (Some(client), Some(socket)) = (&mut self.client, self.sockets.get(&address)) else { return };
        if !client.send_with(&Message::Reply { number, reply: Ok(Reply::Listening) }, socket.as_fd()) {
            self.client = None;
        }
        if address.port() == 0
            && let Some(socket) = self.sockets.remove(&address)
            && let Some(chosen) = rustix::net::getsockname(&socket).ok().and_then(|name| name.try_into().ok())
        {
            // "Any port" means another one each time; this one is kept under the port it was given, so that whoever
            // remembers it finds it again.
            self.sockets.insert(chosen, socket);
        }
    }

    /// Makes sure that a socket listens on the address. It stays open until the keeper ends or is told otherwise, so
    /// connections made while the main process restarts wait in its queue.
    fn listen(&mut self, address: SocketAddr) -> Result<(), Errno> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
        if self.sockets.contains_key(&address) {
            return Ok(());
        }
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        self.sockets.insert(address, socket);
        Ok(())
    }

    fn event(&mut self, event: KeeperEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Hands events to a client that has greeted and whose connection has room.
    fn tell(&mut self) {
        let epoll = &self.epoll;
        while let Some(client) = self.client.as_mut().filter(|client| client.has_room()) {
            let Some(event) = self.events.pop_front() else { return };
            if !client.send(&Message::Event(event), epoll) {
                self.client = None;
            }
        }
    }

    fn finish_stop(&mut self) -> bool {
        let Some((number, deadline)) = self.stopping else { return false };
        if !self.instances.is_empty() && dormouse_base::clock::now() < deadline {
            return false;
        }
        self.send(number, Ok(Reply::Done));
        if let Some(client) = &mut self.client {
            client.flush_within(Duration::from_secs(1));
        }
        true
    }
}
