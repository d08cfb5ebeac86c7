//! Reading what instances wrote: files of lines `<RFC 3339 time> stdout|stderr F|P <text>`, rotated as `<file>.1`, `.2`…

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dormouse_base::clock;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::manager::cell::{Cell, Container};

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(100);
/// The longest line that is passed on in one piece.
const LINE_MAX: u64 = 256 << 10;
/// Chunks read ahead of a slow client.
const CHUNKS_MAX: usize = 16;
/// As much of a file's end as is looked at for the last words.
const LAST_WORDS_WINDOW: u64 = 8 << 10;
/// Rotated files that are looked for.
const ROTATED_MAX: u32 = 32;

/// What a client asks of a pod's log.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// The container; the only one when absent.
    pub container: Option<String>,
    /// Keep reading until the container ends.
    pub follow: bool,
    /// The container before the last restart.
    pub previous: bool,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// End after this many bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines written within this time.
    pub since_seconds: Option<i64>,
    /// Only lines written at or after this time.
    pub since_time: Option<Timestamp>,
}

/// Why there is no log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No such pod on this node.
    #[error("{0}")]
    NotFound(String),
    /// The container has not started; the text is the whole message.
    #[error("{0}")]
    Waiting(String),
    /// The request cannot be answered; the text is the whole message.
    #[error("{0}")]
    BadRequest(String),
}

/// One line of a log file.
struct Line<'a> {
    time: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    parts.next()?;
    let partial = parts.next()? == b"P";
    let text = parts.next().unwrap_or_default();
    Some(Line { time, partial, text: text.strip_suffix(b"\n").unwrap_or(text) })
}

/// Turns file lines into what the client asked for.
struct Filter {
    timestamps: bool,
    since: Option<Timestamp>,
    left: Option<u64>,
    in_line: bool,
}

impl Filter {
    /// Appends the line to `out`; `false` when the limit is reached.
    fn pass(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(line) else { return true };
        if let Some(since) = self.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return true;
        }
        let before = out.len();
        if self.timestamps && !self.in_line {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.in_line = line.partial;
        let Some(left) = &mut self.left else { return true };
        let grown = u64::try_from(out.len() - before).unwrap_or(u64::MAX);
        if grown >= *left {
            out.truncate(before + usize::try_from(*left).unwrap_or(usize::MAX));
            *left = 0;
            return false;
        }
        *left -= grown;
        true
    }
}

/// The files of a log, oldest first.
fn files(path: &Path) -> Vec<PathBuf> {
    let rotated = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    let count = (1..=ROTATED_MAX).take_while(|number| rotated(*number).exists()).count();
    let count = u32::try_from(count).unwrap_or(0);
    (1..=count).rev().map(rotated).chain([path.to_path_buf()]).collect()
}

/// A file that is read line by line and watched for rotation.
struct Tail {
    path: PathBuf,
    reader: Option<BufReader<std::fs::File>>,
    inode: u64,
    partial: Vec<u8>,
}

impl Tail {
    fn open(path: &Path, position: u64) -> Self {
        let mut tail = Self { path: path.to_path_buf(), reader: None, inode: 0, partial: Vec::new() };
        tail.reopen(position);
        tail
    }

    fn reopen(&mut self, position: u64) {
        if let Ok(mut file) = std::fs::File::open(&self.path) {
            self.inode = file.metadata().map_or(0, |metadata| metadata.ino());
            let _ = file.seek(SeekFrom::Start(position));
            self.reader = Some(BufReader::new(file));
        }
    }

    /// The next whole line, if there is one now.
    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.reader.is_none() {
                self.reopen(0);
            }
            let reader = self.reader.as_mut()?;
            let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut self.partial).unwrap_or(0);
            if self.partial.ends_with(b"\n") || self.partial.len() as u64 >= LINE_MAX {
                return Some(std::mem::take(&mut self.partial));
            }
            if read > 0 {
                continue;
            }
            let now = std::fs::metadata(&self.path).map_or(self.inode, |metadata| metadata.ino());
            if now == self.inode {
                return None;
            }
            // Rotated: the rest was read, the new file begins.
            self.reader = None;
            self.partial.clear();
            self.inode = now;
        }
    }
}

/// The container of a query: the named one, else the serving one.
fn part(cell: Arc<Cell>, query: &LogQuery) -> Result<Arc<Cell>, LogError> {
    match query.container.as_deref().filter(|container| !container.is_empty()) {
        None => Ok(cell),
        Some(name) => cell.all().find(|part| part.container_name() == name).cloned().ok_or_else(|| {
            LogError::BadRequest(format!("container {name} is not valid for pod {}", cell.pod))
        }),
    }
}

/// Where the log of a query is, and whether its container still runs.
fn choose(cell: &Cell, query: &LogQuery) -> Result<(PathBuf, bool), LogError> {
    let name = cell.container_name();
    let facts = cell.facts();
    if query.previous {
        let missing = || {
            LogError::BadRequest(format!(
                "previous terminated container \"{name}\" in pod \"{}\" not found",
                cell.pod
            ))
        };
        return facts.previous_log.clone().map(|path| (path, false)).ok_or_else(missing);
    }
    match (&facts.log, &facts.previous_log) {
        (Some(path), _) => Ok((path.clone(), true)),
        (None, Some(path)) => Ok((path.clone(), false)),
        (None, None) => {
            let reason = match &facts.container {
                Container::Waiting { reason, .. } => reason.clone(),
                Container::Running { .. } | Container::Ended(_) => "ContainerCreating".to_owned(),
            };
            Err(LogError::Waiting(format!(
                "container \"{name}\" in pod \"{}\" is waiting to start: {reason}",
                cell.pod
            )))
        }
    }
}

/// Reads the log of an instance.
pub(crate) fn read(cell: Arc<Cell>, query: &LogQuery) -> Result<BoxStream<'static, Bytes>, LogError> {
    let cell = part(cell, query)?;
    let (path, running) = choose(&cell, query)?;
    let since = query.since_seconds.map(|seconds| {
        clock::timestamp().checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
    });
    let filter = Filter {
        timestamps: query.timestamps,
        since: query.since_time.or(since),
        left: query.limit_bytes,
        in_line: false,
    };
    let follow = query.follow && running;
    let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_MAX);
    let tail_lines = query.tail_lines;
    let work = move || {
        let open = || {
            let own = cell.facts().log.as_ref() == Some(&path);
            // A client that has left must not keep the reader.
            follow && own && !cell.whole().facts().gone && !sender.is_closed()
        };
        pump(&path, filter, tail_lines, &open, &|bytes| sender.blocking_send(bytes).is_ok());
    };
    drop(tokio::task::spawn_blocking(work));
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|bytes| (bytes, receiver))
    });
    Ok(stream.boxed())
}

/// Reads everything, then follows while `open` says so. Blocking.
fn pump(
    path: &Path,
    mut filter: Filter,
    tail_lines: Option<u64>,
    open: &dyn Fn() -> bool,
    send: &dyn Fn(Bytes) -> bool,
) {
    let mut all = files(path);
    let current = all.pop().unwrap_or_else(|| path.to_path_buf());
    let mut tail = Tail::open(&current, 0);
    let mut out = Vec::new();
    let flush = |out: &mut Vec<u8>| out.is_empty() || send(Bytes::from(std::mem::take(out)));
    let mut old = all.into_iter().filter_map(|file| std::fs::File::open(file).ok()).flat_map(lines);
    if let Some(wanted) = tail_lines {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let mut last: VecDeque<Vec<u8>> = VecDeque::new();
        let mut whole = 0;
        for line in old.by_ref().chain(std::iter::from_fn(|| tail.line())) {
            whole += usize::from(parse(&line).is_some_and(|line| !line.partial));
            last.push_back(line);
            while whole > wanted {
                let first = last.pop_front();
                whole -=
                    usize::from(first.is_some_and(|line| parse(&line).is_some_and(|line| !line.partial)));
            }
        }
        for line in last {
            if !filter.pass(&line, &mut out) {
                flush(&mut out);
                return;
            }
        }
    }
    let mut more = old.chain(std::iter::from_fn(|| tail.line()));
    for line in more.by_ref() {
        if !filter.pass(&line, &mut out) {
            flush(&mut out);
            return;
        }
        if out.len() > 32 << 10 && !flush(&mut out) {
            return;
        }
    }
    drop(more);
    if !flush(&mut out) {
        return;
    }
    loop {
        // Asked before reading, so that the last lines of a container that ends now are still read.
        let goes_on = open();
        while let Some(line) = tail.line() {
            if !filter.pass(&line, &mut out) {
                flush(&mut out);
                return;
            }
        }
        if !flush(&mut out) || !goes_on {
            return;
        }
        std::thread::sleep(POLL);
    }
}

fn lines(file: std::fs::File) -> impl Iterator<Item = Vec<u8>> {
    let mut reader = BufReader::new(file);
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).ok()?;
        (read > 0).then_some(line)
    })
}

/// The end of a log without its line heads, at most `limit` bytes. Blocking, one small read.
pub(crate) fn last_words(path: &Path, limit: usize) -> String {
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let window = (limit as u64) * 2;
    let window = window.max(LAST_WORDS_WINDOW);
    if file.seek(SeekFrom::Start(size.saturating_sub(window))).is_err() {
        return String::new();
    }
    let mut text = Vec::new();
    // The first line may be cut; then it does not begin with a time.
    for line in lines(file) {
        if let Some(line) = parse(&line).filter(|line| line.time.parse::<Timestamp>().is_ok()) {
            text.extend_from_slice(line.text);
            if !line.partial {
                text.push(b'\n');
            }
        }
    }
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_end();
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn check(files: &[(&str, &str)], filter: Filter, tail: Option<u64>) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let out = RefCell::new(Vec::new());
        pump(&dir.path().join("log"), filter, tail, &|| false, &|bytes| {
            out.borrow_mut().extend_from_slice(&bytes);
            true
        });
        String::from_utf8(out.into_inner()).unwrap()
    }

    fn filter() -> Filter {
        Filter { timestamps: false, since: None, left: None, in_line: false }
    }

    const NEW: &str = "2026-11-24T01:00:02Z stdout P wor\n2026-11-24T01:00:02Z stdout F ld\n\
                       2026-11-24T01:00:03Z stderr F last\n";
    const OLD: &str = "2026-11-24T01:00:01Z stdout F hello\n";

    #[test]
    fn rotated_files_come_first_and_partial_lines_are_joined() {
        assert_eq!(check(&[("log", NEW), ("log.1", OLD)], filter(), None), "hello\nworld\nlast\n");
    }

    #[test]
    fn the_last_lines_count_whole_lines() {
        assert_eq!(check(&[("log", NEW), ("log.1", OLD)], filter(), Some(2)), "world\nlast\n");
        assert_eq!(check(&[("log", NEW)], filter(), Some(0)), "");
    }

    #[test]
    fn times_limits_and_since() {
        let timestamps = Filter { timestamps: true, ..filter() };
        assert_eq!(check(&[("log", OLD)], timestamps, None), "2026-11-24T01:00:01Z hello\n");
        let limited = Filter { left: Some(3), ..filter() };
        assert_eq!(check(&[("log", NEW)], limited, None), "wor");
        let since = Filter { since: Some("2026-11-24T01:00:03Z".parse().unwrap()), ..filter() };
        assert_eq!(check(&[("log", NEW), ("log.1", OLD)], since, None), "last\n");
    }

    #[test]
    fn following_reads_across_a_rotation_until_the_container_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, OLD).unwrap();
        let (out, round) = (RefCell::new(Vec::new()), Cell::new(0));
        let open = || {
            round.set(round.get() + 1);
            match round.get() {
                1 => {
                    let mut old = std::fs::File::options().append(true).open(&path).unwrap();
                    std::io::Write::write_all(&mut old, b"2026-11-24T01:00:01Z stdout F before\n").unwrap();
                    std::fs::rename(&path, dir.path().join("log.1")).unwrap();
                    std::fs::write(&path, NEW).unwrap();
                }
                _ => return false,
            }
            true
        };
        pump(&path, filter(), None, &open, &|bytes| {
            out.borrow_mut().extend_from_slice(&bytes);
            true
        });
        assert_eq!(String::from_utf8(out.into_inner()).unwrap(), "hello\nbefore\nworld\nlast\n");
    }

    #[test]
    fn last_words_are_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, format!("{OLD}{NEW}")).unwrap();
        assert_eq!(last_words(&path, 10), "world\nlast");
        assert_eq!(last_words(&dir.path().join("none"), 10), "");
    }
}
