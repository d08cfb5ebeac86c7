//! What can go wrong, with its subject.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dormouse_base::class::{Action, Class, Origin};

use crate::object::ObjectKey;

/// A failure of the store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A create found the object present.
    #[error("object {key} already exists")]
    Exists {
        /// The object.
        key: ObjectKey,
    },
    /// An update or delete found no object.
    #[error("object {key} does not exist")]
    Missing {
        /// The object.
        key: ObjectKey,
    },
    /// The object is not at the expected revision.
    #[error("object {key} is at revision {current}")]
    Conflict {
        /// The object.
        key: ObjectKey,
        /// Where it is now.
        current: u64,
    },
    /// The changes after the wanted revision are no longer known.
    #[error("revision {wanted} is too old; the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        wanted: u64,
        /// The oldest revision from which a watch can start.
        oldest: u64,
    },
    /// The wanted revision has not been handed out yet.
    #[error("revision {wanted} is in the future; the current one is {current}")]
    Future {
        /// What was asked for.
        wanted: u64,
        /// The current revision.
        current: u64,
    },
    /// Another process uses the same data.
    #[error("data directory {directory} is in use by another process")]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// The file is not what was written.
    #[error(
        "store file {file} is damaged ({detail}); restore it from a backup or move it away to start empty"
    )]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The disk (or the configured limit) is full; nothing was changed.
    #[error("no space left for store file {file}; nothing was changed")]
    StorageFull {
        /// The file.
        file: PathBuf,
        /// What the database said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The database failed.
    #[error("{operation} store file {file}")]
    Database {
        /// The file.
        file: PathBuf,
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the database said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file system failed.
    #[error("{operation} {file}")]
    File {
        /// The file.
        file: PathBuf,
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Whose fault it is and what to do.
    pub fn class(&self) -> Class {
        match self {
            Self::Exists { .. } | Self::Missing { .. } => Class::new(Origin::Caller, Action::GiveUp),
            Self::Conflict { .. } | Self::Compacted { .. } => Class::new(Origin::Caller, Action::Conflict),
            Self::Future { .. } => Class::new(Origin::Caller, Action::RetryAfter(Duration::from_secs(1))),
            Self::Locked { .. } => Class::new(Origin::Caller, Action::Fatal),
            Self::Corrupt { .. } | Self::File { .. } | Self::Database { .. } => {
                Class::new(Origin::Upstream, Action::Fatal)
            }
            Self::StorageFull { .. } => {
                Class::new(Origin::Upstream, Action::RetryAfter(Duration::from_secs(10)))
            }
            Self::Closed => Class::new(Origin::Ourselves, Action::GiveUp),
        }
    }
}
