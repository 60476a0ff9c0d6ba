//! ReplicaSets and Deployments.

use manifests::encode::same;
use manifests::field::ErrorList;
use manifests::k8s_openapi::api::apps::v1 as apps;
use manifests::status::ApiError;
use manifests::{default, validate};

use super::env::Env;
use super::kind::{Kind, Part};
use crate::fields::SelectableField;
use crate::write::metadata::next_generation;

pub(super) struct ReplicaSet;

impl Kind for ReplicaSet {
    type Object = apps::ReplicaSet;

    const FIELDS: &'static [SelectableField] =
        &[SelectableField { label: "status.replicas", paths: &["status.replicas"], default: "0" }];

    fn default(object: &mut apps::ReplicaSet) {
        default::replica_set(object);
    }

    fn prepare_create(object: &mut apps::ReplicaSet, _: &Env<'_>) -> Result<(), ApiError> {
        object.status = Some(apps::ReplicaSetStatus::default());
        Ok(())
    }

    fn prepare_update(
        new: &mut apps::ReplicaSet,
        old: &apps::ReplicaSet,
        part: Part,
        _: &Env<'_>,
    ) -> Result<(), ApiError> {
        match part {
            Part::Status => new.spec.clone_from(&old.spec),
            _ => {
                new.status.clone_from(&old.status);
                if !same(&new.spec, &old.spec) {
                    next_generation(&mut new.metadata);
                }
            }
        }
        Ok(())
    }

    fn validate(object: &apps::ReplicaSet) -> ErrorList {
        validate::replica_set(object)
    }

    fn validate_update(new: &apps::ReplicaSet, old: &apps::ReplicaSet, part: Part) -> ErrorList {
        match part {
            Part::Status => validate::replica_set_status_update(new, old),
            _ => validate::replica_set_update(new, old),
        }
    }
}

pub(super) struct Deployment;

impl Kind for Deployment {
    type Object = apps::Deployment;

    fn default(object: &mut apps::Deployment) {
        default::deployment(object);
    }

    fn prepare_create(object: &mut apps::Deployment, _: &Env<'_>) -> Result<(), ApiError> {
        object.status = Some(apps::DeploymentStatus::default());
        Ok(())
    }

    fn prepare_update(
        new: &mut apps::Deployment,
        old: &apps::Deployment,
        part: Part,
        _: &Env<'_>,
    ) -> Result<(), ApiError> {
        match part {
            Part::Status => {
                new.spec.clone_from(&old.spec);
                new.metadata.labels.clone_from(&old.metadata.labels);
            }
            _ => {
                new.status.clone_from(&old.status);
                // Annotations count as well: the revision is one.
                if !same(&new.spec, &old.spec) || !same(&new.metadata.annotations, &old.metadata.annotations)
                {
                    next_generation(&mut new.metadata);
                }
            }
        }
        Ok(())
    }

    fn validate(object: &apps::Deployment) -> ErrorList {
        validate::deployment(object)
    }

    fn validate_update(new: &apps::Deployment, old: &apps::Deployment, part: Part) -> ErrorList {
        match part {
            Part::Status => validate::deployment_status_update(new, old),
            _ => validate::deployment_update(new, old),
        }
    }
}
