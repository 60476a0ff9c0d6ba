//! Which addresses and node ports a service gets.
//!
//! What is requested is taken if it is free; otherwise one is picked at random, so that servers that pick at the same
//! time seldom pick the same. The lowest addresses are left to those who ask for one, as upstream does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use manifests::field::{FieldError, Path};
use manifests::k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use manifests::status::ApiError;

use super::{NONE, has_health_check, has_node_ports, held, is_external_name, spec, type_of};
use crate::random;
use crate::registry::env::Env;

/// The key of a held address, after [`crate::watch_cache::CLAIMS`].
pub(super) fn address_claim(ip: &str) -> String {
    format!("serviceips/{ip}")
}

/// The key of a held node port.
pub(super) fn port_claim(port: i32) -> String {
    format!("servicenodeports/{port}")
}

/// What the update does not mention stays, as long as the new type can hold it; what the new type cannot hold goes, as
/// long as the update does not insist on it.
pub(super) fn keep(new: &mut Service, old: &Service) {
    let old = spec(old);
    let Some(new) = &mut new.spec else { return };
    if !is_external_name(&old) && !is_external_name(new) {
        if new.cluster_ip.as_deref().unwrap_or_default().is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.as_ref().is_none_or(Vec::is_empty) && new.cluster_ip == old.cluster_ip {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    } else if is_external_name(new) && !is_external_name(&old) && new.cluster_ips == old.cluster_ips {
        new.cluster_ip = None;
        new.cluster_ips = None;
        new.ip_families = None;
        new.ip_family_policy = None;
    }
    match (has_node_ports(&old), has_node_ports(new)) {
        (true, true) => {
            let mut taken: Vec<i32> = new.ports.iter().flatten().filter_map(|port| port.node_port).collect();
            for port in new.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or(0) == 0) {
                let same =
                    |before: &&ServicePort| (before.port, &before.protocol) == (port.port, &port.protocol);
                let before = old.ports.iter().flatten().find(same).and_then(|before| before.node_port);
                if let Some(before) = before.filter(|before| !taken.contains(before)) {
                    taken.push(before);
                    port.node_port = Some(before);
                }
            }
        }
        (true, false) => {
            let held: Vec<i32> = old.ports.iter().flatten().filter_map(|port| port.node_port).collect();
            for port in new.ports.iter_mut().flatten() {
                port.node_port = port.node_port.filter(|own| !held.contains(own));
            }
        }
        (false, _) => {}
    }
    drop_unfit(new, &old);
    if has_health_check(&old) {
        if has_health_check(new) {
            new.health_check_node_port =
                new.health_check_node_port.filter(|own| *own != 0).or(old.health_check_node_port);
        } else if new.health_check_node_port == old.health_check_node_port {
            new.health_check_node_port = None;
        }
    }
}

/// Fields that only mean something for the old type go with it, unless the update changes them.
fn drop_unfit(new: &mut ServiceSpec, old: &ServiceSpec) {
    let public = |spec: &ServiceSpec| {
        has_node_ports(spec) || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty())
    };
    if public(old) && !public(new) && new.external_traffic_policy == old.external_traffic_policy {
        new.external_traffic_policy = None;
    }
    let balanced = |spec: &ServiceSpec| type_of(spec) == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if is_external_name(new) && new.internal_traffic_policy == old.internal_traffic_policy {
        new.internal_traffic_policy = None;
    }
}

/// Takes what is requested and gives what is missing.
pub(super) fn fill(service: &mut Service, old: Option<&Service>, env: &Env<'_>) -> Result<(), ApiError> {
    let name = service.metadata.name.clone().unwrap_or_default();
    let before = old.map(held).unwrap_or_default();
    let is_free = |claim: &str| !env.caches.is_claimed(claim) || before.iter().any(|own| own == claim);
    let Some(spec) = &mut service.spec else { return Ok(()) };
    let invalid = |error: FieldError| ApiError::invalid("Service", "", &name, &[error].into_iter().collect());

    let first = spec.cluster_ip.clone().unwrap_or_default();
    if is_external_name(spec) || first == NONE {
        // Nothing to hold.
    } else if first.is_empty() {
        let claimed = |ip: Ipv4Addr| !is_free(&address_claim(&ip.to_string()));
        let ip = pick_address(env.config.service_cidr, claimed, random::bits())
            .ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))?;
        spec.cluster_ip = Some(ip.to_string());
        spec.cluster_ips = Some(vec![ip.to_string()]);
    } else if let Ok(ip) = first.parse::<Ipv4Addr>()
        && !before.contains(&address_claim(&first))
    {
        check_address(env.config.service_cidr, ip, is_free(&address_claim(&first))).map_err(|why| {
            let path = Path::new("spec").child("clusterIPs");
            invalid(FieldError::invalid(
                &path,
                &spec.cluster_ips,
                format!("failed to allocate IP {first}: {why}"),
            ))
        })?;
    }

    if !has_node_ports(spec) {
        return Ok(());
    }
    let give = spec.allocate_load_balancer_node_ports != Some(false) || type_of(spec) == "NodePort";
    let needs_health_check = has_health_check(spec);
    let range = &env.config.node_ports;
    let mut taken: Vec<i32> = Vec::new();
    // One node port serves all protocols of a port.
    let mut by_port: BTreeMap<i32, i32> = BTreeMap::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let Some(requested) = port.node_port.filter(|port| *port != 0) else { continue };
        let claim = port_claim(requested);
        if !before.contains(&claim) {
            check_port(range, requested, is_free(&claim)).map_err(|why| {
                let path = Path::new("spec").child("ports").index(index).child("nodePort");
                invalid(FieldError::invalid(&path, requested, why))
            })?;
        }
        taken.push(requested);
        by_port.entry(port.port).or_insert(requested);
    }
    let next = |taken: &mut Vec<i32>| {
        let claimed = |port: i32| taken.contains(&port) || !is_free(&port_claim(port));
        let port = pick_port(range, claimed, random::bits())
            .ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
        taken.push(port);
        Ok::<i32, ApiError>(port)
    };
    for port in spec.ports.iter_mut().flatten().filter(|port| give && port.node_port.unwrap_or(0) == 0) {
        let number = match by_port.get(&port.port) {
            Some(number) => *number,
            None => next(&mut taken)?,
        };
        by_port.insert(port.port, number);
        port.node_port = Some(number);
    }
    if needs_health_check && spec.health_check_node_port.unwrap_or(0) == 0 {
        spec.health_check_node_port = Some(next(&mut taken)?);
    }
    Ok(())
}

fn check_address(range: Ipv4Net, ip: Ipv4Addr, free: bool) -> Result<(), String> {
    if !range.contains(&ip) || ip == range.network() || ip == range.broadcast() {
        return Err(format!(
            "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
        ));
    }
    if free { Ok(()) } else { Err("provided IP is already allocated".to_owned()) }
}

fn check_port(range: &std::ops::RangeInclusive<u16>, port: i32, free: bool) -> Result<(), String> {
    if !u16::try_from(port).is_ok_and(|port| range.contains(&port)) {
        return Err(format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.start(),
            range.end()
        ));
    }
    if free { Ok(()) } else { Err("provided port is already allocated".to_owned()) }
}

/// How many of the lowest addresses are given only when the others are taken.
fn reserved(size: u32) -> u32 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// A free address, found from a random place on.
fn pick_address(range: Ipv4Net, claimed: impl Fn(Ipv4Addr) -> bool, random: u64) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(range.network()) + 1, u32::from(range.broadcast()).checked_sub(1)?);
    if last < first {
        return None;
    }
    // The very first is the API server's.
    let first = first + 1;
    let split = first + reserved(last - first);
    let free = |from: u32, to: u32| {
        let size = u64::from(to.checked_sub(from)?) + 1;
        let start = random % size;
        let places = (start..size).chain(0..start);
        // The offset is below a difference of two 32-bit numbers.
        places.map(|offset| Ipv4Addr::from(from + offset as u32)).find(|ip| !claimed(*ip))
    };
    free(split, last).or_else(|| free(first, split.checked_sub(1)?))
}

/// A free port, found from a random place on.
fn pick_port(
    range: &std::ops::RangeInclusive<u16>,
    claimed: impl Fn(i32) -> bool,
    random: u64,
) -> Option<i32> {
    let (first, last) = (i32::from(*range.start()), i32::from(*range.end()));
    let size = u64::try_from(last - first + 1).ok().filter(|size| *size > 0)?;
    let start = first + i32::try_from(random % size).ok()?;
    (start..=last).chain(first..start).find(|port| !claimed(*port))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_address_is_given_once() {
        let range: Ipv4Net = "10.0.0.0/26".parse().unwrap();
        let mut taken = BTreeSet::new();
        for random in 0.. {
            let Some(ip) = pick_address(range, |ip| taken.contains(&ip), random * 7919) else { break };
            assert!(taken.insert(ip));
            if taken.len() <= 44 {
                assert!(ip.octets()[3] >= 18, "the lowest come last: {ip} after {}", taken.len());
            }
        }
        // Without network, broadcast and the API server's.
        assert_eq!(taken.len(), 61);
        assert_eq!(pick_address("10.0.0.0/31".parse().unwrap(), |_| false, 5), None);
    }

    #[test]
    fn every_port_is_given_once() {
        let mut taken = BTreeSet::new();
        while let Some(port) =
            pick_port(&(30000..=30009), |port| taken.contains(&port), taken.len() as u64 * 31)
        {
            taken.insert(port);
        }
        assert_eq!(taken, (30000..=30009).collect());
    }

    #[test]
    fn requests_are_checked() {
        let range: Ipv4Net = "10.43.0.0/16".parse().unwrap();
        let check = |ip: &str, free| check_address(range, ip.parse().unwrap(), free);
        assert_eq!(check("10.43.7.1", true), Ok(()));
        assert_eq!(check("10.43.7.1", false), Err("provided IP is already allocated".to_owned()));
        assert!(
            check("10.44.0.1", true)
                .is_err_and(|why| why.ends_with("The range of valid IPs is 10.43.0.0/16"))
        );
        assert!(check("10.43.0.0", true).is_err());
        assert_eq!(check_port(&(30000..=32767), 30000, true), Ok(()));
        assert!(check_port(&(30000..=32767), 80, true).is_err_and(|why| why.ends_with("30000-32767")));
    }
}
