//! Defaults of pods and pod templates.

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar, EphemeralContainer, HTTPGetAction,
    Lifecycle, Pod, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, Volume,
};

use super::{number, round_up_to_milli, text};
use crate::resources;

/// Defaults of a pod: those of its template, and those that only make sense for a pod that exists.
pub fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        requests_from_limits(container);
    }
    pod_level_resources(spec);
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            for port in container.ports.iter_mut().flatten() {
                number(&mut port.host_port, port.container_port);
            }
        }
    }
    pod_spec(spec);
}

/// Defaults of the template of a Deployment or ReplicaSet.
pub fn pod_template(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    pod_spec(template.spec.get_or_insert_default());
}

fn requests_from_limits(container: &mut Container) {
    let Some(ResourceRequirements { limits: Some(limits), requests, .. }) = &mut container.resources else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let requests = requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// What a pod as a whole asks for follows from its containers, or from its limits, where only a part is said.
fn pod_level_resources(spec: &mut PodSpec) {
    let Some(given) = spec.resources.clone() else { return };
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let without = |spec: &PodSpec| PodSpec { resources: None, overhead: None, ..spec.clone() };

    let given_requests = given.requests.clone().unwrap_or_default();
    let mut limits = given.limits.clone().unwrap_or_default();
    if !limits.is_empty() || !given_requests.is_empty() {
        for (name, amount) in resources::spec_limits(&without(spec)) {
            let huge = name.starts_with("hugepages-");
            if huge && !given_requests.contains_key(&name) && !limits.contains_key(&name) {
                limits.insert(name, amount.into());
            }
        }
    }
    let mut requests = given_requests.clone();
    if !limits.is_empty() {
        for (name, amount) in resources::spec_requests(&without(spec)) {
            if matches!(name.as_str(), "cpu" | "memory") && !requests.contains_key(&name) {
                requests.insert(name, amount.into());
            }
        }
        for (name, limit) in &limits {
            if supported(name) && !requests.contains_key(name) {
                requests.insert(name.clone(), limit.clone());
            }
        }
    } else if !requests.is_empty() {
        let all: Vec<&Container> =
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
        for (name, amount) in resources::spec_limits(&without(spec)) {
            let everybody = all.iter().all(|container| {
                let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
                limits.is_some_and(|limits| limits.contains_key(&name))
            });
            if matches!(name.as_str(), "cpu" | "memory") && everybody {
                limits.insert(name, amount.into());
            }
        }
    }
    spec.resources = Some(ResourceRequirements {
        limits: (!limits.is_empty()).then_some(limits),
        requests: (!requests.is_empty()).then_some(requests),
        ..given
    });
}

fn pod_spec(spec: &mut PodSpec) {
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(30);
    service_account(spec);
    for volume in spec.volumes.iter_mut().flatten() {
        self::volume(volume);
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        self::container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral_container(container);
    }
    if let Some(resources) = &mut spec.resources {
        round_up_to_milli(&mut resources.limits);
        round_up_to_milli(&mut resources.requests);
    }
    round_up_to_milli(&mut spec.overhead);
}

/// `serviceAccount` is an older name of `serviceAccountName`: either will do, the newer one wins, and both are shown.
fn service_account(spec: &mut PodSpec) {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    if let Some(name) = given(&spec.service_account_name).or_else(|| given(&spec.service_account)) {
        spec.service_account_name = Some(name.clone());
        spec.service_account = Some(name);
    }
}

fn container(container: &mut Container) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    text(&mut container.image_pull_policy, policy);
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
    }
    env(&mut container.env);
    let resources = container.resources.get_or_insert_default();
    round_up_to_milli(&mut resources.limits);
    round_up_to_milli(&mut resources.requests);
    let probes =
        [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(probe);
    lifecycle(&mut container.lifecycle);
}

fn ephemeral_container(container: &mut EphemeralContainer) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    text(&mut container.image_pull_policy, policy);
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
    }
    env(&mut container.env);
    container.resources.get_or_insert_default();
}

fn env(env: &mut Option<Vec<EnvVar>>) {
    for variable in env.iter_mut().flatten() {
        if let Some(field) = variable.value_from.as_mut().and_then(|source| source.field_ref.as_mut()) {
            text(&mut field.api_version, "v1");
        }
    }
}

fn probe(probe: &mut Probe) {
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    if let Some(action) = &mut probe.http_get {
        http_get(action);
    }
    if let Some(action) = &mut probe.grpc {
        action.service.get_or_insert_default();
    }
}

fn lifecycle(lifecycle: &mut Option<Lifecycle>) {
    let Some(lifecycle) = lifecycle else { return };
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        if let Some(action) = &mut handler.http_get {
            http_get(action);
        }
    }
}

fn http_get(action: &mut HTTPGetAction) {
    text(&mut action.path, "/");
    text(&mut action.scheme, "HTTP");
}

/// `latest` may be another image tomorrow, so it is pulled always.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest && !image.is_empty(),
    };
    if latest { "Always" } else { "IfNotPresent" }
}

fn volume(volume: &mut Volume) {
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(0o644);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(0o644);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(0o644);
        downward_files(&mut source.items);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(0o644);
        for projection in source.sources.iter_mut().flatten() {
            if let Some(downward) = &mut projection.downward_api {
                downward_files(&mut downward.items);
            }
            if let Some(token) = &mut projection.service_account_token {
                token.expiration_seconds.get_or_insert(3600);
            }
        }
    }
    if let Some(source) = &mut volume.image {
        let policy = pull_policy(source.reference.as_deref().unwrap_or_default());
        text(&mut source.pull_policy, policy);
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut())
    {
        text(&mut template.spec.volume_mode, "Filesystem");
        if let Some(resources) = &mut template.spec.resources {
            round_up_to_milli(&mut resources.limits);
            round_up_to_milli(&mut resources.requests);
        }
    }
    foreign_volume(volume);
}

/// Volumes that we do not mount; their objects still look as they do elsewhere.
fn foreign_volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.iscsi {
        text(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        text(&mut source.pool, "rbd");
        text(&mut source.user, "admin");
        text(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut volume.azure_disk {
        text(&mut source.caching_mode, "ReadWrite");
        text(&mut source.kind, "Shared");
        source.fs_type.get_or_insert_with(|| "ext4".to_owned());
        source.read_only.get_or_insert(false);
    }
    if let Some(source) = &mut volume.scale_io {
        text(&mut source.storage_mode, "ThinProvisioned");
        text(&mut source.fs_type, "xfs");
    }
}

fn downward_files(items: &mut Option<Vec<DownwardAPIVolumeFile>>) {
    for item in items.iter_mut().flatten() {
        if let Some(field) = &mut item.field_ref {
            text(&mut field.api_version, "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::check;
    use super::*;

    fn check_spec(given: Value, expected: Value) {
        check(pod, json!({ "spec": given }), json!({ "spec": expected }));
    }

    #[test]
    fn the_smallest_pod() {
        check(
            pod,
            json!({"spec": {"containers": [{"name": "a", "image": "nginx"}]}}),
            json!({
                "spec": {
                    "containers": [{
                        "imagePullPolicy": "Always", "resources": {},
                        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    }],
                    "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                    "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
                    "priority": "<none>", "serviceAccountName": "<none>", "tolerations": "<none>",
                },
            }),
        );
    }

    #[test]
    fn the_service_account_has_two_names() {
        let both = |name: &str| json!({"serviceAccount": name, "serviceAccountName": name});
        check_spec(json!({"containers": [], "serviceAccountName": "new"}), both("new"));
        check_spec(json!({"containers": [], "serviceAccount": "old"}), both("old"));
        check_spec(
            json!({"containers": [], "serviceAccount": "old", "serviceAccountName": "new"}),
            both("new"),
        );
    }

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("nginx:latest@sha256:0123", "Always"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn containers() {
        check_spec(
            json!({"containers": [{
                "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"port": 80}},
                "readinessProbe": {"grpc": {"port": 80}, "periodSeconds": 1},
                "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            }]}),
            json!({"containers": [{
                "ports": [{"protocol": "TCP", "hostPort": "<none>"}, {"protocol": "UDP"}],
                "env": [{"valueFrom": {"fieldRef": {"apiVersion": "v1"}}}],
                "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "readinessProbe": {"grpc": {"service": ""}, "periodSeconds": 1},
                "lifecycle": {"preStop": {"httpGet": {"path": "/", "scheme": "HTTP"}}},
            }]}),
        );
    }

    #[test]
    fn host_network() {
        check_spec(
            json!({"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}], "initContainers": [{"ports": [{"containerPort": 81, "hostPort": 82}]}]}),
            json!({"containers": [{"ports": [{"hostPort": 80}]}], "initContainers": [{"ports": [{"hostPort": 82}]}]}),
        );
    }

    #[test]
    fn volumes() {
        check_spec(
            json!({"containers": [], "volumes": [
                {"name": "a"},
                {"name": "b", "hostPath": {"path": "/"}},
                {"name": "c", "secret": {"secretName": "s"}},
                {"name": "d", "configMap": {"name": "c", "defaultMode": 256}},
                {"name": "e", "downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"name": "f", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            ]}),
            json!({"volumes": [
                {"emptyDir": {}},
                {"hostPath": {"type": ""}, "emptyDir": "<none>"},
                {"secret": {"defaultMode": 420}},
                {"configMap": {"defaultMode": 256}},
                {"downwardAPI": {"defaultMode": 420, "items": [{"fieldRef": {"apiVersion": "v1"}}]}},
                {"projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"expirationSeconds": 3600}}]}},
            ]}),
        );
    }

    #[test]
    fn pod_level() {
        let container = json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}});
        check_spec(
            json!({"containers": [container], "resources": {"limits": {"cpu": "4", "memory": "1Gi"}}}),
            json!({"resources": {"limits": {"cpu": "4"}, "requests": {"cpu": "1", "memory": "1Gi"}}}),
        );
        check_spec(
            json!({"containers": [container], "resources": {"requests": {"cpu": "4"}}}),
            json!({"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "4"}}}),
        );
    }

    #[test]
    fn fine_amounts_are_rounded_up() {
        check_spec(
            json!({"containers": [{"resources": {"requests": {"cpu": "100u"}}}]}),
            json!({"containers": [{"resources": {"requests": {"cpu": "1m"}}}]}),
        );
    }
}
