//! PriorityClasses.

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::scheduling::v1 as scheduling;
use manifests::status::ApiError;
use manifests::{default, validate};

use super::env::Env;
use super::kind::{Kind, Part};
use crate::admission::priority;

pub(super) struct PriorityClass;

fn admit(object: &scheduling::PriorityClass, env: &Env<'_>) -> Result<(), ApiError> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    priority::admit_class(object, &env.all("scheduling.k8s.io", "priorityclasses"))
        .map_err(|why| ApiError::forbidden("priorityclasses", "scheduling.k8s.io", name, &why))
}

impl Kind for PriorityClass {
    type Object = scheduling::PriorityClass;

    fn default(object: &mut scheduling::PriorityClass) {
        default::priority_class(object);
    }

    fn prepare_create(object: &mut scheduling::PriorityClass, env: &Env<'_>) -> Result<(), ApiError> {
        admit(object, env)
    }

    fn prepare_update(
        new: &mut scheduling::PriorityClass,
        _: &scheduling::PriorityClass,
        _: Part,
        env: &Env<'_>,
    ) -> Result<(), ApiError> {
        admit(new, env)
    }

    fn validate(object: &scheduling::PriorityClass) -> ErrorList {
        validate::priority_class(object)
    }

    fn validate_update(
        new: &scheduling::PriorityClass,
        old: &scheduling::PriorityClass,
        _: Part,
    ) -> ErrorList {
        validate::priority_class_update(new, old)
    }
}
