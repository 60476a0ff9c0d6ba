//! What needs a promise that the compiler cannot check.

#![expect(unsafe_code, reason = "a descriptor's lifetime is this module's business")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that tokio waits for.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the contract is that the descriptor stays open and the same for as long as the AsyncFd lives;
    // an OwnedFd that has been moved in is exactly that.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
