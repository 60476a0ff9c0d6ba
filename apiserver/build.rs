//! Writes the schemas of all served types, compressed, for `src/openapi` to include.
//!
//! The schemas with their descriptions come from the generated types. They are built here, with a k8s-openapi of its
//! own that has the `schemars` feature, so that the server links neither that feature nor schemars. What the types do
//! not know is added: which kind a type is, and how strategic merge patches treat its lists.
//!
//! The form is OpenAPI 3: a line `name`, tab, JSON for each schema, in order of the names.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling2, batch::v1 as batch,
    certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::{ListableResource, Resource};
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

#[path = "../manifests/src/strategic.rs"]
#[expect(dead_code, unreachable_pub, reason = "a build script needs only the lookup")]
mod strategic;

#[path = "../manifests/src/structure/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "a build script needs only the lookup")]
mod structure;

type Schemas = BTreeMap<String, Value>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../manifests/src/strategic.rs");
    println!("cargo::rerun-if-changed=../manifests/src/structure");

    let mut roots = Roots { generator: SchemaSettings::openapi3().into_generator(), kinds: Vec::new() };
    roots.stored::<apps::Deployment>();
    roots.stored::<apps::ReplicaSet>();
    roots.stored::<coordination::Lease>();
    roots.stored::<core::ConfigMap>();
    roots.stored::<core::Endpoints>();
    roots.stored::<core::Event>();
    roots.stored::<core::Namespace>();
    roots.stored::<core::Node>();
    roots.stored::<core::Pod>();
    roots.stored::<core::Secret>();
    roots.stored::<core::Service>();
    roots.stored::<core::ServiceAccount>();
    roots.stored::<discovery::EndpointSlice>();
    roots.stored::<events::Event>();
    roots.stored::<scheduling::PriorityClass>();
    roots.stored::<apps::ControllerRevision>();
    roots.stored::<apps::DaemonSet>();
    roots.stored::<apps::StatefulSet>();
    roots.stored::<autoscaling::HorizontalPodAutoscaler>();
    roots.stored::<autoscaling2::HorizontalPodAutoscaler>();
    roots.stored::<flowcontrol::FlowSchema>();
    roots.stored::<flowcontrol::PriorityLevelConfiguration>();
    roots.stored::<batch::CronJob>();
    roots.stored::<batch::Job>();
    roots.stored::<core::LimitRange>();
    roots.stored::<core::PersistentVolume>();
    roots.stored::<core::PersistentVolumeClaim>();
    roots.stored::<core::PodTemplate>();
    roots.stored::<core::ReplicationController>();
    roots.stored::<core::ResourceQuota>();
    roots.stored::<networking::Ingress>();
    roots.stored::<networking::IngressClass>();
    roots.stored::<networking::NetworkPolicy>();
    roots.stored::<node::RuntimeClass>();
    roots.stored::<storage::CSIDriver>();
    roots.stored::<storage::CSINode>();
    roots.stored::<storage::CSIStorageCapacity>();
    roots.stored::<storage::StorageClass>();
    roots.stored::<storage::VolumeAttachment>();
    roots.stored::<certificates::CertificateSigningRequest>();
    roots.stored::<policy::PodDisruptionBudget>();
    roots.stored::<rbac::ClusterRole>();
    roots.stored::<rbac::ClusterRoleBinding>();
    roots.stored::<rbac::Role>();
    roots.stored::<rbac::RoleBinding>();
    roots.body::<authentication::SelfSubjectReview>();
    roots.body::<authentication::TokenRequest>();
    roots.body::<authentication::TokenReview>();
    roots.body::<authorization::LocalSubjectAccessReview>();
    roots.body::<authorization::SelfSubjectAccessReview>();
    roots.body::<authorization::SelfSubjectRulesReview>();
    roots.body::<authorization::SubjectAccessReview>();
    roots.body::<autoscaling::Scale>();
    roots.body::<core::Binding>();
    roots.body::<policy::Eviction>();
    roots.generator.subschema_for::<meta::DeleteOptions>();
    roots.body::<meta::Status>();
    roots.generator.subschema_for::<meta::ListMeta>();

    let mut schemas: Schemas = roots.generator.take_definitions(true).into_iter().collect();
    for kind in &roots.kinds {
        describe_kind(&mut schemas, kind);
    }
    for (name, schema) in &mut schemas {
        special_type(name, schema);
        patch_strategies(name, schema);
        ownership(name, schema);
    }
    write(&schemas)
}

/// A type that is a kind of the API.
struct Kind {
    schema: String,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    list: Option<&'static str>,
}

struct Roots {
    generator: SchemaGenerator,
    kinds: Vec<Kind>,
}

impl Roots {
    /// A kind that is stored, and so has a list.
    fn stored<T: ListableResource + JsonSchema>(&mut self) {
        self.add::<T>(Some(T::LIST_KIND));
    }

    /// A kind that only comes and goes.
    fn body<T: Resource + JsonSchema>(&mut self) {
        self.add::<T>(None);
    }

    fn add<T: Resource + JsonSchema>(&mut self, list: Option<&'static str>) {
        self.generator.subschema_for::<T>();
        let schema = T::schema_name().into_owned();
        self.kinds.push(Kind { schema, group: T::GROUP, version: T::VERSION, kind: T::KIND, list });
    }
}

/// Says which kind a schema is, and adds the schema of its list.
fn describe_kind(schemas: &mut Schemas, kind: &Kind) {
    let extension = |name: &str| json!([{ "group": kind.group, "version": kind.version, "kind": name }]);
    let Some(schema) = schemas.get_mut(&kind.schema) else { return };
    schema["x-kubernetes-group-version-kind"] = extension(kind.kind);
    // The generated types hold metadata that is always there; in the API it may be left out.
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "metadata");
    }
    if schema.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty)
        && let Some(fields) = schema.as_object_mut()
    {
        fields.remove("required");
    }
    let Some(list) = kind.list else { return };
    let of_kind = |name: &str| schema["properties"][name].clone();
    let list_schema = json!({
        "description": format!("{list} is a list of {} objects.", kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": of_kind("apiVersion"),
            "items": {"type": "array", "items": {"$ref": format!("#/components/schemas/{}", kind.schema)}},
            "kind": of_kind("kind"),
            "metadata": {"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"}]},
        },
        "x-kubernetes-group-version-kind": extension(list),
    });
    schemas.insert(format!("{}List", kind.schema), list_schema);
}

/// Types that are one thing or another in JSON, in the words that clients look for.
fn special_type(name: &str, schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    match name {
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => {
            fields.remove("x-kubernetes-int-or-string");
            fields.insert("format".to_string(), "int-or-string".into());
            fields.insert("oneOf".to_string(), json!([{"type": "integer"}, {"type": "string"}]));
        }
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => {
            fields.remove("x-kubernetes-int-or-string");
            fields.insert("oneOf".to_string(), json!([{"type": "string"}, {"type": "number"}]));
        }
        _ => {}
    }
}

fn patch_strategies(of: &str, schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        let Some(field) = strategic::field(of, name) else { continue };
        if let Some(strategy) = field.strategy.name() {
            property["x-kubernetes-patch-strategy"] = strategy.into();
        }
        if !field.merge_key.is_empty() {
            property["x-kubernetes-patch-merge-key"] = field.merge_key.into();
        }
    }
}

/// Says how finely the fields of a type are owned.
fn ownership(of: &str, schema: &mut Value) {
    if structure::is_atomic(of) {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    let Some(found) = structure::type_named(of) else { return };
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        match found.field(name).map(|field| field.shape) {
            Some(structure::Shape::Keyed(keys, _)) => {
                let keys: Vec<&str> = keys.iter().map(|key| key.name).collect();
                property["x-kubernetes-list-type"] = "map".into();
                property["x-kubernetes-list-map-keys"] = keys.into();
            }
            Some(structure::Shape::Set) => property["x-kubernetes-list-type"] = "set".into(),
            Some(structure::Shape::AtomicMap) => property["x-kubernetes-map-type"] = "atomic".into(),
            _ if property["type"] == "array" => property["x-kubernetes-list-type"] = "atomic".into(),
            _ => {}
        }
    }
}

fn write(schemas: &Schemas) -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    for (name, schema) in schemas {
        text.push_str(name);
        text.push('\t');
        text.push_str(&serde_json::to_string(schema)?);
        text.push('\n');
    }
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text.as_bytes())?;
    let directory = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(directory.join("schemas.zlib"), encoder.finish()?)?;
    // How much room to make for them.
    std::fs::write(directory.join("schemas.length"), text.len().to_string())?;
    Ok(())
}
