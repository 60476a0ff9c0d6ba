//! Services, with the addresses and node ports that they hold.
//!
//! Every held address and port has a key of its own in the store (`/registry/ranges/…`), which is made and removed in
//! the transaction that writes the service. So two services never hold the same one, whichever server writes them,
//! and none is held by a service that is gone.

mod allocate;
mod families;

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::core::v1 as core;
use manifests::status::ApiError;
use manifests::{default, validate};
use store::{Compare, Op};

use super::env::Env;
use super::kind::{Claims, Kind, Part};
use crate::fields::SelectableField;
use crate::watch_cache::CLAIMS;

pub(super) struct Service;

/// The address of a service that has none on purpose.
const NONE: &str = "None";

fn spec(service: &core::Service) -> std::borrow::Cow<'_, core::ServiceSpec> {
    service.spec.as_ref().map_or_else(Default::default, std::borrow::Cow::Borrowed)
}

fn type_of(spec: &core::ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

fn is_external_name(spec: &core::ServiceSpec) -> bool {
    type_of(spec) == "ExternalName"
}

fn is_headless(spec: &core::ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some(NONE)
}

fn has_node_ports(spec: &core::ServiceSpec) -> bool {
    matches!(type_of(spec), "NodePort" | "LoadBalancer")
}

/// Load balancers with the policy `Local` are asked for their health on a node port.
fn has_health_check(spec: &core::ServiceSpec) -> bool {
    type_of(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// What a service holds: keys after [`CLAIMS`].
fn held(service: &core::Service) -> Vec<String> {
    let spec = spec(service);
    let mut held = Vec::new();
    if !is_external_name(&spec) {
        let addresses = spec.cluster_ips.iter().flatten().filter(|ip| !ip.is_empty() && *ip != NONE);
        held.extend(addresses.map(|ip| allocate::address_claim(ip)));
    }
    if has_node_ports(&spec) {
        let ports =
            spec.ports.iter().flatten().filter_map(|port| port.node_port).chain(spec.health_check_node_port);
        held.extend(ports.filter(|port| *port != 0).map(allocate::port_claim));
    }
    held.sort();
    held.dedup();
    held
}

impl Kind for Service {
    type Object = core::Service;

    const CREATE_ON_UPDATE: bool = true;
    const RETURNS_DELETED: bool = true;

    const FIELDS: &'static [SelectableField] = &[
        SelectableField::plain("spec.clusterIP", &["spec.clusterIP"]),
        SelectableField::plain("spec.type", &["spec.type"]),
    ];

    fn default(object: &mut core::Service) {
        default::service(object);
    }

    fn prepare_create(object: &mut core::Service, env: &Env<'_>) -> Result<(), ApiError> {
        object.status =
            Some(core::ServiceStatus { load_balancer: Some(Default::default()), conditions: None });
        families::match_addresses(object, None);
        families::fill(object, None)?;
        allocate::fill(object, None, env)
    }

    fn prepare_update(
        new: &mut core::Service,
        old: &core::Service,
        part: Part,
        env: &Env<'_>,
    ) -> Result<(), ApiError> {
        if part == Part::Status {
            new.spec.clone_from(&old.spec);
            return Ok(());
        }
        new.status.clone_from(&old.status);
        families::match_addresses(new, Some(old));
        allocate::keep(new, old);
        families::fill(new, Some(old))?;
        allocate::fill(new, Some(old), env)
    }

    fn validate(object: &core::Service) -> ErrorList {
        validate::service(object)
    }

    fn validate_update(new: &core::Service, old: &core::Service, part: Part) -> ErrorList {
        match part {
            Part::Status => validate::service_status_update(new, old),
            _ => validate::service_update(new, old),
        }
    }

    fn claims(
        new: Option<&core::Service>,
        old: Option<&core::Service>,
        _: &Env<'_>,
    ) -> Result<Claims, ApiError> {
        let (before, after) = (old.map(held).unwrap_or_default(), new.map(held).unwrap_or_default());
        let meta = new.or(old).map(|service| service.metadata.clone()).unwrap_or_default();
        let holder = serde_json::json!({
            "namespace": meta.namespace, "name": meta.name, "uid": meta.uid,
        });
        let mut claims = Claims::default();
        for key in after.iter().filter(|key| !before.contains(key)) {
            let key = format!("{CLAIMS}{key}");
            claims.compare.push(Compare::Absent(key.clone()));
            claims.ops.push(Op::Put(key, holder.to_string().into()));
        }
        for key in before.iter().filter(|key| !after.contains(key)) {
            claims.ops.push(Op::Delete(format!("{CLAIMS}{key}")));
        }
        Ok(claims)
    }
}
