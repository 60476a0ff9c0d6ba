//! Defaults of services and their endpoints. Addresses, node ports and IP families are assigned by the API server.

use k8s_openapi::api::core::v1::{ClientIPConfig, Endpoints, Service, SessionAffinityConfig};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::text;

/// How long a client stays with its endpoint, in seconds: three hours.
const CLIENT_IP_TIMEOUT: i32 = 10_800;

/// Defaults of a service.
pub fn service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    text(&mut spec.session_affinity, "None");
    match spec.session_affinity.as_deref() {
        Some("None") => spec.session_affinity_config = None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref();
            let timeout = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
            let client_ip = ClientIPConfig { timeout_seconds: Some(timeout.unwrap_or(CLIENT_IP_TIMEOUT)) };
            spec.session_affinity_config = Some(SessionAffinityConfig { client_ip: Some(client_ip) });
        }
        _ => {}
    }
    text(&mut spec.type_, "ClusterIP");
    for port in spec.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    let type_ = spec.type_.as_deref().unwrap_or_default();
    let has_external_ips = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if matches!(type_, "NodePort" | "LoadBalancer") || (type_ == "ClusterIP" && has_external_ips) {
        text(&mut spec.external_traffic_policy, "Cluster");
    }
    if matches!(type_, "ClusterIP" | "NodePort" | "LoadBalancer") {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if type_ == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    let balancer = service.status.get_or_insert_default().load_balancer.get_or_insert_default();
    if type_ == "LoadBalancer" {
        for ingress in balancer.ingress.iter_mut().flatten() {
            if ingress.ip.as_deref().is_some_and(|ip| !ip.is_empty()) {
                ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
            }
        }
    }
}

/// Defaults of Endpoints.
pub fn endpoints(endpoints: &mut Endpoints) {
    for subset in endpoints.subsets.iter_mut().flatten() {
        for port in subset.ports.iter_mut().flatten() {
            text(&mut port.protocol, "TCP");
        }
    }
}

/// Defaults of an EndpointSlice.
pub fn endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::check;
    use super::*;

    fn check_spec(given: Value, expected: Value) {
        check(service, json!({ "spec": given }), json!({ "spec": expected }));
    }

    #[test]
    fn services() {
        check_spec(
            json!({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}),
            json!({
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "externalTrafficPolicy": "<none>", "clusterIP": "<none>", "ipFamilies": "<none>",
                "ports": [{"protocol": "TCP", "targetPort": 80}, {"protocol": "UDP", "targetPort": "dns"}],
            }),
        );
        check_spec(json!({"type": "NodePort"}), json!({"externalTrafficPolicy": "Cluster"}));
        check_spec(json!({"externalIPs": ["1.2.3.4"]}), json!({"externalTrafficPolicy": "Cluster"}));
        check_spec(json!({"type": "LoadBalancer"}), json!({"allocateLoadBalancerNodePorts": true}));
        check_spec(
            json!({"type": "ExternalName"}),
            json!({"internalTrafficPolicy": "<none>", "externalTrafficPolicy": "<none>"}),
        );
        check_spec(
            json!({"sessionAffinity": "ClientIP"}),
            json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}}),
        );
        check_spec(
            json!({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}),
            json!({"sessionAffinityConfig": "<none>"}),
        );
        check_spec(json!({"ports": [{"port": 80, "targetPort": 0}]}), json!({"ports": [{"targetPort": 80}]}));
    }

    #[test]
    fn endpoint_kinds() {
        check(
            endpoints,
            json!({"subsets": [{"ports": [{"port": 1}]}]}),
            json!({"subsets": [{"ports": [{"protocol": "TCP"}]}]}),
        );
        check(
            endpoint_slice,
            json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 1}]}),
            json!({"ports": [{"protocol": "TCP", "name": ""}]}),
        );
    }
}
