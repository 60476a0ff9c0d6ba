use serde_json::{Value, json};

use crate::table::tests_support::*;
use crate::table::*;

const WEB: &str = "10.43.0.7";

fn web(extra: Value) -> (ServiceName, Service) {
    let mut spec = json!({"clusterIP": WEB, "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    service("web", spec)
}

fn endpoints(endpoints: Value) -> (SliceKey, Slice) {
    slice("web", "web-1", json!([{"name": "", "port": 8080}]), endpoints)
}

/// The table as lines `place protocol address:port -> backends`.
fn lines(table: &Table) -> Vec<String> {
    let line = |(entrance, forward): (&Entrance, &Forward)| {
        let backends: Vec<_> = forward.backends.iter().map(ToString::to_string).collect();
        format!("{:?} {entrance} -> {}", entrance.place, backends.join(" "))
    };
    table.forwards.iter().map(line).collect()
}

fn check(service: Value, slice: Value, leaving: &[&str], expected: &[&str]) {
    assert_eq!(lines(&compiled([web(service)], [endpoints(slice)], leaving)), expected);
}

/// Only the cluster address's line.
fn check_internal(service: Value, slice: Value, leaving: &[&str], backends: &str) {
    let lines = lines(&compiled([web(service)], [endpoints(slice)], leaving));
    let expected = format!("Services tcp {WEB}:80 -> {backends}");
    let found = lines.iter().find(|line| line.starts_with("Services"));
    assert_eq!(found, Some(expected).filter(|_| !backends.is_empty()).as_ref());
}

#[test]
fn ready_endpoints_in_order_each_once() {
    check(
        json!({}),
        json!([
            {"addresses": ["10.42.0.9"]},
            {"addresses": ["10.42.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.3"], "conditions": {"ready": false}},
            {"addresses": ["10.42.0.9"]},
        ]),
        &[],
        &[
            "Services tcp 10.43.0.7:80 -> 10.42.0.2:8080 10.42.0.9:8080",
            "Node tcp 0.0.0.0:30080 -> 10.42.0.2:8080 10.42.0.9:8080",
        ],
    );
}

#[test]
fn the_api_server_is_behind_its_service_while_nobody_says_what_is() {
    let kubernetes = || {
        service("kubernetes", json!({"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]}))
    };
    let table = compiled([kubernetes()], [], &[]);
    assert_eq!(lines(&table), ["Services tcp 10.43.0.1:443 -> 127.0.0.1:6443"]);
    let said = slice(
        "kubernetes",
        "kubernetes",
        json!([{"name": "https", "port": 6443}]),
        json!([{"addresses": ["192.0.2.4"]}]),
    );
    let table = compiled([kubernetes()], [said], &[]);
    assert_eq!(lines(&table), ["Services tcp 10.43.0.1:443 -> 192.0.2.4:6443"]);
}

#[test]
fn no_endpoints_no_entrance() {
    check(json!({}), json!([]), &[], &[]);
    check(json!({}), json!([{"addresses": ["10.42.0.2"], "conditions": {"ready": false}}]), &[], &[]);
}

#[test]
fn terminating_endpoints_serve_only_when_nobody_else_does() {
    let going = json!({"addresses": ["10.42.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}});
    let gone = json!({"addresses": ["10.42.0.3"], "conditions": {"ready": false, "serving": false, "terminating": true}});
    let ready = json!({"addresses": ["10.42.0.4"]});
    check_internal(json!({}), json!([going, gone, ready]), &[], "10.42.0.4:8080");
    check_internal(json!({}), json!([going, gone]), &[], "10.42.0.2:8080");
    check_internal(json!({}), json!([gone]), &[], "");
}

#[test]
fn a_leaving_pod_counts_as_terminating_at_once() {
    let pod = |address: &str, uid: &str| json!({"addresses": [address], "targetRef": {"uid": uid}});
    let two = json!([pod("10.42.0.2", "a"), pod("10.42.0.3", "b")]);
    check_internal(json!({}), two.clone(), &[], "10.42.0.2:8080 10.42.0.3:8080");
    check_internal(json!({}), two.clone(), &["a"], "10.42.0.3:8080");
    check_internal(json!({}), two.clone(), &["somebody else"], "10.42.0.2:8080 10.42.0.3:8080");
    // The last one: better than nobody.
    check_internal(json!({}), two, &["a", "b"], "10.42.0.2:8080 10.42.0.3:8080");
}

#[test]
fn local_policies_stay_on_the_node() {
    let spread = json!([
        {"addresses": ["10.42.0.2"], "nodeName": "here"},
        {"addresses": ["10.42.1.2"], "nodeName": "there"},
    ]);
    check(
        json!({"externalTrafficPolicy": "Local"}),
        spread.clone(),
        &[],
        &[
            "Services tcp 10.43.0.7:80 -> 10.42.0.2:8080 10.42.1.2:8080",
            "Node tcp 0.0.0.0:30080 -> 10.42.0.2:8080",
        ],
    );
    check_internal(json!({"internalTrafficPolicy": "Local"}), spread, &[], "10.42.0.2:8080");
    let elsewhere = json!([{"addresses": ["10.42.1.2"], "nodeName": "there"}]);
    check_internal(json!({"internalTrafficPolicy": "Local"}), elsewhere, &[], "");
}

#[test]
fn ports_match_by_name_and_protocol_across_slices() {
    let dns = service(
        "dns",
        json!({"clusterIP": WEB, "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            {"name": "sctp", "port": 54, "protocol": "SCTP"},
        ]}),
    );
    let one = slice(
        "dns",
        "dns-1",
        json!([{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5354, "protocol": "TCP"}]),
        json!([{"addresses": ["10.42.0.2"]}]),
    );
    let two = slice(
        "dns",
        "dns-2",
        json!([{"name": "dns", "port": 5300, "protocol": "UDP"}, {"name": "other", "port": 1}]),
        json!([{"addresses": ["10.42.0.3"]}]),
    );
    let expected = [
        "Services tcp 10.43.0.7:53 -> 10.42.0.2:5354",
        "Services udp 10.43.0.7:53 -> 10.42.0.2:5353 10.42.0.3:5300",
    ];
    assert_eq!(lines(&compiled([dns], [one, two], &[])), expected);
}

#[test]
fn affinity_has_upstreams_default() {
    let seconds = |extra: Value| {
        let table = compiled([web(extra)], [endpoints(json!([{"addresses": ["10.42.0.2"]}]))], &[]);
        table.forwards.values().next().unwrap().affinity_seconds
    };
    assert_eq!(seconds(json!({})), None);
    assert_eq!(seconds(json!({"sessionAffinity": "ClientIP"})), Some(10_800));
    let config =
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    assert_eq!(seconds(config), Some(60));
}

#[test]
fn a_service_of_another_proxy_has_a_name_but_no_entrance() {
    let object = json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"service.kubernetes.io/service-proxy-name": "x"}},
        "spec": {"clusterIP": WEB, "ports": [{"port": 80}]},
    });
    let foreign = Service::read(&serde_json::from_value(object).unwrap()).unwrap();
    let table = compiled([foreign], [endpoints(json!([{"addresses": ["10.42.0.2"]}]))], &[]);
    assert_eq!(lines(&table), Vec::<String>::new());
    assert!(table.names.contains_key(&name("default/web")));
}

#[test]
fn names() {
    let table = example();
    let port = |name: &str, protocol, port| NamedPort { name: name.into(), protocol, port };
    assert_eq!(
        table.names[&name("default/web")],
        Names::Addresses {
            addresses: vec![WEB.parse().unwrap()],
            ports: vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
        }
    );
    let endpoint = |name: &str, address: &str| NamedEndpoint {
        name: name.into(),
        address: address.parse().unwrap(),
        ports: vec![port("sql", Protocol::Tcp, 5432)],
    };
    let expected = vec![endpoint("10-42-0-5", "10.42.0.5"), endpoint("db-0", "10.42.0.4")];
    assert_eq!(table.names[&name("default/db")], Names::Headless(expected));
    assert_eq!(table.names[&name("default/out")], Names::External("example.com".into()));
}
