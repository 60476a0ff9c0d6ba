//! Services and the endpoints behind them.

use super::column::{AGE, NAME, string, wide};
use super::human::{age, first_few, labels, name, non_empty};
use super::{Printer, Row, print};
use manifests::k8s_openapi::api::core::v1::{Endpoints, Service, ServicePort, ServiceSpec, ServiceStatus};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeSet;

pub(super) const SERVICE: Printer = Printer {
    columns: &[
        NAME,
        string("Type", "How the service is exposed."),
        string("Cluster-IP", "The address of the service in the cluster."),
        string("External-IP", "The addresses of the service outside of the cluster."),
        string("Port(s)", "The ports of the service, with their node ports."),
        AGE,
        wide("Selector", "The labels of the pods behind the service."),
    ],
    row: |object, now| {
        print::<Service>(object, |service| {
            let no_spec = ServiceSpec::default();
            let spec = service.spec.as_ref().unwrap_or(&no_spec);
            let address = spec.cluster_ips.iter().flatten().next().map(String::as_str).unwrap_or_default();
            Row::from(vec![
                name(&service.metadata),
                spec.type_.as_deref().unwrap_or_default().into(),
                non_empty(address, "<none>").into(),
                external_addresses(spec, service.status.as_ref()).into(),
                ports(spec.ports.as_deref().unwrap_or_default()).into(),
                age(&service.metadata, now),
                labels(spec.selector.as_ref()).into(),
            ])
        })
    },
};

pub(super) const ENDPOINTS: Printer = Printer {
    columns: &[NAME, string("Endpoints", "The addresses and ports behind the service."), AGE],
    row: |object, now| {
        print::<Endpoints>(object, |endpoints| {
            Row::from(vec![
                name(&endpoints.metadata),
                addresses(endpoints).into(),
                age(&endpoints.metadata, now),
            ])
        })
    },
};

pub(super) const ENDPOINT_SLICE: Printer = Printer {
    columns: &[
        NAME,
        string("AddressType", "What kind of addresses the slice has."),
        string("Ports", "The ports of every endpoint of the slice."),
        string("Endpoints", "The addresses of the slice."),
        AGE,
    ],
    row: |object, now| {
        print::<EndpointSlice>(object, |slice| {
            let ports = slice.ports.iter().flatten().map(|port| match (port.port, &port.name) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.clone(),
                (None, None) => "*".to_string(),
            });
            let endpoints =
                slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned());
            let list = |entries: Vec<String>| non_empty(&first_few(&entries, SHOWN), "<unset>");
            Row::from(vec![
                name(&slice.metadata),
                slice.address_type.as_str().into(),
                list(ports.collect()).into(),
                list(endpoints.collect()).into(),
                age(&slice.metadata, now),
            ])
        })
    },
};

/// Entries of a list before "more".
const SHOWN: usize = 3;

fn external_addresses(spec: &ServiceSpec, status: Option<&ServiceStatus>) -> String {
    let own = spec.external_ips.as_deref().unwrap_or_default();
    match spec.type_.as_deref().unwrap_or_default() {
        "ClusterIP" | "NodePort" => non_empty(&own.join(","), "<none>"),
        "LoadBalancer" => {
            let ingress =
                status.and_then(|status| status.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
            // A set: sorted, each once.
            let balancers: BTreeSet<&str> = ingress
                .into_iter()
                .flatten()
                .filter_map(|ingress| {
                    [&ingress.ip, &ingress.hostname].into_iter().flatten().find(|a| !a.is_empty())
                })
                .map(String::as_str)
                .collect();
            let all: Vec<&str> = balancers.into_iter().chain(own.iter().map(String::as_str)).collect();
            non_empty(&all.join(","), "<pending>")
        }
        "ExternalName" => spec.external_name.clone().unwrap_or_default(),
        _ => "<unknown>".to_string(),
    }
}

fn ports(ports: &[ServicePort]) -> String {
    let printed: Vec<String> = ports
        .iter()
        .map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or_default();
            match port.node_port.unwrap_or_default() {
                0 => format!("{}/{protocol}", port.port),
                node_port => format!("{}:{node_port}/{protocol}", port.port),
            }
        })
        .collect();
    non_empty(&printed.join(","), "<none>")
}

fn addresses(endpoints: &Endpoints) -> String {
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    if subsets.is_empty() {
        return "<none>".to_string();
    }
    let mut entries = Vec::new();
    for subset in subsets {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        let ports = subset.ports.as_deref().unwrap_or_default();
        // A headless service may have none.
        if ports.is_empty() {
            entries.extend(addresses.iter().map(|address| address.ip.clone()));
        }
        for port in ports {
            entries.extend(addresses.iter().map(|address| {
                if address.ip.contains(':') {
                    format!("[{}]:{}", address.ip, port.port)
                } else {
                    format!("{}:{}", address.ip, port.port)
                }
            }));
        }
    }
    first_few(&entries, SHOWN)
}
