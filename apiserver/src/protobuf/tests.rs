//! Bytes that another implementation wrote, and bytes that nobody should have written.

use super::message::{Field, Shape, Type};
use super::*;
use k8s_pb::api as pb;
use k8s_pb::apimachinery::pkg as apimachinery;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use manifests::decode::{FieldValidation, decode};
use manifests::k8s_openapi::api as k8s;
use proptest::prelude::{any, prop_assert};
use prost::Message as _;
use serde::de::DeserializeOwned;
use serde_json::json;

fn envelope(api_version: &str, kind: &str, raw: Vec<u8>) -> Vec<u8> {
    let unknown = apimachinery::runtime::Unknown {
        type_meta: Some(apimachinery::runtime::TypeMeta {
            api_version: Some(api_version.to_string()),
            kind: Some(kind.to_string()),
        }),
        raw: Some(raw),
        content_encoding: Some(String::new()),
        content_type: Some(String::new()),
    };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

#[track_caller]
fn check(api_version: &str, kind: &str, message: impl prost::Message, expected: Value) {
    let mut expected = expected;
    expected["apiVersion"] = json!(api_version);
    expected["kind"] = json!(kind);
    let body = envelope(api_version, kind, message.encode_to_vec());
    assert_eq!(to_json(&body, ("", "")), Ok(expected));
}

fn text(text: &str) -> Option<String> {
    Some(text.to_string())
}

fn quantity(amount: &str) -> apimachinery::api::resource::Quantity {
    apimachinery::api::resource::Quantity { string: text(amount) }
}

fn time(seconds: i64) -> Option<meta::Time> {
    Some(meta::Time { seconds: Some(seconds), nanos: Some(7) })
}

#[test]
fn pods() {
    let int = |value: i32| apimachinery::util::intstr::IntOrString {
        r#type: Some(0),
        int_val: Some(value),
        str_val: text(""),
    };
    let named = |name: &str| apimachinery::util::intstr::IntOrString {
        r#type: Some(1),
        int_val: Some(0),
        str_val: text(name),
    };
    let get = |port| pb::core::v1::Probe {
        handler: Some(pb::core::v1::ProbeHandler {
            http_get: Some(pb::core::v1::HttpGetAction {
                path: text("/healthz"),
                port: Some(port),
                ..Default::default()
            }),
            ..Default::default()
        }),
        initial_delay_seconds: Some(0),
        period_seconds: Some(5),
        ..Default::default()
    };
    let pod = pb::core::v1::Pod {
        metadata: Some(meta::ObjectMeta {
            name: text("web"),
            // Go writes these although they are empty.
            generate_name: text(""),
            namespace: text(""),
            self_link: text(""),
            uid: text(""),
            resource_version: text(""),
            generation: Some(0),
            creation_timestamp: Some(meta::Time::default()),
            deletion_timestamp: time(1_700_000_000),
            labels: [("app".to_string(), "web".to_string()), ("empty".to_string(), String::new())].into(),
            owner_references: vec![meta::OwnerReference {
                api_version: text("apps/v1"),
                kind: text("ReplicaSet"),
                name: text("web"),
                uid: text("u"),
                controller: Some(false),
                ..Default::default()
            }],
            managed_fields: vec![meta::ManagedFieldsEntry {
                manager: text("kubectl"),
                fields_v1: Some(meta::FieldsV1 { raw: Some(br#"{"f:spec":{}}"#.to_vec()) }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        spec: Some(pb::core::v1::PodSpec {
            volumes: vec![pb::core::v1::Volume {
                name: text("v"),
                volume_source: Some(pb::core::v1::VolumeSource {
                    empty_dir: Some(pb::core::v1::EmptyDirVolumeSource {
                        medium: text(""),
                        size_limit: Some(quantity("1Gi")),
                    }),
                    ..Default::default()
                }),
            }],
            containers: vec![pb::core::v1::Container {
                name: text("a"),
                image: text("nginx"),
                command: vec!["x".to_string(), String::new()],
                resources: Some(pb::core::v1::ResourceRequirements {
                    limits: [("cpu".to_string(), quantity("500m")), ("none".to_string(), quantity(""))]
                        .into(),
                    ..Default::default()
                }),
                liveness_probe: Some(get(int(8080))),
                readiness_probe: Some(get(named("http"))),
                security_context: Some(pb::core::v1::SecurityContext {
                    run_as_user: Some(0),
                    privileged: Some(false),
                    ..Default::default()
                }),
                env: vec![pb::core::v1::EnvVar {
                    name: text("K"),
                    value: text(""),
                    value_from: Some(pb::core::v1::EnvVarSource {
                        config_map_key_ref: Some(pb::core::v1::ConfigMapKeySelector {
                            local_object_reference: Some(pb::core::v1::LocalObjectReference {
                                name: text("cm"),
                            }),
                            key: text("k"),
                            optional: Some(true),
                        }),
                        ..Default::default()
                    }),
                }],
                stdin: Some(false),
                tty: Some(true),
                ..Default::default()
            }],
            restart_policy: text("Never"),
            termination_grace_period_seconds: Some(0),
            host_network: Some(false),
            node_selector: [("disk".to_string(), "ssd".to_string())].into(),
            ephemeral_containers: vec![pb::core::v1::EphemeralContainer {
                ephemeral_container_common: Some(pb::core::v1::EphemeralContainerCommon {
                    name: text("debug"),
                    ..Default::default()
                }),
                target_container_name: text("a"),
            }],
            security_context: Some(pb::core::v1::PodSecurityContext {
                supplemental_groups: vec![1, -2],
                ..Default::default()
            }),
            ..Default::default()
        }),
        status: Some(pb::core::v1::PodStatus::default()),
    };
    let probe = |port: Value| json!({"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 5});
    check(
        "v1",
        "Pod",
        pod,
        json!({
            "metadata": {
                "name": "web",
                "deletionTimestamp": "2023-11-14T22:13:20Z",
                "labels": {"app": "web", "empty": ""},
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": false},
                ],
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
                "containers": [{
                    "name": "a",
                    "image": "nginx",
                    "command": ["x", ""],
                    "resources": {"limits": {"cpu": "500m", "none": "0"}},
                    "livenessProbe": probe(json!(8080)),
                    "readinessProbe": probe(json!("http")),
                    "securityContext": {"runAsUser": 0, "privileged": false},
                    "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k", "optional": true}}}],
                    "tty": true,
                }],
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "nodeSelector": {"disk": "ssd"},
                "ephemeralContainers": [{"name": "debug", "targetContainerName": "a"}],
                "securityContext": {"supplementalGroups": [1, -2]},
            },
            "status": {},
        }),
    );
}

#[test]
fn bytes_are_base64() {
    let named = |name: &str| Some(meta::ObjectMeta { name: text(name), ..Default::default() });
    check(
        "v1",
        "Secret",
        pb::core::v1::Secret {
            metadata: named("s"),
            data: [("user".to_string(), b"admin".to_vec()), ("none".to_string(), Vec::new())].into(),
            string_data: [("x".to_string(), "y".to_string())].into(),
            r#type: text("Opaque"),
            immutable: Some(false),
        },
        json!({
            "metadata": {"name": "s"},
            "data": {"user": "YWRtaW4=", "none": ""},
            "stringData": {"x": "y"},
            "type": "Opaque",
            "immutable": false,
        }),
    );
    check(
        "v1",
        "ConfigMap",
        pb::core::v1::ConfigMap {
            metadata: named("c"),
            data: [("a".to_string(), "ünï".to_string())].into(),
            binary_data: [("b".to_string(), vec![0xff, 0x00])].into(),
            immutable: None,
        },
        json!({"metadata": {"name": "c"}, "data": {"a": "ünï"}, "binaryData": {"b": "/wA="}}),
    );
}

#[test]
fn times_with_microseconds() {
    let lease = pb::coordination::v1::Lease {
        metadata: None,
        spec: Some(pb::coordination::v1::LeaseSpec {
            holder_identity: text("n1"),
            lease_duration_seconds: Some(40),
            renew_time: Some(meta::MicroTime { seconds: Some(1_700_000_000), nanos: Some(123_456_000) }),
            acquire_time: Some(meta::MicroTime { seconds: Some(1_700_000_000), nanos: Some(0) }),
            ..Default::default()
        }),
    };
    check(
        "coordination.k8s.io/v1",
        "Lease",
        lease,
        json!({"spec": {
            "holderIdentity": "n1",
            "leaseDurationSeconds": 40,
            "renewTime": "2023-11-14T22:13:20.123456Z",
            "acquireTime": "2023-11-14T22:13:20.000000Z",
        }}),
    );
}

#[test]
fn options_are_of_every_group() {
    let options = meta::DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Some(meta::Preconditions { uid: text("u"), resource_version: None }),
        propagation_policy: text("Background"),
        dry_run: vec!["All".to_string()],
        ..Default::default()
    };
    let expected = json!({
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"},
        "propagationPolicy": "Background",
        "dryRun": ["All"],
    });
    check("v1", "DeleteOptions", options.clone(), expected.clone());
    check("apps/v1", "DeleteOptions", options.clone(), expected.clone());
    check(
        "policy/v1",
        "Eviction",
        pb::policy::v1::Eviction {
            metadata: Some(meta::ObjectMeta { name: text("p"), ..Default::default() }),
            delete_options: Some(options),
        },
        json!({"metadata": {"name": "p"}, "deleteOptions": expected}),
    );
}

#[test]
fn bodies_of_subresources() {
    check(
        "autoscaling/v1",
        "Scale",
        pb::autoscaling::v1::Scale {
            metadata: None,
            spec: Some(pb::autoscaling::v1::ScaleSpec { replicas: Some(0) }),
            status: Some(pb::autoscaling::v1::ScaleStatus { replicas: Some(0), selector: text("") }),
        },
        json!({"spec": {}, "status": {"replicas": 0}}),
    );
    check(
        "v1",
        "Binding",
        pb::core::v1::Binding {
            metadata: None,
            target: Some(pb::core::v1::ObjectReference {
                kind: text("Node"),
                name: text("n1"),
                ..Default::default()
            }),
        },
        json!({"target": {"kind": "Node", "name": "n1"}}),
    );
    check(
        "authentication.k8s.io/v1",
        "TokenReview",
        pb::authentication::v1::TokenReview {
            metadata: None,
            spec: None,
            status: Some(pb::authentication::v1::TokenReviewStatus {
                user: Some(pb::authentication::v1::UserInfo {
                    username: text("u"),
                    extra: [(
                        "scopes".to_string(),
                        pb::authentication::v1::ExtraValue { items: vec!["a".to_string()] },
                    )]
                    .into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        },
        json!({"status": {"user": {"username": "u", "extra": {"scopes": ["a"]}}}}),
    );
}

#[test]
fn zeros_that_mean_something_stay() {
    let deployment = |replicas: Option<i32>| pb::apps::v1::Deployment {
        spec: Some(pb::apps::v1::DeploymentSpec {
            replicas,
            min_ready_seconds: Some(0),
            paused: Some(false),
            revision_history_limit: Some(0),
            strategy: Some(pb::apps::v1::DeploymentStrategy { r#type: text(""), rolling_update: None }),
            ..Default::default()
        }),
        ..Default::default()
    };
    check(
        "apps/v1",
        "Deployment",
        deployment(Some(0)),
        json!({"spec": {"replicas": 0, "revisionHistoryLimit": 0, "strategy": {}}}),
    );
    check(
        "apps/v1",
        "Deployment",
        deployment(None),
        json!({"spec": {"revisionHistoryLimit": 0, "strategy": {}}}),
    );
}

#[test]
fn an_envelope_may_leave_the_kind_to_the_url() {
    let body = envelope("", "", Vec::new());
    assert_eq!(to_json(&body, ("v1", "Pod")), Ok(json!({"apiVersion": "v1", "kind": "Pod"})));
}

#[test]
fn refusals() {
    let refused = |body: &[u8]| to_json(body, ("v1", "Pod")).map_err(|why| why.to_string());
    assert_eq!(
        refused(b"{}"),
        Err("provided data does not appear to be a protobuf message, expected prefix [107, 56, 115, 0]"
            .to_string())
    );
    assert_eq!(
        refused(&envelope("v1", "Sandwich", Vec::new())),
        Err("no kind \"Sandwich\" is registered for version \"v1\"".to_string())
    );
    assert_eq!(
        refused(&envelope("v2", "Pod", Vec::new())),
        Err("no kind \"Pod\" is registered for version \"v2\"".to_string())
    );
    // A name that is not UTF-8; a number where a message should be; a message that ends early.
    for (raw, expected) in [
        (&[0x0a, 0x03, 0x0a, 0x01, 0xff][..], "Pod.metadata.name: invalid UTF-8"),
        (&[0x08, 0x01], "Pod.metadata: wrong wire type"),
        (&[0x0a, 0x05, 0x0a], "Pod.: unexpected end of data"),
    ] {
        assert_eq!(refused(&envelope("v1", "Pod", raw.to_vec())), Err(expected.to_string()), "{raw:?}");
    }
    let encoded = apimachinery::runtime::Unknown { content_encoding: text("gzip"), ..Default::default() };
    assert_eq!(
        refused(&[MAGIC, &encoded.encode_to_vec()].concat()),
        Err("the content of the envelope is \"gzip\", which is not read here".to_string())
    );
}

#[test]
fn a_small_body_cannot_become_a_huge_value() {
    // PodSpec.containers, field 2, empty: two bytes each.
    let spec: Vec<u8> = [0x12, 0x00].repeat(1_200_000);
    let pod = [&[0x12][..], &varint(spec.len()), &spec].concat();
    let outcome = to_json(&envelope("v1", "Pod", pod), ("", ""));
    assert!(
        matches!(outcome, Err(ProtobufError::Malformed { problem: "too many values", .. })),
        "{outcome:?}"
    );
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// A message with every field of the table set once, down to `levels`.
fn full(message: &Message, levels: usize) -> Vec<u8> {
    message.0.iter().flat_map(|field| full_field(field, levels)).collect()
}

fn full_field(field: &Field, levels: usize) -> Vec<u8> {
    let tagged = |number: u16, wire: usize, value: Vec<u8>| {
        let mut bytes = varint(usize::from(number) << 3 | wire);
        if wire == 2 {
            bytes.extend(varint(value.len()));
        }
        bytes.extend(value);
        bytes
    };
    let (wire, value) = match field.of {
        Type::Bool | Type::Int => (0, varint(1)),
        Type::String => (2, b"x".to_vec()),
        Type::Bytes => (2, vec![1]),
        Type::StringList | Type::Quantity => (2, tagged(1, 2, b"1".to_vec())),
        Type::IntOrString => (2, tagged(2, 0, varint(1))),
        Type::Time | Type::MicroTime => (2, tagged(1, 0, varint(1))),
        Type::Raw => (2, tagged(1, 2, b"{}".to_vec())),
        Type::Object(_) if levels == 0 => return Vec::new(),
        Type::Object(message) => (2, full(message, levels - 1)),
    };
    match field.shape {
        Shape::Map => {
            let entry = [tagged(1, 2, b"k".to_vec()), tagged(2, wire, value)].concat();
            tagged(field.number, 2, entry)
        }
        _ => tagged(field.number, wire, value),
    }
}

/// Everything that the table says of a kind fits the type that decodes its JSON: names, lists, maps and scalars.
#[track_caller]
fn agrees<T: DeserializeOwned>(api_version: &str, kind: &str) {
    let message = find(api_version, kind).unwrap_or_else(|| panic!("{kind} is missing"));
    let json = to_json(&envelope(api_version, kind, full(message, 12)), ("", "")).unwrap();
    if let Err(why) = decode::<T>(&json, FieldValidation::Strict) {
        panic!("{kind}: {why}\n{json:#}");
    }
}

#[test]
fn the_table_agrees_with_the_types() {
    agrees::<k8s::apps::v1::Deployment>("apps/v1", "Deployment");
    agrees::<k8s::apps::v1::ReplicaSet>("apps/v1", "ReplicaSet");
    agrees::<k8s::autoscaling::v1::Scale>("autoscaling/v1", "Scale");
    agrees::<k8s::coordination::v1::Lease>("coordination.k8s.io/v1", "Lease");
    agrees::<k8s::core::v1::Binding>("v1", "Binding");
    agrees::<k8s::core::v1::ConfigMap>("v1", "ConfigMap");
    agrees::<k8s::core::v1::Endpoints>("v1", "Endpoints");
    agrees::<k8s::core::v1::Event>("v1", "Event");
    agrees::<k8s::core::v1::Namespace>("v1", "Namespace");
    agrees::<k8s::core::v1::Node>("v1", "Node");
    agrees::<k8s::core::v1::Pod>("v1", "Pod");
    agrees::<k8s::core::v1::Secret>("v1", "Secret");
    agrees::<k8s::core::v1::Service>("v1", "Service");
    agrees::<k8s::core::v1::ServiceAccount>("v1", "ServiceAccount");
    agrees::<k8s::discovery::v1::EndpointSlice>("discovery.k8s.io/v1", "EndpointSlice");
    agrees::<k8s::events::v1::Event>("events.k8s.io/v1", "Event");
    agrees::<k8s::policy::v1::Eviction>("policy/v1", "Eviction");
    agrees::<k8s::scheduling::v1::PriorityClass>("scheduling.k8s.io/v1", "PriorityClass");
    agrees::<k8s::authentication::v1::TokenRequest>("authentication.k8s.io/v1", "TokenRequest");
    agrees::<k8s::authentication::v1::TokenReview>("authentication.k8s.io/v1", "TokenReview");
    agrees::<k8s::authorization::v1::SubjectAccessReview>("authorization.k8s.io/v1", "SubjectAccessReview");
    agrees::<manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>("v1", "Status");
}

#[test]
fn every_served_kind_is_in_the_table() {
    for kind in manifests::kinds::KINDS {
        assert!(find(&kind.api_version(), kind.kind).is_some(), "{}", kind.kind);
    }
}

#[test]
fn bodies_that_end_early_are_refused() {
    let message = find("v1", "Pod").unwrap();
    let body = envelope("v1", "Pod", full(message, 12));
    for end in 0..body.len() {
        // Cutting between two fields leaves a shorter body that is well formed; all others say so.
        let _ = to_json(&body[..end], ("", ""));
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = to_json(&[MAGIC, &bytes].concat(), ("v1", "Pod"));
        let _ = to_json(&envelope("v1", "Pod", bytes), ("", ""));
    }

    #[test]
    fn no_change_makes_it_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut body = envelope("v1", "Pod", full(find("v1", "Pod").unwrap(), 12));
        let at = at.index(body.len());
        body[at] = byte;
        let outcome = to_json(&body, ("", ""));
        prop_assert!(outcome.is_ok() || outcome.is_err());
    }
}

/// Bodies that `kubectl create` of 1.36 sent.
#[test]
fn bodies_of_kubectl() {
    use base64::Engine as _;
    let check = |body: &str, expected: Value| {
        let body = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
        assert_eq!(to_json(&body, ("", "")), Ok(expected));
    };
    check(
        "azhzAAoVCgdhcHBzL3YxEgpEZXBsb3ltZW50ErYBCh0KAmQxEgAaACIAKgAyADgAQgBaCQoDYXBwEgJkMRKGAQgDEg\
         sKCQoDYXBwEgJkMRptChsKABIAGgAiACoAMgA4AEIAWgkKA2FwcBICZDESThIwCgVuZ2lueBIHbmdpbng6MSoAMgoK\
         ABAAGFAiACoAQgBqAHIAgAEAiAEAkAEAogEAGgAyAEIASgBSAFgAYABoAIIBAIoBAJoBAMIBACICCgAoADgAGgwIAB\
         AAGAAgACgAOAAaACIA",
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "d1", "labels": {"app": "d1"}},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "d1"}},
                "strategy": {},
                "template": {
                    "metadata": {"labels": {"app": "d1"}},
                    "spec": {"containers": [
                        {"name": "nginx", "image": "nginx:1", "ports": [{"containerPort": 80}], "resources": {}},
                    ]},
                },
            },
            "status": {},
        }),
    );
    check(
        "azhzAAoMCgJ2MRIGU2VjcmV0EiQKEgoCczESABoAIgAqADIAOABCABIMCgJwdxIGc2VjcmV0GgAaACIA",
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s1"}, "data": {"pw": "c2VjcmV0"}}),
    );
    check(
        "azhzAAoNCgJ2MRIHU2VydmljZRJqCh0KAm4xEgAaACIAKgAyADgAQgBaCQoDYXBwEgJuMRJFCiAKBzgwLWh0dHASA1\
         RDUBhQIgoIARAAGgRodHRwKIDrARIJCgNhcHASAm4xGgAiCE5vZGVQb3J0OgBCAFIAWgBgAGgAGgIKABoAIgA=",
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "n1", "labels": {"app": "n1"}},
            "spec": {
                "ports": [
                    {"name": "80-http", "nodePort": 30080, "port": 80, "protocol": "TCP", "targetPort": "http"},
                ],
                "selector": {"app": "n1"},
                "type": "NodePort",
            },
            "status": {"loadBalancer": {}},
        }),
    );
    check(
        "azhzAAolChRzY2hlZHVsaW5nLms4cy5pby92MRINUHJpb3JpdHlDbGFzcxIyChIKAnAxEgAaACIAKgAyADgAQgAQ6A\
         cYACIBZCoUUHJlZW1wdExvd2VyUHJpb3JpdHkaACIA",
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "p1"},
            "value": 1000,
            "description": "d",
            "preemptionPolicy": "PreemptLowerPriority",
        }),
    );
}
