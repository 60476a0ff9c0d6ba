//! Kinds whose rows are read off the object: workloads of sets and jobs, storage, ingresses, roles, requests.

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;
use serde_json::Value;

use super::column::{AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, boolean, integer, string, wide};
use super::human::{age, since};
use super::{Printer, Row, print};

/// A row from an object of any kind.
pub(super) fn row(
    object: &[u8],
    now: Timestamp,
    cells: fn(&Object) -> Vec<Value>,
) -> Result<Row, serde_json::Error> {
    print::<Value>(object, |value| Row::from(cells(&Object { value, now })))
}

pub(super) struct Object<'v> {
    value: &'v Value,
    now: Timestamp,
}

impl Object<'_> {
    pub(super) fn at(&self, path: &str) -> &Value {
        self.value.pointer(path).unwrap_or(&Value::Null)
    }

    pub(super) fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    /// Text, or what stands for its absence.
    pub(super) fn text_or(&self, path: &str, nothing: &str) -> Value {
        let text = self.text(path);
        if text.is_empty() { nothing.into() } else { text.into() }
    }

    pub(super) fn number(&self, path: &str) -> i64 {
        self.at(path).as_i64().unwrap_or(0)
    }

    pub(super) fn name(&self) -> Value {
        self.text("/metadata/name").into()
    }

    pub(super) fn age(&self) -> Value {
        let created = self.text("/metadata/creationTimestamp").parse().ok();
        let created = created.map(manifests::time::time);
        age(&ObjectMeta { creation_timestamp: created, ..ObjectMeta::default() }, self.now)
    }

    fn since(&self, path: &str) -> String {
        since(self.text(path).parse().ok(), self.now)
    }

    pub(super) fn list<'o>(&'o self, path: &str) -> impl Iterator<Item = &'o Value> + use<'o> {
        self.at(path).as_array().into_iter().flatten()
    }

    fn joined(&self, path: &str, field: &str) -> Value {
        let texts: Vec<&str> = self.list(path).filter_map(|item| item[field].as_str()).collect();
        texts.join(",").into()
    }

    /// Names and images of a template's containers.
    fn containers(&self, template: &str) -> [Value; 2] {
        let path = format!("{template}/spec/containers");
        [self.joined(&path, "name"), self.joined(&path, "image")]
    }

    fn selector(&self, path: &str) -> Value {
        let selector: LabelSelector = serde_json::from_value(self.at(path).clone()).unwrap_or_default();
        let text = Selector::from_label_selector(Some(&selector)).map(|selector| selector.to_string());
        text.unwrap_or_default().into()
    }

    /// `RWO,ROX`.
    fn access_modes(&self, path: &str) -> Value {
        let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            _ => "",
        };
        self.list(path).map(short).collect::<Vec<_>>().join(",").into()
    }

    /// The names of a binding's subjects of one kind.
    fn subjects(&self, kind: &str) -> Value {
        let names = self.list("/subjects").filter(|subject| subject["kind"] == kind).map(|subject| {
            let name = subject["name"].as_str().unwrap_or_default();
            match subject["namespace"].as_str() {
                Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
                _ => name.to_owned(),
            }
        });
        names.collect::<Vec<_>>().join(", ").into()
    }
}

macro_rules! printer {
    ($name:ident, [$($column:expr),+ $(,)?], $cells:expr) => {
        pub(super) const $name: Printer =
            Printer { columns: &[NAME, $($column),+], row: |object, now| row(object, now, $cells) };
    };
}

const CREATED: Column = string("Created At", "When the object was made.");

printer!(
    DAEMON_SET,
    [
        integer("Desired", "How many nodes shall have a pod."),
        integer("Current", "How many nodes have one."),
        integer("Ready", "How many of the pods are ready."),
        integer("Up-to-date", "How many run the newest template."),
        integer("Available", "How many have been ready for long enough."),
        string("Node Selector", "The nodes that are meant."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |set| {
        let [containers, images] = set.containers("/spec/template");
        let nodes = set.at("/spec/template/spec/nodeSelector").as_object();
        let nodes: Vec<String> = nodes
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        vec![
            set.name(),
            set.number("/status/desiredNumberScheduled").into(),
            set.number("/status/currentNumberScheduled").into(),
            set.number("/status/numberReady").into(),
            set.number("/status/updatedNumberScheduled").into(),
            set.number("/status/numberAvailable").into(),
            if nodes.is_empty() { "<none>".into() } else { nodes.join(",").into() },
            set.age(),
            containers,
            images,
            set.selector("/spec/selector"),
        ]
    }
);

printer!(
    STATEFUL_SET,
    [string("Ready", "How many of the desired pods are ready."), AGE, CONTAINERS, IMAGES],
    |set| {
        let [containers, images] = set.containers("/spec/template");
        let ready = format!("{}/{}", set.number("/status/readyReplicas"), set.number("/spec/replicas"));
        vec![set.name(), ready.into(), set.age(), containers, images]
    }
);

printer!(
    REPLICATION_CONTROLLER,
    [
        integer("Desired", "How many pods there shall be."),
        integer("Current", "How many pods there are."),
        integer("Ready", "How many pods are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |controller| {
        let [containers, images] = controller.containers("/spec/template");
        let labels = controller.at("/spec/selector").as_object().into_iter().flatten();
        let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
        vec![
            controller.name(),
            controller.number("/spec/replicas").into(),
            controller.number("/status/replicas").into(),
            controller.number("/status/readyReplicas").into(),
            controller.age(),
            containers,
            images,
            labels.collect::<Vec<_>>().join(",").into(),
        ]
    }
);

printer!(
    JOB,
    [
        string("Status", "How the job is going."),
        string("Completions", "How many pods have succeeded, of how many."),
        string("Duration", "How long the job has taken so far, or took."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |job| {
        let [containers, images] = job.containers("/spec/template");
        let succeeded = job.number("/status/succeeded");
        let completions = match job.at("/spec/completions").as_i64() {
            Some(wanted) => format!("{succeeded}/{wanted}"),
            None if job.number("/spec/parallelism") > 1 => {
                format!("{succeeded}/1 of {}", job.number("/spec/parallelism"))
            }
            None => format!("{succeeded}/1"),
        };
        let has = |name: &str| {
            job.list("/status/conditions")
                .any(|condition| condition["type"] == name && condition["status"] == "True")
        };
        let status = match () {
            () if has("Complete") => "Complete",
            () if has("Failed") => "Failed",
            () if !job.text("/metadata/deletionTimestamp").is_empty() => "Terminating",
            () if has("Suspended") => "Suspended",
            () if has("FailureTarget") => "FailureTarget",
            () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
            () => "Running",
        };
        let duration = match job.text("/status/completionTime").parse() {
            _ if job.text("/status/startTime").is_empty() => String::new(),
            Ok(done) => since(job.text("/status/startTime").parse().ok(), done),
            Err(_) => job.since("/status/startTime"),
        };
        vec![
            job.name(),
            status.into(),
            completions.into(),
            duration.into(),
            job.age(),
            containers,
            images,
            job.selector("/spec/selector"),
        ]
    }
);

printer!(
    CRON_JOB,
    [
        string("Schedule", "When jobs are made."),
        string("Timezone", "In which zone that is."),
        boolean("Suspend", "Whether none are made for now."),
        integer("Active", "How many jobs are running."),
        string("Last Schedule", "The time since a job was made."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |job| {
        let [containers, images] = job.containers("/spec/jobTemplate/spec/template");
        let last = job.text("/status/lastScheduleTime");
        vec![
            job.name(),
            job.text("/spec/schedule").into(),
            job.text_or("/spec/timeZone", "<none>"),
            if job.at("/spec/suspend") == true { "True".into() } else { "False".into() },
            job.list("/status/active").count().into(),
            if last.is_empty() { "<none>".into() } else { job.since("/status/lastScheduleTime").into() },
            job.age(),
            containers,
            images,
            job.selector("/spec/jobTemplate/spec/selector"),
        ]
    }
);

printer!(
    CONTROLLER_REVISION,
    [string("Controller", "Whose state it was."), integer("Revision", "The number of the state."), AGE,],
    |revision| {
        let owner = revision.list("/metadata/ownerReferences").find(|owner| owner["controller"] == true);
        let owner = owner.map(|owner| {
            let kind = owner["kind"].as_str().unwrap_or_default().to_lowercase();
            let group =
                owner["apiVersion"].as_str().unwrap_or_default().split('/').next().unwrap_or_default();
            format!("{kind}.{group}/{}", owner["name"].as_str().unwrap_or_default())
        });
        let owner = owner.unwrap_or_else(|| "<none>".to_owned());
        vec![revision.name(), owner.into(), revision.number("/revision").into(), revision.age()]
    }
);

printer!(
    PERSISTENT_VOLUME,
    [
        string("Capacity", "How large it is."),
        string("Access Modes", "How it can be mounted."),
        string("Reclaim Policy", "What becomes of it without its claim."),
        string("Status", "Whether it is in use."),
        string("Claim", "Whose it is."),
        string("StorageClass", "How it was made."),
        string("VolumeAttributesClass", "How it is tuned."),
        string("Reason", "Why it is in its state."),
        AGE,
        wide("VolumeMode", "Whether it is a file system or a device."),
    ],
    |volume| {
        let status = volume.text("/status/phase");
        let leaving = !volume.text("/metadata/deletionTimestamp").is_empty();
        let claim = match volume.text("/spec/claimRef/name") {
            "" => String::new(),
            name => format!("{}/{name}", volume.text("/spec/claimRef/namespace")),
        };
        vec![
            volume.name(),
            volume.text("/spec/capacity/storage").into(),
            volume.access_modes("/spec/accessModes"),
            volume.text("/spec/persistentVolumeReclaimPolicy").into(),
            if leaving { "Terminating".into() } else { status.into() },
            claim.into(),
            volume.text("/spec/storageClassName").into(),
            volume.text_or("/spec/volumeAttributesClassName", "<unset>"),
            volume.text("/status/reason").into(),
            volume.age(),
            volume.text_or("/spec/volumeMode", "<unset>"),
        ]
    }
);

printer!(
    PERSISTENT_VOLUME_CLAIM,
    [
        string("Status", "Whether it has a volume."),
        string("Volume", "Which volume it has."),
        string("Capacity", "How large the volume is."),
        string("Access Modes", "How it can be mounted."),
        string("StorageClass", "How volumes for it are made."),
        string("VolumeAttributesClass", "How they are tuned."),
        AGE,
        wide("VolumeMode", "Whether it is a file system or a device."),
    ],
    |claim| {
        let leaving = !claim.text("/metadata/deletionTimestamp").is_empty();
        let bound = !claim.text("/spec/volumeName").is_empty();
        vec![
            claim.name(),
            if leaving { "Terminating".into() } else { claim.text("/status/phase").into() },
            claim.text("/spec/volumeName").into(),
            if bound { claim.text("/status/capacity/storage").into() } else { "".into() },
            if bound { claim.access_modes("/status/accessModes") } else { "".into() },
            claim.text("/spec/storageClassName").into(),
            claim.text_or("/spec/volumeAttributesClassName", "<unset>"),
            claim.age(),
            claim.text_or("/spec/volumeMode", "<unset>"),
        ]
    }
);

printer!(
    STORAGE_CLASS,
    [
        string("Provisioner", "Who makes the volumes."),
        string("ReclaimPolicy", "What becomes of them without their claims."),
        string("VolumeBindingMode", "When they are made."),
        boolean("AllowVolumeExpansion", "Whether they can grow."),
        AGE,
    ],
    |class| {
        let default =
            class.value["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
        let name = class.text("/metadata/name");
        vec![
            if default { format!("{name} (default)").into() } else { name.into() },
            class.text("/provisioner").into(),
            class.text("/reclaimPolicy").into(),
            class.text("/volumeBindingMode").into(),
            (class.at("/allowVolumeExpansion") == true).into(),
            class.age(),
        ]
    }
);

printer!(
    INGRESS,
    [
        string("Class", "Who serves it."),
        string("Hosts", "For which hosts."),
        string("Address", "Where it is served."),
        string("Ports", "On which ports."),
        AGE,
    ],
    |ingress| {
        let hosts: Vec<&str> = ingress.list("/spec/rules").filter_map(|rule| rule["host"].as_str()).collect();
        let places: Vec<&str> = ingress
            .list("/status/loadBalancer/ingress")
            .filter_map(|place| place["ip"].as_str().or(place["hostname"].as_str()))
            .collect();
        let tls = ingress.list("/spec/tls").next().is_some();
        vec![
            ingress.name(),
            ingress.text_or("/spec/ingressClassName", "<none>"),
            if hosts.is_empty() { "*".into() } else { hosts.join(",").into() },
            places.join(",").into(),
            if tls { "80, 443".into() } else { "80".into() },
            ingress.age(),
        ]
    }
);

printer!(
    INGRESS_CLASS,
    [string("Controller", "Who serves the class."), string("Parameters", "With which settings."), AGE],
    |class| {
        let parameters = match class.text("/spec/parameters/name") {
            "" => "<none>".to_owned(),
            name => {
                let kind = class.text("/spec/parameters/kind");
                match class.text("/spec/parameters/apiGroup") {
                    "" => format!("{kind}/{name}"),
                    group => format!("{kind}.{group}/{name}"),
                }
            }
        };
        vec![class.name(), class.text("/spec/controller").into(), parameters.into(), class.age()]
    }
);

printer!(NETWORK_POLICY, [string("Pod-Selector", "The pods that are meant."), AGE], |policy| {
    let selector = policy.selector("/spec/podSelector");
    let selector = if selector == "" { "<none>".into() } else { selector };
    vec![policy.name(), selector, policy.age()]
});

printer!(RUNTIME_CLASS, [string("Handler", "How pods of the class are run."), AGE], |class| {
    vec![class.name(), class.text("/handler").into(), class.age()]
});

printer!(
    FLOW_SCHEMA,
    [
        string("PriorityLevel", "The priority level of its requests."),
        integer("MatchingPrecedence", "Schemas with lower numbers are asked first."),
        string("DistinguisherMethod", "What tells its flows apart."),
        AGE,
        string("MissingPL", "Whether there is no such priority level."),
    ],
    |schema| {
        let dangling = schema.list("/status/conditions").find(|condition| condition["type"] == "Dangling");
        let missing = dangling.and_then(|condition| condition["status"].as_str()).unwrap_or("?");
        vec![
            schema.name(),
            schema.text_or("/spec/priorityLevelConfiguration/name", "<none>"),
            schema.number("/spec/matchingPrecedence").into(),
            schema.text_or("/spec/distinguisherMethod/type", "<none>"),
            schema.age(),
            missing.into(),
        ]
    }
);

printer!(
    PRIORITY_LEVEL_CONFIGURATION,
    [
        string("Type", "Whether its requests are limited."),
        string("NominalConcurrencyShares", "Its share of the seats."),
        string("Queues", "How many queues it has."),
        string("HandSize", "How many queues a flow is dealt."),
        string("QueueLengthLimit", "How long a queue may be."),
        AGE,
    ],
    |level| {
        let number = |path: &str| match level.at(path) {
            Value::Null => "<none>".into(),
            number => number.to_string().into(),
        };
        let queuing = "/spec/limited/limitResponse/queuing";
        vec![
            level.name(),
            level.text("/spec/type").into(),
            number("/spec/limited/nominalConcurrencyShares"),
            number(&format!("{queuing}/queues")),
            number(&format!("{queuing}/handSize")),
            number(&format!("{queuing}/queueLengthLimit")),
            level.age(),
        ]
    }
);

printer!(
    RESOURCE_QUOTA,
    [
        string("Request", "What is used and may be used, but for limits."),
        string("Limit", "The same of limits."),
        AGE,
    ],
    |quota| {
        let hard = quota.at("/status/hard").as_object().into_iter().flatten();
        let used = quota.at("/status/used");
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, most) in hard {
            let have = used[name].as_str().unwrap_or("0");
            let text = format!("{name}: {have}/{}", most.as_str().unwrap_or_default());
            if name.starts_with("limits") { limits.push(text) } else { requests.push(text) }
        }
        vec![quota.name(), requests.join(", ").into(), limits.join(", ").into(), quota.age()]
    }
);

printer!(
    POD_DISRUPTION_BUDGET,
    [
        string("Min Available", "How many pods must stay."),
        string("Max Unavailable", "How many pods may be missing."),
        integer("Allowed Disruptions", "How many pods may be evicted now."),
        AGE,
    ],
    |budget| {
        let amount = |path: &str| match budget.at(path) {
            Value::Null => "N/A".into(),
            Value::String(percent) => percent.as_str().into(),
            number => number.to_string().into(),
        };
        vec![
            budget.name(),
            amount("/spec/minAvailable"),
            amount("/spec/maxUnavailable"),
            budget.number("/status/disruptionsAllowed").into(),
            budget.age(),
        ]
    }
);

printer!(ROLE, [CREATED], |role| vec![role.name(), role.text("/metadata/creationTimestamp").into()]);

printer!(
    ROLE_BINDING,
    [
        string("Role", "The role that is given."),
        AGE,
        wide("Users", "The users who have it."),
        wide("Groups", "The groups who have it."),
        wide("ServiceAccounts", "The accounts that have it."),
    ],
    |binding| {
        let role = format!("{}/{}", binding.text("/roleRef/kind"), binding.text("/roleRef/name"));
        vec![
            binding.name(),
            role.into(),
            binding.age(),
            binding.subjects("User"),
            binding.subjects("Group"),
            binding.subjects("ServiceAccount"),
        ]
    }
);

printer!(
    CERTIFICATE_SIGNING_REQUEST,
    [
        AGE,
        string("SignerName", "Who shall sign."),
        string("Requestor", "Who asked."),
        string("RequestedDuration", "For how long."),
        string("Condition", "What has been decided."),
    ],
    |request| {
        let has = |name: &str| request.list("/status/conditions").any(|condition| condition["type"] == name);
        let mut state = match (has("Approved"), has("Denied")) {
            (_, true) => "Denied",
            (true, _) => "Approved",
            _ => "Pending",
        }
        .to_owned();
        if has("Failed") {
            state += ",Failed";
        }
        if !request.text("/status/certificate").is_empty() {
            state += ",Issued";
        }
        let duration = match request.number("/spec/expirationSeconds") {
            0 => "<none>".to_owned(),
            seconds => {
                let then = request.now - manifests::k8s_openapi::jiff::SignedDuration::from_secs(seconds);
                since(Some(then), request.now)
            }
        };
        vec![
            request.name(),
            request.age(),
            request.text_or("/spec/signerName", "<none>"),
            request.text("/spec/username").into(),
            duration.into(),
            state.into(),
        ]
    }
);
