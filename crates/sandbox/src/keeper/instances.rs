//! Instances and the commands inside them: started, listened to, signalled, reaped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions};

use super::{Keeper, Source, note};
use crate::error::Errno;
use crate::log::{Log, Stream};
use crate::plan::{ExecResult, KeeperEvent, Plan, Running};
use crate::wire::{Failure, Reply};

/// Output of a command beyond this is dropped.
const MAX_OUTPUT: usize = 64 << 10;

pub(super) struct Instance {
    pub(super) pidfd: OwnedFd,
    pid: u32,
    plan: Plan,
    log: Log,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    oom_kills: u64,
}

/// A command inside an instance.
pub(super) struct Command {
    pub(super) deadline: Instant,
    request: u64,
    client: u64,
    pidfd: OwnedFd,
    output: Option<OwnedFd>,
    text: Vec<u8>,
    late: bool,
}

impl Keeper {
    /// Answers the number of the instance and its process id.
    pub(super) fn launch(&mut self, mut plan: Plan) -> Result<(u64, u32), Failure> {
        if self.by_id.contains_key(&plan.id) {
            return Err(Failure::Plan(format!("id: {} runs already", plan.id)));
        }
        if self.stopping.is_some() {
            return Err(Failure::Plan("the keeper is stopping".to_owned()));
        }
        let started = self.launcher.launch(&plan)?;
        plan.files.clear();
        let number = self.number();
        let instance = Instance {
            pidfd: started.pidfd,
            pid: started.pid,
            log: Log::new(plan.log.clone()),
            stdout: Some(started.stdout),
            stderr: Some(started.stderr),
            oom_kills: started.oom_kills,
            plan,
        };
        self.by_id.insert(instance.plan.id.clone(), number);
        self.instances.insert(number, instance);
        Ok((number, started.pid))
    }

    /// What the client need not wait for. Whatever has happened meanwhile is still there to be seen.
    pub(super) fn after_launch(&mut self, number: u64) {
        let Some(instance) = self.instances.get_mut(&number) else { return };
        if let Err(error) = instance.log.open() {
            note(format_args!("log of {}: {error}", instance.plan.id));
        }
        let Some(instance) = self.instances.get(&number) else { return };
        let fds = [
            (Some(&instance.pidfd), Source::Exit),
            (instance.stdout.as_ref(), Source::Stdout),
            (instance.stderr.as_ref(), Source::Stderr),
        ];
        for (fd, source) in fds {
            if let Some(Err(error)) = fd.map(|fd| self.watch(fd, source, number)) {
                note(format_args!("cannot watch {}: {error}", instance.plan.id));
                let _ = crate::sys::send_signal(instance.pidfd.as_fd(), libc::SIGKILL);
            }
        }
    }

    pub(super) fn running(&self) -> Vec<Running> {
        let running = |instance: &Instance| Running {
            id: instance.plan.id.clone(),
            pid: instance.pid,
            label: instance.plan.label.clone(),
        };
        let mut all: Vec<_> = self.instances.values().map(running).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    fn find(&self, id: &str) -> Result<&Instance, Failure> {
        self.by_id.get(id).and_then(|number| self.instances.get(number)).ok_or(Failure::NotRunning)
    }

    pub(super) fn signal(&self, id: &str, signal: i32) -> Result<(), Failure> {
        let instance = self.find(id)?;
        match crate::sys::send_signal(instance.pidfd.as_fd(), signal) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::SRCH) => Err(Failure::NotRunning),
            Err(errno) => Err(Failure::Launch { step: format!("signal {signal}"), errno: errno.into() }),
        }
    }

    pub(super) fn read_log(&mut self, source: Source, number: u64) {
        let Some(instance) = self.instances.get_mut(&number) else { return };
        instance.read(source, &mut self.buffer);
    }

    /// Its first process has ended, and the kernel has killed the others of its pid namespace before saying so.
    pub(super) fn exited(&mut self, number: u64) {
        let Some(mut instance) = self.instances.remove(&number) else { return };
        self.by_id.remove(&instance.plan.id);
        let (code, signal) = reap(instance.pidfd.as_fd());
        for source in [Source::Stdout, Source::Stderr] {
            while instance.has_output(source) && instance.read(source, &mut self.buffer) {}
        }
        if let Err(error) = instance.log.finish(dormouse_base::clock::wall()) {
            note(format_args!("log of {}: {error}", instance.plan.id));
        }
        let oom = instance.plan.cgroup.oom_kills() > instance.oom_kills;
        self.event(KeeperEvent::Exited { id: instance.plan.id, code, signal, oom });
    }

    /// Starts a command; its answer is sent when it has ended.
    pub(super) fn execute(
        &mut self,
        request: u64,
        id: &str,
        args: &[String],
        timeout: Duration,
    ) -> Result<(), Failure> {
        let number = self.by_id.get(id).ok_or(Failure::NotRunning)?;
        let instance = self.instances.get(number).ok_or(Failure::NotRunning)?;
        let joined = self.launcher.join(&instance.plan, instance.pidfd.as_fd(), args)?;
        let number = self.number();
        let watched = self
            .watch(&joined.pidfd, Source::CommandExit, number)
            .and_then(|()| self.watch(&joined.output, Source::CommandOutput, number));
        if let Err(error) = watched {
            let _ = crate::sys::send_signal(joined.pidfd.as_fd(), libc::SIGKILL);
            return Err(Failure::Launch { step: "watch a command".to_owned(), errno: error.into() });
        }
        let command = Command {
            deadline: dormouse_base::clock::now() + timeout,
            request,
            client: self.client.as_ref().map_or(0, |client| client.number),
            pidfd: joined.pidfd,
            output: Some(joined.output),
            text: Vec::new(),
            late: false,
        };
        self.commands.insert(number, command);
        Ok(())
    }

    pub(super) fn command_output(&mut self, number: u64) {
        let Some(command) = self.commands.get_mut(&number) else { return };
        command.read(&mut self.buffer);
    }

    pub(super) fn command_exited(&mut self, number: u64) {
        let Some(mut command) = self.commands.remove(&number) else { return };
        let (code, signal) = reap(command.pidfd.as_fd());
        while command.output.as_ref().is_some_and(readable) && command.read(&mut self.buffer) {}
        let exit_code = code.unwrap_or_else(|| 128 + signal.unwrap_or_default());
        let output = String::from_utf8_lossy(&command.text).into_owned();
        let reply = if command.late {
            Err(Failure::Timeout)
        } else {
            Ok(Reply::Executed(ExecResult { exit_code, output }))
        };
        // Numbers of requests are a client's own: a successor must not get its predecessor's answers.
        if self.client.as_ref().is_some_and(|client| client.number == command.client) {
            self.send(command.request, reply);
        }
    }

    pub(super) fn kill_late_commands(&mut self) {
        if self.commands.is_empty() {
            return;
        }
        let now = dormouse_base::clock::now();
        for command in self.commands.values_mut().filter(|command| command.deadline <= now) {
            // The exit wakes us again; until then look once a second.
            command.late = true;
            command.deadline = now + Duration::from_secs(1);
            let _ = crate::sys::send_signal(command.pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

impl Instance {
    fn has_output(&self, source: Source) -> bool {
        let fd = if source == Source::Stdout { &self.stdout } else { &self.stderr };
        fd.as_ref().is_some_and(readable)
    }

    /// Moves what one read gives into the log; false when the stream has ended.
    fn read(&mut self, source: Source, buffer: &mut [u8]) -> bool {
        let (fd, stream) = match source {
            Source::Stdout => (&mut self.stdout, Stream::Stdout),
            _ => (&mut self.stderr, Stream::Stderr),
        };
        let Some(length) = fd.as_ref().map(|fd| rustix::io::read(fd, &mut *buffer).unwrap_or_default())
        else {
            return false;
        };
        if length == 0 {
            *fd = None;
            return false;
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        let result = self.log.feed(stream, bytes, dormouse_base::clock::wall());
        match result {
            Err(error) if !self.log.broken => {
                note(format_args!("log of {}: {error}", self.plan.id));
                self.log.broken = true;
            }
            Err(_) => {}
            Ok(()) => self.log.broken = false,
        }
        true
    }
}

impl Command {
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        let Some(fd) = &self.output else { return false };
        let length = rustix::io::read(fd, &mut *buffer).unwrap_or_default();
        if length == 0 {
            self.output = None;
            return false;
        }
        let room = MAX_OUTPUT.saturating_sub(self.text.len());
        self.text.extend_from_slice(buffer.get(..length.min(room)).unwrap_or_default());
        true
    }
}

fn readable(fd: &OwnedFd) -> bool {
    let mut poll = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|count| count > 0)
}

/// Exit code and signal of a process that has ended.
fn reap(pidfd: BorrowedFd<'_>) -> (Option<i32>, Option<i32>) {
    match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
        Ok(Some(status)) => (status.exit_status(), status.terminating_signal()),
        Ok(None) => (None, None),
        Err(errno) => {
            note(format_args!("cannot reap: {}", Errno::from(errno)));
            (None, None)
        }
    }
}
