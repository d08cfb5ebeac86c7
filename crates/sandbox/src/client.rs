//! The main process's handle to its keeper.
//!
//! A call writes its frame on the caller's own thread, without a hop through a task, because a launch is on the path of a
//! held request. Answers are read by one task, which ends when the keeper or the last handle is gone.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dormouse_base::clock;
use dormouse_base::task::Tasks;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::error::Error;
use crate::keeper::{LOG, SOCKET};
use crate::plan::{ExecResult, KeeperEvent, Launched, Plan, Running};
use crate::wire::{self, Call, Decoder, Failure, Message, PROTOCOL, Reply, Request};

/// Events wait here for their reader; when it is full, answers wait too.
const MAX_EVENTS: usize = 16 << 10;
/// Bytes that wait for the keeper; beyond it calls answer [`Error::Busy`].
const MAX_UNSENT: usize = 64 << 20;
/// How long a fresh keeper may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A handle to the keeper process. Clones share one connection.
#[derive(Clone, Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    /// Dropped with the last handle: that ends the reader.
    _alive: Arc<oneshot::Sender<()>>,
    pid: u32,
}

#[derive(Debug)]
struct Shared {
    stream: UnixStream,
    unsent: Mutex<Vec<u8>>,
    more: Notify,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
}

type Answer = Result<(Reply, Option<OwnedFd>), Failure>;

#[derive(Debug, Default)]
struct Waiting {
    calls: HashMap<u64, oneshot::Sender<Answer>>,
    dead: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// Attaches to the keeper that lives in `dir`, or starts `exe keeper --dir dir`, which outlives this process.
    /// Answers the handle, the events (those of the time without a main process first) and what runs.
    ///
    /// The receiver must be read: when its 16384 places are taken, answers to calls wait too.
    ///
    /// # Errors
    /// The keeper cannot be started or speaks another protocol.
    pub async fn start_or_attach(
        exe: &Path,
        dir: &Path,
        tasks: &Tasks,
    ) -> Result<(Self, mpsc::Receiver<KeeperEvent>, Vec<Running>), Error> {
        let step = |what: &str| format!("{what} {}", dir.display());
        fs::create_dir_all(dir).map_err(Error::io(step("create")))?;
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(Error::io(step("restrict")))?;
        let socket = dir.join(SOCKET);
        let stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                start(exe, dir, tasks).await?
            }
            Err(error) => return Err(Error::io(step("connect to the keeper in"))(error)),
        };
        let shared = Arc::new(Shared {
            stream,
            unsent: Mutex::default(),
            more: Notify::new(),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
        });
        let (alive, gone) = oneshot::channel();
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        tasks.spawn("sandbox-keeper", attend(shared.clone(), events, gone));
        let mut keeper = Self { shared, _alive: Arc::new(alive), pid: 0 };
        match keeper.call(Call::Hello { protocol: PROTOCOL }).await? {
            Reply::Hello { protocol: PROTOCOL, pid } => keeper.pid = pid,
            Reply::Hello { protocol, .. } => {
                return Err(Error::Protocol { theirs: protocol, ours: PROTOCOL });
            }
            _ => return Err(unexpected()),
        }
        let running = keeper.running().await?;
        Ok((keeper, receiver, running))
    }

    /// Process id of the keeper.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Starts a sandbox. Returns when its first process has become the program.
    ///
    /// Dropping the future does not undo the launch.
    ///
    /// # Errors
    /// [`Error::Launch`] tells the step that failed; then nothing of the sandbox remains but its `work_dir`.
    pub async fn launch(&self, plan: Plan) -> Result<Launched, Error> {
        match self.call(Call::Launch(Box::new(plan))).await? {
            Reply::Launched { pid } => Ok(Launched { pid }),
            _ => Err(unexpected()),
        }
    }

    /// Sends a signal to the first process of a sandbox. Note that the kernel drops signals that the first process of a
    /// pid namespace does not handle, except SIGKILL and SIGSTOP.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when it has ended.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.call_about(id, Call::Signal { id: id.to_owned(), signal }).await.map(drop)
    }

    /// Runs a command inside a sandbox, as its user and within its limits.
    ///
    /// # Errors
    /// [`Error::ExecTimeout`] after `timeout`, when the command has been killed.
    pub async fn exec(&self, id: &str, args: Vec<String>, timeout: Duration) -> Result<ExecResult, Error> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        match self.call_about(id, Call::Exec { id: id.to_owned(), args, timeout_ms }).await {
            Ok(Reply::Executed(result)) => Ok(result),
            Ok(_) => Err(unexpected()),
            Err(Error::ExecTimeout(_)) => Err(Error::ExecTimeout(timeout)),
            Err(error) => Err(error),
        }
    }

    /// What runs, by id; empty when the keeper is gone.
    pub async fn list(&self) -> Vec<Running> {
        self.running().await.unwrap_or_default()
    }

    async fn running(&self) -> Result<Vec<Running>, Error> {
        match self.call(Call::List).await? {
            Reply::Running(running) => Ok(running),
            _ => Err(unexpected()),
        }
    }

    /// A listening socket (not blocking, SO_REUSEADDR) that the keeper has bound and keeps: it survives `kill -9` of
    /// this process, and the same address gives the same socket again. Port 0 gives another socket each time.
    ///
    /// # Errors
    /// [`Error::Listen`] with the kind of the kernel's error, for instance `AddrInUse`.
    pub async fn listen(&self, address: SocketAddr) -> Result<std::net::TcpListener, Error> {
        match self.ask(Call::Listen { address }).await? {
            Ok((Reply::Listening, Some(socket))) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true).map_err(|source| Error::Listen { address, source })?;
                Ok(listener)
            }
            Ok(_) => Err(unexpected()),
            Err(Failure::Listen { errno }) => {
                Err(Error::Listen { address, source: io::Error::from_raw_os_error(errno.0) })
            }
            Err(failure) => Err(error_of(failure, "")),
        }
    }

    /// Lets the keeper close its copy of a listening socket.
    pub async fn unlisten(&self, address: SocketAddr) {
        let _ = self.call(Call::Unlisten { address }).await;
    }

    /// Kills every sandbox and ends the keeper; returns when that is done.
    pub async fn stop(&self) {
        let _ = self.call(Call::Stop).await;
    }

    async fn call(&self, call: Call) -> Result<Reply, Error> {
        self.call_about("", call).await
    }

    async fn call_about(&self, id: &str, call: Call) -> Result<Reply, Error> {
        match self.ask(call).await? {
            Ok((reply, _)) => Ok(reply),
            Err(failure) => Err(error_of(failure, id)),
        }
    }

    async fn ask(&self, call: Call) -> Result<Answer, Error> {
        let (answer, answered) = oneshot::channel();
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = lock(&self.shared.waiting);
            if waiting.dead {
                return Err(Error::KeeperDied);
            }
            waiting.calls.insert(number, answer);
        }
        self.shared.send(&wire::encode(&Request { number, call }))?;
        answered.await.map_err(|_| Error::KeeperDied)
    }
}

fn unexpected() -> Error {
    Error::Keeper { step: "an answer of another kind".to_owned(), errno: crate::error::Errno(libc::EPROTO) }
}

pub(crate) fn error_of(failure: Failure, id: &str) -> Error {
    match failure {
        Failure::Launch { step, errno } => Error::Launch { step, errno },
        Failure::Plan(text) => Error::Plan(text),
        Failure::NotRunning => Error::NotRunning(id.to_owned()),
        Failure::Timeout => Error::ExecTimeout(Duration::ZERO),
        Failure::Listen { errno } => Error::Keeper { step: "listen".to_owned(), errno },
    }
}

impl Shared {
    /// Sends at once what the socket takes; the attending task sends the rest.
    fn send(&self, frame: &[u8]) -> Result<(), Error> {
        let mut unsent = lock(&self.unsent);
        if unsent.len() + frame.len() > MAX_UNSENT {
            return Err(Error::Busy);
        }
        unsent.extend_from_slice(frame);
        // A failure here is a dead keeper: the reader sees that too and ends every call.
        let _ = self.flush(&mut unsent);
        if !unsent.is_empty() {
            self.more.notify_one();
        }
        Ok(())
    }

    fn flush(&self, unsent: &mut Vec<u8>) -> io::Result<()> {
        while !unsent.is_empty() {
            match wire::send(&self.stream, unsent, None) {
                Ok(sent) => drop(unsent.drain(..sent)),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn try_flush(&self) -> io::Result<()> {
        let mut unsent = lock(&self.unsent);
        self.flush(&mut unsent)
    }

    fn answer(&self, number: u64, answer: Answer) {
        if let Some(call) = lock(&self.waiting).calls.remove(&number) {
            // A caller that has gone away does not want its answer.
            let _ = call.send(answer);
        }
    }
}

/// Reads answers and events, and sends what `send` could not, until the keeper or the last handle is gone.
async fn attend(shared: Arc<Shared>, events: mpsc::Sender<KeeperEvent>, mut gone: oneshot::Receiver<()>) {
    let mut decoder = Decoder::default();
    let mut sockets = std::collections::VecDeque::new();
    let mut buffer = vec![0; 64 << 10];
    'connected: loop {
        // Cancel-safe: readiness is asked anew, and bytes are only taken in the branch that runs to its end.
        let received = tokio::select! {
            biased;
            _ = &mut gone => return,
            received = shared.stream.async_io(Interest::READABLE, || Ok(wire::receive(&shared.stream, &mut buffer)?)) => received,
            () = shared.more.notified() => {
                let sent = shared.stream.async_io(Interest::WRITABLE, || shared.try_flush());
                tokio::select! {
                    biased;
                    _ = &mut gone => return,
                    // The keeper may be waiting for us to read before it reads: never only write.
                    result = sent => if result.is_err() { break 'connected },
                    readable = shared.stream.readable() => {
                        if readable.is_err() { break 'connected }
                        shared.more.notify_one();
                        tokio::task::yield_now().await;
                    }
                }
                continue;
            }
        };
        let (length, socket) = match received {
            Ok((0, _)) | Err(_) => break,
            Ok(received) => received,
        };
        sockets.extend(socket);
        decoder.feed(buffer.get(..length).unwrap_or_default());
        loop {
            match decoder.next::<Message>() {
                Ok(None) => break,
                Ok(Some(Message::Event(event))) => {
                    // Nobody listens any more: the calls still work.
                    let _ = events.send(event).await;
                }
                Ok(Some(Message::Reply { number, reply })) => {
                    let answer = reply.map(|reply| {
                        let socket = matches!(reply, Reply::Listening).then(|| sockets.pop_front()).flatten();
                        (reply, socket)
                    });
                    shared.answer(number, answer);
                }
                Err(error) => {
                    tracing::error!(%error, "the keeper says what cannot be understood");
                    break 'connected;
                }
            }
        }
    }
    let calls = {
        let mut waiting = lock(&shared.waiting);
        waiting.dead = true;
        std::mem::take(&mut waiting.calls)
    };
    drop(calls);
    let _ = events.send(KeeperEvent::KeeperDied).await;
}

/// Starts a keeper process and connects to it.
async fn start(exe: &Path, dir: &Path, tasks: &Tasks) -> Result<UnixStream, Error> {
    let failed = |detail: String| Error::Start { dir: dir.to_owned(), detail };
    let log_path = dir.join(LOG);
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(|error| failed(format!("open {}: {error}", log_path.display())))?;
    let mut child = tokio::process::Command::new(exe)
        .arg("keeper")
        .arg("--dir")
        .arg(dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|error| failed(error.to_string()))?)
        .stderr(log)
        .spawn()
        .map_err(|error| failed(format!("run {}: {error}", exe.display())))?;
    let deadline = clock::now() + START_PATIENCE;
    loop {
        match UnixStream::connect(dir.join(SOCKET)).await {
            Ok(stream) => {
                // Reaps it should it die while we live; it does not die with us.
                tasks.spawn_connection("sandbox-keeper-process", async move {
                    let _ = child.wait().await;
                });
                return Ok(stream);
            }
            Err(_) if clock::now() < deadline => {}
            Err(error) => return Err(failed(format!("it does not listen: {error}"))),
        }
        if let Ok(Some(status)) = child.try_wait() {
            let said = fs::read_to_string(&log_path).unwrap_or_default();
            let said = said.lines().last().unwrap_or("it said nothing");
            return Err(failed(format!("it ended ({status}): {said}")));
        }
        clock::sleep(Duration::from_millis(1)).await;
    }
}
