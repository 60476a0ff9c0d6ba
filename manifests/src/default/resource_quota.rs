//! Defaults of ResourceQuotas: amounts count in thousandths.

use k8s_openapi::api::core::v1::ResourceQuota;

use super::round_up_to_milli;

/// Defaults of a ResourceQuota.
pub fn resource_quota(quota: &mut ResourceQuota) {
    if let Some(spec) = &mut quota.spec {
        round_up_to_milli(&mut spec.hard);
    }
    if let Some(status) = &mut quota.status {
        round_up_to_milli(&mut status.hard);
        round_up_to_milli(&mut status.used);
    }
}
