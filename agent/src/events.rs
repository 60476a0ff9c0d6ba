//! Events about pods and the node: to the API if there is one, to the log always.

use client::EventRecorder;
use client::events::{EventType, reference};
use manifests::k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::names::pod_id;

/// Where events go.
#[derive(Debug, Clone, Default)]
pub struct Events {
    recorder: Option<EventRecorder>,
}

impl Events {
    /// To the API through this recorder, if there is one.
    pub fn new(recorder: Option<EventRecorder>) -> Self {
        Self { recorder }
    }

    /// Something ordinary happened to a pod.
    pub fn normal(&self, pod: &Pod, reason: &str, message: impl Into<String>) {
        self.record(pod, None, EventType::Normal, reason, message.into());
    }

    /// Something happened to a pod that someone may want to look at.
    pub fn warning(&self, pod: &Pod, reason: &str, message: impl Into<String>) {
        self.record(pod, None, EventType::Warning, reason, message.into());
    }

    /// Something ordinary happened to a container.
    pub fn container_normal(&self, pod: &Pod, container: &str, reason: &str, message: impl Into<String>) {
        self.record(pod, Some(container), EventType::Normal, reason, message.into());
    }

    /// Something happened to a container that someone may want to look at.
    pub fn container_warning(&self, pod: &Pod, container: &str, reason: &str, message: impl Into<String>) {
        self.record(pod, Some(container), EventType::Warning, reason, message.into());
    }

    fn record(&self, pod: &Pod, container: Option<&str>, kind: EventType, reason: &str, message: String) {
        match kind {
            EventType::Normal => tracing::debug!(pod = %pod_id(pod), container, reason, message),
            EventType::Warning => tracing::warn!(pod = %pod_id(pod), container, reason, message),
        }
        if let Some(recorder) = &self.recorder {
            let mut regarding = reference(pod);
            regarding.field_path = container.map(|name| field_path(pod, name));
            recorder.record(regarding, kind, reason, message);
        }
    }

    /// Something happened to what is referred to.
    pub fn about(&self, regarding: ObjectReference, kind: EventType, reason: &str, message: String) {
        tracing::debug!(name = regarding.name, reason, message);
        if let Some(recorder) = &self.recorder {
            recorder.record(regarding, kind, reason, message);
        }
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let is_init = init.is_some_and(|list| list.iter().any(|init| init.name == container));
    format!("spec.{}{{{container}}}", if is_init { "initContainers" } else { "containers" })
}
