//! Endpoints of services with a selector: the older form, for clients that have not moved to EndpointSlices.

mod decide;
#[cfg(test)]
mod tests;

use client::{Client, DeleteParams, Error, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{Endpoints, Pod, Service};

use crate::context::Context;
use crate::service_pods;
use decide::Action;

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let services = context.informers.cache::<Service>();
    let pods = context.informers.cache::<Pod>();
    let endpoints = context.informers.cache::<Endpoints>();
    let queue = WorkQueue::<ObjectKey>::new();
    service_pods::enqueue_on_change(&services, &pods, &queue);
    let to = queue.clone();
    endpoints.on_change(move |change| to.add(change.key.clone()));
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("endpoint-controller", async move {
        tokio::join!(services.wait_synced(), pods.wait_synced(), endpoints.wait_synced());
        let work = queue.work("endpoint", 2, &stop, |key| {
            let action = decide::decide(&decide::observe(&key, &services, &pods, &endpoints));
            apply(&client, key, action)
        });
        work.await;
    });
}

async fn apply(client: &Client, key: ObjectKey, action: Option<Action>) -> Result<Next, Error> {
    let api = client.namespaced::<Endpoints>(&key.namespace);
    match action {
        None => {}
        Some(Action::Create(endpoints)) => drop(api.create(&endpoints).await?),
        Some(Action::Update(endpoints)) => drop(api.replace(&endpoints).await?),
        Some(Action::Delete { uid }) => api.delete_opt(&key.name, &DeleteParams::uid(uid)).await?,
    }
    Ok(Next::Wait)
}
