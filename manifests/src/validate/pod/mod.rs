//! Pods and pod templates.
//!
//! `mod.rs` has the pod and its spec; the files beside it have its parts: containers with their probes and environment,
//! volumes, security contexts, placement (affinity, tolerations, spread), and what may change later.

mod container;
mod env;
mod placement;
mod probe;
mod resize;
mod security;
mod update;
mod volume;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Binding, Pod, PodDNSConfig, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(super) use placement::taint_effect;
pub(super) use probe::port as port_by_number_or_name;
pub use resize::{pod_resize, pod_resize_update};
pub use update::{pod_ephemeral_containers_update, pod_status_update, pod_update};

use super::{ip, meta, named, one_of, resource, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::quantity::Quantity;
use crate::{encode, names, resources};

const MAX_INT32: i64 = i32::MAX as i64;
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What parts of a spec need to know of the whole.
struct Whole<'a> {
    /// Whether this is a pod, and not the template of one.
    is_pod: bool,
    grace_period: Option<i64>,
    restart_policy: &'a str,
    host_users: bool,
    os: Option<&'a str>,
    volumes: volume::Volumes<'a>,
    claims: BTreeSet<&'a str>,
}

/// A new pod.
pub fn pod(pod: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    metadata_and_spec(pod, &mut errors);
    let Some(spec) = &pod.spec else { return errors };
    let path = Path::new("spec");
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if gated && !text(&spec.node_name).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
    errors
}

fn metadata_and_spec(pod: &Pod, errors: &mut ErrorList) {
    meta::object_meta(&pod.metadata, true, names::dns1123_subdomain, errors);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    pod_annotations(&pod.metadata, spec, &Path::new("metadata").child("annotations"), errors);
    let path = Path::new("spec");
    pod_spec(spec, Some(text(&pod.metadata.name)), true, &path, errors);
    if text(&spec.service_account_name).is_empty() {
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            let sources = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
            for (source_index, source) in sources.enumerate() {
                if source.service_account_token.is_some() {
                    let path = path.child("volumes").index(index).child("projected").child("sources");
                    let path = path.index(source_index).child("serviceAccountToken");
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.push(FieldError::forbidden(&path, detail));
                }
            }
        }
    }
    for (field, containers) in
        [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())]
    {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            image_padding(text(&container.image), &path.child(field).index(index), errors);
        }
    }
}

fn image_padding(image: &str, path: &Path, errors: &mut ErrorList) {
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, detail));
    }
}

fn pod_annotations(meta: &ObjectMeta, spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(annotations) = &meta.annotations else { return };
    if let Some(value) = annotations.get(MIRROR)
        && text(&spec.node_name).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(&path.key(MIRROR), value, detail));
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(value) = annotations.get(COST)
        && (value.parse::<i32>().is_err()
            || value.starts_with('+')
            || (value.starts_with('0') && value != "0"))
    {
        errors.push(FieldError::invalid(&path.key(COST), value, "must be a 32bit integer"));
    }
}

/// The template of a workload.
pub(super) fn pod_template(template: &PodTemplateSpec, path: &Path, errors: &mut ErrorList) {
    let empty_meta = ObjectMeta::default();
    let empty_spec = PodSpec::default();
    let meta = template.metadata.as_ref().unwrap_or(&empty_meta);
    let spec = template.spec.as_ref().unwrap_or(&empty_spec);
    meta::labels(&meta.labels, &path.child("labels"), errors);
    meta::annotations(&meta.annotations, &path.child("annotations"), errors);
    pod_annotations(meta, spec, &path.child("annotations"), errors);
    let spec_path = path.child("spec");
    pod_spec(spec, None, false, &spec_path, errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        let path = spec_path.child("ephemeralContainers");
        errors.push(FieldError::forbidden(&path, "ephemeral containers not allowed in pod template"));
    }
}

fn pod_spec(spec: &PodSpec, name: Option<&str>, is_pod: bool, path: &Path, errors: &mut ErrorList) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let whole = Whole {
        is_pod,
        grace_period: spec.termination_grace_period_seconds,
        restart_policy: text(&spec.restart_policy),
        host_users: spec.host_users.unwrap_or(true),
        os: spec.os.as_ref().map(|os| os.name.as_str()),
        volumes: volume::volumes(spec.volumes.as_deref(), name, is_pod, &path.child("volumes"), errors),
        claims: spec
            .resource_claims
            .iter()
            .flatten()
            .map(|claim| claim.name.as_str())
            .filter(|name| !name.is_empty())
            .collect(),
    };
    resource_claims(spec, &path.child("resourceClaims"), errors);
    container::containers(&spec.containers, &whole, &path.child("containers"), errors);
    container::init_containers(spec, &whole, &path.child("initContainers"), errors);
    container::ephemeral_containers(spec, &whole, &path.child("ephemeralContainers"), errors);
    pod_resources(spec, &path.child("resources"), errors);
    host_network(spec, &whole, path, errors);
    one_of(whole.restart_policy, &["Always", "OnFailure", "Never"], &path.child("restartPolicy"), errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(text(&spec.dns_policy), &policies, &path.child("dnsPolicy"), errors);
    meta::labels(&spec.node_selector, &path.child("nodeSelector"), errors);
    security::pod_context(spec, &path.child("securityContext"), errors);
    placement::affinity(spec.affinity.as_ref(), &path.child("affinity"), errors);
    dns_config(spec, &path.child("dnsConfig"), errors);
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        named(&gate.condition_type, names::qualified_name, &path, errors);
    }
    let mut gates = BTreeSet::new();
    for (index, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.child("schedulingGates").index(index);
        named(&gate.name, names::qualified_name, &path, errors);
        if !gates.insert(&gate.name) {
            errors.push(FieldError::duplicate(&path, &gate.name));
        }
    }
    let spread_path = path.child("topologySpreadConstraints");
    placement::topology_spread(spec.topology_spread_constraints.as_deref(), &spread_path, errors);
    host_users(spec, path, errors);
    hostname_override(spec, &path.child("hostnameOverride"), errors);
    for (field, value, rule) in [
        ("serviceAccountName", &spec.service_account_name, names::dns1123_subdomain as names::NameRule),
        ("nodeName", &spec.node_name, names::dns1123_subdomain),
    ] {
        named_if_set(text(value), rule, &path.child(field), errors);
    }
    if let Some(deadline) = spec.active_deadline_seconds
        && !(1..=MAX_INT32).contains(&deadline)
    {
        let path = path.child("activeDeadlineSeconds");
        errors.push(FieldError::invalid(&path, deadline, names::between(1, MAX_INT32)));
    }
    named_if_set(text(&spec.hostname), names::dns1123_label, &path.child("hostname"), errors);
    named_if_set(text(&spec.subdomain), names::dns1123_label, &path.child("subdomain"), errors);
    placement::tolerations(spec.tolerations.as_deref(), &path.child("tolerations"), errors);
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(index);
        ip::ip(&alias.ip, &path.child("ip"), errors);
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            named(name, names::dns1123_subdomain, &path.child("hostnames").index(index), errors);
        }
    }
    let class_path = path.child("priorityClassName");
    named_if_set(text(&spec.priority_class_name), names::dns1123_subdomain, &class_path, errors);
    if let Some(class) = &spec.runtime_class_name {
        named(class, names::dns1123_subdomain, &path.child("runtimeClassName"), errors);
    }
    if let Some(policy) = &spec.preemption_policy {
        one_of(policy, &["PreemptLowerPriority", "Never"], &path.child("preemptionPolicy"), errors);
    }
    if let Some(overhead) = &spec.overhead {
        let limits = k8s_openapi::api::core::v1::ResourceRequirements {
            limits: Some(overhead.clone()),
            ..Default::default()
        };
        resource::container_requirements(&limits, &BTreeSet::new(), &path.child("overhead"), errors);
    }
    operating_system(spec, path, errors);
}

fn named_if_set(value: &str, rule: names::NameRule, path: &Path, errors: &mut ErrorList) {
    if !value.is_empty() {
        named(value, rule, path, errors);
    }
}

fn resource_claims(spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (index, claim) in spec.resource_claims.iter().flatten().enumerate() {
        let path = path.index(index);
        if claim.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else if !seen.insert(&claim.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &claim.name));
        } else {
            named(&claim.name, names::dns1123_label, &path.child("name"), errors);
        }
        let value = || encode::to_value(claim).unwrap_or_default();
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.push(FieldError::invalid(&path, value(), detail));
            }
            (None, None) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.push(FieldError::invalid(&path, value(), detail));
            }
            _ => {}
        }
        for (field, name) in [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ] {
            if let Some(name) = name {
                named(name, names::dns1123_subdomain, &path.child(field), errors);
            }
        }
    }
}

/// Resources of the pod as a whole hold what its containers ask for.
fn pod_resources(spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(whole) = &spec.resources else { return };
    if whole.claims.is_some() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), detail));
    }
    resource::pod_requirements(whole, path, errors);
    let containers = PodSpec { resources: None, overhead: None, ..spec.clone() };
    let limits_of_containers = resources::spec_limits(&containers);
    let huge_pages =
        limits_of_containers.into_iter().filter(|(name, _)| resource::is_huge_page(name)).collect();
    for (field, sums, given) in [
        ("requests", resources::spec_requests(&containers), &whole.requests),
        ("limits", huge_pages, &whole.limits),
    ] {
        for (name, sum) in sums {
            let Some(given) = given.as_ref().and_then(|given| given.get(&name)).map(Quantity::of) else {
                continue;
            };
            if sum > given {
                let detail = format!("must be greater than or equal to aggregate container {field} of {sum}");
                errors.push(FieldError::invalid(&path.child(field).key(&name), given.to_string(), detail));
            }
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        for (name, limit) in limits.into_iter().flatten() {
            let limit = Quantity::of(limit);
            if let Some(bound) = whole.limits.as_ref().and_then(|limits| limits.get(name)).map(Quantity::of)
                && limit > bound
            {
                let path = path.child("containers").index(index).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {bound}");
                errors.push(FieldError::invalid(&path, limit.to_string(), detail));
            }
        }
    }
}

/// On the host's network a container's port is the host's.
fn host_network(spec: &PodSpec, whole: &Whole<'_>, path: &Path, errors: &mut ErrorList) {
    if spec.host_network != Some(true) {
        return;
    }
    for (index, container) in spec.containers.iter().enumerate() {
        for (port_index, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or_default();
            if (whole.is_pod || host_port != 0) && host_port != port.container_port {
                let path = path.child("containers").index(index).child("ports").index(port_index);
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&path.child("hostPort"), host_port, detail));
            }
        }
    }
}

fn host_users(spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    const DETAIL: &str = "when `hostUsers` is false";
    if spec.host_users != Some(false) {
        return;
    }
    for (field, value) in
        [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)]
    {
        if value == Some(true) {
            errors.push(FieldError::forbidden(&path.child(field), DETAIL));
        }
    }
    let devices = |devices: &Option<Vec<_>>| devices.as_ref().is_some_and(|devices| !devices.is_empty());
    let init = spec.init_containers.iter().flatten().map(|container| devices(&container.volume_devices));
    let regular = spec.containers.iter().map(|container| devices(&container.volume_devices));
    let ephemeral =
        spec.ephemeral_containers.iter().flatten().map(|container| devices(&container.volume_devices));
    let lists: [(&str, Vec<bool>); 3] = [
        ("initContainers", init.collect()),
        ("containers", regular.collect()),
        ("ephemeralContainers", ephemeral.collect()),
    ];
    for (field, list) in lists {
        for (index, _) in list.into_iter().enumerate().filter(|(_, has_devices)| *has_devices) {
            errors
                .push(FieldError::forbidden(&path.child(field).index(index).child("volumeDevices"), DETAIL));
        }
    }
}

fn hostname_override(spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    const MAX: usize = 64;
    let Some(name) = &spec.hostname_override else { return };
    for (field, set) in [("setHostnameAsFQDN", spec.set_hostname_as_fqdn), ("hostNetwork", spec.host_network)]
    {
        if set == Some(true) {
            let detail = format!("may not be specified when {field} is true");
            errors.push(FieldError::forbidden(path, detail));
        }
    }
    if name.len() > MAX {
        errors.push(FieldError::too_long(path, MAX));
    }
    named(name, names::dns1123_subdomain, path, errors);
}

fn dns_config(spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    const MAX_NAMESERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    const MAX_SEARCH_CHARACTERS: usize = 2048;
    let none = spec.dns_policy.as_deref() == Some("None");
    let Some(PodDNSConfig { nameservers, searches, options }) = &spec.dns_config else {
        if none {
            errors.push(FieldError::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        return;
    };
    let nameservers = nameservers.as_deref().unwrap_or_default();
    if none && nameservers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&path.child("nameservers"), detail));
        return;
    }
    if nameservers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(&path.child("nameservers"), nameservers, detail));
    }
    for (index, server) in nameservers.iter().enumerate() {
        ip::ip(server, &path.child("nameservers").index(index), errors);
    }
    let searches = searches.as_deref().unwrap_or_default();
    let searches_path = path.child("searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(FieldError::invalid(&searches_path, searches, detail));
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let detail = format!(
            "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(&searches_path, searches, detail));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        named(search, names::dns1123_subdomain_with_underscore, &searches_path.index(index), errors);
    }
    for (index, option) in options.iter().flatten().enumerate() {
        if text(&option.name).is_empty() {
            errors.push(FieldError::required(&path.child("options").index(index), "must not be empty"));
        }
    }
}

fn operating_system(spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(os) = &spec.os else { return };
    let os_path = path.child("os");
    match os.name.as_str() {
        "" => errors.push(FieldError::required(&os_path.child("name"), "")),
        "linux" => {
            let detail = "windows options cannot be set for a linux pod";
            if spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
                let path = path.child("securityContext").child("windowsOptions");
                errors.push(FieldError::forbidden(&path, detail));
            }
            let lists = [
                ("initContainers", spec.init_containers.as_deref()),
                ("containers", Some(&spec.containers[..])),
            ];
            for (field, containers) in lists {
                for (index, container) in containers.unwrap_or_default().iter().enumerate() {
                    if container
                        .security_context
                        .as_ref()
                        .is_some_and(|context| context.windows_options.is_some())
                    {
                        let path =
                            path.child(field).index(index).child("securityContext").child("windowsOptions");
                        errors.push(FieldError::forbidden(&path, detail));
                    }
                }
            }
        }
        "windows" => {}
        other => errors.push(FieldError::not_supported(&os_path, other, &["linux", "windows"])),
    }
}

/// The request that puts a pod on a node.
pub fn pod_binding(binding: &Binding) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("target");
    let kind = text(&binding.target.kind);
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if text(&binding.target.name).is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    errors
}

#[cfg(test)]
mod tests;
