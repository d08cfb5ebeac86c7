//! How the layers of an image become the root of a sandbox.
//!
//! Unmounting anything makes the kernel wait for a grace period of all its readers: some milliseconds on a busy machine,
//! more than everything else of a launch together. So a launch unmounts nothing: a mount namespace that holds only an
//! empty, read-only file system is made once ([`empty_namespace`]); each child joins it, copies it, and covers its root
//! with the overlay, as a machine covers its initial RAM file system. What a program could uncover with every privilege
//! is that empty directory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags,
};

use super::child::{Sandbox, Step};
use crate::sys;

/// The kernel takes one page of options with `mount`, and this much of one option with `fsconfig`.
const OPTIONS_MAX: usize = 4096;
const OPTION_MAX: usize = 255;

/// A mount namespace of one empty, read-only file system; `mount_point` is a directory to make it on.
pub(super) fn empty_namespace(mount_point: &CStr) -> io::Result<OwnedFd> {
    let mount_point = mount_point.to_owned();
    // A thread of its own, which does not come back from there; Linux has mount namespaces per thread.
    let make = move || -> io::Result<OwnedFd> {
        sys::new_namespaces(libc::CLONE_NEWNS)?;
        let namespace = File::open("/proc/thread-self/ns/mnt")?;
        rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount(c"tmpfs", &*mount_point, c"tmpfs", flags, Some(c"mode=555,size=4k"))?;
        pivot(&mount_point)?;
        Ok(namespace.into())
    };
    let thread = std::thread::Builder::new().name("empty-root".to_owned()).spawn(make)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

fn pivot(root: &CStr) -> Result<(), Errno> {
    rustix::process::chdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// The writable layer and the layers below it, opened; named by descriptor relative to `/proc/self/fd`: short enough for
/// as many as the kernel takes, and no character needs escaping.
struct Stack {
    lowers: Text,
    upper: Text,
    work: Text,
}

impl Sandbox<'_> {
    /// Makes the layers the root. Without a namespace to copy, or when the names of the layers are too long for one
    /// option, the long way: this process then has a copy of the host's mounts.
    pub(super) fn enter_root(&self) -> Result<(), Errno> {
        let stack = self.open_stack()?;
        self.outcome.at(Step::Overlay);
        rustix::process::chdir(c"/proc/self/fd")?;
        match self.empty {
            Some(empty) => self.cover(empty, &stack),
            None => self.pivot_into(&stack),
        }
    }

    /// Opens the layers; in the host's mounts, because an overlay takes only paths of its own mount namespace.
    fn open_stack(&self) -> Result<Stack, Errno> {
        self.outcome.at(Step::Layer);
        let mut stack = Stack { lowers: Text::new(), upper: Text::new(), work: Text::new() };
        for (index, lower) in self.lowers.iter().enumerate() {
            if index > 0 {
                stack.lowers.push(b":");
            }
            stack.lowers.number(open_directory(lower)?);
            self.outcome.next();
        }
        stack.upper.number(open_directory(self.upper)?);
        stack.work.number(open_directory(self.work)?);
        Ok(stack)
    }

    fn cover(&self, empty: BorrowedFd<'_>, stack: &Stack) -> Result<(), Errno> {
        let root = overlay(stack)?;
        self.outcome.at(Step::Pivot);
        sys::join_namespaces(empty, libc::CLONE_NEWNS)?;
        sys::new_namespaces(libc::CLONE_NEWNS)?;
        rustix::mount::move_mount(&root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(c".")
    }

    fn pivot_into(&self, stack: &Stack) -> Result<(), Errno> {
        let mut options = Text::new();
        for (name, value) in
            [("lowerdir=", &stack.lowers), (",upperdir=", &stack.upper), (",workdir=", &stack.work)]
        {
            options.push(name.as_bytes());
            options.push(value.bytes());
        }
        let mount = |options: &Text| {
            let none = MountFlags::empty();
            rustix::mount::mount(c"overlay", self.mount_point, c"overlay", none, Some(options.c_str()?))
        };
        // An upper layer that dies with its sandbox needs no sync; kernels before 5.10 do not know that option.
        let before = options.length;
        options.push(b",volatile");
        match mount(&options) {
            Err(Errno::INVAL) => {
                options.cut(before);
                mount(&options)?;
            }
            result => result?,
        }
        self.outcome.at(Step::Pivot);
        pivot(self.mount_point)
    }
}

/// Whether so many layers can be named in one option, by descriptors up to `highest`.
pub(super) fn fits_one_option(layers: usize, highest: usize) -> bool {
    let digits = highest.checked_ilog10().unwrap_or_default() as usize + 1;
    layers * (digits + 1) <= OPTION_MAX
}

/// The overlay, mounted nowhere yet.
fn overlay(stack: &Stack) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    rustix::mount::fsconfig_set_string(context, c"source", c"overlay")?;
    rustix::mount::fsconfig_set_string(context, c"lowerdir", stack.lowers.c_str()?)?;
    rustix::mount::fsconfig_set_string(context, c"upperdir", stack.upper.c_str()?)?;
    rustix::mount::fsconfig_set_string(context, c"workdir", stack.work.c_str()?)?;
    rustix::mount::fsconfig_set_flag(context, c"volatile")?;
    rustix::mount::fsconfig_create(context)?;
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn open_directory(path: &CStr) -> Result<RawFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map(IntoRawFd::into_raw_fd)
}

/// Text put together without allocating; what does not fit is an error when it is used.
struct Text {
    bytes: [u8; OPTIONS_MAX],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self { bytes: [0; OPTIONS_MAX], length: 0 }
    }

    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
            }
            self.length += 1;
        }
    }

    fn number(&mut self, number: RawFd) {
        let mut unit = 1;
        while number / unit >= 10 {
            unit *= 10;
        }
        while unit > 0 {
            self.push(&[b'0' + u8::try_from(number / unit % 10).unwrap_or_default()]);
            unit /= 10;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn c_str(&self) -> Result<&CStr, Errno> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::TOOBIG)
    }

    fn cut(&mut self, length: usize) {
        self.bytes.iter_mut().skip(length).for_each(|byte| *byte = 0);
        self.length = length;
    }
}
