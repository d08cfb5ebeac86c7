//! The few descriptors that a child is given.
//!
//! The keeper holds three descriptors for each sandbox. A child that got a copy of its whole table would pay for each of
//! them twice, at clone and again at exec, which closes them. Instead the child shares the table for its first moment
//! and then keeps only the numbers below a limit; what it needs is put there beforehand.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{DupFlags, Errno};

/// Standard output and error, a network namespace, and one per cgroup hierarchy.
const PLACES: usize = 8;

/// Places with low numbers. What lies in them is replaced for each launch.
pub(super) struct Window {
    places: Vec<OwnedFd>,
    limit: u32,
}

impl Window {
    /// Takes the lowest numbers that are free; `others` are kept for the child too, and `null` lies in free places.
    pub(super) fn new(null: BorrowedFd<'_>, others: &[BorrowedFd<'_>]) -> Result<Self, Errno> {
        let take = || rustix::io::fcntl_dupfd_cloexec(null, 0);
        let places = (0..PLACES).map(|_| take()).collect::<Result<Vec<_>, _>>()?;
        let all = places.iter().map(AsFd::as_fd).chain(others.iter().copied());
        let highest = all.map(|fd| fd.as_raw_fd().unsigned_abs()).max().unwrap_or_default();
        Ok(Self { places, limit: highest + 1 })
    }

    /// The child keeps the numbers below this one.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// The places, in the order in which they were filled.
    pub(super) fn places(&self) -> &[OwnedFd] {
        &self.places
    }

    /// Puts copies of these into the places.
    pub(super) fn fill<'a>(&mut self, fds: impl Iterator<Item = BorrowedFd<'a>>) -> Result<(), Errno> {
        let mut places = self.places.iter_mut();
        for fd in fds {
            rustix::io::dup3(fd, places.next().ok_or(Errno::MFILE)?, DupFlags::CLOEXEC)?;
        }
        Ok(())
    }

    /// Lets go of what lies in the first `count` places.
    pub(super) fn clear(&mut self, null: BorrowedFd<'_>, count: usize) {
        for place in self.places.iter_mut().take(count) {
            // The number is open and so is what it becomes: nothing can fail.
            let _ = rustix::io::dup3(null, place, DupFlags::CLOEXEC);
        }
    }
}
