//! Kinds with nothing of their own but defaults and validation: a spec that people write, and possibly a status that
//! controllers write.

use manifests::encode::same;
use manifests::field::ErrorList;
use manifests::k8s_openapi::api::{
    apps::v1 as apps, batch::v1 as batch, core::v1 as core, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, storage::v1 as storage,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use manifests::status::ApiError;
use manifests::volumes::{CLAIM_PROTECTION, VOLUME_PROTECTION};
use manifests::{default, validate};

use super::env::Env;
use super::kind::{Kind, Part};
use crate::admission::storage as storage_admission;
use crate::fields::SelectableField;
use crate::write::metadata::next_generation;

fn nothing<T>(_: &mut T) {}

/// A kind with a spec, and a status that is written through a door of its own.
macro_rules! with_status {
    ($name:ident, $object:ty, $default:path, $validate:path, $update:path, $status_update:path, $counts:expr, $($extra:tt)*) => {
        pub(super) struct $name;

        impl Kind for $name {
            type Object = $object;

            $($extra)*

            fn default(object: &mut $object) {
                $default(object);
            }

            fn prepare_update(
                new: &mut $object,
                old: &$object,
                part: Part,
                _: &Env<'_>,
            ) -> Result<(), ApiError> {
                if part == Part::Status {
                    new.spec.clone_from(&old.spec);
                    return Ok(());
                }
                new.status.clone_from(&old.status);
                if $counts && !same(&new.spec, &old.spec) {
                    next_generation(&mut new.metadata);
                }
                Ok(())
            }

            fn validate(object: &$object) -> ErrorList {
                $validate(object)
            }

            fn validate_update(new: &$object, old: &$object, part: Part) -> ErrorList {
                match part {
                    Part::Status => $status_update(new, old),
                    _ => $update(new, old),
                }
            }
        }
    };
}

/// What is made has no status yet.
macro_rules! starts_without_status {
    ($object:ty) => {
        fn prepare_create(object: &mut $object, _: &Env<'_>) -> Result<(), ApiError> {
            object.status = Some(Default::default());
            Ok(())
        }
    };
}

/// A kind without a status.
macro_rules! without_status {
    ($name:ident, $object:ty, $default:path, $validate:path, $update:path $(, $counted:ident)?) => {
        pub(super) struct $name;

        impl Kind for $name {
            type Object = $object;

            fn default(object: &mut $object) {
                $default(object);
            }

            $(fn prepare_update(
                new: &mut $object,
                old: &$object,
                _: Part,
                _: &Env<'_>,
            ) -> Result<(), ApiError> {
                if !same(&new.$counted, &old.$counted) {
                    next_generation(&mut new.metadata);
                }
                Ok(())
            })?

            fn validate(object: &$object) -> ErrorList {
                $validate(object)
            }

            fn validate_update(new: &$object, old: &$object, _: Part) -> ErrorList {
                $update(new, old)
            }
        }
    };
}

/// Of a status only the metadata is checked.
macro_rules! metadata_only {
    ($name:ident, $object:ty) => {
        fn $name(new: &$object, old: &$object) -> ErrorList {
            let mut errors = ErrorList::new();
            validate::object_meta_update(&new.metadata, &old.metadata, &mut errors);
            errors
        }
    };
}

metadata_only!(flow_schema_status, flowcontrol::FlowSchema);
metadata_only!(level_status, flowcontrol::PriorityLevelConfiguration);
metadata_only!(daemon_set_status, apps::DaemonSet);
metadata_only!(stateful_set_status, apps::StatefulSet);
metadata_only!(replication_controller_status, core::ReplicationController);
metadata_only!(cron_job_status, batch::CronJob);
metadata_only!(volume_status, core::PersistentVolume);
metadata_only!(claim_status, core::PersistentVolumeClaim);
metadata_only!(attachment_status, storage::VolumeAttachment);
metadata_only!(ingress_status, networking::Ingress);

with_status!(
    DaemonSet, apps::DaemonSet, default::daemon_set, validate::daemon_set, validate::daemon_set_update,
    daemon_set_status, true, starts_without_status!(apps::DaemonSet);
);
with_status!(
    StatefulSet, apps::StatefulSet, default::stateful_set, validate::stateful_set, validate::stateful_set_update,
    stateful_set_status, true, starts_without_status!(apps::StatefulSet);
);
with_status!(
    ReplicationController, core::ReplicationController, default::replication_controller,
    validate::replication_controller, validate::replication_controller_update, replication_controller_status, true,
    const FIELDS: &'static [SelectableField] =
        &[SelectableField { label: "status.replicas", paths: &["status.replicas"], default: "0" }];
    starts_without_status!(core::ReplicationController);
);
with_status!(
    CronJob, batch::CronJob, default::cron_job, validate::cron_job, validate::cron_job_update, cron_job_status, true,
    starts_without_status!(batch::CronJob);
);
with_status! {
    Job, batch::Job, default::job, validate::job, validate::job_update, validate::job_status_update, true,
    const FIELDS: &'static [SelectableField] =
        &[SelectableField { label: "status.successful", paths: &["status.succeeded"], default: "0" }];

    fn prepare_create(object: &mut batch::Job, _: &Env<'_>) -> Result<(), ApiError> {
        object.status = Some(batch::JobStatus::default());
        select_own_pods(object);
        Ok(())
    }
}
with_status! {
    PersistentVolume, core::PersistentVolume, default::persistent_volume, validate::persistent_volume,
    validate::persistent_volume_update, volume_status, false,

    fn prepare_create(object: &mut core::PersistentVolume, _: &Env<'_>) -> Result<(), ApiError> {
        let pending = core::PersistentVolumeStatus { phase: Some("Pending".to_owned()), ..Default::default() };
        object.status = Some(pending);
        storage_admission::protect(&mut object.metadata, VOLUME_PROTECTION);
        Ok(())
    }
}
with_status! {
    PersistentVolumeClaim, core::PersistentVolumeClaim, default::persistent_volume_claim,
    validate::persistent_volume_claim, validate::persistent_volume_claim_update, claim_status, false,

    fn prepare_create(object: &mut core::PersistentVolumeClaim, env: &Env<'_>) -> Result<(), ApiError> {
        let pending = core::PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() };
        object.status = Some(pending);
        storage_admission::protect(&mut object.metadata, CLAIM_PROTECTION);
        storage_admission::choose_class(object, || env.all("storage.k8s.io", "storageclasses"));
        Ok(())
    }
}
with_status!(
    VolumeAttachment, storage::VolumeAttachment, nothing, validate::volume_attachment,
    validate::volume_attachment_update, attachment_status, false,
    starts_without_status!(storage::VolumeAttachment);
);
with_status!(
    Ingress, networking::Ingress, nothing, validate::ingress, validate::ingress_update, ingress_status, true,
    starts_without_status!(networking::Ingress);
);

with_status!(
    FlowSchema, flowcontrol::FlowSchema, default::flow_schema, validate::flow_schema, validate::flow_schema_update,
    flow_schema_status, true, starts_without_status!(flowcontrol::FlowSchema);
);
with_status!(
    PriorityLevelConfiguration, flowcontrol::PriorityLevelConfiguration, default::priority_level_configuration,
    validate::priority_level_configuration, validate::priority_level_configuration_update, level_status, true,
    starts_without_status!(flowcontrol::PriorityLevelConfiguration);
);
with_status!(
    ResourceQuota, core::ResourceQuota, default::resource_quota, validate::resource_quota,
    validate::resource_quota_update, validate::resource_quota_status_update, false,
    starts_without_status!(core::ResourceQuota);
);
with_status! {
    PodDisruptionBudget, policy::PodDisruptionBudget, nothing, validate::pod_disruption_budget,
    validate::pod_disruption_budget_update, validate::pod_disruption_budget_status_update, true,

    fn prepare_create(object: &mut policy::PodDisruptionBudget, _: &Env<'_>) -> Result<(), ApiError> {
        object.status = Some(policy::PodDisruptionBudgetStatus {
            disruptions_allowed: Some(0),
            current_healthy: Some(0),
            desired_healthy: Some(0),
            expected_pods: Some(0),
            ..Default::default()
        });
        Ok(())
    }
}

without_status!(
    ControllerRevision,
    apps::ControllerRevision,
    nothing,
    validate::controller_revision,
    validate::controller_revision_update
);
without_status!(
    LimitRange,
    core::LimitRange,
    default::limit_range,
    validate::limit_range,
    validate::limit_range_update
);
without_status!(
    PodTemplate,
    core::PodTemplate,
    default::stored_pod_template,
    validate::stored_pod_template,
    validate::stored_pod_template_update,
    template
);
without_status!(
    StorageClass,
    storage::StorageClass,
    default::storage_class,
    validate::storage_class,
    validate::storage_class_update
);
without_status!(
    CsiDriver,
    storage::CSIDriver,
    default::csi_driver,
    validate::csi_driver,
    validate::csi_driver_update,
    spec
);
without_status!(CsiNode, storage::CSINode, nothing, validate::csi_node, validate::csi_node_update);
without_status!(
    CsiStorageCapacity,
    storage::CSIStorageCapacity,
    nothing,
    validate::csi_storage_capacity,
    validate::csi_storage_capacity_update
);
without_status!(
    IngressClass,
    networking::IngressClass,
    nothing,
    validate::ingress_class,
    validate::ingress_class_update,
    spec
);
without_status!(
    NetworkPolicy,
    networking::NetworkPolicy,
    default::network_policy,
    validate::network_policy,
    validate::network_policy_update,
    spec
);
without_status!(
    RuntimeClass,
    node::RuntimeClass,
    nothing,
    validate::runtime_class,
    validate::runtime_class_update
);

/// A job's pods are told by its uid, unless somebody has thought of another way.
fn select_own_pods(job: &mut batch::Job) {
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    let spec = job.spec.get_or_insert_default();
    if spec.manual_selector == Some(true) {
        return;
    }
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in [
        ("batch.kubernetes.io/job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("controller-uid", &uid),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    let selector = spec.selector.get_or_insert_with(LabelSelector::default);
    let wanted = selector.match_labels.get_or_insert_default();
    wanted.insert("batch.kubernetes.io/controller-uid".to_owned(), uid);
}
