//! Blocking netlink: short request and answer series against the kernel, of which there are few.
//!
//! A socket belongs to the network namespace of the thread that opened it.

mod device;
mod link;
mod neighbour;
mod route;
mod socket;

pub(crate) use link::{Link, NewVeth, NewVxlan};
pub(crate) use neighbour::TunnelEnd;
pub(crate) use route::{NodeRoute, RouteSocket, Via};
pub(crate) use socket::{Message, Socket};

use std::io;

/// The kernel refused a request, or the conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel's verdict, with its explanation where it gives one.
    #[error("kernel refused{}{explanation}: {source}", if explanation.is_empty() { "" } else { ": " })]
    Refused {
        /// The kernel's own words, often empty.
        explanation: String,
        /// The error number.
        source: io::Error,
    },
    /// The socket failed.
    #[error("talking to the kernel")]
    Socket(#[source] io::Error),
    /// The kernel's answer was not understood.
    #[error("understanding the kernel's answer: {0}")]
    Decode(String),
    /// A list changed while being read, again and again.
    #[error("the kernel's list kept changing while being read")]
    Interrupted,
}

impl NetlinkError {
    /// The error number of the kernel's verdict.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }
}
