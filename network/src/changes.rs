//! Tells when this machine's addresses or routes change: a lease that brings another address, a link that goes down and takes the
//! routes through it along.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::error::Error;
use crate::netlink::{NetlinkError, RouteSocket};
use crate::sys;

/// Hears of changes from the moment it is opened. It belongs to the network namespace of the thread that opens it.
#[derive(Debug)]
pub struct Changes {
    socket: RouteSocket,
    /// The same socket, for tokio.
    ready: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Opens it, on a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let fail = |error| Error::OpenNetlink(NetlinkError::Socket(error));
        let socket = RouteSocket::address_changes().map_err(Error::OpenNetlink)?;
        let same = socket.descriptor().try_clone_to_owned().map_err(fail)?;
        Ok(Self { socket, ready: sys::readable(same).map_err(fail)? })
    }

    /// Waits until something has changed since the last time. What it was is for the caller to look up. Cancel safe.
    pub async fn next(&mut self) -> Result<(), Error> {
        loop {
            let ready = self.ready.readable().await;
            let mut ready = ready.map_err(|error| Error::ListAddresses(NetlinkError::Socket(error)))?;
            // Everything that was told is read, or nothing was.
            let told = self.socket.wait(Duration::ZERO).map_err(Error::ListAddresses)?;
            ready.clear_ready();
            if told {
                return Ok(());
            }
        }
    }
}
