//! What belongs to an object goes when the object goes.
//!
//! - *Background*: when an owner is gone, what names it as its last owner is deleted.
//! - *Foreground*: an owner that is being deleted keeps the finalizer `foregroundDeletion` until every dependent that blocks it is gone.
//! - *Orphan*: an owner that is being deleted keeps the finalizer `orphan` until its dependents no longer name it.
//!
//! The graph is not kept: it is read from caches of metadata alone, by two indexes (owner uid and own uid). That an owner does not exist
//! is never concluded from a cache; the server is asked.

mod apply;
mod decide;
mod graph;
mod observe;

use std::sync::Arc;

use client::{Next, TaskGroup, WorkQueue};

use crate::context::Context;
use graph::{Graph, Key};

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let queue = WorkQueue::<Key>::new();
    let (graph, informers) = Graph::new(&context.client);
    let graph = Arc::new(graph);
    graph.enqueue_on_change(&queue);
    for informer in informers {
        group.spawn_infallible("garbage collector's informer", informer.run(group.stop().clone()));
    }
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("garbage-collector", async move {
        graph.wait_synced().await;
        let work = queue.work("garbage-collector", 4, &stop, |key| {
            let (client, graph) = (client.clone(), Arc::clone(&graph));
            async move {
                if let Some(observed) = observe::observe(&client, &graph, &key).await? {
                    apply::apply(&client, &key, &observed, decide::decide(&observed)).await?;
                }
                Ok::<_, client::Error>(Next::Wait)
            }
        });
        work.await;
    });
}
