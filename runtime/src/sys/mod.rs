//! The crate's only unsafe code: system calls that no library wraps as we need them.

#![expect(
    unsafe_code,
    reason = "this module is where the crate's unsafe code lives, each block with its proof"
)]

pub(crate) mod bpf;
pub(crate) mod mount;
pub(crate) mod process;

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current tokio runtime.
pub(crate) fn async_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the contract is that the descriptor stays open and the same for as long as the AsyncFd lives;
    // an OwnedFd that nobody can replace or close from outside gives exactly that.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Gives freed memory back to the kernel. A keeper lives for months after the few milliseconds in which it
/// needed some.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions; it only looks at the allocator's own free lists.
    unsafe {
        libc::malloc_trim(0);
    }
}
