//! Kernel calls that rustix does not have, each behind a safe function. They neither allocate nor lock, so the
//! cloned child may use them.
#![expect(unsafe_code, reason = "the kernel is reached here; every block says why it is sound")]

use std::ffi::{CStr, c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// The result of a raw system call as the C library gives it.
fn check(result: i64) -> Result<i64, Errno> {
    if result == -1 {
        // SAFETY: the address of errno is valid as long as the thread lives.
        let errno = unsafe { *libc::__errno_location() };
        return Err(Errno::from_raw_os_error(errno));
    }
    Ok(result)
}

/// Memory for the stack of a cloned child. It is used by one child at a time: the parent sleeps meanwhile.
pub(crate) struct Stack {
    base: *mut c_void,
}

impl Stack {
    const SIZE: usize = 256 << 10;

    /// Reserves it, with an unmapped page below.
    pub(crate) fn new() -> io::Result<Self> {
        let size = Self::SIZE + 4096;
        // SAFETY: a fresh anonymous mapping aliases nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the first page lies inside the mapping just made, and nothing uses it.
        unsafe { libc::mprotect(base, 4096, libc::PROT_NONE) };
        Ok(Self { base })
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no child runs on it, since children hold `&mut Stack` until exec.
        unsafe { libc::munmap(self.base, Self::SIZE + 4096) };
    }
}

/// Clones a child that shares our memory and runs `run(&argument)` on `stack`, and returns when it has called exec
/// or is gone. `flags` are the namespaces; a v2 `cgroup` directory is where it starts.
///
/// `run` must make kernel calls only: no allocation, no lock, no panic.
pub(crate) fn spawn_into<T>(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    stack: &mut Stack,
    run: extern "C" fn(&T) -> !,
    argument: &T,
) -> Result<(u32, OwnedFd), Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags
        | libc::CLONE_VM as u64
        | libc::CLONE_VFORK as u64
        | libc::CLONE_PIDFD as u64
        | CLONE_CLEAR_SIGHAND;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack.base as u64 + 4096;
    args.stack_size = Stack::SIZE as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // A handler must not run in the child on our memory; there is none, but a signal would also interrupt the setup.
    // SAFETY: both sets are plain values that live on this frame.
    let old = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &all, &mut old);
        old
    };
    // SAFETY: with CLONE_VFORK this thread sleeps until the child has replaced its memory or ended, so `args`, `argument`
    // and the stack outlive the child's use of them and nothing runs concurrently. The child starts on the top of
    // `stack` and never returns from `run`.
    let result = unsafe { clone3(&args, run as *const c_void, (&raw const *argument).cast()) };
    // SAFETY: restores the mask read above.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &old, std::ptr::null_mut()) };
    if result < 0 {
        return Err(Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL)));
    }
    // SAFETY: on success the kernel has stored a new descriptor there, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((u32::try_from(result).unwrap_or_default(), pidfd))
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// # Safety
/// `args` must be valid for `clone3`, with a stack of its own, and `run` must never return.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &libc::clone_args, run: *const c_void, argument: *const c_void) -> i64 {
    let result: i64;
    // SAFETY: the caller's promise; the kernel keeps r8 and r9, and the child leaves this frame by the call at once.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r8") run,
            in("r9") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// # Safety
/// `args` must be valid for `clone3`, with a stack of its own, and `run` must never return.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(args: &libc::clone_args, run: *const c_void, argument: *const c_void) -> i64 {
    let result: i64;
    // SAFETY: the caller's promise; the kernel keeps x2 and x3, and the child leaves this frame by the call at once.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x3",
            "blr x2",
            "brk 1",
            "2:",
            inlateout("x0") args as *const libc::clone_args as i64 => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x2") run,
            in("x3") argument,
            in("x8") libc::SYS_clone3,
        );
    }
    result
}

/// A null-terminated array of C strings, as exec takes them.
pub(crate) struct StringArray {
    pointers: Vec<*const c_char>,
    _strings: Vec<std::ffi::CString>,
}

impl StringArray {
    pub(crate) fn new(strings: Vec<std::ffi::CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { pointers, _strings: strings }
    }
}

/// Replaces the program; returns only the reason why not.
pub(crate) fn execve(path: &CStr, args: &StringArray, env: &StringArray) -> Errno {
    // SAFETY: both arrays end with a null pointer and their strings live as long as they do.
    let result = unsafe {
        libc::syscall(libc::SYS_execve, path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr())
    };
    check(result).err().unwrap_or(Errno::INVAL)
}

/// Ends the process without running anything of ours.
pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: takes an integer and does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// Installs a filter. Needs `no_new_privs` or CAP_SYS_ADMIN.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions from the slice, which lives on.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    check(result).map(drop)
}

/// Sets effective and permitted capabilities; inheritable becomes empty.
pub(crate) fn set_capabilities(bits: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let data = [half(bits & 0xffff_ffff), half(bits >> 32)];
    // SAFETY: version 3 reads one header and two data records, which is what the pointers lead to.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(result).map(drop)
}

/// Removes a capability from the bounding set; one that the kernel does not know is no error.
pub(crate) fn drop_bounding(capability: u32) -> Result<(), Errno> {
    // SAFETY: integers only.
    let result =
        unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, u64::from(capability), 0, 0, 0) };
    match check(result) {
        Err(Errno::INVAL) | Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Sets all three user and group ids and the supplementary groups of this process.
pub(crate) fn set_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the slice is valid for its length; the raw calls, unlike the C library's, touch no other thread.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Asks to be killed when the parent dies.
pub(crate) fn die_with_parent() -> Result<(), Errno> {
    // SAFETY: integers only.
    let result = unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0_u64, 0_u64, 0_u64)
    };
    check(result).map(drop)
}

/// Gives `signal` its default action. The C library would refuse the two signals that it uses itself, which may be
/// inherited as ignored all the same.
pub(crate) fn default_signal(signal: i32) {
    // The kernel's structure: handler, flags, restorer where there is one, mask; all zero is SIG_DFL.
    let action = [0_u64; 4];
    // SAFETY: the kernel reads at most the four words of `action`, with a mask of eight bytes, and installs no handler.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            action.as_ptr(),
            std::ptr::null_mut::<c_void>(),
            8_usize,
        )
    };
}

/// Unblocks every signal.
pub(crate) fn unblock_signals() {
    // SAFETY: an all-zero set is the empty set and lives on this frame.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: integers only.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(result).map(drop)
}

/// Stops sharing the table of descriptors; only those below `limit` are in the new one.
pub(crate) fn own_descriptors_below(limit: u32) -> Result<(), Errno> {
    // SAFETY: integers only; of a table that is shared, only this process's view changes.
    let result = unsafe { libc::syscall(libc::SYS_close_range, limit, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    check(result).map(drop)
}

/// Makes descriptor `to` a copy of `from` that survives exec.
pub(crate) fn duplicate_to(from: BorrowedFd<'_>, to: RawFd) -> Result<(), Errno> {
    if from.as_raw_fd() == to {
        // SAFETY: integers only; dup2 onto itself would keep close-on-exec.
        return check(i64::from(unsafe { libc::fcntl(to, libc::F_SETFD, 0) })).map(drop);
    }
    // SAFETY: only called for 0, 1 and 2, which this process owns as raw numbers.
    check(i64::from(unsafe { libc::dup2(from.as_raw_fd(), to) })).map(drop)
}

/// The permission mask for new files.
pub(crate) fn set_umask(mask: u32) {
    // SAFETY: an integer only; never fails.
    unsafe { libc::umask(mask) };
}

/// Joins the namespaces `kinds` (CLONE_NEW*) of a process or, for a namespace's own descriptor, that one.
pub(crate) fn join_namespaces(of: BorrowedFd<'_>, kinds: i32) -> Result<(), Errno> {
    // SAFETY: a borrowed descriptor and an integer.
    check(i64::from(unsafe { libc::setns(of.as_raw_fd(), kinds) })).map(drop)
}

/// Moves into new namespaces.
pub(crate) fn new_namespaces(kinds: i32) -> Result<(), Errno> {
    // SAFETY: an integer; only namespaces are unshared, never descriptors or memory.
    check(i64::from(unsafe { libc::unshare(kinds) })).map(drop)
}

/// Brings the loopback interface of this thread's network namespace up.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is the kernel's structure for this call, and lives until it returns.
    check(i64::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }))
        .map(drop)
}

/// Sends any signal by number, real-time ones included.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: a borrowed descriptor and integers; no siginfo is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<c_void>(),
            0_u32,
        )
    };
    check(result).map(drop)
}

/// A descriptor that the calling child has opened itself and never closes.
pub(crate) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the number was stored by this very process after opening it; its table is replaced at exec.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
