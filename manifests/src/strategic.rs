//! Where a strategic merge patch merges instead of replacing: patch strategies and merge keys, per type and field.
//!
//! The table names types as OpenAPI does (`io.k8s.api.core.v1.PodSpec`) and is walked from a root type along the
//! fields of a document. It holds a field when the field has a strategy of its own, or when one lies below it; for
//! every other field the default holds, which needs no table: maps merge key by key, lists and scalars are replaced.
//!
//! It is data for two readers: the server's strategic merge patch, and the OpenAPI documents, whose
//! `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key` tell clients the same.
//!
//! The file depends on nothing, so that a build script can include it too.

/// How a patch treats one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// No strategy of its own: a map merges, a list is replaced. Listed only for what lies below.
    Default,
    /// The elements of a list merge: maps by the merge key, scalars as a set.
    Merge,
    /// A map is replaced as a whole.
    Replace,
    /// A map merges, and `$retainKeys` may name the keys that stay.
    RetainKeys,
    /// The elements of a list merge, and each element may carry `$retainKeys`.
    MergeRetainKeys,
}

impl Strategy {
    /// The value of `x-kubernetes-patch-strategy`; nothing for the default.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Strategy::Default => None,
            Strategy::Merge => Some("merge"),
            Strategy::Replace => Some("replace"),
            Strategy::RetainKeys => Some("retainKeys"),
            Strategy::MergeRetainKeys => Some("merge,retainKeys"),
        }
    }

    /// Whether the elements of a list merge.
    pub fn merges_list(self) -> bool {
        matches!(self, Strategy::Merge | Strategy::MergeRetainKeys)
    }
}

/// One field of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// How a patch treats it.
    pub strategy: Strategy,
    /// The field that identifies an element of a merging list of maps; empty for anything else.
    pub merge_key: &'static str,
    /// The type of the field, or of the list's elements, where the walk goes on; empty for scalars.
    pub of: &'static str,
}

/// The field `name` of type `of`, when the table has an entry for it.
///
/// `metadata` of every other type is an ObjectMeta, so the table does not repeat it for each kind.
pub fn field(of: &str, name: &str) -> Option<&'static Field> {
    let found = TYPES
        .binary_search_by(|(listed, _)| (*listed).cmp(of))
        .ok()
        .and_then(|at| TYPES[at].1.iter().find(|field| field.name == name));
    found.or_else(|| (name == METADATA.name && of != OBJECT_META).then_some(&METADATA))
}

/// The OpenAPI name of a kind's type: `apps/v1 Deployment` is `io.k8s.api.apps.v1.Deployment`.
///
/// The rule covers the groups that Kubernetes itself serves from `k8s.io/api`; the name is only a key here, so an
/// unknown kind merely finds no entry.
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    let package = match group.split('.').next() {
        None | Some("") => "core",
        // Of all groups, only this one does not begin with its package's name.
        Some("internal") => "apiserverinternal",
        Some(first) => first,
    };
    format!("io.k8s.api.{package}.{version}.{kind}")
}

/// All types with an entry, for readers that want the whole table.
pub fn types() -> impl Iterator<Item = (&'static str, &'static [Field])> {
    TYPES.iter().copied()
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const METADATA: Field = below("metadata", OBJECT_META);

const fn below(name: &'static str, of: &'static str) -> Field {
    Field { name, strategy: Strategy::Default, merge_key: "", of }
}

const fn merge(name: &'static str, merge_key: &'static str, of: &'static str) -> Field {
    Field { name, strategy: Strategy::Merge, merge_key, of }
}

const fn merge_scalars(name: &'static str) -> Field {
    Field { name, strategy: Strategy::Merge, merge_key: "", of: "" }
}

const fn merge_retain(name: &'static str, merge_key: &'static str, of: &'static str) -> Field {
    Field { name, strategy: Strategy::MergeRetainKeys, merge_key, of }
}

macro_rules! api {
    ($name:literal) => {
        concat!("io.k8s.api.", $name)
    };
}

const CONDITION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Condition";
const CONTAINER: &str = api!("core.v1.Container");
const POD_TEMPLATE: &str = api!("core.v1.PodTemplateSpec");

/// The fields that containers of every sort share.
const CONTAINER_FIELDS: &[Field] = &[
    merge("ports", "containerPort", api!("core.v1.ContainerPort")),
    merge("env", "name", api!("core.v1.EnvVar")),
    merge("volumeMounts", "mountPath", api!("core.v1.VolumeMount")),
    merge("volumeDevices", "devicePath", api!("core.v1.VolumeDevice")),
];

/// Sorted by type name: looked up by bisection.
const TYPES: &[(&str, &[Field])] = &[
    (
        api!("admissionregistration.v1.MutatingAdmissionPolicy"),
        &[below("spec", api!("admissionregistration.v1.MutatingAdmissionPolicySpec"))],
    ),
    (
        api!("admissionregistration.v1.MutatingAdmissionPolicySpec"),
        &[merge("matchConditions", "name", api!("admissionregistration.v1.MatchCondition"))],
    ),
    (
        api!("admissionregistration.v1.MutatingWebhook"),
        &[merge("matchConditions", "name", api!("admissionregistration.v1.MatchCondition"))],
    ),
    (
        api!("admissionregistration.v1.MutatingWebhookConfiguration"),
        &[merge("webhooks", "name", api!("admissionregistration.v1.MutatingWebhook"))],
    ),
    (
        api!("admissionregistration.v1.ValidatingAdmissionPolicy"),
        &[below("spec", api!("admissionregistration.v1.ValidatingAdmissionPolicySpec"))],
    ),
    (
        api!("admissionregistration.v1.ValidatingAdmissionPolicySpec"),
        &[
            merge("matchConditions", "name", api!("admissionregistration.v1.MatchCondition")),
            merge("variables", "name", api!("admissionregistration.v1.Variable")),
        ],
    ),
    (
        api!("admissionregistration.v1.ValidatingWebhook"),
        &[merge("matchConditions", "name", api!("admissionregistration.v1.MatchCondition"))],
    ),
    (
        api!("admissionregistration.v1.ValidatingWebhookConfiguration"),
        &[merge("webhooks", "name", api!("admissionregistration.v1.ValidatingWebhook"))],
    ),
    (
        api!("apps.v1.DaemonSet"),
        &[below("spec", api!("apps.v1.DaemonSetSpec")), below("status", api!("apps.v1.DaemonSetStatus"))],
    ),
    (api!("apps.v1.DaemonSetSpec"), &[below("template", POD_TEMPLATE)]),
    (api!("apps.v1.DaemonSetStatus"), &[merge("conditions", "type", api!("apps.v1.DaemonSetCondition"))]),
    (
        api!("apps.v1.Deployment"),
        &[below("spec", api!("apps.v1.DeploymentSpec")), below("status", api!("apps.v1.DeploymentStatus"))],
    ),
    (
        api!("apps.v1.DeploymentSpec"),
        &[
            Field {
                name: "strategy",
                strategy: Strategy::RetainKeys,
                merge_key: "",
                of: api!("apps.v1.DeploymentStrategy"),
            },
            below("template", POD_TEMPLATE),
        ],
    ),
    (api!("apps.v1.DeploymentStatus"), &[merge("conditions", "type", api!("apps.v1.DeploymentCondition"))]),
    (
        api!("apps.v1.ReplicaSet"),
        &[below("spec", api!("apps.v1.ReplicaSetSpec")), below("status", api!("apps.v1.ReplicaSetStatus"))],
    ),
    (api!("apps.v1.ReplicaSetSpec"), &[below("template", POD_TEMPLATE)]),
    (api!("apps.v1.ReplicaSetStatus"), &[merge("conditions", "type", api!("apps.v1.ReplicaSetCondition"))]),
    (
        api!("apps.v1.StatefulSet"),
        &[below("spec", api!("apps.v1.StatefulSetSpec")), below("status", api!("apps.v1.StatefulSetStatus"))],
    ),
    (api!("apps.v1.StatefulSetSpec"), &[below("template", POD_TEMPLATE)]),
    (api!("apps.v1.StatefulSetStatus"), &[merge("conditions", "type", api!("apps.v1.StatefulSetCondition"))]),
    (api!("batch.v1.CronJob"), &[below("spec", api!("batch.v1.CronJobSpec"))]),
    (api!("batch.v1.CronJobSpec"), &[below("jobTemplate", api!("batch.v1.JobTemplateSpec"))]),
    (
        api!("batch.v1.Job"),
        &[below("spec", api!("batch.v1.JobSpec")), below("status", api!("batch.v1.JobStatus"))],
    ),
    (api!("batch.v1.JobSpec"), &[below("template", POD_TEMPLATE)]),
    (api!("batch.v1.JobStatus"), &[merge("conditions", "type", api!("batch.v1.JobCondition"))]),
    (api!("batch.v1.JobTemplateSpec"), &[below("spec", api!("batch.v1.JobSpec"))]),
    (api!("core.v1.ComponentStatus"), &[merge("conditions", "type", api!("core.v1.ComponentCondition"))]),
    (CONTAINER, CONTAINER_FIELDS),
    (
        api!("core.v1.ContainerStatus"),
        &[
            merge("volumeMounts", "mountPath", api!("core.v1.VolumeMountStatus")),
            merge("allocatedResourcesStatus", "name", api!("core.v1.ResourceStatus")),
        ],
    ),
    (api!("core.v1.EphemeralContainer"), CONTAINER_FIELDS),
    (
        api!("core.v1.EphemeralVolumeSource"),
        &[below("volumeClaimTemplate", api!("core.v1.PersistentVolumeClaimTemplate"))],
    ),
    (api!("core.v1.Namespace"), &[below("status", api!("core.v1.NamespaceStatus"))]),
    (api!("core.v1.NamespaceStatus"), &[merge("conditions", "type", api!("core.v1.NamespaceCondition"))]),
    (
        api!("core.v1.Node"),
        &[below("spec", api!("core.v1.NodeSpec")), below("status", api!("core.v1.NodeStatus"))],
    ),
    (
        api!("core.v1.NodeAllocatableResourceClaimStatus"),
        &[
            merge("mapping", "name", api!("core.v1.NodeAllocatableMappedResources")),
            merge("overhead", "name", api!("core.v1.NodeAllocatableOverheadResources")),
        ],
    ),
    (api!("core.v1.NodeSpec"), &[merge_scalars("podCIDRs")]),
    (
        api!("core.v1.NodeStatus"),
        &[
            merge("conditions", "type", api!("core.v1.NodeCondition")),
            merge("addresses", "type", api!("core.v1.NodeAddress")),
        ],
    ),
    (api!("core.v1.PersistentVolumeClaim"), &[below("status", api!("core.v1.PersistentVolumeClaimStatus"))]),
    (
        api!("core.v1.PersistentVolumeClaimStatus"),
        &[merge("conditions", "type", api!("core.v1.PersistentVolumeClaimCondition"))],
    ),
    (
        api!("core.v1.Pod"),
        &[below("spec", api!("core.v1.PodSpec")), below("status", api!("core.v1.PodStatus"))],
    ),
    (
        api!("core.v1.PodSpec"),
        &[
            merge_retain("volumes", "name", api!("core.v1.Volume")),
            merge("initContainers", "name", CONTAINER),
            merge("containers", "name", CONTAINER),
            merge("ephemeralContainers", "name", api!("core.v1.EphemeralContainer")),
            merge("imagePullSecrets", "name", api!("core.v1.LocalObjectReference")),
            merge("hostAliases", "ip", api!("core.v1.HostAlias")),
            merge("topologySpreadConstraints", "topologyKey", api!("core.v1.TopologySpreadConstraint")),
            merge("schedulingGates", "name", api!("core.v1.PodSchedulingGate")),
            merge_retain("resourceClaims", "name", api!("core.v1.PodResourceClaim")),
            merge("evictionResponders", "name", api!("core.v1.EvictionResponder")),
        ],
    ),
    (
        api!("core.v1.PodStatus"),
        &[
            merge("conditions", "type", api!("core.v1.PodCondition")),
            merge("hostIPs", "ip", api!("core.v1.HostIP")),
            merge("podIPs", "ip", api!("core.v1.PodIP")),
            merge_retain("resourceClaimStatuses", "name", api!("core.v1.PodResourceClaimStatus")),
            merge(
                "nodeAllocatableResourceClaimStatuses",
                "resourceClaimName",
                api!("core.v1.NodeAllocatableResourceClaimStatus"),
            ),
        ],
    ),
    (api!("core.v1.PodTemplate"), &[below("template", POD_TEMPLATE)]),
    (POD_TEMPLATE, &[below("spec", api!("core.v1.PodSpec"))]),
    (
        api!("core.v1.PodVolumeHealth"),
        &[merge("healthConditions", "status", api!("core.v1.VolumeHealthCondition"))],
    ),
    (
        api!("core.v1.ReplicationController"),
        &[
            below("spec", api!("core.v1.ReplicationControllerSpec")),
            below("status", api!("core.v1.ReplicationControllerStatus")),
        ],
    ),
    (api!("core.v1.ReplicationControllerSpec"), &[below("template", POD_TEMPLATE)]),
    (
        api!("core.v1.ReplicationControllerStatus"),
        &[merge("conditions", "type", api!("core.v1.ReplicationControllerCondition"))],
    ),
    (
        api!("core.v1.Service"),
        &[below("spec", api!("core.v1.ServiceSpec")), below("status", api!("core.v1.ServiceStatus"))],
    ),
    (api!("core.v1.ServiceAccount"), &[merge("secrets", "name", api!("core.v1.ObjectReference"))]),
    (api!("core.v1.ServiceSpec"), &[merge("ports", "port", api!("core.v1.ServicePort"))]),
    (api!("core.v1.ServiceStatus"), &[merge("conditions", "type", CONDITION)]),
    (api!("core.v1.Volume"), &[below("ephemeral", api!("core.v1.EphemeralVolumeSource"))]),
    (
        api!("core.v1.VolumeHealthStatus"),
        &[merge("healthConditions", "status", api!("core.v1.VolumeHealthCondition"))],
    ),
    (api!("flowcontrol.v1.FlowSchema"), &[below("status", api!("flowcontrol.v1.FlowSchemaStatus"))]),
    (
        api!("flowcontrol.v1.FlowSchemaStatus"),
        &[merge("conditions", "type", api!("flowcontrol.v1.FlowSchemaCondition"))],
    ),
    (
        api!("flowcontrol.v1.PriorityLevelConfiguration"),
        &[below("status", api!("flowcontrol.v1.PriorityLevelConfigurationStatus"))],
    ),
    (
        api!("flowcontrol.v1.PriorityLevelConfigurationStatus"),
        &[merge("conditions", "type", api!("flowcontrol.v1.PriorityLevelConfigurationCondition"))],
    ),
    (api!("networking.v1.ServiceCIDR"), &[below("status", api!("networking.v1.ServiceCIDRStatus"))]),
    (api!("networking.v1.ServiceCIDRStatus"), &[merge("conditions", "type", CONDITION)]),
    (
        api!("policy.v1.PodDisruptionBudget"),
        &[
            below("spec", api!("policy.v1.PodDisruptionBudgetSpec")),
            below("status", api!("policy.v1.PodDisruptionBudgetStatus")),
        ],
    ),
    (
        api!("policy.v1.PodDisruptionBudgetSpec"),
        &[Field {
            name: "selector",
            strategy: Strategy::Replace,
            merge_key: "",
            of: "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
        }],
    ),
    (api!("policy.v1.PodDisruptionBudgetStatus"), &[merge("conditions", "type", CONDITION)]),
    (api!("resource.v1.ResourceClaim"), &[below("status", api!("resource.v1.ResourceClaimStatus"))]),
    (
        api!("resource.v1.ResourceClaimStatus"),
        &[merge("reservedFor", "uid", api!("resource.v1.ResourceClaimConsumerReference"))],
    ),
    (api!("storage.v1.CSINode"), &[below("spec", api!("storage.v1.CSINodeSpec"))]),
    (api!("storage.v1.CSINodeSpec"), &[merge("drivers", "name", api!("storage.v1.CSINodeDriver"))]),
    (
        OBJECT_META,
        &[
            merge("ownerReferences", "uid", "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference"),
            merge_scalars("finalizers"),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_sorted_for_bisection() {
        for pair in TYPES.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} must come after {}", pair[1].0, pair[0].0);
        }
    }

    #[test]
    fn a_walk_reaches_the_ports_of_a_deployments_containers() {
        let mut at = type_name("apps", "v1", "Deployment");
        for (name, key) in
            [("spec", ""), ("template", ""), ("spec", ""), ("containers", "name"), ("ports", "containerPort")]
        {
            let found = field(&at, name).unwrap_or_else(|| panic!("{at}.{name} is missing"));
            assert_eq!(found.merge_key, key, "{at}.{name}");
            at = found.of.to_string();
        }
        assert_eq!(at, "io.k8s.api.core.v1.ContainerPort");
    }

    #[test]
    fn every_kind_has_metadata_and_metadata_has_none() {
        assert_eq!(field("io.k8s.api.core.v1.ConfigMap", "metadata").map(|f| f.of), Some(OBJECT_META));
        assert_eq!(field("io.k8s.api.core.v1.PodTemplateSpec", "metadata").map(|f| f.of), Some(OBJECT_META));
        assert_eq!(field(OBJECT_META, "metadata"), None);
        assert_eq!(field(OBJECT_META, "finalizers").map(|f| f.strategy), Some(Strategy::Merge));
    }

    #[test]
    fn unlisted_fields_have_the_default() {
        assert_eq!(field("io.k8s.api.core.v1.PodSpec", "tolerations"), None);
        assert_eq!(field("io.example.Unknown", "spec"), None);
    }

    #[test]
    fn type_names_follow_the_group() {
        for (group, name) in [
            ("", "io.k8s.api.core.v1.X"),
            ("apps", "io.k8s.api.apps.v1.X"),
            ("discovery.k8s.io", "io.k8s.api.discovery.v1.X"),
            ("rbac.authorization.k8s.io", "io.k8s.api.rbac.v1.X"),
        ] {
            assert_eq!(type_name(group, "v1", "X"), name);
        }
    }
}
