//! What main process and keeper say to each other: frames of a length (four bytes, little-endian) and JSON, over a
//! Unix stream socket; descriptors travel beside the frame that announces them.
//!
//! `Hello` and its answer must stay readable by every version: they are how versions find out that they differ.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno as Kernel;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::Errno;
use crate::plan::{Address, ExecResult, KeeperEvent, Plan, Running};

/// Raised when a frame changes its meaning.
pub(crate) const PROTOCOL: u32 = 1;
/// A longer frame ends the connection.
pub(crate) const MAX_FRAME: usize = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Answered in the reply; never 0.
    pub(crate) number: u64,
    pub(crate) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Hello { protocol: u32 },
    Launch(Box<Plan>),
    Signal { id: String, signal: i32 },
    Exec { id: String, args: Vec<String>, timeout_ms: u64 },
    List,
    Listen { address: Address },
    Unlisten { address: Address },
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Reply { number: u64, reply: Result<Reply, Failure> },
    Event(KeeperEvent),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Hello {
        protocol: u32,
        pid: u32,
    },
    Launched {
        pid: u32,
    },
    Done,
    Executed(ExecResult),
    Running(Vec<Running>),
    /// A descriptor comes with this frame.
    Listening,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    Launch { step: String, errno: Errno },
    Plan(String),
    NotRunning,
    Timeout,
    Listen { errno: Errno },
}

/// One frame.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; 4];
    // Our own types: maps have text keys and nothing can fail to serialise, except a path that is not UTF-8, which
    // becomes an empty frame and is refused by the other side.
    if serde_json::to_writer(&mut frame, message).is_err() {
        frame.truncate(4);
    }
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX).to_le_bytes();
    frame.iter_mut().zip(length).for_each(|(byte, value)| *byte = value);
    frame
}

/// Collects bytes into frames.
#[derive(Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete frame.
    ///
    /// # Errors
    /// A frame is too long or not of this type; the connection is of no more use.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, String> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(format!("a frame of {length} bytes"));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let value = serde_json::from_slice(frame).map_err(|error| error.to_string())?;
        self.taken += 4 + length;
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
            // A plan may be large once; do not keep that much for ever.
            self.bytes.shrink_to(64 << 10);
        }
        Ok(Some(value))
    }
}

/// Receives bytes and at most one descriptor; 0 bytes means that the other side is gone.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Kernel> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    let mut fd = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.into_iter().last().or(fd);
        }
    }
    Ok((got.bytes, fd))
}

/// Sends bytes without waiting, with a descriptor if given; answers how many went.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<usize, Kernel> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
}
