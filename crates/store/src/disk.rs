//! The SQLite file: one append-only table of revisions, one of numbers.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, params};

use crate::error::Error;
use crate::object::{Change, Durability, ObjectKey, Stored};

/// Files up to this size are checked completely at open; larger ones only where they are read.
const CHECKED_BYTES: u64 = 64 << 20;
/// Superseded rows that stay for inspection.
const SUPERSEDED_KEPT: usize = 10_000;
/// Superseded rows deleted by one commit at most.
const SUPERSEDED_STEP: usize = 2_000;
/// Written into the lock file once the database has its tables: from then on an empty file means loss.
const MARK: &[u8] = b"dormouse store 1\n";

/// One row to write.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) change: Change,
    pub(crate) key: ObjectKey,
    pub(crate) revision: u64,
    pub(crate) previous: Option<u64>,
    pub(crate) bytes: Bytes,
}

pub(crate) struct Disk {
    connection: Connection,
    file: PathBuf,
    /// Held for the process's life; the kernel lets go of it whatever happens to us.
    _lock: File,
    /// Rows that a later row replaced, oldest first.
    superseded: VecDeque<u64>,
    /// No revision above this one may be handed out before a commit raises it.
    pub(crate) reserved: u64,
}

/// What was found at open.
pub(crate) struct Opened {
    pub(crate) disk: Disk,
    pub(crate) objects: Vec<Stored>,
    /// Above every revision ever handed out.
    pub(crate) revision: u64,
}

impl Disk {
    pub(crate) fn open(file: &Path, size_max: Option<u64>) -> Result<Opened, Error> {
        let directory = file.parent().unwrap_or(Path::new(".")).to_path_buf();
        std::fs::create_dir_all(&directory).map_err(|source| io("create", &directory, source))?;
        let mut lock_name = file.file_name().unwrap_or_default().to_os_string();
        lock_name.push(".lock");
        let lock_file = directory.join(lock_name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut lock = options.open(&lock_file).map_err(|source| io("open", &lock_file, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Locked { directory }),
            Err(std::fs::TryLockError::Error(source)) => return Err(io("lock", &lock_file, source)),
        }
        let mut mark = Vec::new();
        Read::by_ref(&mut lock)
            .take(64)
            .read_to_end(&mut mark)
            .map_err(|source| io("read", &lock_file, source))?;
        let size = std::fs::metadata(file).map(|metadata| metadata.len()).unwrap_or(0);
        if mark == MARK && size == 0 {
            return Err(Error::Corrupt {
                file: file.into(),
                detail: "it is empty or missing although objects were written to it".into(),
            });
        }
        // Created by us with a private mode: Secrets live in it.
        options.open(file).map_err(|source| io("open", file, source))?;

        let connection = Connection::open(file).map_err(|source| database("open", file, source))?;
        let opened = Self::set_up(connection, lock, file, size, size_max)?;
        if mark != MARK {
            let mut lock = &opened.disk._lock;
            lock.write_all(MARK)
                .and_then(|()| lock.sync_all())
                .map_err(|source| io("write", &lock_file, source))?;
        }
        Ok(opened)
    }

    fn set_up(
        connection: Connection,
        lock: File,
        file: &Path,
        size: u64,
        size_max: Option<u64>,
    ) -> Result<Opened, Error> {
        let failed = |operation| move |source| database(operation, file, source);
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-4096; PRAGMA temp_store=MEMORY;",
            )
            .map_err(failed("configure"))?;
        if let Some(bytes) = size_max {
            let page: i64 = connection
                .query_row("PRAGMA page_size", [], |row| row.get(0))
                .map_err(failed("configure"))?;
            let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1);
            connection
                .query_row(&format!("PRAGMA max_page_count={}", pages.max(8)), [], |row| row.get::<_, i64>(0))
                .map_err(failed("configure"))?;
        }
        if size > 0 && size <= CHECKED_BYTES {
            let answer: String = connection
                .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
                .map_err(failed("check"))?;
            if answer != "ok" {
                return Err(Error::Corrupt { file: file.into(), detail: answer.replace('\n', "; ") });
            }
        }
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS revisions (
                   revision INTEGER PRIMARY KEY, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
                   change INTEGER NOT NULL, previous INTEGER, value BLOB NOT NULL);
                 CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;",
            )
            .map_err(failed("create tables in"))?;
        if size == 0 {
            connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .map_err(failed("create tables in"))?;
        }
        let mut disk =
            Self { connection, file: file.into(), _lock: lock, superseded: VecDeque::new(), reserved: 0 };
        let (objects, last) = disk.load()?;
        let reserved: i64 = disk
            .connection
            .query_row("SELECT coalesce(max(value), 0) FROM numbers WHERE name = 'reserved'", [], |row| {
                row.get(0)
            })
            .map_err(failed("read"))?;
        disk.reserved = unsigned(reserved).max(last);
        let revision = disk.reserved;
        Ok(Opened { disk, objects, revision })
    }

    /// The live objects and the highest revision; remembers which rows are superseded.
    fn load(&mut self) -> Result<(Vec<Stored>, u64), Error> {
        let failed = |source| database("read", &self.file, source);
        let mut live: std::collections::HashMap<ObjectKey, Stored> = std::collections::HashMap::new();
        let mut names: std::collections::HashSet<Arc<str>> = std::collections::HashSet::new();
        let mut intern = |text: String| -> Arc<str> {
            if let Some(known) = names.get(text.as_str()) {
                return known.clone();
            }
            let name: Arc<str> = text.into();
            names.insert(name.clone());
            name
        };
        let mut superseded = Vec::new();
        let mut last = 0;
        let mut statement = self
            .connection
            .prepare(
                "SELECT revision, resource, namespace, name, change, value FROM revisions ORDER BY revision",
            )
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let revision = unsigned(row.get(0).map_err(failed)?);
            let key = ObjectKey {
                resource: intern(row.get(1).map_err(failed)?),
                namespace: intern(row.get(2).map_err(failed)?),
                name: row.get::<_, String>(3).map_err(failed)?.into(),
            };
            last = revision;
            let deleted = row.get::<_, i64>(4).map_err(failed)? == 2;
            let old = if deleted {
                superseded.push(revision);
                live.remove(&key)
            } else {
                let bytes: Vec<u8> = row.get(5).map_err(failed)?;
                if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err() {
                    return Err(Error::Corrupt {
                        file: self.file.clone(),
                        detail: format!("the value of {key} at revision {revision} is not JSON"),
                    });
                }
                let object = Stored {
                    key: key.clone(),
                    revision,
                    durability: Durability::Durable,
                    bytes: bytes.into(),
                };
                live.insert(key, object)
            };
            superseded.extend(old.map(|old| old.revision));
        }
        drop(rows);
        drop(statement);
        superseded.sort_unstable();
        self.superseded = superseded.into();
        Ok((live.into_values().collect(), last))
    }

    /// Writes all rows and the reservation, or nothing; returns once the disk has them.
    pub(crate) fn commit(&mut self, rows: &[Row], reserve: Option<u64>) -> Result<(), Error> {
        let surplus = self.superseded.len().saturating_sub(SUPERSEDED_KEPT).min(SUPERSEDED_STEP);
        // A little at a time costs a commit each: wait for a worthwhile portion.
        let drop_below = (surplus >= SUPERSEDED_STEP / 2).then_some(surplus);
        let result = self.try_commit(rows, reserve, drop_below);
        match result {
            Ok(()) => {
                if let Some(count) = drop_below {
                    self.superseded.drain(..count);
                }
                for row in rows {
                    self.superseded.extend(row.previous);
                    if row.change == Change::Deleted {
                        self.superseded.push_back(row.revision);
                    }
                }
                self.reserved = reserve.unwrap_or(self.reserved);
                Ok(())
            }
            Err(source) => Err(database("write", &self.file, source)),
        }
    }

    fn try_commit(
        &mut self,
        rows: &[Row],
        reserve: Option<u64>,
        drop_below: Option<usize>,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare(
                "INSERT INTO revisions (revision, resource, namespace, name, change, previous, value)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for row in rows {
                let change = match row.change {
                    Change::Added => 0,
                    Change::Modified => 1,
                    Change::Deleted => 2,
                };
                insert.execute(params![
                    signed(row.revision),
                    &*row.key.resource,
                    &*row.key.namespace,
                    &*row.key.name,
                    change,
                    row.previous.map(signed),
                    &row.bytes[..],
                ])?;
            }
            if let Some(reserved) = reserve {
                transaction.execute(
                    "INSERT INTO numbers (name, value) VALUES ('reserved', ?1)
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    params![signed(reserved)],
                )?;
            }
            if let Some(count) = drop_below {
                let mut delete = transaction.prepare("DELETE FROM revisions WHERE revision = ?1")?;
                for revision in self.superseded.iter().take(count) {
                    delete.execute(params![signed(*revision)])?;
                }
            }
        }
        transaction.commit()
    }

    /// Gives unused revisions back and folds the log into the file.
    pub(crate) fn close(mut self, revision: u64) {
        let reserved = self.try_commit(&[], Some(revision), None);
        let folded = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = reserved.and(folded) {
            tracing::warn!(file = %self.file.display(), %error, "closing the store left its log unfolded");
        }
    }
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn io(operation: &'static str, file: &Path, source: std::io::Error) -> Error {
    Error::File { file: file.into(), operation, source: Arc::new(source) }
}

fn database(operation: &'static str, file: &Path, source: rusqlite::Error) -> Error {
    let file = file.to_path_buf();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::Corrupt { file, detail: source.to_string() }
        }
        Some(ErrorCode::DiskFull) => Error::StorageFull { file, source: Arc::new(source) },
        _ => Error::Database { file, operation, source: Arc::new(source) },
    }
}
