//! What an autoscaler looks at: the scale of its target, its pods, and what they use.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use client::{Api, ApiResource, Cache, Client, Error, ListParams, ObjectKey, Unstructured};
use manifests::k8s_openapi::api::autoscaling::v1::Scale;
use manifests::k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::quantity::Quantity;
use manifests::selector::Selector;
use serde::Deserialize;

use super::decide::{Pods, Target};
use super::usage::{Sample, Samples};

/// What pods use, container by container, as `metrics.k8s.io` says.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Metrics {
    items: Vec<PodMetrics>,
}

#[derive(Debug, Deserialize)]
struct PodMetrics {
    metadata: Metadata,
    timestamp: Timestamp,
    window: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: HashMap<String, ApiQuantity>,
}

/// Why nothing is known of what pods use.
#[derive(Debug, Clone)]
pub(super) struct NotFetched(pub(super) String);

impl Metrics {
    /// What each pod uses of a resource, or one container of it.
    pub(super) fn samples(&self, resource: &str, container: &str) -> Result<Samples, String> {
        let mut samples = Samples::new();
        for pod in &self.items {
            let name = &pod.metadata.name;
            let used =
                |container: &ContainerMetrics| Some(Quantity::of(container.usage.get(resource)?).milli());
            let value = if container.is_empty() {
                // A container that nothing is known of makes the sum a wrong one.
                pod.containers.iter().map(used).sum::<Option<i64>>()
            } else {
                let found = pod.containers.iter().find(|one| one.name == container);
                let found = found.ok_or_else(|| {
                    let namespace = &pod.metadata.namespace;
                    format!(
                        "failed to get container metrics: container {container} not present in metrics for pod {namespace}/{name}"
                    )
                })?;
                used(found)
            };
            if let Some(value) = value {
                let sample = Sample { value, at: pod.timestamp, window: window(&pod.window) };
                samples.insert(name.clone(), sample);
            }
        }
        Ok(samples)
    }

    #[cfg(test)]
    pub(super) fn of(value: serde_json::Value) -> Metrics {
        serde_json::from_value(value).unwrap()
    }
}

/// `15.003s`, as Go writes durations that are not long.
fn window(text: &str) -> SignedDuration {
    let seconds = text.strip_suffix('s').and_then(|text| text.parse().ok()).unwrap_or(0.0);
    SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::ZERO)
}

/// Where targets and metrics are read.
pub(super) struct Eyes {
    pub(super) client: Client,
    pub(super) pods: Cache<Pod>,
    pub(super) autoscalers: Cache<HorizontalPodAutoscaler>,
    /// What the targets of autoscalers select, as far as they have been looked at.
    pub(super) selectors: Mutex<HashMap<ObjectKey, Selector>>,
}

impl Eyes {
    /// The target of an autoscaler, with its scale if it has been found.
    pub(super) async fn target(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
    ) -> (Target, Option<Scale>) {
        let reference = &autoscaler.spec.scale_target_ref;
        let scale = match self.api(key, reference) {
            Ok(api) => api.get_scale(&reference.name).await.map_err(|error| said(&error)),
            Err(why) => Err(why),
        };
        let scale = match scale {
            Ok(scale) => scale,
            Err(why) => return (Target::Unreachable(why), None),
        };
        let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let selector = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        (Target::Found { replicas, pods: self.pods(key, &selector).await }, Some(scale))
    }

    /// Tells the target how many replicas there are to be.
    pub(super) async fn rescale(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        mut scale: Scale,
        replicas: i32,
    ) -> Result<(), String> {
        let reference = &autoscaler.spec.scale_target_ref;
        scale.spec.get_or_insert_default().replicas = Some(replicas);
        let api = self.api(key, reference)?;
        let done: Result<Scale, Error> = api.replace_subresource(&reference.name, "scale", &scale).await;
        done.map(drop).map_err(|error| said(&error))
    }

    fn api(
        &self,
        key: &ObjectKey,
        reference: &CrossVersionObjectReference,
    ) -> Result<Api<Unstructured>, String> {
        let version = reference.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let plural = match (group, reference.kind.as_str()) {
            ("apps", "Deployment") => "deployments",
            ("apps", "ReplicaSet") => "replicasets",
            ("apps", "StatefulSet") => "statefulsets",
            ("", "ReplicationController") => "replicationcontrollers",
            (group, kind) => {
                let quote = manifests::go::quote;
                return Err(format!("no matches for kind {} in group {}", quote(kind), quote(group)));
            }
        };
        let resource = ApiResource {
            group: Cow::Owned(group.to_owned()),
            version: Cow::Borrowed("v1"),
            kind: Cow::Owned(reference.kind.clone()),
            plural: Cow::Borrowed(plural),
        };
        Ok(Api::dynamic(self.client.clone(), resource, Some(&key.namespace)))
    }

    async fn pods(&self, key: &ObjectKey, text: &str) -> Pods {
        if text.is_empty() {
            return Pods::NoSelector;
        }
        let selector = match Selector::parse(text) {
            Ok(selector) => selector,
            Err(error) => return Pods::BadSelector(error.to_string()),
        };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selector.matches_meta(pod.metadata.labels.as_ref()));
        let autoscalers = self.who_selects(key, selector, &pods);
        if autoscalers.len() > 1 {
            return Pods::Ambiguous { selector: text.to_owned(), autoscalers };
        }
        Pods::Selected { pods, metrics: self.metrics(key, text).await }
    }

    /// The autoscalers that any of these pods belong to, this one among them.
    fn who_selects(&self, key: &ObjectKey, selector: Selector, pods: &[Arc<Pod>]) -> Vec<String> {
        let mut selectors = self.selectors.lock().unwrap_or_else(PoisonError::into_inner);
        selectors.insert(key.clone(), selector);
        let selects =
            |selector: &Selector| pods.iter().any(|pod| selector.matches_meta(pod.metadata.labels.as_ref()));
        let mut all: Vec<String> = selectors
            .iter()
            .filter(|(other, selector)| {
                *other == key
                    || (other.namespace == key.namespace
                        && self.autoscalers.get(other).is_some()
                        && selects(selector))
            })
            .map(|(other, _)| other.to_string())
            .collect();
        all.sort();
        all
    }

    async fn metrics(&self, key: &ObjectKey, selector: &str) -> Result<Metrics, NotFetched> {
        let resource = ApiResource {
            group: Cow::Borrowed("metrics.k8s.io"),
            version: Cow::Borrowed("v1beta1"),
            kind: Cow::Borrowed("PodMetrics"),
            plural: Cow::Borrowed("pods"),
        };
        let api = Api::dynamic(self.client.clone(), resource, Some(&key.namespace));
        let metrics = match api.list(&ListParams::default().labels(selector)).await {
            Ok(list) => {
                let items = list.items.into_iter().map(serde_json::to_value);
                items
                    .map(|item| serde_json::from_value(item?))
                    .collect::<Result<_, _>>()
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(said(&error)),
        };
        match metrics {
            Ok(items) => {
                let metrics = Metrics { items };
                match metrics.items.is_empty() {
                    true => Err(NotFetched("no metrics returned from resource metrics API".to_owned())),
                    false => Ok(metrics),
                }
            }
            Err(why) => Err(NotFetched(format!("unable to fetch metrics from resource metrics API: {why}"))),
        }
    }
}

/// What the server said, or else what went wrong.
fn said(error: &Error) -> String {
    error
        .status()
        .and_then(|status| status.message.clone())
        .unwrap_or_else(|| client::ErrorChain(error).to_string())
}
