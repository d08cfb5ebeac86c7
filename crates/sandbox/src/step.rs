//! One command of a build, run to its end: a sandbox without keeper, watched by the thread that started it.
//!
//! The thread gives up its network for the sandbox's when the command may not use it, so it is made for the command and
//! ends with it. When the calling process dies, the command dies too.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dormouse_base::clock;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{WaitId, WaitIdOptions};

use crate::cgroup::Cgroup;
use crate::client::error_of;
use crate::error::{Errno, Error};
use crate::launch::{Launcher, Started};
use crate::log::Stream;
use crate::plan::Plan;
use crate::sys;

/// How often the disk and the caller's wish to cancel are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Bounds of one command.
#[derive(Clone, Debug)]
pub struct StepGuard {
    /// A directory of this command alone, where the root is mounted.
    pub dir: PathBuf,
    /// Killed after this long.
    pub timeout: Duration,
    /// Its group, for the report of what the limits have stopped.
    pub cgroup: Option<Cgroup>,
    /// A directory whose file system keeps at least that many bytes free, or the command is killed.
    pub disk_reserve: Option<(PathBuf, u64)>,
    /// Whether it has the host's network; otherwise only its own loopback.
    pub network: bool,
}

/// Why a command was killed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It took too long.
    Timeout,
    /// The caller gave up.
    Canceled,
    /// It filled the disk.
    Disk,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepEnd {
    /// Exit code, when it exited by itself.
    pub code: Option<i32>,
    /// Signal, when one ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed one of its processes for lack of memory.
    pub oom: bool,
    /// Whether a process could not be made because of the limit.
    pub process_limit: bool,
    /// Why we killed it, if we did.
    pub stopped: Option<Stop>,
}

/// What a command says and whether it may go on.
pub trait StepWatch: Send {
    /// Bytes of its output as they come.
    fn output(&mut self, stream: Stream, bytes: &[u8]);
    /// Whether it shall be killed now.
    fn canceled(&self) -> bool;
}

/// Runs the command of `plan` and waits for its end. Its id, label and log mean nothing here. Blocking.
///
/// # Errors
/// [`Error::Plan`] or [`Error::Launch`] when it could not be started.
pub fn run_step(plan: &Plan, guard: &StepGuard, watch: &mut dyn StepWatch) -> Result<StepEnd, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("build-step".to_owned());
        let handle = thread
            .spawn_scoped(scope, || run(plan, guard, watch))
            .map_err(Error::io("start a thread for the step"))?;
        handle.join().unwrap_or_else(|_| Err(Error::Plan("the step's thread ended early".to_owned())))
    })
}

fn run(plan: &Plan, guard: &StepGuard, watch: &mut dyn StepWatch) -> Result<StepEnd, Error> {
    let launch = |step: &str, errno: rustix::io::Errno| Error::Launch {
        step: step.to_owned(),
        errno: Errno::from(errno),
    };
    if !guard.network {
        sys::new_namespaces(libc::CLONE_NEWNET)
            .and_then(|()| sys::loopback_up())
            .map_err(|errno| launch("make a network of its own", errno))?;
    }
    let mut launcher = Launcher::new(&guard.dir)
        .map_err(Error::io(format!("prepare the sandbox in {}", guard.dir.display())))?;
    let refused = guard.cgroup.as_ref().map_or(0, Cgroup::process_refusals);
    let started = launcher.launch(plan).map_err(|failure| error_of(failure, &plan.id))?;
    let stopped = attend(&started, guard, watch);
    let mut end = reap(started.pidfd.as_fd()).map_err(|errno| launch("wait for the command", errno))?;
    end.stopped = stopped;
    end.oom = plan.cgroup.oom_kills() > started.oom_kills;
    end.process_limit = guard.cgroup.as_ref().map_or(0, Cgroup::process_refusals) > refused;
    Ok(end)
}

/// Passes the output on until the command has ended and everything that it wrote is read.
fn attend(started: &Started, guard: &StepGuard, watch: &mut dyn StepWatch) -> Option<Stop> {
    let deadline = clock::now() + guard.timeout;
    let mut open = [(Stream::Stdout, Some(&started.stdout)), (Stream::Stderr, Some(&started.stderr))];
    let mut stopped = None;
    let mut ended = false;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut polls = vec![];
        if !ended {
            polls.push((None, PollFd::new(&started.pidfd, PollFlags::IN)));
        }
        for (place, (_, fd)) in open.iter().enumerate() {
            polls.extend(fd.map(|fd| (Some(place), PollFd::new(fd, PollFlags::IN))));
        }
        let (places, mut fds): (Vec<_>, Vec<_>) = polls.into_iter().unzip();
        // After the end only what is already in the pipes counts.
        let wait =
            if ended { Duration::ZERO } else { TICK.min(deadline.saturating_duration_since(clock::now())) };
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let ready = rustix::event::poll(&mut fds, Some(&wait)).unwrap_or_default();
        if ended && ready == 0 {
            return stopped;
        }
        let ready: Vec<_> =
            places.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(p, _)| p).collect();
        for place in ready {
            let Some(slot) = place.and_then(|place| open.get_mut(place)) else {
                ended = true;
                continue;
            };
            let Some(fd) = slot.1 else { continue };
            match rustix::io::read(fd, &mut *buffer) {
                Ok(0) => slot.1 = None,
                Ok(count) => watch.output(slot.0, buffer.get(..count).unwrap_or_default()),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => slot.1 = None,
            }
        }
        if ended && open.iter().all(|(_, fd)| fd.is_none()) {
            return stopped;
        }
        if stopped.is_none() && !ended {
            stopped = reason_to_stop(guard, deadline, watch);
            if stopped.is_some() {
                // The first process of a namespace takes all others along.
                let _ = rustix::process::pidfd_send_signal(&started.pidfd, rustix::process::Signal::KILL);
            }
        }
    }
}

fn reason_to_stop(guard: &StepGuard, deadline: Instant, watch: &dyn StepWatch) -> Option<Stop> {
    if watch.canceled() {
        return Some(Stop::Canceled);
    }
    if clock::now() >= deadline {
        return Some(Stop::Timeout);
    }
    let (dir, reserve) = guard.disk_reserve.as_ref()?;
    let free = rustix::fs::statvfs(dir).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)).ok()?;
    (free < *reserve).then_some(Stop::Disk)
}

fn reap(pidfd: BorrowedFd<'_>) -> Result<StepEnd, rustix::io::Errno> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(status) => {
                let status = status.as_ref();
                return Ok(StepEnd {
                    code: status.and_then(|status| status.exit_status()),
                    signal: status.and_then(|status| status.terminating_signal()),
                    ..StepEnd::default()
                });
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
