//! Nodes.

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::core::v1 as core;
use manifests::status::ApiError;
use manifests::{default, validate};

use super::env::Env;
use super::kind::{Kind, Part};
use crate::fields::SelectableField;

pub(super) struct Node;

impl Kind for Node {
    type Object = core::Node;

    const FIELDS: &'static [SelectableField] =
        &[SelectableField { label: "spec.unschedulable", paths: &["spec.unschedulable"], default: "false" }];

    fn default(object: &mut core::Node) {
        default::node(object);
    }

    fn prepare_update(
        new: &mut core::Node,
        old: &core::Node,
        part: Part,
        _: &Env<'_>,
    ) -> Result<(), ApiError> {
        match part {
            Part::Status => new.spec.clone_from(&old.spec),
            _ => new.status.clone_from(&old.status),
        }
        Ok(())
    }

    fn validate(object: &core::Node) -> ErrorList {
        validate::node(object)
    }

    fn validate_update(new: &core::Node, old: &core::Node, _: Part) -> ErrorList {
        validate::node_update(new, old)
    }
}
