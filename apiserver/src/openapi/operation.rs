//! The operations on each kind, in a form that both versions of OpenAPI are written from.

use crate::patch::PatchType;
use manifests::kinds::{Kind, Subresource};
use manifests::strategic::type_name;

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// A URL and what can be done there.
pub(super) struct Path {
    pub(super) url: String,
    pub(super) operations: Vec<Operation>,
}

/// Something that can be done.
pub(super) struct Operation {
    /// HTTP method, in lower case.
    pub(super) method: &'static str,
    /// What Kubernetes calls it: `list`, `patch`, …
    pub(super) action: &'static str,
    pub(super) description: String,
    /// Query parameters.
    pub(super) parameters: Vec<&'static Parameter>,
    /// Schema of the request, and the media types that it may have.
    pub(super) body: Option<Body>,
    /// Schema of the answer; plain text when there is none.
    pub(super) answer: Option<String>,
    /// The kind that it is about.
    pub(super) kind: GroupVersionKind,
}

pub(super) struct Body {
    pub(super) schema: String,
    pub(super) media_types: Vec<&'static str>,
}

pub(super) struct GroupVersionKind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
}

/// A query parameter.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) description: &'static str,
}

const fn parameter(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter { name, kind, description }
}

const DRY_RUN: Parameter = parameter("dryRun", "string", "All: do everything but store the result.");
const FIELD_MANAGER: Parameter = parameter("fieldManager", "string", "The name of whoever makes the change.");
const FIELD_VALIDATION: Parameter = parameter(
    "fieldValidation",
    "string",
    "What unknown and duplicate fields do: Ignore drops them, Warn also says so, Strict refuses the request.",
);
const PRETTY: Parameter = parameter("pretty", "string", "true: indent the answer.");

const CREATE: &[&Parameter] = &[&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION, &PRETTY];
const DELETE: &[&Parameter] = &[
    &DRY_RUN,
    &parameter("gracePeriodSeconds", "integer", "How long the object may take to go; 0 is at once."),
    &parameter("orphanDependents", "boolean", "An older way to say propagationPolicy: Orphan."),
    &parameter(
        "propagationPolicy",
        "string",
        "What becomes of dependents: Orphan, Background or Foreground.",
    ),
    &PRETTY,
];
const LIST: &[&Parameter] = &[
    &parameter("allowWatchBookmarks", "boolean", "Whether a watch may tell how far it has come."),
    &parameter("continue", "string", "Where the last part of a list in parts ended."),
    &parameter("fieldSelector", "string", "Only objects whose fields fit."),
    &parameter("labelSelector", "string", "Only objects whose labels fit."),
    &parameter("limit", "integer", "How many objects a part of the list may have."),
    &parameter("resourceVersion", "string", "The version to list, or to watch from."),
    &parameter("resourceVersionMatch", "string", "How resourceVersion is meant: NotOlderThan or Exact."),
    &parameter("sendInitialEvents", "boolean", "Whether a watch begins with what there is."),
    &parameter("timeoutSeconds", "integer", "How long a list may take or a watch lasts."),
    &parameter("watch", "boolean", "Follow changes instead of listing."),
    &PRETTY,
];

/// All paths of a kind.
pub(super) fn paths(kind: &Kind) -> Vec<Path> {
    let base = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let everywhere = format!("{base}/{}", kind.plural);
    let collection = if kind.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        everywhere.clone()
    };
    let object = format!("{collection}/{{name}}");

    let mut paths = vec![
        Path { url: collection, operations: operations(kind, &[LIST_VERB, "create", "deletecollection"]) },
        Path { url: object.clone(), operations: operations(kind, &["get", "update", "patch", "delete"]) },
    ];
    if kind.namespaced {
        paths.push(Path { url: everywhere, operations: operations(kind, &[LIST_VERB]) });
    }
    paths.extend(kind.subresources.iter().map(|subresource| Path {
        url: format!("{object}/{}", subresource.name),
        operations: subresource.verbs.iter().map(|verb| sub_operation(kind, subresource, verb)).collect(),
    }));
    paths
}

const LIST_VERB: &str = "list";

fn operations(kind: &Kind, wanted: &[&'static str]) -> Vec<Operation> {
    let offered = wanted.iter().filter(|verb| kind.verbs().contains(verb));
    let own = || type_name(kind.group, kind.version, kind.kind);
    let about = || GroupVersionKind { group: kind.group, version: kind.version, kind: kind.kind };
    offered.map(|verb| operation(verb, kind.kind, own(), about())).collect()
}

fn sub_operation(kind: &Kind, subresource: &Subresource, verb: &'static str) -> Operation {
    let own = !subresource.version.is_empty();
    let about = GroupVersionKind {
        group: if own { subresource.group } else { kind.group },
        version: if own { subresource.version } else { kind.version },
        kind: subresource.kind,
    };
    let schema = type_name(about.group, about.version, about.kind);
    let what = format!("{} of {}", subresource.name, kind.kind);
    let mut operation = operation(verb, &what, schema, about);
    // Streams and logs: what goes over them has no schema.
    if ["attach", "exec", "log", "portforward", "proxy"].contains(&subresource.name) {
        operation.action = if verb == "get" { "connect" } else { operation.action };
        operation.body = None;
        operation.answer = None;
        operation.parameters = Vec::new();
    }
    operation
}

fn operation(verb: &'static str, what: &str, schema: String, kind: GroupVersionKind) -> Operation {
    let body =
        |schema: &str, media_types: Vec<&'static str>| Some(Body { schema: schema.to_string(), media_types });
    let json = || vec!["application/json", "application/yaml", crate::protobuf::MEDIA_TYPE];
    let list = format!("{schema}List");
    let (method, action, words, parameters, body, answer) = match verb {
        "create" => ("post", "post", "Creates", CREATE, body(&schema, json()), schema),
        "update" => ("put", "put", "Replaces", CREATE, body(&schema, json()), schema),
        "patch" => {
            let types = PatchType::ALL.map(PatchType::media_type).to_vec();
            ("patch", "patch", "Changes", CREATE, body(PATCH, types), schema)
        }
        "delete" => ("delete", "delete", "Deletes", DELETE, body(DELETE_OPTIONS, json()), STATUS.to_string()),
        "deletecollection" => {
            let options = body(DELETE_OPTIONS, json());
            ("delete", "deletecollection", "Deletes every", DELETE, options, STATUS.to_string())
        }
        LIST_VERB => ("get", "list", "Lists or watches", LIST, None, list),
        _ => ("get", "get", "Reads", &[&PRETTY] as &[&Parameter], None, schema),
    };
    let mut parameters = parameters.to_vec();
    if verb == "patch" {
        parameters.push(&FORCE);
    }
    if verb == "deletecollection" {
        parameters.extend(LIST.iter().filter(|parameter| parameter.name.ends_with("Selector")));
    }
    Operation {
        method,
        action,
        description: format!("{words} {what}."),
        parameters,
        body,
        answer: Some(answer),
        kind,
    }
}

const FORCE: Parameter = parameter("force", "boolean", "Take over fields that others own.");

/// A schema for every patch: it is a list or a map, and its shape follows from what it patches.
pub(super) fn patch_schema() -> (&'static str, serde_json::Value) {
    (
        PATCH,
        serde_json::json!({
            "description": "Patch is what a change of an object may look like, depending on its media type.",
            "type": "object",
        }),
    )
}

/// The schemas that the operations name.
pub(super) fn named_schemas(paths: &[Path]) -> Vec<String> {
    let operations = paths.iter().flat_map(|path| &path.operations);
    operations
        .flat_map(|operation| {
            operation.answer.iter().chain(operation.body.iter().map(|body| &body.schema)).cloned()
        })
        .collect()
}
