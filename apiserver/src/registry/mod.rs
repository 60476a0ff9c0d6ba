//! The resources that are served: a row each.
//!
//! A row names the kind, where its objects are cached, and its hooks. Two rows may share a cache: Events are stored once
//! and served by two groups.

mod autoscaler;
mod certificate;
mod config;
mod endpoints;
pub(crate) mod env;
mod event;
pub(crate) mod kind;
mod lease;
mod namespace;
mod node;
mod plain;
mod pod;
mod priority_class;
mod rbac;
mod review;
mod service;
mod view;
mod workload;

use std::fmt;
use std::sync::Arc;

use manifests::k8s_openapi::api::{authentication::v1 as authentication, authorization::v1 as authorization};
use manifests::kinds;
use manifests::selector::FieldSelector;
use manifests::status::ApiError;

pub(crate) use env::{Caller, Env};
pub(crate) use kind::{AnyObject, Claims, Hooks, Part};

use bytes::Bytes;

use self::kind::Typed;
use self::view::View;
use crate::object::{Layout, Object};
use crate::watch_cache::{FieldRequirement, ROOT, ResourceCache, Storage};

/// One served resource.
pub(crate) struct Row {
    pub(crate) kind: &'static kinds::Kind,
    pub(crate) hooks: &'static dyn Hooks,
    pub(crate) cache: Arc<ResourceCache>,
    /// How objects are shown, when it is not as they are stored.
    pub(crate) view: Option<&'static View>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Row").field(&self.kind.plural).finish()
    }
}

impl Row {
    fn new(kind: &'static kinds::Kind, hooks: &'static dyn Hooks) -> Row {
        let prefix = if kind.group.is_empty() {
            format!("{ROOT}{}/", kind.plural)
        } else {
            format!("{ROOT}{}/{}/", kind.group, kind.plural)
        };
        let layout = Layout::new(&kind.api_version(), kind.kind);
        let storage = Storage { prefix, layout, fields: hooks.traits().fields };
        Row { kind, hooks, cache: Arc::new(ResourceCache::new(storage)), view: None }
    }

    /// Another look at the objects of a row.
    fn viewed(&self, kind: &'static kinds::Kind, hooks: &'static dyn Hooks, view: &'static View) -> Row {
        Row { kind, hooks, cache: self.cache.clone(), view: Some(view) }
    }

    /// The kind as which objects are stored.
    pub(crate) fn stored_kind(&self) -> &'static kinds::Kind {
        self.view.map_or(self.kind, |view| view.stored)
    }

    /// An encoded object as this row shows it.
    pub(crate) fn shown(&self, json: &Bytes) -> Bytes {
        self.view.map_or_else(|| json.clone(), |view| view.show(json))
    }

    /// The key of an object after the resource's prefix.
    pub(crate) fn relative_key(&self, namespace: &str, name: &str) -> String {
        if self.kind.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(self.kind.plural, self.kind.group, name)
    }

    pub(crate) fn forbidden(&self, name: &str, why: &str) -> ApiError {
        ApiError::forbidden(self.kind.plural, self.kind.group, name, why)
    }

    pub(crate) fn conflict(&self, name: &str, why: &str) -> ApiError {
        ApiError::conflict(self.kind.plural, self.kind.group, name, why)
    }

    pub(crate) fn method_not_allowed(&self, action: &str) -> ApiError {
        ApiError::method_not_allowed(self.kind.plural, self.kind.group, action)
    }

    /// What a field selector means for this kind.
    pub(crate) fn field_requirements(
        &self,
        selector: &FieldSelector,
    ) -> Result<Vec<FieldRequirement>, ApiError> {
        let fields = self.cache.storage.fields;
        selector
            .requirements()
            .iter()
            .map(|requirement| {
                let (value, negated) = (requirement.value.clone(), requirement.negated);
                let label = self.view.map(|view| view.stored_label(&requirement.field));
                match label.as_deref().unwrap_or(&requirement.field) {
                    "metadata.name" => Ok(FieldRequirement::Name { value, negated }),
                    "metadata.namespace" if self.kind.namespaced => {
                        Ok(FieldRequirement::Namespace { value, negated })
                    }
                    label => match fields.iter().position(|field| field.label == label) {
                        Some(index) => Ok(FieldRequirement::Field { index, value, negated }),
                        None => Err(self.unknown_field(label)),
                    },
                }
            })
            .collect()
    }

    fn unknown_field(&self, label: &str) -> ApiError {
        if self.cache.storage.fields.is_empty() {
            return ApiError::bad_request(format!(
                "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                manifests::go::quote(label)
            ));
        }
        ApiError::bad_request(format!("field label not supported: {label}"))
    }
}

/// The phase of a namespace in the cache.
pub(crate) fn namespace_phase(namespace: &Object) -> &str {
    namespace.extracted.field(namespace::PHASE)
}

/// The node that a pod in the cache is on.
pub(crate) fn pod_node(pod: &Object) -> &str {
    pod.extracted.field(pod::NODE_NAME)
}

/// All rows.
#[derive(Debug)]
pub(crate) struct Registry {
    rows: Vec<Arc<Row>>,
}

impl Registry {
    /// The built-in kinds.
    pub(crate) fn built_in() -> Registry {
        let autoscalers = Row::new(&kinds::HORIZONTAL_POD_AUTOSCALER, Typed::<autoscaler::Autoscaler>::HOOKS);
        let events = Row::new(&kinds::EVENT, Typed::<event::Event>::HOOKS);
        let rows = vec![
            events.viewed(&kinds::EVENTS_EVENT, Typed::<event::StrictEvent>::HOOKS, &view::EVENTS),
            events,
            Row::new(&kinds::CONFIG_MAP, Typed::<config::ConfigMap>::HOOKS),
            Row::new(&kinds::ENDPOINTS, Typed::<endpoints::Endpoints>::HOOKS),
            Row::new(&kinds::NAMESPACE, Typed::<namespace::Namespace>::HOOKS),
            Row::new(&kinds::NODE, Typed::<node::Node>::HOOKS),
            Row::new(&kinds::POD, Typed::<pod::Pod>::HOOKS),
            Row::new(&kinds::SECRET, Typed::<config::Secret>::HOOKS),
            Row::new(&kinds::SERVICE, Typed::<service::Service>::HOOKS),
            Row::new(&kinds::SERVICE_ACCOUNT, Typed::<config::ServiceAccount>::HOOKS),
            Row::new(&kinds::DEPLOYMENT, Typed::<workload::Deployment>::HOOKS),
            Row::new(&kinds::REPLICA_SET, Typed::<workload::ReplicaSet>::HOOKS),
            Row::new(&kinds::LEASE, Typed::<lease::Lease>::HOOKS),
            Row::new(&kinds::PRIORITY_CLASS, Typed::<priority_class::PriorityClass>::HOOKS),
            Row::new(&kinds::DAEMON_SET, Typed::<plain::DaemonSet>::HOOKS),
            Row::new(&kinds::STATEFUL_SET, Typed::<plain::StatefulSet>::HOOKS),
            Row::new(&kinds::CONTROLLER_REVISION, Typed::<plain::ControllerRevision>::HOOKS),
            Row::new(&kinds::JOB, Typed::<plain::Job>::HOOKS),
            Row::new(&kinds::CRON_JOB, Typed::<plain::CronJob>::HOOKS),
            Row::new(&kinds::REPLICATION_CONTROLLER, Typed::<plain::ReplicationController>::HOOKS),
            Row::new(&kinds::RESOURCE_QUOTA, Typed::<plain::ResourceQuota>::HOOKS),
            Row::new(&kinds::LIMIT_RANGE, Typed::<plain::LimitRange>::HOOKS),
            Row::new(&kinds::POD_TEMPLATE, Typed::<plain::PodTemplate>::HOOKS),
            Row::new(&kinds::PERSISTENT_VOLUME, Typed::<plain::PersistentVolume>::HOOKS),
            Row::new(&kinds::PERSISTENT_VOLUME_CLAIM, Typed::<plain::PersistentVolumeClaim>::HOOKS),
            Row::new(&kinds::STORAGE_CLASS, Typed::<plain::StorageClass>::HOOKS),
            Row::new(&kinds::CSI_DRIVER, Typed::<plain::CsiDriver>::HOOKS),
            Row::new(&kinds::CSI_NODE, Typed::<plain::CsiNode>::HOOKS),
            Row::new(&kinds::CSI_STORAGE_CAPACITY, Typed::<plain::CsiStorageCapacity>::HOOKS),
            Row::new(&kinds::VOLUME_ATTACHMENT, Typed::<plain::VolumeAttachment>::HOOKS),
            Row::new(&kinds::INGRESS, Typed::<plain::Ingress>::HOOKS),
            Row::new(&kinds::INGRESS_CLASS, Typed::<plain::IngressClass>::HOOKS),
            Row::new(&kinds::NETWORK_POLICY, Typed::<plain::NetworkPolicy>::HOOKS),
            Row::new(&kinds::RUNTIME_CLASS, Typed::<plain::RuntimeClass>::HOOKS),
            autoscalers.viewed(
                &kinds::HORIZONTAL_POD_AUTOSCALER_V1,
                Typed::<autoscaler::Autoscaler>::HOOKS,
                &view::AUTOSCALERS,
            ),
            autoscalers,
            Row::new(&kinds::FLOW_SCHEMA, Typed::<plain::FlowSchema>::HOOKS),
            Row::new(&kinds::PRIORITY_LEVEL_CONFIGURATION, Typed::<plain::PriorityLevelConfiguration>::HOOKS),
            Row::new(&kinds::POD_DISRUPTION_BUDGET, Typed::<plain::PodDisruptionBudget>::HOOKS),
            Row::new(&kinds::ROLE, Typed::<rbac::Role>::HOOKS),
            Row::new(&kinds::ROLE_BINDING, Typed::<rbac::RoleBinding>::HOOKS),
            Row::new(&kinds::CLUSTER_ROLE, Typed::<rbac::ClusterRole>::HOOKS),
            Row::new(&kinds::CLUSTER_ROLE_BINDING, Typed::<rbac::ClusterRoleBinding>::HOOKS),
            Row::new(&kinds::CERTIFICATE_SIGNING_REQUEST, Typed::<certificate::Request>::HOOKS),
            Row::new(&kinds::TOKEN_REVIEW, Typed::<review::Review<authentication::TokenReview>>::HOOKS),
            Row::new(
                &kinds::SELF_SUBJECT_REVIEW,
                Typed::<review::Review<authentication::SelfSubjectReview>>::HOOKS,
            ),
            Row::new(
                &kinds::SUBJECT_ACCESS_REVIEW,
                Typed::<review::Review<authorization::SubjectAccessReview>>::HOOKS,
            ),
            Row::new(
                &kinds::LOCAL_SUBJECT_ACCESS_REVIEW,
                Typed::<review::Review<authorization::LocalSubjectAccessReview>>::HOOKS,
            ),
            Row::new(
                &kinds::SELF_SUBJECT_ACCESS_REVIEW,
                Typed::<review::Review<authorization::SelfSubjectAccessReview>>::HOOKS,
            ),
            Row::new(
                &kinds::SELF_SUBJECT_RULES_REVIEW,
                Typed::<review::Review<authorization::SelfSubjectRulesReview>>::HOOKS,
            ),
            Row::new(&kinds::ENDPOINT_SLICE, Typed::<endpoints::EndpointSlice>::HOOKS),
        ];
        Registry { rows: rows.into_iter().map(Arc::new).collect() }
    }

    pub(crate) fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    pub(crate) fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Row>> {
        let named = |row: &&Arc<Row>| {
            row.kind.plural == resource && row.kind.group == group && row.kind.version == version
        };
        self.rows.iter().find(named)
    }
}
