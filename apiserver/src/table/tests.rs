//! Objects and the cells that they print, one table of cases per kind.

use super::*;
use manifests::kinds::{self, Kind};
use serde_json::json;

const NOW: &str = "2026-01-02T00:00:00Z";
const HOUR_AGO: &str = "2026-01-01T23:00:00Z";

/// The cells of an object that was made an hour ago.
fn cells(kind: &Kind, mut object: Value) -> Vec<Value> {
    let now: Timestamp = NOW.parse().unwrap();
    object["metadata"]["creationTimestamp"] = json!(HOUR_AGO);
    let row = (printer(kind).row)(object.to_string().as_bytes(), now).unwrap();
    assert_eq!(row.cells.len(), printer(kind).columns.len(), "a cell per column of {}", kind.kind);
    row.cells
}

#[track_caller]
fn check(kind: &Kind, object: Value, expected: Value) {
    assert_eq!(Value::from(cells(kind, object.clone())), expected, "{object}");
}

/// The cells READY, STATUS and RESTARTS.
#[track_caller]
fn pod(spec: Value, status: Value, expected: [&str; 3]) {
    pod_with(json!({"name": "p"}), spec, status, expected);
}

#[track_caller]
fn pod_with(metadata: Value, spec: Value, status: Value, expected: [&str; 3]) {
    let object = json!({"metadata": metadata, "spec": spec, "status": status});
    assert_eq!(cells(&kinds::POD, object.clone())[1..4], expected.map(Value::from), "{object}");
}

fn containers(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "name": name })).collect()
}

fn container(name: &str, ready: bool, restarts: i32, state: Value) -> Value {
    json!({"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": restarts, "state": state})
}

#[test]
fn pods_by_phase() {
    let spec = || json!({"containers": containers(&["a"])});
    pod(spec(), json!({"phase": "Pending"}), ["0/1", "Pending", "0"]);
    pod(spec(), json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]);
    pod(
        spec(),
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
        ["0/1", "SchedulingGated", "0"],
    );
    pod(json!({"containers": []}), json!({}), ["0/0", "", "0"]);
}

#[test]
fn pods_by_container() {
    let one = |state: Value, ready: bool| json!({"phase": "Running", "containerStatuses": [container("a", ready, 3, state)]});
    let spec = || json!({"containers": containers(&["a"])});
    let state = |state: Value, expected: &str| pod(spec(), one(state, false), ["0/1", expected, "3"]);
    pod(spec(), one(json!({"running": {}}), true), ["1/1", "Running", "3"]);
    state(json!({"running": {}}), "Running");
    state(json!({"waiting": {"reason": "CrashLoopBackOff"}}), "CrashLoopBackOff");
    state(json!({"waiting": {"reason": "ContainerCreating"}}), "ContainerCreating");
    state(json!({"waiting": {}}), "Running");
    state(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), "Completed");
    state(json!({"terminated": {"exitCode": 1, "reason": "Error"}}), "Error");
    state(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), "OOMKilled");
    state(json!({"terminated": {"exitCode": 2}}), "ExitCode:2");
    state(json!({"terminated": {"exitCode": 0, "signal": 9}}), "Signal:9");
}

#[test]
fn the_first_container_with_something_to_say_is_heard() {
    let spec = json!({"containers": containers(&["a", "b"])});
    let status = |a: Value, b: Value, ready: &str| {
        json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [container("a", false, 1, a), container("b", true, 2, b)],
        })
    };
    let completed = || json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let running = || json!({"running": {}});
    pod(spec.clone(), status(completed(), running(), "True"), ["1/2", "Running", "3"]);
    pod(spec.clone(), status(completed(), running(), "False"), ["1/2", "NotReady", "3"]);
    pod(spec.clone(), status(completed(), completed(), "False"), ["0/2", "Completed", "3"]);
    pod(
        spec,
        status(
            json!({"waiting": {"reason": "ImagePullBackOff"}}),
            json!({"terminated": {"exitCode": 1, "reason": "Error"}}),
            "False",
        ),
        ["0/2", "ImagePullBackOff", "3"],
    );
}

#[test]
fn pods_while_they_initialize() {
    let spec = || json!({"initContainers": containers(&["i", "j"]), "containers": containers(&["a"])});
    let init = |states: &[Value]| -> Value {
        let statuses: Value = states
            .iter()
            .zip(["i", "j"])
            .map(|(state, name)| container(name, false, 1, state.clone()))
            .collect();
        json!({
            "phase": "Pending",
            "initContainerStatuses": statuses,
            "containerStatuses": [container("a", false, 7, json!({"waiting": {"reason": "PodInitializing"}}))],
        })
    };
    let done = || json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    pod(spec(), init(&[json!({"running": {}})]), ["0/1", "Init:0/2", "1"]);
    pod(spec(), init(&[json!({"waiting": {"reason": "PodInitializing"}})]), ["0/1", "Init:0/2", "1"]);
    pod(spec(), init(&[done(), json!({"running": {}})]), ["0/1", "Init:1/2", "2"]);
    pod(
        spec(),
        init(&[json!({"waiting": {"reason": "CrashLoopBackOff"}})]),
        ["0/1", "Init:CrashLoopBackOff", "1"],
    );
    pod(
        spec(),
        init(&[json!({"terminated": {"exitCode": 1, "reason": "Error"}})]),
        ["0/1", "Init:Error", "1"],
    );
    pod(spec(), init(&[json!({"terminated": {"exitCode": 3}})]), ["0/1", "Init:ExitCode:3", "1"]);
    pod(
        spec(),
        init(&[json!({"terminated": {"exitCode": 3, "signal": 15}})]),
        ["0/1", "Init:Signal:15", "1"],
    );
    // Done: restarts of init containers no longer count.
    pod(spec(), init(&[done(), done()]), ["0/1", "PodInitializing", "7"]);
}

#[test]
fn sidecars_count_as_containers() {
    let spec = json!({
        "initContainers": [{"name": "proxy", "restartPolicy": "Always"}, {"name": "setup"}],
        "containers": containers(&["a"]),
    });
    let status = json!({
        "phase": "Running",
        "initContainerStatuses": [
            {"name": "proxy", "image": "", "imageID": "", "ready": true, "started": true, "restartCount": 2, "state": {"running": {}}},
            container("setup", true, 4, json!({"terminated": {"exitCode": 0}})),
        ],
        "containerStatuses": [container("a", true, 1, json!({"running": {}}))],
    });
    pod(spec, status, ["2/2", "Running", "3"]);
}

#[test]
fn the_last_restart() {
    let mut status = container("a", true, 2, json!({"running": {}}));
    status["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T23:55:00Z"}});
    pod(
        json!({"containers": containers(&["a"])}),
        json!({"phase": "Running", "containerStatuses": [status]}),
        ["1/1", "Running", "2 (5m ago)"],
    );
}

#[test]
fn pods_on_their_way_out() {
    let deleted = || json!({"name": "p", "deletionTimestamp": HOUR_AGO});
    let spec = || json!({"containers": containers(&["a"])});
    pod_with(deleted(), spec(), json!({"phase": "Running"}), ["0/1", "Terminating", "0"]);
    pod_with(deleted(), spec(), json!({"phase": "Running", "reason": "NodeLost"}), ["0/1", "Unknown", "0"]);
    pod_with(deleted(), spec(), json!({"phase": "Succeeded"}), ["0/1", "Succeeded", "0"]);
}

#[test]
fn wide_pods() {
    let object = json!({
        "metadata": {"name": "p"},
        "spec": {
            "nodeName": "n1",
            "containers": [],
            "readinessGates": [{"conditionType": "example.com/a"}, {"conditionType": "example.com/b"}],
        },
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": "10.42.0.7"}, {"ip": "fd00::7"}],
            "conditions": [{"type": "example.com/a", "status": "True"}, {"type": "example.com/b", "status": "False"}],
        },
    });
    check(
        &kinds::POD,
        object,
        json!(["p", "0/0", "Running", "0", "60m", "10.42.0.7", "n1", "<none>", "1/2"]),
    );
    let empty = json!({"metadata": {"name": "p"}});
    check(&kinds::POD, empty, json!(["p", "0/0", "", "0", "60m", "<none>", "<none>", "<none>", "<none>"]));
}

#[test]
fn nodes() {
    let node = json!({
        "metadata": {"name": "n1", "labels": {
            "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x",
        }},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {
                "kubeletVersion": "v1.36.0", "osImage": "Debian GNU/Linux 12 (bookworm)", "kernelVersion": "6.1.0",
                "containerRuntimeVersion": "coracle://0.1.0", "architecture": "amd64", "bootID": "", "machineID": "",
                "systemUUID": "", "operatingSystem": "linux", "kubeProxyVersion": "",
            },
        },
    });
    check(
        &kinds::NODE,
        node,
        json!([
            "n1",
            "Ready,SchedulingDisabled",
            "control-plane,worker,x",
            "60m",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "Debian GNU/Linux 12 (bookworm)",
            "6.1.0",
            "coracle://0.1.0",
        ]),
    );
    check(
        &kinds::NODE,
        json!({"metadata": {"name": "n2"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        json!([
            "n2",
            "NotReady",
            "<none>",
            "60m",
            "",
            "<none>",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
    check(
        &kinds::NODE,
        json!({"metadata": {"name": "n3"}}),
        json!([
            "n3",
            "Unknown",
            "<none>",
            "60m",
            "",
            "<none>",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
}

#[test]
fn services() {
    let check = |spec: Value, status: Value, expected: [&str; 4]| {
        let object = json!({"metadata": {"name": "s"}, "spec": spec, "status": status});
        assert_eq!(cells(&kinds::SERVICE, object.clone())[1..5], expected.map(Value::from), "{object}");
    };
    check(
        json!({"type": "ClusterIP", "clusterIPs": ["10.43.0.1"], "ports": [{"port": 80, "protocol": "TCP"}]}),
        json!({}),
        ["ClusterIP", "10.43.0.1", "<none>", "80/TCP"],
    );
    check(
        json!({"type": "NodePort", "clusterIPs": ["10.43.0.1"], "externalIPs": ["1.2.3.4"], "ports": [
            {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"},
        ]}),
        json!({}),
        ["NodePort", "10.43.0.1", "1.2.3.4", "80:30080/TCP,53/UDP"],
    );
    check(json!({"type": "LoadBalancer"}), json!({}), ["LoadBalancer", "<none>", "<pending>", "<none>"]);
    check(
        json!({"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]}),
        json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}, {"ip": "1.1.1.1"}]}}),
        ["LoadBalancer", "<none>", "1.1.1.1,lb.example.com,9.9.9.9", "<none>"],
    );
    check(
        json!({"type": "ExternalName", "externalName": "example.com"}),
        json!({}),
        ["ExternalName", "<none>", "example.com", "<none>"],
    );
    check(json!({"clusterIPs": ["None"]}), json!({}), ["", "None", "<unknown>", "<none>"]);
}

#[test]
fn endpoints() {
    check(
        &kinds::ENDPOINTS,
        json!({"metadata": {"name": "e"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]},
        ]}),
        json!(["e", "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...", "60m"]),
    );
    check(
        &kinds::ENDPOINTS,
        json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}, {"addresses": [{"ip": "10.0.0.9"}]}]}),
        json!(["e", "[fd00::1]:80,10.0.0.9", "60m"]),
    );
    check(&kinds::ENDPOINTS, json!({"metadata": {"name": "e"}}), json!(["e", "<none>", "60m"]));
    check(
        &kinds::ENDPOINT_SLICE,
        json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
               "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}]}),
        json!(["s", "IPv4", "80,x,*", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...", "60m"]),
    );
    check(
        &kinds::ENDPOINT_SLICE,
        json!({"metadata": {"name": "s"}, "addressType": "IPv6", "endpoints": []}),
        json!(["s", "IPv6", "<unset>", "<unset>", "60m"]),
    );
}

#[test]
fn workloads() {
    let template = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}});
    check(
        &kinds::DEPLOYMENT,
        json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}, "template": template.clone()},
               "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}}),
        json!(["d", "2/3", 3, 1, "60m", "a,b", "x:1,y", "app=d"]),
    );
    check(
        &kinds::REPLICA_SET,
        json!({"metadata": {"name": "r"}, "spec": {"replicas": 3, "selector": {}, "template": template},
               "status": {"replicas": 2, "readyReplicas": 1}}),
        json!(["r", 3, 2, 1, "60m", "a,b", "x:1,y", "<none>"]),
    );
}

#[test]
fn events() {
    let old = json!({
        "metadata": {"name": "e"},
        "type": "Warning", "reason": "Failed", "message": " it failed\n", "count": 4,
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
        "source": {"component": "kubelet", "host": "n1"},
        "firstTimestamp": HOUR_AGO, "lastTimestamp": "2026-01-01T23:59:00Z",
    });
    check(
        &kinds::EVENT,
        old,
        json!([
            "60s",
            "Warning",
            "Failed",
            "pod/p",
            "spec.containers{a}",
            "kubelet, n1",
            "it failed",
            "60m",
            4,
            "e"
        ]),
    );
    let new = json!({
        "metadata": {"name": "e"},
        "type": "Normal", "reason": "Scheduled", "note": "done",
        "regarding": {"kind": "Node"},
        "reportingController": "scheduler", "eventTime": "2026-01-01T23:59:00.000000Z",
    });
    check(
        &kinds::EVENTS_EVENT,
        new.clone(),
        json!(["60s", "Normal", "Scheduled", "node", "", "scheduler", "done", "60s", 1, "e"]),
    );
    let mut series = new;
    series["series"] = json!({"count": 9, "lastObservedTime": "2026-01-01T23:59:50.000000Z"});
    check(
        &kinds::EVENTS_EVENT,
        series,
        json!(["10s", "Normal", "Scheduled", "node", "", "scheduler", "done", "60s", 9, "e"]),
    );
}

#[test]
fn simple_kinds() {
    let named = || json!({"metadata": {"name": "x"}});
    let with = |field: &str, value: Value| {
        let mut object = named();
        object[field] = value;
        object
    };
    check(&kinds::NAMESPACE, with("status", json!({"phase": "Active"})), json!(["x", "Active", "60m"]));
    let mut map = with("data", json!({"a": "1", "b": "2"}));
    map["binaryData"] = json!({"c": "AA=="});
    check(&kinds::CONFIG_MAP, map, json!(["x", 3, "60m"]));
    let mut secret = with("data", json!({"a": "MQ=="}));
    secret["type"] = json!("Opaque");
    check(&kinds::SECRET, secret, json!(["x", "Opaque", 1, "60m"]));
    check(&kinds::SERVICE_ACCOUNT, with("secrets", json!([{"name": "a"}])), json!(["x", 1, "60m"]));
    check(&kinds::LEASE, with("spec", json!({"holderIdentity": "n1"})), json!(["x", "n1", "60m"]));
    check(&kinds::LEASE, named(), json!(["x", "", "60m"]));
    check(
        &kinds::PRIORITY_CLASS,
        with("value", json!(1000)),
        json!(["x", 1000, false, "60m", "PreemptLowerPriority"]),
    );
    let other = Kind { group: "example.com", kind: "Widget", ..kinds::POD };
    check(&other, named(), json!(["x", "60m"]));
}

fn table(include: IncludeObject, objects: &[&str]) -> Value {
    let now: Timestamp = NOW.parse().unwrap();
    let mut writer = TableWriter::new(&kinds::NAMESPACE, "v1", include);
    let mut out = Vec::new();
    writer.open(&mut out, r#"{"resourceVersion":"7"}"#, true);
    for object in objects {
        writer.row(&mut out, object.as_bytes(), now);
    }
    writer.close(&mut out);
    serde_json::from_slice(&out).unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&out)))
}

#[test]
fn tables_carry_as_much_of_the_object_as_asked() {
    let object = format!(
        r#"{{"metadata":{{"name":"a","creationTimestamp":"{HOUR_AGO}"}},"status":{{"phase":"Active"}}}}"#
    );
    let cells = json!(["a", "Active", "60m"]);
    let metadata = json!({"name": "a", "creationTimestamp": HOUR_AGO});
    assert_eq!(
        table(IncludeObject::Metadata, &[&object, &object])["rows"],
        json!([
            {"cells": cells, "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}},
            {"cells": cells, "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}},
        ])
    );
    assert_eq!(table(IncludeObject::None, &[&object])["rows"], json!([{"cells": cells, "object": null}]));
    let whole = table(IncludeObject::Object, &[&object]);
    assert_eq!(whole["rows"][0]["object"]["status"]["phase"], "Active");

    let empty = table(IncludeObject::default(), &[]);
    assert_eq!(empty["rows"], json!([]));
    assert_eq!((&empty["kind"], &empty["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(empty["metadata"]["resourceVersion"], "7");
    assert_eq!(
        empty["columnDefinitions"][0],
        json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
               "description": "The object's name, unique in its namespace among its kind."})
    );
}

#[test]
fn an_unreadable_object_does_not_hide_the_others() {
    let broken = r#"{"metadata":{"name":"bad","creationTimestamp":"never"}}"#;
    let good = format!(r#"{{"metadata":{{"name":"good","creationTimestamp":"{HOUR_AGO}"}}}}"#);
    let rows = table(IncludeObject::None, &[broken, &good]);
    assert_eq!(rows["rows"][0]["cells"], json!(["bad", "<unknown>", "<unknown>"]));
    assert_eq!(rows["rows"][1]["cells"], json!(["good", "", "60m"]));
}

#[test]
fn finished_pods_say_so() {
    let now: Timestamp = NOW.parse().unwrap();
    let mut writer = TableWriter::new(&kinds::POD, "v1beta1", IncludeObject::None);
    let mut out = Vec::new();
    writer.open(&mut out, "{}", false);
    writer.row(&mut out, br#"{"metadata":{"name":"a"},"status":{"phase":"Succeeded"}}"#, now);
    writer.close(&mut out);
    let table: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(table["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(table["columnDefinitions"], json!([]));
    assert_eq!(table["rows"][0]["cells"][4], "<unknown>");
    assert_eq!(
        table["rows"][0]["conditions"],
        json!([{"type": "Completed", "status": "True", "reason": "Succeeded", "message": "The pod has completed successfully."}])
    );
}

#[test]
fn include_object_parameters() {
    assert_eq!(IncludeObject::parse(""), Ok(IncludeObject::Metadata));
    assert_eq!(IncludeObject::parse("Object"), Ok(IncludeObject::Object));
    assert_eq!(IncludeObject::parse("All"), Err("unrecognized includeObject value: \"All\"".to_string()));
}

#[test]
fn quotas_and_autoscalers() {
    check(
        &kinds::RESOURCE_QUOTA,
        json!({"metadata": {"name": "q"}, "status": {
            "hard": {"limits.cpu": "2", "pods": "4", "requests.cpu": "1"}, "used": {"pods": "3", "limits.cpu": "1"},
        }}),
        json!(["q", "pods: 3/4, requests.cpu: 0/1", "limits.cpu: 1/2", "60m"]),
    );
    let metric =
        |name: &str, target: Value| json!({"type": "Resource", "resource": {"name": name, "target": target}});
    let metrics = [
        metric("cpu", json!({"averageUtilization": 80})),
        metric("memory", json!({"averageValue": "1Gi"})),
        json!({"type": "Object", "object": {"target": {"value": "10"}}}),
    ];
    check(
        &kinds::HORIZONTAL_POD_AUTOSCALER,
        json!({
            "metadata": {"name": "h"},
            "spec": {"maxReplicas": 4, "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "metrics": metrics},
            "status": {"currentReplicas": 2, "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40}}},
            ]},
        }),
        json!([
            "h",
            "Deployment/web",
            "cpu: 40%/80%, memory: <unknown>/1Gi + 1 more...",
            "<unset>",
            4,
            2,
            "60m"
        ]),
    );
}
