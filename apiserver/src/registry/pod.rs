//! Pods.

use manifests::encode::same;
use manifests::field::ErrorList;
use manifests::k8s_openapi::api::core::v1 as core;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::status::ApiError;
use manifests::{default, validate};

use super::env::Env;
use super::kind::{Kind, Part};
use crate::admission::{default_toleration_seconds, limit_ranger, priority, runtime_class, service_account};
use crate::fields::SelectableField;
use crate::write::metadata::{generate_name, next_generation};

pub(super) struct Pod;

fn admit(pod: &mut core::Pod, env: &Env<'_>) -> Result<(), String> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let find = |name: &str| env.decode("", "serviceaccounts", &format!("{namespace}/{name}"));
    service_account::admit(pod, &namespace, find, generate_name)?;
    let spec = pod.spec.get_or_insert_default();
    priority::admit(spec, &env.all("scheduling.k8s.io", "priorityclasses"))?;
    runtime_class::admit(spec, |name| env.decode("node.k8s.io", "runtimeclasses", name))?;
    default_toleration_seconds::admit(spec);
    limit_ranger::admit(pod, &env.within("limitranges", &namespace))
}

/// Index of `spec.nodeName` in the extracted fields.
pub(crate) const NODE_NAME: usize = 0;

impl Kind for Pod {
    type Object = core::Pod;

    const RETURNS_DELETED: bool = true;

    const FIELDS: &'static [SelectableField] = &[
        SelectableField::plain("spec.nodeName", &["spec.nodeName"]),
        SelectableField::plain("spec.restartPolicy", &["spec.restartPolicy"]),
        SelectableField::plain("spec.schedulerName", &["spec.schedulerName"]),
        SelectableField::plain("spec.serviceAccountName", &["spec.serviceAccountName"]),
        SelectableField { label: "spec.hostNetwork", paths: &["spec.hostNetwork"], default: "false" },
        SelectableField::plain("status.phase", &["status.phase"]),
        SelectableField::plain("status.podIP", &["status.podIP"]),
        SelectableField::plain("status.podIPs", &["status.podIP"]),
        SelectableField::plain("status.nominatedNodeName", &["status.nominatedNodeName"]),
    ];

    fn default(object: &mut core::Pod) {
        default::pod(object);
    }

    fn prepare_create(object: &mut core::Pod, env: &Env<'_>) -> Result<(), ApiError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        admit(object, env).map_err(|why| ApiError::forbidden("pods", "", &name, &why))?;
        let gated = object
            .spec
            .as_ref()
            .and_then(|spec| spec.scheduling_gates.as_ref())
            .is_some_and(|g| !g.is_empty());
        let conditions = gated.then(|| {
            vec![core::PodCondition {
                type_: "PodScheduled".to_owned(),
                status: "False".to_owned(),
                reason: Some("SchedulingGated".to_owned()),
                message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
                ..Default::default()
            }]
        });
        object.status = Some(core::PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(manifests::qos::class(object).as_str().to_owned()),
            conditions,
            ..Default::default()
        });
        Ok(())
    }

    fn prepare_update(new: &mut core::Pod, old: &core::Pod, part: Part, _: &Env<'_>) -> Result<(), ApiError> {
        match part {
            Part::Status => {
                new.spec.clone_from(&old.spec);
                // Old kubelets corrupt owner references, so upstream does not take them from there.
                new.metadata.owner_references.clone_from(&old.metadata.owner_references);
                keep_status(new, old);
                return Ok(());
            }
            Part::EphemeralContainers => {
                let wanted = new.spec.take().and_then(|spec| spec.ephemeral_containers);
                new.spec.clone_from(&old.spec);
                new.spec.get_or_insert_default().ephemeral_containers = wanted;
                reset_meta(&mut new.metadata, &old.metadata);
            }
            Part::Resize => {
                let wanted = new.spec.take();
                new.spec = old.spec.as_ref().map(|old| validate::pod_resize(old, wanted.as_ref()));
                reset_meta(&mut new.metadata, &old.metadata);
            }
            _ => {
                // Admission has set these; clients that read older objects leave them out.
                if let (Some(new), Some(old)) = (&mut new.spec, &old.spec) {
                    new.priority = new.priority.or(old.priority);
                    new.preemption_policy = new.preemption_policy.take().or(old.preemption_policy.clone());
                    default_toleration_seconds::admit(new);
                }
            }
        }
        new.status.clone_from(&old.status);
        if !same(&new.spec, &old.spec) {
            next_generation(&mut new.metadata);
        }
        Ok(())
    }

    fn validate(object: &core::Pod) -> ErrorList {
        validate::pod(object)
    }

    fn validate_update(new: &core::Pod, old: &core::Pod, part: Part) -> ErrorList {
        match part {
            Part::Status => validate::pod_status_update(new, old),
            Part::EphemeralContainers => validate::pod_ephemeral_containers_update(new, old),
            Part::Resize => validate::pod_resize_update(new, old),
            _ => validate::pod_update(new, old),
        }
    }

    fn warnings(object: &core::Pod) -> Vec<String> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let messages = manifests::names::dns1123_label(name);
        if messages.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label \
             is recommended: [{}]",
            messages.join(" ")
        )]
    }

    fn grace_period(object: &core::Pod, requested: Option<i64>) -> Option<i64> {
        let wanted = requested.or(object.spec.as_ref()?.termination_grace_period_seconds).unwrap_or(0);
        let scheduled =
            object.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|n| !n.is_empty());
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if !scheduled || matches!(phase, "Failed" | "Succeeded") {
            return Some(0);
        }
        Some(if wanted < 0 { 1 } else { wanted })
    }
}

/// What old clients leave out of a status stays as it was.
fn keep_status(new: &mut core::Pod, old: &core::Pod) {
    let Some(old) = &old.status else { return };
    let new = new.status.get_or_insert_default();
    if new.qos_class.as_deref().unwrap_or_default().is_empty() {
        new.qos_class.clone_from(&old.qos_class);
    }
    if new.observed_generation.unwrap_or(0) == 0 {
        new.observed_generation = old.observed_generation;
    }
    for condition in new.conditions.iter_mut().flatten() {
        if condition.observed_generation.unwrap_or(0) == 0 {
            let before = old.conditions.iter().flatten().find(|before| before.type_ == condition.type_);
            condition.observed_generation = before.and_then(|before| before.observed_generation);
        }
    }
}

/// Metadata that parts other than the object itself do not change.
fn reset_meta(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.annotations.clone_from(&old.annotations);
    new.labels.clone_from(&old.labels);
    new.finalizers.clone_from(&old.finalizers);
    new.owner_references.clone_from(&old.owner_references);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: &str, phase: &str, own: Option<i64>, requested: Option<i64>, expected: i64) {
        let spec = core::PodSpec {
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            termination_grace_period_seconds: own,
            ..Default::default()
        };
        let status = core::PodStatus { phase: Some(phase.to_owned()), ..Default::default() };
        let pod = core::Pod { spec: Some(spec), status: Some(status), ..Default::default() };
        assert_eq!(Pod::grace_period(&pod, requested), Some(expected));
    }

    #[test]
    fn grace_periods() {
        check("n", "Running", Some(30), None, 30);
        check("n", "Running", Some(30), Some(5), 5);
        check("n", "Running", Some(30), Some(0), 0);
        check("n", "Running", Some(-3), None, 1);
        check("n", "Running", None, None, 0);
        check("", "Pending", Some(30), None, 0);
        check("n", "Succeeded", Some(30), Some(7), 0);
    }
}
