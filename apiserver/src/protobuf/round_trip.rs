//! What is written is what the reader reads, and what another implementation reads.

use super::message::{Field, Message, Shape, Type};
use super::*;
use k8s_pb::api as pb;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use manifests::kinds::KINDS;
use proptest::prelude::{any, prop_assert, prop_assert_eq};
use serde_json::json;

type Fields = Map<String, Value>;

/// Fields that the other implementation, which follows an older version, has never heard of.
const NEWER: &[&str] = &[
    "allocatedResourcesStatus.resources.message",
    "conditions.observedGeneration",
    "emptyDir.mode",
    "grpc.mode",
    "httpGet.protocol",
    "metadata.shardInfo",
    "spec.evictionResponders",
    "spec.podPreemptionPolicy",
    "spec.preventPodSchedulingIfMissing",
    "spec.scheduling",
    "spec.schedulingGroup",
    "status.healthStatus",
    "status.nodeAllocatableResourceClaimStatuses",
    "status.volumeHealth",
    "volumeMounts.bindMountOptions",
    "volumeMounts.volumeStatus",
    "volumes.configMap.defaultUser",
    "volumes.configMap.items.user",
    "volumes.downwardAPI.defaultUser",
    "volumes.downwardAPI.items.user",
    "volumes.projected.defaultUser",
    "volumes.projected.sources.clusterTrustBundle.user",
    "volumes.projected.sources.podCertificate.user",
    "volumes.projected.sources.serviceAccountToken.user",
    "volumes.secret.defaultUser",
    "volumes.secret.items.user",
];

/// An object with every field of its message, down to `levels`, in which no two values are the same.
fn full(message: &Message, levels: usize, counter: &mut i64) -> Value {
    let mut object = Map::new();
    for field in message.0 {
        let Some(value) = full_field(field, levels, counter) else { continue };
        match value {
            Value::Object(inner) if field.name.is_empty() => object.extend(inner),
            value => drop(object.insert(field.name.to_owned(), value)),
        }
    }
    Value::Object(object)
}

fn full_field(field: &Field, levels: usize, counter: &mut i64) -> Option<Value> {
    let mut one = || {
        *counter += 1;
        Some(match field.of {
            Type::String => json!(format!("text {counter} \"ä\"")),
            Type::Bytes => json!("AAECgP8="),
            Type::Bool => json!(true),
            Type::Int => json!(if *counter % 2 == 0 { *counter } else { -*counter }),
            Type::StringList => json!([format!("{counter}"), ""]),
            Type::Quantity => json!(format!("{counter}m")),
            Type::IntOrString if *counter % 2 == 0 => json!(counter),
            Type::IntOrString => json!(format!("{counter}%")),
            Type::Time => {
                json!(if *counter % 2 == 0 { "2024-02-29T23:59:59Z" } else { "1969-12-31T23:59:58Z" })
            }
            Type::MicroTime => json!("1969-12-31T23:59:58.000001Z"),
            Type::Raw => json!({ "f:spec": { "counter": counter } }),
            Type::Object(_) if levels == 0 => return None,
            Type::Object(message) => full(message, levels - 1, counter),
        })
    };
    Some(match field.shape {
        Shape::One | Shape::OneUnlessZero => one()?,
        Shape::List => json!([one()?, one()?]),
        Shape::Map => json!({ "a": one()?, "b": one()? }),
    })
}

fn full_object(api_version: &str, kind: &str, levels: usize) -> Value {
    let mut object = full(find(api_version, kind).unwrap(), levels, &mut 0);
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    object
}

/// Kinds of answers: what is stored, and what only comes and goes.
fn kinds() -> impl Iterator<Item = (String, &'static str)> {
    let stored = KINDS.iter().map(|kind| (kind.api_version(), kind.kind));
    stored.chain(ROOTS.iter().map(|(of, kind, _)| (if of.is_empty() { "v1" } else { of }.to_owned(), *kind)))
}

#[test]
fn full_objects_come_back() {
    for (api_version, kind) in kinds() {
        for levels in [0, 1, 3, 5] {
            let object = full_object(&api_version, kind, levels);
            let bytes = from_json(object.to_string().as_bytes()).unwrap().unwrap();
            assert_eq!(to_json(&bytes, ("", "")).unwrap(), object, "{kind}");
        }
    }
}

/// What is in a document.
fn raw(document: &[u8]) -> &[u8] {
    Envelope::read(document).unwrap().raw
}

#[test]
fn another_implementation_reads_the_same() {
    let mut all = Vec::new();
    fn check<T: prost::Message + Default>(all: &mut Vec<String>, api_version: &str, kind: &str) {
        let object = full_object(api_version, kind, 6);
        let codec = Codec::of(api_version, kind).unwrap();
        let bytes = codec.document(object.to_string().as_bytes()).unwrap();
        let theirs = T::decode(raw(&bytes)).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let mut back = Map::new();
        value::Reader::new(kind).message(&theirs.encode_to_vec(), codec.message(), &mut back).unwrap();
        back.insert("apiVersion".to_owned(), api_version.into());
        back.insert("kind".to_owned(), kind.into());
        let mut differ = Vec::new();
        compare(&object, &Value::Object(back), kind, &mut differ);
        all.extend(differ);
    }
    check::<pb::core::v1::Pod>(&mut all, "v1", "Pod");
    check::<pb::core::v1::Node>(&mut all, "v1", "Node");
    check::<pb::core::v1::Service>(&mut all, "v1", "Service");
    check::<pb::core::v1::Secret>(&mut all, "v1", "Secret");
    check::<pb::core::v1::ConfigMap>(&mut all, "v1", "ConfigMap");
    check::<pb::core::v1::Event>(&mut all, "v1", "Event");
    check::<pb::core::v1::PersistentVolume>(&mut all, "v1", "PersistentVolume");
    check::<pb::core::v1::PersistentVolumeClaim>(&mut all, "v1", "PersistentVolumeClaim");
    check::<pb::core::v1::Endpoints>(&mut all, "v1", "Endpoints");
    check::<pb::core::v1::LimitRange>(&mut all, "v1", "LimitRange");
    check::<pb::core::v1::ResourceQuota>(&mut all, "v1", "ResourceQuota");
    check::<pb::core::v1::Namespace>(&mut all, "v1", "Namespace");
    check::<pb::core::v1::ServiceAccount>(&mut all, "v1", "ServiceAccount");
    check::<pb::core::v1::ReplicationController>(&mut all, "v1", "ReplicationController");
    check::<pb::apps::v1::Deployment>(&mut all, "apps/v1", "Deployment");
    check::<pb::apps::v1::ReplicaSet>(&mut all, "apps/v1", "ReplicaSet");
    check::<pb::apps::v1::DaemonSet>(&mut all, "apps/v1", "DaemonSet");
    check::<pb::apps::v1::StatefulSet>(&mut all, "apps/v1", "StatefulSet");
    check::<pb::apps::v1::ControllerRevision>(&mut all, "apps/v1", "ControllerRevision");
    check::<pb::batch::v1::Job>(&mut all, "batch/v1", "Job");
    check::<pb::batch::v1::CronJob>(&mut all, "batch/v1", "CronJob");
    check::<pb::autoscaling::v2::HorizontalPodAutoscaler>(
        &mut all,
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
    );
    check::<pb::autoscaling::v1::Scale>(&mut all, "autoscaling/v1", "Scale");
    check::<pb::coordination::v1::Lease>(&mut all, "coordination.k8s.io/v1", "Lease");
    check::<pb::discovery::v1::EndpointSlice>(&mut all, "discovery.k8s.io/v1", "EndpointSlice");
    check::<pb::events::v1::Event>(&mut all, "events.k8s.io/v1", "Event");
    check::<pb::networking::v1::Ingress>(&mut all, "networking.k8s.io/v1", "Ingress");
    check::<pb::networking::v1::NetworkPolicy>(&mut all, "networking.k8s.io/v1", "NetworkPolicy");
    check::<pb::policy::v1::PodDisruptionBudget>(&mut all, "policy/v1", "PodDisruptionBudget");
    check::<pb::rbac::v1::ClusterRole>(&mut all, "rbac.authorization.k8s.io/v1", "ClusterRole");
    check::<pb::rbac::v1::RoleBinding>(&mut all, "rbac.authorization.k8s.io/v1", "RoleBinding");
    check::<pb::storage::v1::StorageClass>(&mut all, "storage.k8s.io/v1", "StorageClass");
    check::<pb::storage::v1::CSIDriver>(&mut all, "storage.k8s.io/v1", "CSIDriver");
    check::<pb::authentication::v1::TokenReview>(&mut all, "authentication.k8s.io/v1", "TokenReview");
    check::<pb::authorization::v1::SubjectAccessReview>(
        &mut all,
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
    );
    check::<meta::Status>(&mut all, "v1", "Status");
    check::<meta::PartialObjectMetadata>(&mut all, "meta.k8s.io/v1", "PartialObjectMetadata");
    all.sort();
    all.dedup();
    assert_eq!(all, [""; 0]);
}

/// Names the places where two values differ.
fn compare(ours: &Value, theirs: &Value, path: &str, differ: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for name in ours.keys().chain(theirs.keys()) {
                let of = |fields: &Fields| fields.get(name).cloned().unwrap_or_default();
                compare(&of(ours), &of(theirs), &format!("{path}.{name}"), differ);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (ours, theirs) in ours.iter().zip(theirs) {
                compare(ours, theirs, path, differ);
            }
        }
        _ if ours == theirs => {}
        (_, Value::Null) if NEWER.iter().any(|newer| path.ends_with(&format!(".{newer}"))) => {}
        _ => differ.push(path.to_owned()),
    }
}

/// Fields that have no number: one that Kubernetes had not published when the table was made, and the type of claims
/// within other objects, which protobuf leaves out as it does everywhere.
const UNNUMBERED: &[&str] = &[
    "Node.status.nodeInfo.runningInUserNamespace",
    "StatefulSet.spec.volumeClaimTemplates.apiVersion",
    "StatefulSet.spec.volumeClaimTemplates.kind",
];

/// No field of a served kind is lost: the table knows all that the schemas, which come from the types, know.
#[test]
fn every_field_has_its_number() {
    type Schemas = std::collections::BTreeMap<String, Value>;

    fn check(
        missing: &mut Vec<String>,
        schemas: &Schemas,
        schema: &Value,
        message: &'static Message,
        path: &str,
        seen: &mut Vec<String>,
    ) {
        let schema = match schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str()) {
            Some(reference) => {
                let name = reference.rsplit('/').next().unwrap_or_default();
                if seen.iter().any(|other| other == name) {
                    return;
                }
                seen.push(name.to_owned());
                schemas.get(name).cloned().unwrap_or_default()
            }
            None => schema.clone(),
        };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if path.matches('.').count() == 0 && ["apiVersion", "kind"].contains(&name.as_str()) {
                continue;
            }
            let field =
                message.named(name).or_else(|| message.inlined().find_map(|(_, inner)| inner.named(name)));
            let Some(field) = field else {
                missing.push(format!("{path}.{name}"));
                continue;
            };
            if let Type::Object(inner) = field.of {
                let below = [&property["items"], &property["additionalProperties"]];
                let below = below.into_iter().find(|below| below.is_object()).unwrap_or(property);
                check(missing, schemas, below, inner, &format!("{path}.{name}"), seen);
            }
        }
    }
    let (schemas, mut missing) = (crate::openapi::all(), Vec::new());
    for kind in KINDS {
        let message = find(&kind.api_version(), kind.kind).unwrap();
        let schema = schemas.values().find(|schema| {
            schema["x-kubernetes-group-version-kind"]
                == json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}])
        });
        let schema = schema.unwrap_or_else(|| panic!("{} has no schema", kind.kind));
        check(&mut missing, &schemas, schema, message, kind.kind, &mut Vec::new());
    }
    assert_eq!(missing, UNNUMBERED);
}

#[test]
fn inlined_messages_are_not_nested() {
    for (_, kind, message) in ROOTS {
        let mut seen: Vec<*const Message> = Vec::new();
        let mut left = vec![*message];
        while let Some(message) = left.pop() {
            if seen.contains(&std::ptr::from_ref(message)) {
                continue;
            }
            seen.push(message);
            for (_, inner) in message.inlined() {
                assert_eq!(inner.inlined().count(), 0, "{kind}");
            }
            left.extend(message.0.iter().filter_map(|field| match field.of {
                Type::Object(inner) => Some(inner),
                _ => None,
            }));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |json: Value| from_json(json.to_string().as_bytes()).unwrap().unwrap_err().to_string();
    let pod = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": spec});
    for (spec, expected) in [
        (json!([]), "invalid type: sequence, expected an object"),
        (json!({"nodeName": 1}), "invalid type: integer `1`, expected a string"),
        (json!({"hostNetwork": "x"}), "invalid type: string \"x\", expected true or false"),
        (json!({"containers": {}}), "invalid type: map, expected a list"),
        (json!({"nodeSelector": []}), "invalid type: sequence, expected a map"),
        (
            json!({"activeDeadlineSeconds": 1.5}),
            "invalid type: floating point `1.5`, expected a whole number",
        ),
    ] {
        let message = refused(pod(spec));
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(from_json(br#"{"apiVersion":"example.com/v1","kind":"Pod"}"#).is_none());
    // Null is nothing, and what nobody knows is left out.
    let odd =
        pod(json!({"nodeName": null, "containers": null, "nodeSelector": null, "sandwich": {"a": [1]}}));
    let bytes = from_json(odd.to_string().as_bytes()).unwrap().unwrap();
    assert_eq!(to_json(&bytes, ("", "")), Ok(pod(json!({}))));
}

/// Long messages have long lengths, wherever they begin.
#[test]
fn lengths_of_all_sizes() {
    for length in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "x".repeat(length)}});
        let bytes = from_json(map.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(to_json(&bytes, ("", "")), Ok(map), "{length}");
    }
}

fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::{Just, Strategy, prop_oneof};
    let names = || "metadata|spec|status|name|labels|data|containers|volumes|env|x";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(names(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn any_json_is_written_or_refused(json in any_json()) {
        let json = json.to_string();
        for codec in [Codec::of("v1", "Pod"), Codec::of("v1", "ConfigMap"), Codec::of("v1", "Status")] {
            if let Ok(bytes) = codec.unwrap().document(json.as_bytes()) {
                prop_assert!(to_json(&bytes, ("", "")).is_ok());
            }
        }
    }

    #[test]
    fn any_map_comes_back(data in proptest::collection::btree_map(".{0,12}", ".{0,200}", 1..8)) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data});
        let bytes = from_json(map.to_string().as_bytes()).unwrap().unwrap();
        prop_assert_eq!(to_json(&bytes, ("", "")), Ok(map));
    }
}
