//! Namespaces: kept until their contents are gone.

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::core::v1 as core;
use manifests::status::ApiError;
use manifests::{default, validate};

use super::env::Env;
use super::kind::{Kind, Part};
use crate::fields::SelectableField;

/// The finalizer of the controller that empties a namespace.
const FINALIZER: &str = "kubernetes";

pub(super) struct Namespace;

/// Index of `status.phase` in the extracted fields.
pub(crate) const PHASE: usize = 0;

impl Kind for Namespace {
    type Object = core::Namespace;

    const FIELDS: &'static [SelectableField] = &[
        SelectableField::plain("status.phase", &["status.phase"]),
        SelectableField::plain("name", &["metadata.name"]),
    ];

    fn default(object: &mut core::Namespace) {
        default::namespace(object);
    }

    fn prepare_create(object: &mut core::Namespace, _: &Env<'_>) -> Result<(), ApiError> {
        object.status =
            Some(core::NamespaceStatus { phase: Some("Active".to_owned()), ..Default::default() });
        let finalizers = object.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|have| have == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        Ok(())
    }

    fn prepare_update(
        new: &mut core::Namespace,
        old: &core::Namespace,
        part: Part,
        _: &Env<'_>,
    ) -> Result<(), ApiError> {
        match part {
            Part::Status => new.spec.clone_from(&old.spec),
            Part::Finalize => new.status.clone_from(&old.status),
            _ => {
                new.spec.clone_from(&old.spec);
                new.status.clone_from(&old.status);
            }
        }
        Ok(())
    }

    fn validate(object: &core::Namespace) -> ErrorList {
        validate::namespace(object)
    }

    fn validate_update(new: &core::Namespace, old: &core::Namespace, part: Part) -> ErrorList {
        match part {
            Part::Status => validate::namespace_status_update(new, old),
            Part::Finalize => validate::namespace_finalize_update(new, old),
            _ => validate::namespace_update(new, old),
        }
    }

    fn mark_deleted(object: &mut core::Namespace) {
        object.status.get_or_insert_default().phase = Some("Terminating".to_owned());
        object.metadata.deletion_grace_period_seconds = None;
    }

    fn held(object: &core::Namespace) -> bool {
        object.spec.as_ref().and_then(|spec| spec.finalizers.as_ref()).is_some_and(|list| !list.is_empty())
    }
}
