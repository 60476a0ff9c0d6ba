//! Nodes for tests.

use manifests::k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeCondition, NodeSpec, NodeStatus, Taint,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Builds a node.
#[derive(Debug, Clone)]
pub struct NodeBuilder(Node);

/// A ready node with 4 CPUs, 8 GiB of memory and room for 110 pods.
pub fn node(name: &str) -> NodeBuilder {
    let node = Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            resource_version: Some("1".to_owned()),
            labels: Some([("kubernetes.io/hostname".to_owned(), name.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus::default()),
    };
    NodeBuilder(node)
        .allocatable("cpu", "4")
        .allocatable("memory", "8Gi")
        .allocatable("pods", "110")
        .condition("Ready", "True")
}

impl NodeBuilder {
    /// The node.
    pub fn build(self) -> Node {
        self.0
    }

    /// With so much of a resource.
    pub fn allocatable(mut self, resource: &str, amount: &str) -> Self {
        let status = self.0.status.get_or_insert_default();
        crate::put(&mut status.allocatable, resource, amount);
        crate::put(&mut status.capacity, resource, amount);
        self
    }

    /// With this label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this taint.
    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        self.0.spec.get_or_insert_default().taints.get_or_insert_default().push(Taint {
            key: key.to_owned(),
            value: (!value.is_empty()).then(|| value.to_owned()),
            effect: effect.to_owned(),
            time_added: None,
        });
        self
    }

    /// Closed for new pods.
    pub fn unschedulable(mut self) -> Self {
        self.0.spec.get_or_insert_default().unschedulable = Some(true);
        self
    }

    /// With a condition.
    pub fn condition(mut self, kind: &str, status: &str) -> Self {
        let conditions = self.0.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            ..NodeCondition::default()
        });
        self
    }

    /// Holding an image.
    pub fn image(mut self, name: &str, bytes: i64) -> Self {
        self.0
            .status
            .get_or_insert_default()
            .images
            .get_or_insert_default()
            .push(ContainerImage { names: Some(vec![name.to_owned()]), size_bytes: Some(bytes) });
        self
    }

    /// Changed in any other way.
    pub fn with(mut self, change: impl FnOnce(&mut Node)) -> Self {
        change(&mut self.0);
        self
    }
}
