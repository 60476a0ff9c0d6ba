//! The controllers, one folder each: observe, decide, apply.
//!
//! `observe.rs` gathers one snapshot from the shared caches, `decide.rs` makes a plan from it (no clock, no I/O), and
//! `apply.rs` carries the plan out. Deciding again after applying yields an empty plan.
//!
//! Every resource is watched and cached once for all controllers. Queues carry keys; what failed is tried again,
//! later and later, and never given up.

mod bootstrap_token;
mod context;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod ephemeral_volume;
mod garbage_collector;
mod history;
mod horizontal_pod_autoscaler;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod ownership;
mod persistent_volume;
mod pod_gc;
mod pod_state;
mod pod_sync;
mod replica_set;
mod replication_controller;
mod root_ca;
mod service_account;
mod service_pods;
mod stateful_set;

use std::sync::Arc;
use std::time::Duration;

use client::lease::{Leadership, LeaseOptions, lead};
use client::{Client, Informers, TaskError, TaskGroup};
use tokio_util::sync::CancellationToken;

use context::Context;
pub use node_ipam::PodRanges;

/// How long the controllers may take to finish what they have in hand.
const DRAIN: Duration = Duration::from_secs(5);

/// How the controllers run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Write only while holding this lease; None for a single server. With a lease the caches belong to the
    /// time of holding it: a server that waits for it holds none.
    pub lease: Option<LeaseOptions>,
    /// Caches that the process shares, and runs. Not used with a lease.
    pub informers: Option<Informers>,
    /// PEM bundle with the authority of the API server, for every namespace.
    pub root_ca: Option<Arc<str>>,
    /// Addresses of pods, to be divided among the nodes; without them nodes bring their own.
    pub pod_ranges: Option<PodRanges>,
}

/// Runs all controllers until told to stop.
pub async fn run(client: Client, options: Options, stop: CancellationToken) -> Result<(), TaskError> {
    let Some(lease) = &options.lease else {
        return hold_the_helm(client, options.informers.clone(), &options, stop).await;
    };
    loop {
        match lead(&client, lease, &stop, |held| hold_the_helm(client.clone(), None, &options, held)).await {
            Leadership::NeverLed => return Ok(()),
            Leadership::Finished(outcome) => return outcome,
            Leadership::Lost(outcome) => outcome?,
        }
    }
}

async fn hold_the_helm(
    client: Client,
    informers: Option<Informers>,
    options: &Options,
    stop: CancellationToken,
) -> Result<(), TaskError> {
    let mut group = TaskGroup::new(stop.child_token());
    let context = match informers {
        Some(informers) => Context { client, informers },
        None => Context::new(client, &mut group),
    };
    bootstrap_token::start(&context, &mut group);
    cron_job::start(&context, &mut group);
    daemon_set::start(&context, &mut group);
    deployment::start(&context, &mut group);
    disruption::start(&context, &mut group);
    endpoint_slice::start(&context, &mut group);
    endpoint_slice_mirroring::start(&context, &mut group);
    endpoints::start(&context, &mut group);
    ephemeral_volume::start(&context, &mut group);
    garbage_collector::start(&context, &mut group);
    horizontal_pod_autoscaler::start(&context, &mut group);
    job::start(&context, &mut group);
    namespace::start(&context, &mut group);
    if let Some(ranges) = options.pod_ranges {
        node_ipam::start(&context, ranges, &mut group);
    }
    node_lifecycle::start(&context, &mut group);
    persistent_volume::start(&context, &mut group);
    pod_gc::start(&context, &mut group);
    replica_set::start(&context, &mut group);
    replication_controller::start(&context, &mut group);
    if let Some(ca) = options.root_ca.clone() {
        root_ca::start(&context, ca, &mut group);
    }
    service_account::start(&context, &mut group);
    stateful_set::start(&context, &mut group);
    group.join(DRAIN).await
}
