//! To whom a proxied request goes: what `scheme:name:port` means, and where it is. Pure.
//!
//! Follows `SplitSchemeNamePort` and `ResourceLocation` of the registries of pods, services and nodes.

use std::net::IpAddr;

use manifests::go;
use manifests::k8s_openapi::api::core::v1::{Pod, Service};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;
use manifests::status::ApiError;

/// The three parts of a name in a proxy's URL; scheme and port may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub(super) https: bool,
    pub(super) name: &'a str,
    pub(super) port: &'a str,
}

/// Reads `name`, `name:port` or `scheme:name:port`; `what` is meant in the refusal.
pub(super) fn read<'a>(text: &'a str, what: &str) -> Result<Named<'a>, ApiError> {
    let parts: Vec<&str> = text.split(':').collect();
    let named = match parts.as_slice() {
        [name] => Some(Named { https: false, name, port: "" }),
        [name, port] => Some(Named { https: false, name, port }),
        ["https", name, port] => Some(Named { https: true, name, port }),
        ["http" | "", name, port] => Some(Named { https: false, name, port }),
        _ => None,
    };
    let named = named.filter(|named| !named.name.is_empty());
    named.ok_or_else(|| ApiError::bad_request(format!("invalid {what} request {}", go::quote(text))))
}

/// A port to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Namespace and name of the pod that listens there, if one does: its node is sure to reach it.
    pub(super) pod: Option<(String, String)>,
    pub(super) node: Option<String>,
}

/// Where a pod listens.
pub(super) fn of_pod(pod: &Pod, named: Named<'_>) -> Result<Place, ApiError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).unwrap_or_default();
    let address: IpAddr = address.parse().map_err(|_| ApiError::bad_request("address not allowed"))?;
    let first = || spec.containers.iter().find_map(|container| container.ports.as_ref()?.first());
    let port = match named.port {
        "" => first().map_or(if named.https { 443 } else { 80 }, |port| port.container_port),
        number => number.parse().map_err(|_| invalid_port(number))?,
    };
    let port = u16::try_from(port).map_err(|_| invalid_port(named.port))?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    Ok(Place { address, port, pod: Some((namespace, name)), node: spec.node_name })
}

fn invalid_port(port: &str) -> ApiError {
    ApiError::bad_request(format!("invalid port {}", go::quote(port)))
}

/// All places where a service is answered now.
pub(super) fn of_service(
    service: &Service,
    slices: &[EndpointSlice],
    named: Named<'_>,
) -> Result<Vec<Place>, ApiError> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let name = match (named.port.parse::<i32>(), ports) {
        (Ok(number), ports) => {
            let port = ports.iter().find(|port| port.port == number).ok_or_else(|| {
                let name = go::quote(named.name);
                ApiError::service_unavailable(format!("no service port {number} found for service {name}"))
            })?;
            port.name.clone().unwrap_or_default()
        }
        // Which one is meant cannot be doubted.
        (Err(_), [only]) if named.port.is_empty() => only.name.clone().unwrap_or_default(),
        (Err(_), _) => named.port.to_owned(),
    };
    let of_slice = |slice: &EndpointSlice| {
        let ports = slice.ports.iter().flatten();
        let port =
            ports.filter(|port| port.name.as_deref().unwrap_or_default() == name).find_map(|port| port.port);
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { return Vec::new() };
        let namespace = slice.metadata.namespace.clone().unwrap_or_default();
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        let places = ready.filter_map(|endpoint| {
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            Some(Place {
                address: endpoint.addresses.first()?.parse().ok()?,
                port,
                pod: target.and_then(|target| Some((namespace.clone(), target.name.clone()?))),
                node: endpoint.node_name.clone(),
            })
        });
        places.collect()
    };
    let places: Vec<Place> = slices.iter().flat_map(of_slice).collect();
    if places.is_empty() {
        let name = go::quote(named.name);
        return Err(ApiError::service_unavailable(format!("no endpoints available for service {name}")));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn names_have_up_to_three_parts() {
        let check = |text, expected: Option<(bool, &str, &str)>| {
            let found = read(text, "pod").ok().map(|named| (named.https, named.name, named.port));
            assert_eq!(found, expected, "{text}");
        };
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("https:web:", Some((true, "web", "")));
        check(":web:http", Some((false, "web", "http")));
        for wrong in ["", ":80", "ftp:web:21", "a:b:c:d"] {
            check(wrong, None);
        }
        assert_eq!(read("ftp:web:21", "pod").unwrap_err().message(), "invalid pod request \"ftp:web:21\"");
    }

    #[test]
    fn pods_listen_on_their_first_port() {
        let check = |ports: Value, ip: Value, text: &str, expected: Result<u16, &str>| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "web", "namespace": "n"},
                "spec": {"nodeName": "a", "containers": [{"name": "x"}, {"name": "c", "ports": ports}]},
                "status": {"podIP": ip},
            }))
            .unwrap();
            let found = of_pod(&pod, read(text, "pod").unwrap());
            let found = found.as_ref().map(|place| place.port).map_err(ApiError::message);
            assert_eq!(found, expected, "{text}");
        };
        let ports = json!([{"containerPort": 8080}, {"containerPort": 81}]);
        check(ports.clone(), json!("10.1.1.1"), "web", Ok(8080));
        check(ports.clone(), json!("10.1.1.1"), "web:81", Ok(81));
        check(json!([]), json!("10.1.1.1"), "https:web:", Ok(443));
        check(ports.clone(), json!("10.1.1.1"), "web:70000", Err("invalid port \"70000\""));
        check(ports, json!(null), "web", Err("address not allowed"));
    }

    #[test]
    fn services_are_answered_by_what_is_ready() {
        let service = |ports: Value| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"ports": ports}})).unwrap()
        };
        let slices: Vec<EndpointSlice> = serde_json::from_value(json!([{
            "metadata": {"namespace": "n"}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
            "endpoints": [
                {"addresses": ["10.1.1.1"], "nodeName": "a", "targetRef": {"kind": "Pod", "name": "web-1"}},
                {"addresses": ["10.1.1.2"], "conditions": {"ready": false}},
            ],
        }]))
        .unwrap();
        let both = service(json!([{"name": "http", "port": 80}, {"name": "admin", "port": 90}]));
        let one = service(json!([{"name": "admin", "port": 90}]));
        let check = |service: &Service, slices: &[EndpointSlice], text: &str, expected: Result<u16, &str>| {
            let found = of_service(service, slices, read(text, "service").unwrap());
            let found = found.as_ref().map(|places| places[0].port).map_err(ApiError::message);
            assert_eq!(found, expected, "{text}");
        };
        check(&both, &slices, "web:http", Ok(8080));
        check(&both, &slices, "web:90", Ok(9090));
        check(&one, &slices, "web", Ok(9090));
        check(&both, &slices, "web", Err("no endpoints available for service \"web\""));
        check(&both, &slices, "web:81", Err("no service port 81 found for service \"web\""));
        check(&both, &[], "web:http", Err("no endpoints available for service \"web\""));
        let places = of_service(&both, &slices, read("web:80", "service").unwrap()).unwrap();
        assert_eq!(places.len(), 1);
        assert_eq!(places[0].pod, Some(("n".to_owned(), "web-1".to_owned())));
    }
}
