//! The controllers, one folder each: observe, decide, apply.
//!
//! `observe.rs` gathers one snapshot from the shared caches, `decide.rs` makes a plan from it (no clock, no I/O), and
//! `apply.rs` carries the plan out. Deciding again after applying yields an empty plan.
//!
//! Every resource is watched and cached once for all controllers. Queues carry keys; what failed is tried again,
//! later and later, and never given up.

mod context;
mod endpoint_slice;
mod endpoints;
mod garbage_collector;
mod namespace;
mod node_lifecycle;
mod pod_gc;
mod service_account;
mod service_pods;

use std::time::Duration;

use client::{Client, TaskError, TaskGroup};
use tokio_util::sync::CancellationToken;

use context::Context;

/// How long the controllers may take to finish what they have in hand.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs all controllers until told to stop.
pub async fn run(client: Client, stop: CancellationToken) -> Result<(), TaskError> {
    let mut group = TaskGroup::new(stop);
    let context = Context::new(client, &group);
    endpoint_slice::start(&context, &mut group);
    endpoints::start(&context, &mut group);
    service_account::start(&context, &mut group);
    pod_gc::start(&context, &mut group);
    garbage_collector::start(&context, &mut group);
    namespace::start(&context, &mut group);
    node_lifecycle::start(&context, &mut group);
    context.start(&mut group);
    group.join(DRAIN).await
}
