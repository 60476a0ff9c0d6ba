//! The table of kinds that coracle serves: what discovery says about each, and how names map to it.

/// One served kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`: the name in URLs.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// What kubectl also understands: `po`.
    pub short_names: &'static [&'static str],
    /// `all`: what `kubectl get all` shows.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether generation counts changes of the spec.
    pub has_generation: bool,
    /// What can be done, in discovery's order.
    pub verbs: &'static [&'static str],
    /// What can be asked of an object below its URL.
    pub subresources: &'static [Subresource],
}

/// Something below the URL of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// `status`.
    pub name: &'static str,
    /// Group of the body's kind where it is not the parent's.
    pub group: &'static str,
    /// Version of the body's kind where it is not the parent's.
    pub version: &'static str,
    /// Kind of the body.
    pub kind: &'static str,
    /// What can be done.
    pub verbs: &'static [&'static str],
}

/// What can be done with every stored kind, in discovery's order.
pub const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const READ_WRITE: &[&str] = &["get", "patch", "update"];

const fn status(kind: &'static str) -> Subresource {
    Subresource { name: "status", group: "", version: "", kind, verbs: READ_WRITE }
}

const SCALE: Subresource =
    Subresource { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: READ_WRITE };

const fn stream(name: &'static str, kind: &'static str) -> Subresource {
    Subresource { name, group: "", version: "", kind, verbs: &["create", "get"] }
}

const fn proxy(kind: &'static str) -> Subresource {
    let verbs = &["create", "delete", "get", "patch", "update"];
    Subresource { name: "proxy", group: "", version: "", kind, verbs }
}

const CORE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_generation: false,
    verbs: VERBS,
    subresources: &[],
};

/// Kinds that are questions: they are answered, not stored.
const QUESTION: Kind = Kind { namespaced: false, verbs: &["create"], ..CORE };

/// Namespaces.
pub const NAMESPACE: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    // A namespace goes with all that is in it, which nobody should start for all namespaces at once.
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    subresources: &[
        Subresource { name: "finalize", group: "", version: "", kind: "Namespace", verbs: &["update"] },
        status("Namespace"),
    ],
    ..CORE
};

/// Nodes.
pub const NODE: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    subresources: &[proxy("NodeProxyOptions"), status("Node")],
    ..CORE
};

/// Pods.
pub const POD: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    has_generation: true,
    subresources: &[
        stream("attach", "PodAttachOptions"),
        Subresource { name: "binding", group: "", version: "", kind: "Binding", verbs: &["create"] },
        Subresource {
            name: "eviction",
            group: "policy",
            version: "v1",
            kind: "Eviction",
            verbs: &["create"],
        },
        Subresource { name: "ephemeralcontainers", group: "", version: "", kind: "Pod", verbs: READ_WRITE },
        stream("exec", "PodExecOptions"),
        Subresource { name: "log", group: "", version: "", kind: "Pod", verbs: &["get"] },
        stream("portforward", "PodPortForwardOptions"),
        proxy("PodProxyOptions"),
        Subresource { name: "resize", group: "", version: "", kind: "Pod", verbs: READ_WRITE },
        status("Pod"),
    ],
    ..CORE
};

/// Services.
pub const SERVICE: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[proxy("ServiceProxyOptions"), status("Service")],
    ..CORE
};

/// Endpoints, the older view of EndpointSlices.
pub const ENDPOINTS: Kind =
    Kind { kind: "Endpoints", plural: "endpoints", singular: "endpoints", short_names: &["ep"], ..CORE };

/// ConfigMaps.
pub const CONFIG_MAP: Kind =
    Kind { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short_names: &["cm"], ..CORE };

/// Secrets.
pub const SECRET: Kind = Kind { kind: "Secret", plural: "secrets", singular: "secret", ..CORE };

/// ServiceAccounts.
pub const SERVICE_ACCOUNT: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &[Subresource {
        name: "token",
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        verbs: &["create"],
    }],
    ..CORE
};

/// Events, as the core group shows them.
pub const EVENT: Kind =
    Kind { kind: "Event", plural: "events", singular: "event", short_names: &["ev"], ..CORE };

/// Events, as `events.k8s.io` shows them: the same objects as [`EVENT`].
pub const EVENTS_EVENT: Kind = Kind { group: "events.k8s.io", ..EVENT };

/// Slices of a service's endpoints.
pub const ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    has_generation: true,
    ..CORE
};

/// Leases: node heartbeats and leader election.
pub const LEASE: Kind =
    Kind { group: "coordination.k8s.io", kind: "Lease", plural: "leases", singular: "lease", ..CORE };

/// ReplicaSets.
pub const REPLICA_SET: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    has_generation: true,
    subresources: &[SCALE, status("ReplicaSet")],
    ..CORE
};

/// Deployments.
pub const DEPLOYMENT: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    has_generation: true,
    subresources: &[SCALE, status("Deployment")],
    ..CORE
};

/// PriorityClasses.
pub const PRIORITY_CLASS: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    has_generation: true,
    ..CORE
};

/// Who a token is of.
pub const TOKEN_REVIEW: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    ..QUESTION
};

/// Who oneself is.
pub const SELF_SUBJECT_REVIEW: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    ..QUESTION
};

/// Whether somebody may do something.
pub const SUBJECT_ACCESS_REVIEW: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    ..QUESTION
};

/// The same within a namespace.
pub const LOCAL_SUBJECT_ACCESS_REVIEW: Kind = Kind {
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    namespaced: true,
    ..SUBJECT_ACCESS_REVIEW
};

/// Whether oneself may do something.
pub const SELF_SUBJECT_ACCESS_REVIEW: Kind = Kind {
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    ..SUBJECT_ACCESS_REVIEW
};

/// All that oneself may do in a namespace.
pub const SELF_SUBJECT_RULES_REVIEW: Kind = Kind {
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    ..SUBJECT_ACCESS_REVIEW
};

/// Roles within a namespace.
pub const ROLE: Kind =
    Kind { group: "rbac.authorization.k8s.io", kind: "Role", plural: "roles", singular: "role", ..CORE };

/// Who has a role within a namespace.
pub const ROLE_BINDING: Kind =
    Kind { kind: "RoleBinding", plural: "rolebindings", singular: "rolebinding", ..ROLE };

/// Roles of the whole cluster.
pub const CLUSTER_ROLE: Kind =
    Kind { kind: "ClusterRole", plural: "clusterroles", singular: "clusterrole", namespaced: false, ..ROLE };

/// Who has a role in the whole cluster.
pub const CLUSTER_ROLE_BINDING: Kind = Kind {
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    namespaced: false,
    ..ROLE
};

/// Requests for certificates.
pub const CERTIFICATE_SIGNING_REQUEST: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    namespaced: false,
    subresources: &[
        Subresource {
            name: "approval",
            group: "",
            version: "",
            kind: "CertificateSigningRequest",
            verbs: READ_WRITE,
        },
        status("CertificateSigningRequest"),
    ],
    ..CORE
};

/// DaemonSets.
pub const DAEMON_SET: Kind = Kind {
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    subresources: &[status("DaemonSet")],
    ..DEPLOYMENT
};

/// StatefulSets.
pub const STATEFUL_SET: Kind = Kind {
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    subresources: &[SCALE, status("StatefulSet")],
    ..DEPLOYMENT
};

/// States that a DaemonSet or StatefulSet had.
pub const CONTROLLER_REVISION: Kind = Kind {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    ..CORE
};

/// How many pods something has, by what is measured.
pub const HORIZONTAL_POD_AUTOSCALER: Kind = Kind {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &[status("HorizontalPodAutoscaler")],
    ..CORE
};

/// The same for older clients.
pub const HORIZONTAL_POD_AUTOSCALER_V1: Kind = Kind { version: "v1", ..HORIZONTAL_POD_AUTOSCALER };

/// Jobs.
pub const JOB: Kind = Kind {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    has_generation: true,
    subresources: &[status("Job")],
    ..CORE
};

/// Jobs by a schedule.
pub const CRON_JOB: Kind = Kind {
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    subresources: &[status("CronJob")],
    ..JOB
};

/// ReplicationControllers, which ReplicaSets have followed.
pub const REPLICATION_CONTROLLER: Kind = Kind {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    has_generation: true,
    subresources: &[SCALE, status("ReplicationController")],
    ..CORE
};

/// What containers and pods of a namespace may ask for.
pub const LIMIT_RANGE: Kind = Kind {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    ..CORE
};

/// What a namespace may have in total.
pub const RESOURCE_QUOTA: Kind = Kind {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    subresources: &[status("ResourceQuota")],
    ..CORE
};

/// Templates of pods, kept for whoever uses them.
pub const POD_TEMPLATE: Kind = Kind {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    has_generation: true,
    ..CORE
};

/// Volumes of the cluster.
pub const PERSISTENT_VOLUME: Kind = Kind {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    namespaced: false,
    subresources: &[status("PersistentVolume")],
    ..CORE
};

/// Claims to volumes.
pub const PERSISTENT_VOLUME_CLAIM: Kind = Kind {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    subresources: &[status("PersistentVolumeClaim")],
    ..CORE
};

/// How volumes are made.
pub const STORAGE_CLASS: Kind = Kind {
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    namespaced: false,
    ..CORE
};

/// Storage drivers.
pub const CSI_DRIVER: Kind = Kind {
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    short_names: &[],
    has_generation: true,
    ..STORAGE_CLASS
};

/// Storage drivers of a node.
pub const CSI_NODE: Kind =
    Kind { kind: "CSINode", plural: "csinodes", singular: "csinode", short_names: &[], ..STORAGE_CLASS };

/// How much storage there is where.
pub const CSI_STORAGE_CAPACITY: Kind = Kind {
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    short_names: &[],
    namespaced: true,
    ..STORAGE_CLASS
};

/// Volumes on their way to nodes.
pub const VOLUME_ATTACHMENT: Kind = Kind {
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    short_names: &[],
    subresources: &[status("VolumeAttachment")],
    ..STORAGE_CLASS
};

/// Ways into the cluster by HTTP.
pub const INGRESS: Kind = Kind {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    has_generation: true,
    subresources: &[status("Ingress")],
    ..CORE
};

/// Who serves Ingresses.
pub const INGRESS_CLASS: Kind = Kind {
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    short_names: &[],
    namespaced: false,
    subresources: &[],
    ..INGRESS
};

/// Which pods may speak with whom.
pub const NETWORK_POLICY: Kind = Kind {
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    subresources: &[],
    ..INGRESS
};

/// How many pods may be missing at a time by will.
pub const POD_DISRUPTION_BUDGET: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    has_generation: true,
    subresources: &[status("PodDisruptionBudget")],
    ..CORE
};

/// Ways to run pods.
pub const RUNTIME_CLASS: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    ..CORE
};

/// Whose requests go where when the API server has much to do.
pub const FLOW_SCHEMA: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    namespaced: false,
    has_generation: true,
    subresources: &[status("FlowSchema")],
    ..CORE
};

/// How much of the API server such requests get.
pub const PRIORITY_LEVEL_CONFIGURATION: Kind = Kind {
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    subresources: &[status("PriorityLevelConfiguration")],
    ..FLOW_SCHEMA
};

/// Every served kind; groups in discovery's order, kinds in alphabetical order of their URL names.
pub const KINDS: &[&Kind] = &[
    &CONFIG_MAP,
    &ENDPOINTS,
    &EVENT,
    &LIMIT_RANGE,
    &NAMESPACE,
    &NODE,
    &PERSISTENT_VOLUME_CLAIM,
    &PERSISTENT_VOLUME,
    &POD,
    &POD_TEMPLATE,
    &REPLICATION_CONTROLLER,
    &RESOURCE_QUOTA,
    &SECRET,
    &SERVICE_ACCOUNT,
    &SERVICE,
    &CONTROLLER_REVISION,
    &DAEMON_SET,
    &DEPLOYMENT,
    &REPLICA_SET,
    &STATEFUL_SET,
    &EVENTS_EVENT,
    &SELF_SUBJECT_REVIEW,
    &TOKEN_REVIEW,
    &LOCAL_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_RULES_REVIEW,
    &SUBJECT_ACCESS_REVIEW,
    &HORIZONTAL_POD_AUTOSCALER,
    &HORIZONTAL_POD_AUTOSCALER_V1,
    &CRON_JOB,
    &JOB,
    &CERTIFICATE_SIGNING_REQUEST,
    &INGRESS_CLASS,
    &INGRESS,
    &NETWORK_POLICY,
    &POD_DISRUPTION_BUDGET,
    &CLUSTER_ROLE_BINDING,
    &CLUSTER_ROLE,
    &ROLE_BINDING,
    &ROLE,
    &CSI_DRIVER,
    &CSI_NODE,
    &CSI_STORAGE_CAPACITY,
    &STORAGE_CLASS,
    &VOLUME_ATTACHMENT,
    &RUNTIME_CLASS,
    &LEASE,
    &PRIORITY_CLASS,
    &ENDPOINT_SLICE,
    &FLOW_SCHEMA,
    &PRIORITY_LEVEL_CONFIGURATION,
];

/// What nodes and pods use now: kinds that are answered from the nodes' own figures, and never stored.
pub const METRICS: &[&Kind] = &[&NODE_METRICS, &POD_METRICS];

/// What nodes use.
pub const NODE_METRICS: Kind = Kind {
    group: "metrics.k8s.io",
    version: "v1beta1",
    kind: "NodeMetrics",
    plural: "nodes",
    namespaced: false,
    verbs: &["get", "list"],
    ..CORE
};

/// What containers use, by pod.
pub const POD_METRICS: Kind = Kind { kind: "PodMetrics", plural: "pods", namespaced: true, ..NODE_METRICS };

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, and `pods` for the core group.
    pub fn group_resource(&self) -> String {
        crate::status::qualified(self.plural, self.group)
    }

    /// What can be done with objects of this kind, in discovery's order.
    pub fn verbs(&self) -> &'static [&'static str] {
        self.verbs
    }

    /// Whether objects of this kind are kept, so that they can be listed and watched.
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(&"list")
    }

    /// Whether it is another look at objects of a kind that is served as well.
    pub fn is_view(&self) -> bool {
        *self == EVENTS_EVENT || *self == HORIZONTAL_POD_AUTOSCALER_V1
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }
}

/// The kind that an object names by `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    KINDS.iter().find(|row| row.group == group && row.version == version && row.kind == kind).copied()
}

/// The kind that a URL names by group, version and plural.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|row| row.group == group && row.version == version && row.plural == plural).copied()
}

/// The kind that somebody types: `po`, `pod`, `pods`, `Pod`, `deployments.apps`, `deployment.v1.apps`.
pub fn by_name(name: &str) -> Option<&'static Kind> {
    let name = name.to_ascii_lowercase();
    let (resource, group) = match name.split_once('.') {
        Some((resource, group)) => (resource, Some(group)),
        None => (name.as_str(), None),
    };
    KINDS
        .iter()
        .find(|row| {
            let named =
                row.plural == resource || row.singular == resource || row.short_names.contains(&resource);
            let in_group = group.is_none_or(|group| {
                group == row.group
                    || group
                        .split_once('.')
                        .is_some_and(|(version, group)| version == row.version && group == row.group)
                    || (row.group.is_empty() && group == row.version)
            });
            named && in_group
        })
        .copied()
}

/// The kinds of a category, such as `all`.
pub fn by_category(category: &str) -> impl Iterator<Item = &'static Kind> {
    let category = category.to_owned();
    KINDS.iter().copied().filter(move |row| !row.is_view() && row.categories.contains(&category.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("po", Some(&POD)),
            ("pods", Some(&POD)),
            ("Pod", Some(&POD)),
            ("deploy", Some(&DEPLOYMENT)),
            ("deployments.apps", Some(&DEPLOYMENT)),
            ("deployment.v1.apps", Some(&DEPLOYMENT)),
            ("deployment.v2.apps", None),
            ("pods.v1", Some(&POD)),
            ("ev", Some(&EVENT)),
            ("events.events.k8s.io", Some(&EVENTS_EVENT)),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(by_name(name), expected, "{name}");
        }
        assert_eq!(by_kind("apps/v1", "ReplicaSet"), Some(&REPLICA_SET));
        assert_eq!(by_kind("v1", "ReplicaSet"), None);
        assert_eq!(by_resource("", "v1", "configmaps"), Some(&CONFIG_MAP));
        assert_eq!(
            by_category("all").map(|row| row.plural).collect::<Vec<_>>(),
            [
                "pods",
                "replicationcontrollers",
                "services",
                "daemonsets",
                "deployments",
                "replicasets",
                "statefulsets",
                "horizontalpodautoscalers",
                "cronjobs",
                "jobs"
            ]
        );
    }

    #[test]
    fn rows_are_unique() {
        for (index, row) in KINDS.iter().enumerate() {
            for other in &KINDS[index + 1..] {
                let version = (row.group, row.version);
                assert_ne!((version, row.plural), ((other.group, other.version), other.plural));
                assert_ne!((version, row.kind), ((other.group, other.version), other.kind));
            }
        }
    }
}
