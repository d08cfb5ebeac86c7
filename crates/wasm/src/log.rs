//! Output of components.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// What a component may write at once.
const WRITE_BYTES_MAX: usize = 64 << 10;
/// As much of an unfinished line is held back.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Which of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error, and what the host has to say about the component.
    Stderr,
}

/// Takes the output of a component's instances. Called from the task that runs the component: it must not block for long.
pub trait LogSink: Send + Sync {
    /// Takes whole lines, or what is left at the end of an instance or of the patience for a long line: several instances
    /// that write at once do not mix within lines.
    fn write(&self, stream: Stream, bytes: &[u8]);
}

/// One output of one instance.
#[derive(Clone)]
pub(crate) struct Output(Arc<Lines>);

struct Lines {
    sink: Arc<dyn LogSink>,
    stream: Stream,
    /// The beginning of a line.
    held: Mutex<Vec<u8>>,
}

// === impl Output ===

impl Output {
    pub(crate) fn new(sink: Arc<dyn LogSink>, stream: Stream) -> Self {
        Self(Arc::new(Lines { sink, stream, held: Mutex::default() }))
    }
}

// === impl Lines ===

impl Lines {
    fn write(&self, bytes: &[u8]) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() && bytes.ends_with(b"\n") {
            return self.sink.write(self.stream, bytes);
        }
        held.extend_from_slice(bytes);
        let whole = held.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let ready = if held.len() - whole > LINE_BYTES_MAX { held.len() } else { whole };
        if ready > 0 {
            let ready: Vec<u8> = held.drain(..ready).collect();
            self.sink.write(self.stream, &ready);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !held.is_empty() {
            held.push(b'\n');
            self.sink.write(self.stream, held);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Pieces(Mutex<Vec<String>>);

    impl LogSink for Pieces {
        fn write(&self, _: Stream, bytes: &[u8]) {
            self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
        }
    }

    #[test]
    fn lines_come_whole_and_the_last_one_at_the_end() {
        let pieces = Arc::<Pieces>::default();
        let (one, two) =
            (Output::new(pieces.clone(), Stream::Stderr), Output::new(pieces.clone(), Stream::Stderr));
        one.0.write(b"a ");
        two.0.write(b"other\n");
        one.0.write(b"line\nand ");
        one.clone().0.write(b"more");
        drop(one);
        two.0.write(&[b'x'; LINE_BYTES_MAX + 1]);
        let seen = pieces.0.lock().unwrap().clone();
        assert_eq!(&seen[..3], ["other\n", "a line\n", "and more\n"]);
        assert_eq!(seen.len(), 4, "a line without an end is not held for ever");
    }
}
