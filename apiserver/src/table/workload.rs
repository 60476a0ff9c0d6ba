//! Deployments, ReplicaSets, and the scale of either.

use super::column::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, integer, string};
use super::human::{age, name, non_empty};
use super::{Printer, Row, print};
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use manifests::k8s_openapi::api::autoscaling::v1::Scale;
use manifests::k8s_openapi::api::core::v1::PodTemplateSpec;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use manifests::selector::Selector;
use serde_json::Value;

pub(super) const DEPLOYMENT: Printer = Printer {
    columns: &[
        NAME,
        string("Ready", "How many of the desired pods are ready."),
        integer("Up-to-date", "How many pods run the newest template."),
        integer("Available", "How many pods have been ready for long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    row: |object, now| {
        print::<Deployment>(object, |deployment| {
            let spec = &deployment.spec;
            let status = deployment.status.as_ref();
            let desired = spec.replicas.unwrap_or_default();
            let ready = status.and_then(|status| status.ready_replicas).unwrap_or_default();
            let [containers, images] = containers(Some(&spec.template));
            Row::from(vec![
                name(&deployment.metadata),
                format!("{ready}/{desired}").into(),
                status.and_then(|status| status.updated_replicas).unwrap_or_default().into(),
                status.and_then(|status| status.available_replicas).unwrap_or_default().into(),
                age(&deployment.metadata, now),
                containers,
                images,
                selector(&spec.selector).unwrap_or_else(|| "<invalid>".to_string()).into(),
            ])
        })
    },
};

pub(super) const REPLICA_SET: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired", "How many pods there shall be."),
        integer("Current", "How many pods there are."),
        integer("Ready", "How many pods are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    row: |object, now| {
        print::<ReplicaSet>(object, |set| {
            let spec = &set.spec;
            let status = set.status.as_ref();
            let [containers, images] = containers(spec.template.as_ref());
            let selector = selector(&spec.selector).unwrap_or_else(|| "<error>".to_string());
            Row::from(vec![
                name(&set.metadata),
                spec.replicas.unwrap_or_default().into(),
                status.map(|status| status.replicas).unwrap_or_default().into(),
                status.and_then(|status| status.ready_replicas).unwrap_or_default().into(),
                age(&set.metadata, now),
                containers,
                images,
                non_empty(&selector, "<none>").into(),
            ])
        })
    },
};

pub(super) const SCALE: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired", "How many pods there shall be."),
        integer("Available", "How many pods there are."),
        AGE,
    ],
    row: |object, now| {
        print::<Scale>(object, |scale| {
            Row::from(vec![
                name(&scale.metadata),
                scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default().into(),
                scale.status.as_ref().map(|status| status.replicas).unwrap_or_default().into(),
                age(&scale.metadata, now),
            ])
        })
    },
};

/// The cells with the names and the images of a template's containers.
fn containers(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let containers = template
        .and_then(|template| template.spec.as_ref())
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    let images: Vec<&str> =
        containers.iter().map(|container| container.image.as_deref().unwrap_or_default()).collect();
    [names.join(",").into(), images.join(",").into()]
}

fn selector(selector: &LabelSelector) -> Option<String> {
    Selector::from_label_selector(Some(selector)).ok().map(|selector| selector.to_string())
}
