//! Generates the table by which the API server reads protobuf request bodies: message, field number, JSON name, type.
//!
//! The facts come from checkouts of Kubernetes' published `api` and `apimachinery` repositories: field numbers and
//! types from their `generated.proto`, and from the Go types what protobuf does not know, which is the JSON name,
//! whether a field is part of its parent (`inline`), and whether an encoded zero was meant (a pointer) or is only how
//! Go writes an empty field.
//!
//! Usage: `cargo run -p xtask -- protobuf-table API_DIR APIMACHINERY_DIR > apiserver/src/protobuf/messages.rs`

mod go;
mod proto;
mod render;

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Bodies that clients send, by the package of their type and its name. What they reach is found from here.
const ROOTS: &[(&str, &[&str])] = &[
    ("k8s.io.api.apps.v1", &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("k8s.io.api.authentication.v1", &["TokenRequest", "TokenReview", "SelfSubjectReview"]),
    (
        "k8s.io.api.authorization.v1",
        &[
            "LocalSubjectAccessReview",
            "SelfSubjectAccessReview",
            "SelfSubjectRulesReview",
            "SubjectAccessReview",
        ],
    ),
    ("k8s.io.api.autoscaling.v1", &["HorizontalPodAutoscaler", "Scale"]),
    ("k8s.io.api.autoscaling.v2", &["HorizontalPodAutoscaler"]),
    ("k8s.io.api.batch.v1", &["CronJob", "Job"]),
    ("k8s.io.api.certificates.v1", &["CertificateSigningRequest"]),
    ("k8s.io.api.coordination.v1", &["Lease"]),
    (
        "k8s.io.api.core.v1",
        &[
            "Binding",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "Namespace",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "Service",
            "ServiceAccount",
        ],
    ),
    ("k8s.io.api.discovery.v1", &["EndpointSlice"]),
    ("k8s.io.api.events.v1", &["Event"]),
    ("k8s.io.api.flowcontrol.v1", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("k8s.io.api.networking.v1", &["Ingress", "IngressClass", "NetworkPolicy"]),
    ("k8s.io.api.node.v1", &["RuntimeClass"]),
    ("k8s.io.api.policy.v1", &["Eviction", "PodDisruptionBudget"]),
    ("k8s.io.api.rbac.v1", &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]),
    ("k8s.io.api.scheduling.v1", &["PriorityClass"]),
    (
        "k8s.io.api.storage.v1",
        &["CSIDriver", "CSINode", "CSIStorageCapacity", "StorageClass", "VolumeAttachment"],
    ),
    (
        META,
        &[
            "CreateOptions",
            "DeleteOptions",
            "GetOptions",
            "ListOptions",
            "PartialObjectMetadata",
            "PatchOptions",
            "Status",
            "UpdateOptions",
        ],
    ),
];

const META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1";

/// One message, ready to print.
struct Message {
    fields: Vec<Field>,
}

struct Field {
    number: u32,
    /// The JSON name; empty for a message whose fields are its parent's.
    name: String,
    kind: Kind,
    /// Go writes the zero of this field although it is empty, and leaves it out of JSON.
    drop_zero: bool,
}

#[derive(Clone)]
enum Kind {
    One(Type),
    Repeated(Type),
    Map(Type),
}

#[derive(Clone)]
enum Type {
    /// A scalar, or a message that is not an object in JSON: a variant of the reader's own enum.
    Plain(&'static str),
    /// The full name of another message.
    Message(String),
}

/// Prints the table to standard output.
pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let (Some(api), Some(machinery), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        bail!("usage: protobuf-table API_DIR APIMACHINERY_DIR");
    };
    let packages = Packages { api: api.into(), machinery: machinery.into() };
    let messages = collect(&packages)?;
    use std::io::Write as _;
    std::io::stdout().write_all(render::render(&messages).as_bytes()).context("writing the table")
}

struct Packages {
    api: PathBuf,
    machinery: PathBuf,
}

impl Packages {
    /// Where the sources of a package lie.
    fn directory(&self, package: &str) -> Result<PathBuf> {
        let below = |root: &Path, rest: &str| root.join(rest.replace('.', "/"));
        if let Some(rest) = package.strip_prefix("k8s.io.api.") {
            Ok(below(&self.api, rest))
        } else if let Some(rest) = package.strip_prefix("k8s.io.apimachinery.") {
            Ok(below(&self.machinery, rest))
        } else {
            bail!("no checkout holds package {package}")
        }
    }
}

/// All messages that the roots reach, by their full names.
fn collect(packages: &Packages) -> Result<BTreeMap<String, Message>> {
    let mut wanted: BTreeSet<String> = ROOTS
        .iter()
        .flat_map(|(package, names)| names.iter().map(move |name| format!("{package}.{name}")))
        .collect();
    let mut sources: BTreeMap<String, (proto::File, go::Types)> = BTreeMap::new();
    let mut done = BTreeMap::new();
    while let Some(full_name) = wanted.pop_first() {
        let (package, name) = full_name.rsplit_once('.').context("a message without a package")?;
        if !sources.contains_key(package) {
            let directory = packages.directory(package)?;
            let loaded = (proto::read(&directory.join("generated.proto"))?, go::read(&directory)?);
            sources.insert(package.to_string(), loaded);
        }
        let (proto, go) = &sources[package];
        let declared = proto.get(name).with_context(|| format!("no message {full_name}"))?;
        let facts = go.get(name).with_context(|| format!("no Go type for {full_name}"))?;
        let mut fields = Vec::new();
        for field in declared {
            let fact = facts
                .get(&field.number)
                .with_context(|| format!("no Go field for {full_name} number {}", field.number))?;
            let kind = resolve(&field.kind, package, packages, proto)?;
            if let Some(name) = reached(&kind)
                && *name != full_name
                && !done.contains_key(name)
            {
                wanted.insert(name.clone());
            }
            let scalar = matches!(kind, Kind::One(Type::Plain(_)));
            fields.push(Field {
                number: field.number,
                name: fact.json_name.clone(),
                drop_zero: scalar && fact.omit_empty && !fact.pointer,
                kind,
            });
        }
        done.insert(full_name, Message { fields });
    }
    Ok(done)
}

fn reached(kind: &Kind) -> Option<&String> {
    match kind {
        Kind::One(Type::Message(name))
        | Kind::Repeated(Type::Message(name))
        | Kind::Map(Type::Message(name)) => Some(name),
        _ => None,
    }
}

/// Whether a message is nothing but a list of strings with a name of its own.
fn is_string_list(file: &proto::File, name: &str) -> bool {
    matches!(file.get(name).map(Vec::as_slice), Some([only]) if only.name == "items" && only.is_repeated_string())
}

fn resolve(kind: &proto::Kind, package: &str, packages: &Packages, file: &proto::File) -> Result<Kind> {
    let of = |name: &str| -> Result<Type> {
        Ok(match name {
            "string" => Type::Plain("String"),
            "bytes" => Type::Plain("Bytes"),
            "bool" => Type::Plain("Bool"),
            "int32" | "int64" => Type::Plain("Int"),
            _ => match name.strip_prefix('.') {
                None if is_string_list(file, name) => Type::Plain("StringList"),
                None => special(&format!("{package}.{name}")),
                Some(full_name) => {
                    // Fail early, with the name at hand, when a checkout is missing.
                    let (package, _) = full_name.rsplit_once('.').context("a type without a package")?;
                    packages.directory(package)?;
                    special(full_name)
                }
            },
        })
    };
    Ok(match kind {
        proto::Kind::One(name) => Kind::One(of(name)?),
        proto::Kind::Repeated(name) => Kind::Repeated(of(name)?),
        proto::Kind::Map(name) => Kind::Map(of(name)?),
    })
}

/// Messages that JSON writes as something else than an object of their fields.
fn special(full_name: &str) -> Type {
    match full_name {
        "k8s.io.apimachinery.pkg.api.resource.Quantity" => Type::Plain("Quantity"),
        "k8s.io.apimachinery.pkg.util.intstr.IntOrString" => Type::Plain("IntOrString"),
        "k8s.io.apimachinery.pkg.apis.meta.v1.Time" => Type::Plain("Time"),
        "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime" => Type::Plain("MicroTime"),
        "k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1" | "k8s.io.apimachinery.pkg.runtime.RawExtension" => {
            Type::Plain("Raw")
        }
        _ => Type::Message(full_name.to_string()),
    }
}
