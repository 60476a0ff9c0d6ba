//! EndpointSlices of services with a selector.
//!
//! A slice holds endpoints with the same ports, at most a hundred. Its name is made from the service and its place, so
//! that a stale cache can never make a second one of it. Reasons and labels are those of the upstream controller
//! (`endpointslice-controller.k8s.io`).

pub(crate) mod apply;
pub(crate) mod decide;
#[cfg(test)]
mod tests;

use client::{ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{Node, Pod, Service};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::context::Context;
use crate::service_pods;

/// Label that ties a slice to its service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let services = context.informers.cache::<Service>();
    let pods = context.informers.cache::<Pod>();
    let nodes = context.informers.cache::<Node>();
    let slices = context.informers.cache::<EndpointSlice>();
    let queue = WorkQueue::<ObjectKey>::new();
    service_pods::enqueue_on_change(&services, &pods, &queue);
    let to = queue.clone();
    slices.on_change(move |change| {
        for slice in change.states() {
            if let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME))
            {
                to.add(ObjectKey::new(change.key.namespace.clone(), service.clone()));
            }
        }
    });
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("endpoint-slice-controller", async move {
        tokio::join!(services.wait_synced(), pods.wait_synced(), nodes.wait_synced(), slices.wait_synced());
        let work = queue.work("endpoint-slice", 2, &stop, |key| {
            let plan = decide::decide(&decide::observe(&key, &services, &pods, &nodes, &slices));
            apply::apply(&client, key, plan)
        });
        work.await;
    });
}
