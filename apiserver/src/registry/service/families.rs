//! Which address families a service has, and how its two address fields go together.
//!
//! Follows `pkg/registry/core/service/{strategy.go,storage/alloc.go}`, on a cluster with IPv4 only.

use std::net::IpAddr;

use manifests::field::{ErrorList, FieldError, Path};
use manifests::k8s_openapi::api::core::v1::Service;
use manifests::status::ApiError;

use super::{NONE, is_external_name, is_headless, spec};

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";
const SINGLE: &str = "SingleStack";
const REQUIRE_DUAL: &str = "RequireDualStack";

/// `clusterIP` is the first of `clusterIPs`; clients that know only one of them may change that one.
pub(super) fn match_addresses(new: &mut Service, old: Option<&Service>) {
    let Some(spec_new) = &mut new.spec else { return };
    let first = spec_new.cluster_ip.clone().unwrap_or_default();
    let Some(old) = old.map(spec) else {
        if !first.is_empty() && spec_new.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
            spec_new.cluster_ips = Some(vec![first]);
        }
        return;
    };
    let first_changed = old.cluster_ip.as_deref().unwrap_or_default() != first;
    let all_changed = old.cluster_ips != spec_new.cluster_ips;
    if first_changed && !all_changed {
        spec_new.cluster_ips = (!first.is_empty()).then(|| vec![first]);
    } else if all_changed && !first_changed {
        match spec_new.cluster_ips.as_ref().and_then(|all| all.first()) {
            // Clearing the list clears both; a client that does not know the list keeps its address.
            None if !first.is_empty() => spec_new.cluster_ips = Some(vec![first]),
            None => {}
            Some(head) => spec_new.cluster_ip = Some(head.clone()),
        }
    }
}

/// Sets policy and families, or says why they cannot be had here.
pub(super) fn fill(new: &mut Service, old: Option<&Service>) -> Result<(), ApiError> {
    let name = new.metadata.name.clone().unwrap_or_default();
    let Some(spec) = &mut new.spec else { return Ok(()) };
    if is_external_name(spec) {
        return Ok(());
    }
    let bare = is_headless(spec) && spec.selector.as_ref().is_none_or(std::collections::BTreeMap::is_empty);
    let policy = spec.ip_family_policy.get_or_insert_with(|| {
        let before = old.and_then(|old| old.spec.as_ref()?.ip_family_policy.clone());
        before.unwrap_or_else(|| if bare { REQUIRE_DUAL } else { SINGLE }.to_owned())
    });
    let policy = policy.clone();
    let path = Path::new("spec");
    let mut errors = ErrorList::new();
    if policy == SINGLE {
        let several = |what| {
            format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified")
        };
        if spec.cluster_ips.as_ref().is_some_and(|ips| ips.len() == 2) {
            errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &policy, several("cluster IPs")));
        }
        if spec.ip_families.as_ref().is_some_and(|families| families.len() == 2) {
            errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &policy, several("IP families")));
        }
    }
    let families = spec.ip_families.get_or_insert_default();
    for (index, ip) in spec.cluster_ips.iter().flatten().enumerate().take_while(|(_, ip)| *ip != NONE) {
        if index < families.len() {
            continue;
        }
        match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => families.push(IPV4.to_owned()),
            Ok(IpAddr::V6(_)) => errors.push(FieldError::invalid(
                &path.child("clusterIPs").index(index),
                &spec.cluster_ips,
                format!("{IPV6} is not configured on this cluster"),
            )),
            // Validation says what is wrong with it.
            Err(_) => {}
        }
    }
    if bare && errors.is_empty() {
        if families.is_empty() {
            families.push(IPV4.to_owned());
        }
        if families.len() < 2 && policy != SINGLE {
            let other = if families[0] == IPV4 { IPV6 } else { IPV4 };
            families.push(other.to_owned());
        }
        return Ok(());
    }
    if policy == REQUIRE_DUAL {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &policy, detail));
    }
    for (index, family) in families.iter().enumerate().filter(|(_, family)| *family != IPV4) {
        let path = path.child("ipFamilies").index(index);
        errors.push(FieldError::invalid(&path, family, "not configured on this cluster"));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("Service", "", &name, &errors));
    }
    if families.is_empty() {
        families.push(IPV4.to_owned());
    }
    Ok(())
}
