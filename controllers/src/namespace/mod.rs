//! Namespaces on their way out are emptied, then let go.
//!
//! Pods take their time to end; each pod that goes brings its namespace's key back. What is held by somebody's finalizer
//! gives no such sign here, so it is looked for again after a while.

mod apply;
mod decide;
mod observe;

use std::time::Duration;

use client::{Client, Error, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::context::Context;

/// How long something with a finalizer is left alone.
const HELD: Duration = Duration::from_secs(2);

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let namespaces = context.informers.cache::<Namespace>();
    let pods = context.informers.cache::<Pod>();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    namespaces.on_change(move |change| {
        if change.new.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            to.add(change.key.clone());
        }
    });
    let (to, known) = (queue.clone(), namespaces.clone());
    pods.on_change(move |change| {
        let key = ObjectKey::cluster(change.key.namespace.clone());
        let leaving =
            || known.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some());
        if change.new.is_none() && leaving() {
            to.add(key);
        }
    });
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("namespace-controller", async move {
        namespaces.wait_synced().await;
        queue.work("namespace", 2, &stop, |key| reconcile(&client, key)).await;
    });
}

async fn reconcile(client: &Client, key: ObjectKey) -> Result<Next, Error> {
    // Several passes: what a pass deletes at once lets the next one finish.
    for _ in 0..3 {
        let Some(observed) = observe::observe(client, &key.name).await? else { return Ok(Next::Wait) };
        let plan = decide::decide(&observed);
        let finished = plan.is_finished();
        let waits = plan.waits();
        apply::apply(client, &observed.namespace, plan).await?;
        if finished {
            return Ok(Next::Wait);
        }
        if waits {
            break;
        }
    }
    Ok(Next::After(HELD))
}
