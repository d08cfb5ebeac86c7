//! Whether a program inside a network listens, asked of the kernel rather than of the program.
//!
//! A connection to a port that nobody listens on yet crosses both ends of the veth pair and takes 0.1 ms of CPU, mostly
//! from the very program that is starting; the last one, which is accepted, makes it handle a client that says nothing.
//! A look-up over netlink takes some microseconds and disturbs nobody. The socket stays with the namespace in which it
//! was opened.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// `SOCK_DIAG_BY_FAMILY` of the kernel's `sock_diag.h`.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;
/// Lengths of the kernel's `nlmsghdr` and `inet_diag_req_v2`.
const HEADER: usize = 16;
const QUESTION: usize = HEADER + 56;

/// Asks about one network. Clones share the socket.
#[derive(Clone, Debug)]
pub(crate) struct Listening(Arc<OwnedFd>);

impl Listening {
    /// For the namespace of the calling thread; `None` where the kernel cannot tell.
    pub(crate) fn open() -> Option<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::SOCK_DIAG);
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).ok()?;
        let this = Self(Arc::new(socket));
        // A kernel without the module answers as if nobody listened: try it out.
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        let port = listener.local_addr().ok()?.port();
        this.on(Ipv4Addr::LOCALHOST, port).ok()?.then_some(this)
    }

    /// Whether a connection to this address and port would be accepted.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn on(&self, address: Ipv4Addr, port: u16) -> Result<bool, Errno> {
        rustix::net::send(&*self.0, &question(address, port), SendFlags::DONTWAIT)?;
        let mut answer = [0; 512];
        let (_, length) = rustix::net::recv(&*self.0, &mut answer, RecvFlags::DONTWAIT)?;
        Ok(is_listener(answer.get(..length).unwrap_or_default()))
    }
}

fn question(address: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(QUESTION);
    bytes.extend(u32::try_from(QUESTION).unwrap_or_default().to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend([0; 8]); // sequence and sender
    bytes.extend([2, 6, 0, 0]); // IPv4, TCP, no extensions
    bytes.extend((1_u32 << LISTEN).to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend(address.octets());
    bytes.extend([0; 12 + 16 + 4]); // the rest of the address, no peer, any interface
    bytes.extend([0xff; 8]); // any cookie
    bytes
}

/// The answer is a socket, or an error where there is none.
fn is_listener(answer: &[u8]) -> bool {
    answer.get(4..6) == Some(&BY_FAMILY.to_ne_bytes()) && answer.get(HEADER + 1) == Some(&LISTEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_who_listens() {
        let Some(listening) = Listening::open() else { return };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listening.on(Ipv4Addr::LOCALHOST, port), Ok(true));
        assert_eq!(listening.on(Ipv4Addr::new(127, 0, 0, 2), port), Ok(false));
        let everywhere = TcpListener::bind("[::]:0").unwrap();
        let other = everywhere.local_addr().unwrap().port();
        assert_eq!(listening.on(Ipv4Addr::LOCALHOST, other), Ok(true));
        drop(listener);
        assert_eq!(listening.on(Ipv4Addr::LOCALHOST, port), Ok(false));
    }

    #[test]
    fn a_question_has_the_kernels_length() {
        assert_eq!(question(Ipv4Addr::LOCALHOST, 80).len(), QUESTION);
    }
}
