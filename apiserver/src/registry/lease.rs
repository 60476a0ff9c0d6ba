//! Leases: heartbeats of nodes, and elections.

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::coordination::v1 as coordination;
use manifests::validate;

use super::kind::{Kind, Part};

pub(super) struct Lease;

impl Kind for Lease {
    type Object = coordination::Lease;

    const CREATE_ON_UPDATE: bool = true;
    /// Two holders that both overwrite would both believe that they hold.
    const UNCONDITIONAL_UPDATE: bool = false;

    fn validate(object: &coordination::Lease) -> ErrorList {
        validate::lease(object)
    }

    fn validate_update(new: &coordination::Lease, old: &coordination::Lease, _: Part) -> ErrorList {
        validate::lease_update(new, old)
    }
}
