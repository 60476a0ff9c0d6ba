//! EndpointSlices of Endpoints that somebody wrote: for services without a selector, whose endpoints are outside the cluster.
//!
//! Readers only know slices. Each subset becomes slices of its own, by kind of address; labels and annotations are copied.
//! Names, labels and exceptions are those of upstream's controller (`endpointslicemirroring-controller.k8s.io`).

mod decide;

use client::{ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{Endpoints, Service};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::context::Context;
use crate::endpoint_slice::decide::changes;
use crate::endpoint_slice::{SERVICE_NAME, apply};

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let endpoints = context.informers.cache::<Endpoints>();
    let services = context.informers.cache::<Service>();
    let slices = context.informers.cache::<EndpointSlice>();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    endpoints.on_change(move |change| to.add(change.key.clone()));
    let to = queue.clone();
    services.on_change(move |change| to.add(change.key.clone()));
    let to = queue.clone();
    slices.on_change(move |change| {
        for slice in change.states().filter(|slice| decide::is_mirrored(slice)) {
            if let Some(name) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) {
                to.add(ObjectKey::new(change.key.namespace.clone(), name.clone()));
            }
        }
    });
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("endpoint-slice-mirroring-controller", async move {
        tokio::join!(endpoints.wait_synced(), services.wait_synced(), slices.wait_synced());
        let work = queue.work("endpoint-slice-mirroring", 2, &stop, |key| {
            let (endpoints, service) = (endpoints.get(&key), services.get(&key));
            let mut there = slices.in_namespace(&key.namespace);
            there.retain(|slice| {
                let labels = slice.metadata.labels.as_ref();
                decide::is_mirrored(slice)
                    && labels.and_then(|labels| labels.get(SERVICE_NAME)) == Some(&key.name)
            });
            let wanted = decide::mirror(endpoints.as_deref(), service.as_deref());
            apply::apply(&client, key, changes(&there, &wanted))
        });
        work.await;
    });
}
