//! Pods for tests.

use manifests::k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, NodeAffinity, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, Pod, PodCondition, PodSpec, PodStatus, PreferredSchedulingTerm, Toleration,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Builds a pod with one container.
#[derive(Debug, Clone)]
pub struct PodBuilder(Pod);

/// A pending pod in namespace `default` whose uid is its name.
pub fn pod(name: &str) -> PodBuilder {
    PodBuilder(Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(name.to_owned()),
            resource_version: Some("1".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".to_owned(),
                image: Some("busybox".to_owned()),
                ..Container::default()
            }],
            scheduler_name: Some("default-scheduler".to_owned()),
            ..PodSpec::default()
        }),
        status: Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() }),
    })
}

impl PodBuilder {
    /// The pod.
    pub fn build(self) -> Pod {
        self.0
    }

    fn spec(&mut self) -> &mut PodSpec {
        self.0.spec.get_or_insert_default()
    }

    fn status(&mut self) -> &mut PodStatus {
        self.0.status.get_or_insert_default()
    }

    fn container(&mut self) -> &mut Container {
        let containers = &mut self.spec().containers;
        if containers.is_empty() {
            containers.push(Container::default());
        }
        &mut containers[0]
    }

    /// In this namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.0.metadata.namespace = Some(namespace.to_owned());
        self
    }

    /// With this uid.
    pub fn uid(mut self, uid: &str) -> Self {
        self.0.metadata.uid = Some(uid.to_owned());
        self
    }

    /// With this label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Requesting an amount of a resource.
    pub fn request(mut self, resource: &str, amount: &str) -> Self {
        let resources = self.container().resources.get_or_insert_default();
        crate::put(&mut resources.requests, resource, amount);
        self
    }

    /// With a port on the host.
    pub fn host_port(mut self, ip: &str, protocol: &str, port: i32) -> Self {
        self.container().ports.get_or_insert_default().push(ContainerPort {
            container_port: port,
            host_port: Some(port),
            host_ip: (!ip.is_empty()).then(|| ip.to_owned()),
            protocol: Some(protocol.to_owned()),
            ..ContainerPort::default()
        });
        self
    }

    /// With a named TCP port.
    pub fn port(mut self, name: &str, port: i32) -> Self {
        self.container().ports.get_or_insert_default().push(ContainerPort {
            name: (!name.is_empty()).then(|| name.to_owned()),
            container_port: port,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        });
        self
    }

    /// With this image.
    pub fn image(mut self, image: &str) -> Self {
        self.container().image = Some(image.to_owned());
        self
    }

    /// Bound to a node.
    pub fn on(mut self, node: &str) -> Self {
        self.spec().node_name = Some(node.to_owned());
        self
    }

    /// With this priority.
    pub fn priority(mut self, priority: i32) -> Self {
        self.spec().priority = Some(priority);
        self
    }

    /// Only on nodes with this label.
    pub fn node_selector(mut self, key: &str, value: &str) -> Self {
        self.spec().node_selector.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    fn node_affinity(&mut self) -> &mut NodeAffinity {
        let affinity: &mut Affinity = self.spec().affinity.get_or_insert_default();
        affinity.node_affinity.get_or_insert_default()
    }

    /// One more alternative of required node affinity.
    pub fn require_node(mut self, key: &str, operator: &str, values: &[&str]) -> Self {
        let term = term(key, operator, values);
        let affinity = self.node_affinity();
        affinity
            .required_during_scheduling_ignored_during_execution
            .get_or_insert_with(NodeSelector::default)
            .node_selector_terms
            .push(term);
        self
    }

    /// Preferring nodes.
    pub fn prefer_node(mut self, weight: i32, key: &str, operator: &str, values: &[&str]) -> Self {
        let preference = term(key, operator, values);
        let preferred = &mut self.node_affinity().preferred_during_scheduling_ignored_during_execution;
        preferred.get_or_insert_default().push(PreferredSchedulingTerm { weight, preference });
        self
    }

    /// Tolerating a taint.
    pub fn tolerate(mut self, key: &str, operator: &str, value: &str, effect: &str) -> Self {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        self.spec().tolerations.get_or_insert_default().push(Toleration {
            key: given(key),
            operator: given(operator),
            value: given(value),
            effect: given(effect),
            toleration_seconds: None,
        });
        self
    }

    /// Tolerating a NoExecute taint for a while.
    pub fn tolerate_for(mut self, key: &str, seconds: i64) -> Self {
        self.spec().tolerations.get_or_insert_default().push(Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: Some(seconds),
            value: None,
        });
        self
    }

    /// In this phase.
    pub fn phase(mut self, phase: &str) -> Self {
        self.status().phase = Some(phase.to_owned());
        self
    }

    /// With this address.
    pub fn ip(mut self, ip: &str) -> Self {
        let status = self.status();
        status.pod_ip = Some(ip.to_owned());
        status.pod_ips = Some(vec![manifests::k8s_openapi::api::core::v1::PodIP { ip: ip.to_owned() }]);
        self
    }

    /// With a condition.
    pub fn condition(mut self, kind: &str, status: &str) -> Self {
        let conditions = self.status().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            ..PodCondition::default()
        });
        self
    }

    /// Running and ready.
    pub fn ready(self) -> Self {
        self.phase("Running").condition("Ready", "True")
    }

    /// On its way out.
    pub fn terminating(mut self) -> Self {
        use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
        self.0.metadata.deletion_timestamp = Some(Time(manifests::k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        self
    }

    /// Controlled by an object.
    pub fn controlled_by(mut self, api_version: &str, kind: &str, name: &str, uid: &str) -> Self {
        self.0.metadata.owner_references.get_or_insert_default().push(OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        });
        self
    }

    /// Changed in any other way.
    pub fn with(mut self, change: impl FnOnce(&mut Pod)) -> Self {
        change(&mut self.0);
        self
    }
}

fn term(key: &str, operator: &str, values: &[&str]) -> NodeSelectorTerm {
    let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: (!values.is_empty()).then_some(values),
        }]),
        match_fields: None,
    }
}
