//! Objects and tables for tests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;

pub(crate) fn name(text: &str) -> ServiceName {
    let (namespace, name) = text.split_once('/').unwrap();
    ServiceName { namespace: namespace.into(), name: name.into() }
}

/// A service of namespace `default`.
pub(crate) fn service(name: &str, spec: Value) -> (ServiceName, Service) {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    Service::read(&serde_json::from_value(object).unwrap()).unwrap()
}

/// A slice of a service of namespace `default`.
pub(crate) fn slice(service: &str, slice: &str, ports: Value, endpoints: Value) -> (SliceKey, Slice) {
    let object = json!({
        "metadata": {"name": slice, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    });
    Slice::read(&serde_json::from_value(object).unwrap()).unwrap()
}

pub(crate) fn compiled(
    services: impl IntoIterator<Item = (ServiceName, Service)>,
    slices: impl IntoIterator<Item = (SliceKey, Slice)>,
    leaving: &[&str],
) -> Table {
    let leaving: BTreeSet<String> = leaving.iter().map(|uid| (*uid).to_owned()).collect();
    let (services, slices): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (services.into_iter().collect(), slices.into_iter().collect());
    compile(
        &services,
        &slices,
        Context { node_name: "here", leaving: &leaving, api_server: Some("127.0.0.1:6443".parse().unwrap()) },
    )
}

/// One of everything.
pub(crate) fn example() -> Table {
    compiled(
        [
            service(
                "web",
                json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "type": "NodePort",
                    "sessionAffinity": "ClientIP",
                    "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080},
                              {"name": "dns", "port": 53, "protocol": "UDP"}]}),
            ),
            service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
            service("out", json!({"type": "ExternalName", "externalName": "example.com"})),
        ],
        [
            slice(
                "web",
                "web-1",
                json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
                json!([{"addresses": ["10.42.0.2"]}, {"addresses": ["10.42.0.3"]}]),
            ),
            slice(
                "db",
                "db-1",
                json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]),
                json!([{"addresses": ["10.42.0.4"], "hostname": "db-0"}, {"addresses": ["10.42.0.5"]}]),
            ),
        ],
        &[],
    )
}
