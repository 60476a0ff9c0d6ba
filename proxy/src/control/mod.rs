//! The proxy's control socket: a line of JSON each way, on a Unix socket in the run directory.
//!
//! Whoever may open the socket (root, by its mode) may speak. Requests on one connection are answered in order.

mod client;
mod server;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use client::{Control, ControlError};
pub(crate) use server::{Asked, bind, serve};

/// A line is at most so long.
const LINE: u64 = 1 << 20;

/// The socket's place.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("proxy.sock")
}

/// What can be asked of a running proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Who are you?
    Ping,
    /// This pod is about to stop: send it nothing new. Answered when that is so, and nothing is on its way to it any more.
    Leaving {
        /// `metadata.uid`.
        pod_uid: String,
        /// `status.podIPs`.
        addresses: Vec<IpAddr>,
    },
    /// Counters, in Prometheus' text format.
    Metrics,
    /// A successor listens: close every listener, answer, and end when the last connection has ended or after so many
    /// seconds.
    StepAside {
        /// The limit.
        drain_seconds: u64,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// To [`Request::Ping`].
    Pong(Pong),
    /// To [`Request::Metrics`].
    Metrics(String),
    /// It is done.
    Done,
    /// It is not.
    Failed(String),
}

/// Who a running proxy is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pong {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// A file that opens its service namespace.
    pub namespace: PathBuf,
    /// It has heard from the server since it started.
    pub synced: bool,
    /// Entrances that are open.
    pub listeners: usize,
    /// The pods that are about to stop, with their addresses.
    pub leaving: BTreeMap<String, Vec<IpAddr>>,
}
