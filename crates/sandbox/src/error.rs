//! What can go wrong, whose fault it is, and what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use dormouse_base::class::{Action, Class, Origin};
use serde::{Deserialize, Serialize};

/// An error number of the kernel; prints as the system's text, without the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", text(*.0))]
pub struct Errno(pub i32);

fn text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// An error of the sandbox component.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of the launch failed; nothing of the sandbox remains. Example: `exec /app/x: No such file or directory`.
    #[error("{step}")]
    Launch {
        /// What was attempted, with its path.
        step: String,
        /// Why it failed.
        #[source]
        errno: Errno,
    },
    /// The plan contradicts itself or has an impossible value.
    #[error("invalid plan: {0}")]
    Plan(String),
    /// No sandbox of this id runs.
    #[error("sandbox {0} does not run")]
    NotRunning(String),
    /// The command inside the sandbox took longer than allowed and was killed.
    #[error("command took longer than {0:?}")]
    ExecTimeout(Duration),
    /// The keeper could not listen.
    #[error("listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The kind tells `AddrInUse`, `PermissionDenied`…
        #[source]
        source: io::Error,
    },
    /// The keeper refused or failed at something else.
    #[error("keeper: {step}")]
    Keeper {
        /// What was attempted.
        step: String,
        /// Why it failed.
        #[source]
        errno: Errno,
    },
    /// The keeper process is gone, and all sandboxes with it.
    #[error("the keeper process is gone")]
    KeeperDied,
    /// A keeper of another version survived; stop it with the program that started it.
    #[error("the running keeper speaks protocol {theirs}, this program {ours}; stop the old one first")]
    Protocol {
        /// Version of the keeper.
        theirs: u32,
        /// Version of this program.
        ours: u32,
    },
    /// The keeper process could not be started.
    #[error("start the keeper process in {}: {detail}", dir.display())]
    Start {
        /// Its directory.
        dir: PathBuf,
        /// What it said, or what was waited for in vain.
        detail: String,
    },
    /// More requests wait for the keeper than fit.
    #[error("too many requests wait for the keeper")]
    Busy,
    /// An operation on files or sockets failed here.
    #[error("{step}")]
    Io {
        /// What was attempted, with its path.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// This machine's cgroups cannot be used.
    #[error("cgroups: {0}")]
    Cgroup(String),
}

impl Error {
    /// Whose fault it is and what to do.
    pub fn class(&self) -> Class {
        match self {
            Self::Launch { step, .. } if step.starts_with("exec ") => {
                Class::new(Origin::Caller, Action::RetryAfter(Duration::from_secs(10)))
            }
            Self::Plan(_) | Self::NotRunning(_) => Class::new(Origin::Caller, Action::GiveUp),
            Self::ExecTimeout(_) => Class::new(Origin::Upstream, Action::RetryAfter(Duration::from_secs(1))),
            Self::Busy => Class::new(Origin::Ourselves, Action::RetryAfter(Duration::from_millis(100))),
            Self::Listen { .. } => Class::new(Origin::Caller, Action::GiveUp),
            Self::KeeperDied | Self::Protocol { .. } | Self::Start { .. } => {
                Class::new(Origin::Ourselves, Action::Fatal)
            }
            Self::Launch { .. } | Self::Keeper { .. } | Self::Io { .. } | Self::Cgroup(_) => {
                Class::new(Origin::Ourselves, Action::RetryAfter(Duration::from_secs(1)))
            }
        }
    }

    pub(crate) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }
}
