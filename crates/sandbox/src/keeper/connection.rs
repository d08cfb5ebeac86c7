//! The client that is attached: frames in, frames out, never waiting except to hand over a socket.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;

use super::Source;
use crate::wire::{self, Decoder, Message};

/// Beyond this, events wait in the keeper's own bounded queue.
const ROOM: usize = 1 << 20;
/// A client that does not read this much is dead or hung.
const MAX_UNSENT: usize = 64 << 20;

pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) decoder: Decoder,
    /// Whether it has shown that it speaks our protocol; events wait for that.
    pub(super) greeted: bool,
    stream: UnixStream,
    unsent: Vec<u8>,
    waiting: bool,
}

impl Connection {
    pub(super) fn new(number: u64, stream: UnixStream) -> Self {
        Self {
            number,
            decoder: Decoder::default(),
            greeted: false,
            stream,
            unsent: Vec::new(),
            waiting: false,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.greeted && self.unsent.len() < ROOM
    }

    /// Takes what has arrived; false when the client is gone.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match wire::receive(&self.stream, buffer) {
                Ok((0, _)) => return false,
                Ok((length, _)) => {
                    self.decoder.feed(buffer.get(..length).unwrap_or_default());
                    if length < buffer.len() {
                        return true;
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Sends now what the socket takes, and the rest when it is writable; false when the client is gone.
    pub(super) fn send(&mut self, message: &Message, epoll: &OwnedFd) -> bool {
        self.unsent.extend_from_slice(&wire::encode(message));
        let alive = self.flush() && self.unsent.len() < MAX_UNSENT;
        let wait = !self.unsent.is_empty();
        if alive && (wait || self.waiting) && wait != self.waiting {
            let flags =
                if wait { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            self.waiting = wait;
            return epoll::modify(epoll, &self.stream, Source::Client.token(self.number), flags).is_ok();
        }
        alive
    }

    /// Sends a frame with a descriptor, waiting up to a second: a rare call that must keep its order.
    pub(super) fn send_with(&mut self, message: &Message, fd: BorrowedFd<'_>) -> bool {
        if !self.flush_within(Duration::from_secs(1)) {
            return false;
        }
        let frame = wire::encode(message);
        match wire::send(&self.stream, &frame, Some(fd)) {
            Ok(sent) => {
                self.unsent.extend_from_slice(frame.get(sent..).unwrap_or_default());
                self.flush_within(Duration::from_secs(1))
            }
            Err(_) => false,
        }
    }

    pub(super) fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match wire::send(&self.stream, &self.unsent, None) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    pub(super) fn flush_within(&mut self, patience: Duration) -> bool {
        let deadline = dormouse_base::clock::now() + patience;
        loop {
            if !self.flush() {
                return false;
            }
            if self.unsent.is_empty() {
                return true;
            }
            if dormouse_base::clock::now() >= deadline {
                return false;
            }
            let mut poll = [PollFd::new(&self.stream, PollFlags::OUT)];
            let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = rustix::event::poll(&mut poll, Some(&tenth));
        }
    }
}
