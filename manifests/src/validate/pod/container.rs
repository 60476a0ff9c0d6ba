//! Containers: regular, init, sidecar and ephemeral ones.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, EphemeralContainer, PodSpec,
};

use super::super::{named, one_of, port, resource, text};
use super::{Whole, env, image_padding, probe, security, volume};
use crate::encode;
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::resources::is_sidecar;

const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) fn containers(containers: &[Container], whole: &Whole<'_>, path: &Path, errors: &mut ErrorList) {
    if containers.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        common(container, whole, &path, errors);
        if !seen.insert(&container.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &container.name));
        }
        hooks_and_probes(container, whole, &path, errors);
        if container.restart_policy.is_some() {
            let detail = "may not be set for non-init containers";
            errors.push(FieldError::forbidden(&path.child("restartPolicy"), detail));
        }
    }
    host_ports(containers, path, errors);
}

pub(super) fn init_containers(spec: &PodSpec, whole: &Whole<'_>, path: &Path, errors: &mut ErrorList) {
    let mut seen: BTreeSet<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let item = path.index(index);
        common(container, whole, &item, errors);
        if let Some(policy) = &container.restart_policy
            && policy != "Always"
        {
            errors.push(FieldError::not_supported(&item.child("restartPolicy"), policy, &["Always"]));
        }
        if !seen.insert(&container.name) && !container.name.is_empty() {
            errors.push(FieldError::duplicate(&item.child("name"), &container.name));
        }
        host_ports(std::slice::from_ref(container), path, errors);
        if is_sidecar(container) {
            hooks_and_probes(container, whole, &item, errors);
            continue;
        }
        for (field, set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if set {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(&item.child(field), detail));
            }
        }
    }
}

pub(super) fn ephemeral_containers(spec: &PodSpec, whole: &Whole<'_>, path: &Path, errors: &mut ErrorList) {
    let others = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let others: BTreeSet<&str> = others.map(|container| container.name.as_str()).collect();
    let mut all = others.clone();
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(index);
        common(&as_container(container), whole, &path, errors);
        image_padding(text(&container.image), &path, errors);
        if !all.insert(&container.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &container.name));
        }
        let target = text(&container.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
        let has_resources =
            container.resources.as_ref().is_some_and(|resources| *resources != Default::default());
        for (field, set) in [
            ("ports", container.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
            ("resources", has_resources),
            ("resizePolicy", container.resize_policy.as_ref().is_some_and(|policies| !policies.is_empty())),
            ("restartPolicy", container.restart_policy.is_some()),
            (
                "restartPolicyRules",
                container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty()),
            ),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("lifecycle", container.lifecycle.is_some()),
        ] {
            if set {
                errors.push(FieldError::forbidden(&path.child(field), NOT_FOR_EPHEMERAL));
            }
        }
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let path = path.child("volumeMounts").index(index);
            for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !text(value).is_empty() {
                    errors.push(FieldError::forbidden(&path.child(field), NOT_FOR_EPHEMERAL));
                }
            }
        }
    }
}

/// The fields that all kinds of containers share.
fn as_container(container: &EphemeralContainer) -> Container {
    Container {
        args: container.args.clone(),
        command: container.command.clone(),
        env: container.env.clone(),
        env_from: container.env_from.clone(),
        image: container.image.clone(),
        image_pull_policy: container.image_pull_policy.clone(),
        name: container.name.clone(),
        security_context: container.security_context.clone(),
        termination_message_path: container.termination_message_path.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        volume_devices: container.volume_devices.clone(),
        volume_mounts: container.volume_mounts.clone(),
        ..Container::default()
    }
}

fn hooks_and_probes(container: &Container, whole: &Whole<'_>, path: &Path, errors: &mut ErrorList) {
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.child("lifecycle");
        probe::lifecycle(lifecycle, whole.grace_period, &path, errors);
        if let Some(signal) = &lifecycle.stop_signal {
            stop_signal(signal, whole.os, &path.child("stopSignal"), errors);
        }
    }
    probe::liveness(container.liveness_probe.as_ref(), &path.child("livenessProbe"), errors);
    probe::readiness(container.readiness_probe.as_ref(), &path.child("readinessProbe"), errors);
    probe::startup(container.startup_probe.as_ref(), &path.child("startupProbe"), errors);
}

/// Which signals there are depends on the system, so it must be named.
fn stop_signal(signal: &str, os: Option<&str>, path: &Path, errors: &mut ErrorList) {
    const PLAIN: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT RTMAX RTMIN \
                         SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ";
    let supported = match os {
        None => {
            let detail = "may not be set for containers with empty `spec.os.name`";
            errors.push(FieldError::forbidden(path, detail));
            return;
        }
        Some("windows") => vec!["SIGKILL".to_owned(), "SIGTERM".to_owned()],
        Some(_) => {
            let plain = PLAIN.split_ascii_whitespace().map(|name| format!("SIG{name}"));
            let from_below = (1..=15).map(|number| format!("SIGRTMIN+{number}"));
            let from_above = (1..=14).map(|number| format!("SIGRTMAX-{number}"));
            let mut all: Vec<String> = plain.chain(from_below).chain(from_above).collect();
            all.sort();
            all
        }
    };
    if !supported.iter().any(|supported| supported == signal) {
        let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, signal, &supported));
    }
}

/// What holds for every container.
fn common(container: &Container, whole: &Whole<'_>, path: &Path, errors: &mut ErrorList) {
    if container.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        named(&container.name, names::dns1123_label, &path.child("name"), errors);
    }
    if text(&container.image).is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    let policy = text(&container.termination_message_policy);
    let policy_path = path.child("terminationMessagePolicy");
    one_of(policy, &["File", "FallbackToLogsOnError"], &policy_path, errors);
    ports(container.ports.as_deref(), &path.child("ports"), errors);
    env::env(container.env.as_deref(), &path.child("env"), errors);
    env::env_from(container.env_from.as_deref(), &path.child("envFrom"), errors);
    volume::mounts(container, &whole.volumes, &path.child("volumeMounts"), errors);
    volume::devices(container, &whole.volumes, &path.child("volumeDevices"), errors);
    let pull_path = path.child("imagePullPolicy");
    one_of(text(&container.image_pull_policy), &["Always", "IfNotPresent", "Never"], &pull_path, errors);
    if let Some(resources) = &container.resources {
        resource::container_requirements(resources, &whole.claims, &path.child("resources"), errors);
    }
    let resize = container.resize_policy.as_deref().unwrap_or_default();
    resize_policy(resize, whole.restart_policy, &path.child("resizePolicy"), errors);
    if let Some(context) = &container.security_context {
        security::container_context(context, whole.host_users, &path.child("securityContext"), errors);
    }
    if container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty()) {
        let value = encode::to_value(&container.restart_policy_rules).unwrap_or_default();
        let detail = "restart policy rules are not supported by this server";
        errors.push(FieldError::invalid(&path.child("restartPolicyRules"), value, detail));
    }
}

fn ports(ports: Option<&[ContainerPort]>, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (index, item) in ports.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let name = text(&item.name);
        if !name.is_empty() {
            let messages = names::port_name(name);
            if !messages.is_empty() {
                errors.push_invalid(&path.child("name"), name, messages);
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        match item.container_port {
            0 => errors.push(FieldError::required(&path.child("containerPort"), "")),
            number => port(number, &path.child("containerPort"), errors),
        }
        if let Some(number) = item.host_port.filter(|number| *number != 0) {
            port(number, &path.child("hostPort"), errors);
        }
        one_of(text(&item.protocol), &PROTOCOLS, &path.child("protocol"), errors);
    }
}

/// No two containers that run at once can have the same port of the host.
fn host_ports(containers: &[Container], path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let text = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
            if !seen.insert(text.clone()) {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                errors.push(FieldError::duplicate(&path, text));
            }
        }
    }
}

fn resize_policy(
    policies: &[ContainerResizePolicy],
    restart_policy: &str,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut seen = BTreeSet::new();
    for (index, policy) in policies.iter().enumerate() {
        if !seen.insert(&policy.resource_name) {
            errors.push(FieldError::duplicate(&path.index(index), &policy.resource_name));
        }
        one_of(&policy.resource_name, &["cpu", "memory"], path, errors);
        one_of(&policy.restart_policy, &["NotRequired", "RestartContainer"], path, errors);
        if restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, &policy.restart_policy, detail));
        }
    }
}
