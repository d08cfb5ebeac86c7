//! The log of one instance, in the format that the kubelet's readers know: one line per line of output,
//! `<RFC 3339 time> stdout|stderr F|P <text>`. `P` marks a part of a line that is longer than [`MAX_LINE`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use crate::plan::LogPlan;

/// Longer lines are cut into parts; it also bounds what is held back while a line is incomplete.
const MAX_LINE: usize = 16 << 10;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Writer of one log. Blocking.
#[derive(Debug)]
pub struct Log {
    plan: LogPlan,
    file: Option<File>,
    size: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Whether the last write failed; a full disk is reported once, not per line.
    pub(crate) broken: bool,
}

impl Log {
    /// A log that has no file before something is written.
    pub fn new(plan: LogPlan) -> Self {
        Self { plan, file: None, size: 0, stdout: Vec::new(), stderr: Vec::new(), broken: false }
    }

    /// Makes the file, so that a reader finds an empty log rather than none.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.plan.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        Ok(())
    }

    /// Takes output as it comes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn feed(&mut self, stream: Stream, mut bytes: &[u8], now: SystemTime) -> io::Result<()> {
        let time = stamp(now);
        let mut out = Vec::with_capacity(bytes.len() + 64);
        while !bytes.is_empty() {
            let held = match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            let room = MAX_LINE - held.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let (part, rest, whole) = match end {
                Some(end) => (bytes.get(..end), bytes.get(end + 1..), true),
                None => (bytes.get(..room.min(bytes.len())), bytes.get(room.min(bytes.len())..), false),
            };
            held.extend_from_slice(part.unwrap_or_default());
            bytes = rest.unwrap_or_default();
            if whole || held.len() == MAX_LINE {
                format_line(&mut out, &time, stream, if whole { b'F' } else { b'P' }, held);
                held.clear();
            }
        }
        self.append(&out)
    }

    /// Writes what is left of unfinished lines.
    ///
    /// # Errors
    /// As [`Log::feed`].
    pub fn finish(&mut self, now: SystemTime) -> io::Result<()> {
        let time = stamp(now);
        let mut out = Vec::new();
        for (stream, held) in [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)] {
            if !held.is_empty() {
                format_line(&mut out, &time, stream, b'F', held);
                held.clear();
            }
        }
        self.append(&out)
    }

    /// Writes whole lines, rotating between them where the bound would be passed.
    fn append(&mut self, mut lines: &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            self.open()?;
            let room = usize::try_from(self.plan.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let fits = if lines.len() <= room {
                lines.len()
            } else {
                let within = lines.get(..room).unwrap_or_default();
                within.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
            };
            if fits == 0 && self.size > 0 {
                self.rotate()?;
                continue;
            }
            // A single line larger than the bound still has a file of its own.
            let first = lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1);
            let (now, later) = lines.split_at(if fits == 0 { first } else { fits });
            if let Some(file) = &mut self.file {
                file.write_all(now)?;
            }
            self.size += now.len() as u64;
            lines = later;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let kept = self.plan.max_files.max(1);
        for number in (1..kept).rev() {
            let from = if number == 1 { self.plan.path.clone() } else { self.older(number - 1) };
            match fs::rename(from, self.older(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if kept == 1 {
            fs::remove_file(&self.plan.path)?;
        }
        self.open()
    }

    fn older(&self, number: u32) -> PathBuf {
        let mut name = self.plan.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn stamp(now: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(now).unwrap_or_default();
    format!("{time:.9}")
}

fn format_line(out: &mut Vec<u8>, time: &str, stream: Stream, tag: u8, text: &[u8]) {
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(match stream {
        Stream::Stdout => b" stdout ",
        Stream::Stderr => b" stderr ",
    });
    out.extend_from_slice(&[tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn log(max_bytes: u64, max_files: u32) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let plan = LogPlan { path: dir.path().join("log"), max_bytes, max_files };
        (dir, Log::new(plan))
    }

    #[test]
    fn a_line_is_written_when_it_is_complete() {
        let (dir, mut log) = log(1 << 20, 2);
        log.feed(Stream::Stdout, b"he", NOW).unwrap();
        log.feed(Stream::Stderr, b"oops\n", NOW).unwrap();
        log.feed(Stream::Stdout, b"llo\n\nrest", NOW).unwrap();
        log.finish(NOW).unwrap();
        let text = fs::read_to_string(dir.path().join("log")).unwrap();
        let time = "1970-01-01T00:00:00.000000000Z";
        let lines = ["stderr F oops", "stdout F hello", "stdout F ", "stdout F rest"];
        assert_eq!(text, lines.map(|line| format!("{time} {line}\n")).concat());
    }

    #[test]
    fn a_long_line_is_cut_into_parts() {
        let (dir, mut log) = log(1 << 20, 2);
        log.feed(Stream::Stdout, &[b'x'; MAX_LINE + 10], NOW).unwrap();
        log.feed(Stream::Stdout, b"\n", NOW).unwrap();
        let text = fs::read_to_string(dir.path().join("log")).unwrap();
        let tags: Vec<_> = text.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"]);
    }

    #[test]
    fn files_stay_within_their_bounds() {
        let (dir, mut log) = log(1000, 3);
        for number in 0..200 {
            log.feed(Stream::Stdout, format!("line {number}\n").as_bytes(), NOW).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        for name in names {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 1000);
        }
        let last = fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(last.ends_with("line 199\n"));
    }
}
