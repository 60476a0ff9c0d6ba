//! Discovery by environment: the variables that tell a container where the services of its namespace are.
//!
//! For a service `web` with port 80 they are `WEB_SERVICE_HOST`, `WEB_SERVICE_PORT`, `WEB_SERVICE_PORT_<NAME>` for each
//! named port, and the older `WEB_PORT`, `WEB_PORT_80_TCP`, `…_PROTO`, `…_PORT`, `…_ADDR`. Follows `pkg/kubelet/envvars`
//! and the kubelet's choice of services.
//!
//! A namespace with thousands of services makes an environment that no process can be started with, and upstream's pods
//! then fail to start. Here the size is bounded: whole services are left out from the end of the alphabet, and are named,
//! so that the agent can say so in an event.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Service;

/// How much environment services may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Number of variables.
    pub variables: usize,
    /// Bytes of all `NAME=value` with their terminators.
    pub bytes: usize,
}

impl Default for Bounds {
    /// Half of what Linux has room for in arguments and environment together, at the usual stack limit of 8 MiB.
    fn default() -> Bounds {
        Bounds { variables: 16_384, bytes: 1 << 20 }
    }
}

/// The variables, and the services that had no room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceVariables {
    /// Names and values, each name once.
    pub variables: Vec<(String, String)>,
    /// Names of the services that were left out, in order.
    pub dropped: Vec<String>,
}

/// The variables for a container in `namespace`. Without `enable_links` only the API server's service is there.
pub fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    enable_links: bool,
    bounds: Bounds,
) -> ServiceVariables {
    let mut chosen: BTreeMap<(bool, &str), &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let is_api_server = name == "kubernetes" && service.metadata.namespace.as_deref() == Some("default");
        let is_linked = enable_links && service.metadata.namespace.as_deref() == Some(namespace);
        if has_cluster_ip(service) && (is_api_server || is_linked) {
            // A service of the same name in the pod's own namespace takes precedence over the API server's.
            let own = service.metadata.namespace.as_deref() == Some(namespace);
            let key = (name != "kubernetes", name); // the API server's service sorts first, so it is never left out
            if own || !chosen.contains_key(&key) {
                chosen.insert(key, service);
            }
        }
    }

    let mut result = ServiceVariables::default();
    let mut seen = BTreeMap::new();
    let mut bytes = 0;
    for ((_, name), service) in chosen {
        let own = of_service(name, service);
        let size: usize = own.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if result.variables.len() + own.len() > bounds.variables || bytes + size > bounds.bytes {
            result.dropped.push(name.to_owned());
            continue;
        }
        bytes += size;
        for (name, value) in own {
            // `a-b` and a port of `a` can lead to the same name; the later service wins, as in a map.
            match seen.get(&name) {
                Some(&index) => result.variables[index] = (name, value),
                None => {
                    seen.insert(name.clone(), result.variables.len());
                    result.variables.push((name, value));
                }
            }
        }
    }
    result
}

fn has_cluster_ip(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    !ip.is_empty() && ip != "None" && spec.is_some_and(|spec| spec.ports.iter().flatten().next().is_some())
}

fn of_service(name: &str, service: &Service) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let Some(spec) = &service.spec else { return variables };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return variables };
    let prefix = variable_name(name);

    variables.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
    variables.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.push((format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string()));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let mut url = String::new();
        // Writing to a String cannot fail.
        let _ = write!(url, "{lower}://{host}:{}", port.port);
        if index == 0 {
            variables.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
        variables.push((link.clone(), url));
        variables.push((format!("{link}_PROTO"), lower));
        variables.push((format!("{link}_PORT"), port.port.to_string()));
        variables.push((format!("{link}_ADDR"), ip.to_owned()));
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": ports},
        }))
        .unwrap()
    }

    fn check(services: &[Service], namespace: &str, links: bool, expected: &[&str]) {
        let result = variables(services, namespace, links, Bounds::default());
        let lines: Vec<String> =
            result.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(lines, expected);
        assert_eq!(result.dropped, Vec::<String>::new());
    }

    const API: &[&str] = &[
        "KUBERNETES_SERVICE_HOST=10.43.0.1",
        "KUBERNETES_SERVICE_PORT=443",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
        "KUBERNETES_PORT=tcp://10.43.0.1:443",
        "KUBERNETES_PORT_443_TCP=tcp://10.43.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO=tcp",
        "KUBERNETES_PORT_443_TCP_PORT=443",
        "KUBERNETES_PORT_443_TCP_ADDR=10.43.0.1",
    ];

    fn api() -> Service {
        service(
            "default",
            "kubernetes",
            "10.43.0.1",
            json!([{"name": "https", "port": 443, "protocol": "TCP"}]),
        )
    }

    #[test]
    fn services_of_the_namespace() {
        let web = service(
            "a",
            "my-web",
            "10.43.0.9",
            json!([{"port": 80}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]),
        );
        let all = [
            web,
            api(),
            service("b", "other", "10.43.0.10", json!([{"port": 80}])),
            service("a", "headless", "None", json!([{"port": 80}])),
            service("a", "external", "", json!([{"port": 80}])),
            service("a", "portless", "10.43.0.11", json!([])),
        ];
        let mut expected = API.to_vec();
        expected.extend([
            "MY_WEB_SERVICE_HOST=10.43.0.9",
            "MY_WEB_SERVICE_PORT=80",
            "MY_WEB_SERVICE_PORT_DNS_UDP=53",
            "MY_WEB_PORT=tcp://10.43.0.9:80",
            "MY_WEB_PORT_80_TCP=tcp://10.43.0.9:80",
            "MY_WEB_PORT_80_TCP_PROTO=tcp",
            "MY_WEB_PORT_80_TCP_PORT=80",
            "MY_WEB_PORT_80_TCP_ADDR=10.43.0.9",
            "MY_WEB_PORT_53_UDP=udp://10.43.0.9:53",
            "MY_WEB_PORT_53_UDP_PROTO=udp",
            "MY_WEB_PORT_53_UDP_PORT=53",
            "MY_WEB_PORT_53_UDP_ADDR=10.43.0.9",
        ]);
        check(&all, "a", true, &expected);
        check(&all, "a", false, API);
        check(&all, "default", false, API);
        check(&[], "a", true, &[]);
    }

    #[test]
    fn ipv6_addresses_are_bracketed_in_urls() {
        let result =
            variables(&[service("a", "w", "fd00::1", json!([{"port": 1}]))], "a", true, Bounds::default());
        assert!(result.variables.contains(&("W_PORT".to_owned(), "tcp://[fd00::1]:1".to_owned())));
        assert!(result.variables.contains(&("W_PORT_1_TCP_ADDR".to_owned(), "fd00::1".to_owned())));
    }

    #[test]
    fn what_has_no_room_is_named() {
        let services: Vec<Service> = (0..50)
            .map(|i| service("a", &format!("s{i:02}"), "10.43.1.1", json!([{"port": 80}])))
            .chain([api()])
            .collect();
        let result = variables(&services, "a", true, Bounds { variables: 8 + 7 * 3, bytes: 1 << 20 });
        assert_eq!(result.variables.len(), 8 + 7 * 3);
        assert_eq!(result.dropped.len(), 47);
        assert_eq!(result.dropped[0], "s03");
        let result = variables(&services, "a", true, Bounds { variables: 1000, bytes: 1000 });
        assert!(result.variables.iter().any(|(name, _)| name == "KUBERNETES_SERVICE_HOST"));
        assert!(!result.dropped.is_empty());
        let size: usize = result.variables.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        assert!(size <= 1000);
    }
}
