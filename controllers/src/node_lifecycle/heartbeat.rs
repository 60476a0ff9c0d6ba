//! When each node was last heard of, by this process's clock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use tokio::time::Instant;

#[derive(Debug)]
struct Beat {
    at: Instant,
    lease: Option<MicroTime>,
    status: Option<Time>,
    /// The node has been marked; the next sign of life needs work at once.
    given_up: bool,
}

/// Signs of life. A node that was never heard of counts as heard of when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Heartbeats(Mutex<HashMap<String, Beat>>);

impl Heartbeats {
    fn with<T>(&self, node: &str, act: impl FnOnce(&mut Beat) -> T) -> T {
        let mut beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Beat { at: Instant::now(), lease: None, status: None, given_up: false };
        act(beats.entry(node.to_owned()).or_insert_with(new))
    }

    /// The node's status was reported at this time of its own.
    pub(super) fn seen(&self, node: &str, status: Option<Time>) {
        self.with(node, |beat| {
            if status.is_some() && beat.status != status {
                beat.status = status;
                beat.at = Instant::now();
            }
        });
    }

    /// The Lease was renewed; answers whether the node had been given up.
    pub(super) fn renewed(&self, node: &str, time: Option<MicroTime>) -> bool {
        self.with(node, |beat| {
            if time.is_none() || beat.lease == time {
                return false;
            }
            beat.lease = time;
            beat.at = Instant::now();
            std::mem::take(&mut beat.given_up)
        })
    }

    pub(super) fn give_up(&self, node: &str) {
        self.with(node, |beat| beat.given_up = true);
    }

    pub(super) fn forget(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// How long the node has been silent.
    pub(super) fn silence(&self, node: &str) -> Duration {
        self.with(node, |beat| beat.at.elapsed())
    }
}
