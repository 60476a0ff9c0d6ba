//! Swagger 2.0, one document with everything.

use super::API_VERSION;
use super::operation::{self, Operation, Path};
use super::schemas::{REFERENCE, Schemas};
use manifests::kinds::Kind;
use serde_json::{Map, Value, json};

const DEFINITION: &str = "#/definitions/";

/// A document in parts, each made when it is asked for: as a whole it would be ten times as large as it is written.
pub(super) struct Document<'d> {
    schemas: &'d Schemas,
    kinds: &'d [&'d Kind],
}

impl<'d> Document<'d> {
    pub(super) fn new(schemas: &'d Schemas, kinds: &'d [&'d Kind]) -> Document<'d> {
        Document { schemas, kinds }
    }

    pub(super) fn version(&self) -> &'static str {
        "2.0"
    }

    pub(super) fn info(&self) -> Value {
        json!({ "title": "Kubernetes", "version": API_VERSION })
    }

    /// What can be done at each URL.
    pub(super) fn paths(&self) -> impl Iterator<Item = (String, Value)> {
        self.kinds.iter().flat_map(|kind| operation::paths(kind)).map(|path| {
            let item = path_item(&path);
            (path.url, item)
        })
    }

    /// Every schema that an operation or another schema names.
    pub(super) fn definitions(&self) -> impl Iterator<Item = (String, Value)> {
        let paths: Vec<Path> = self.kinds.iter().flat_map(|kind| operation::paths(kind)).collect();
        let (patch, patch_schema) = operation::patch_schema();
        let reached = self.schemas.reached(operation::named_schemas(&paths));
        let definitions = reached.into_iter().filter_map(|(name, schema)| {
            Some((name.to_string(), definition(serde_json::from_str(schema).ok()?)))
        });
        std::iter::once((patch.to_string(), patch_schema)).chain(definitions)
    }

    pub(super) fn json(&self) -> Vec<u8> {
        let mut text = format!(r#"{{"swagger":"{}","info":{}"#, self.version(), self.info());
        write_map(&mut text, "paths", self.paths());
        write_map(&mut text, "definitions", self.definitions());
        text.push('}');
        text.into_bytes()
    }
}

/// `,"name":{…}`, one entry after another.
pub(super) fn write_map(text: &mut String, name: &str, entries: impl Iterator<Item = (String, Value)>) {
    text.push_str(&format!(",\"{name}\":{{"));
    for (at, (key, value)) in entries.enumerate() {
        let comma = if at > 0 { "," } else { "" };
        text.push_str(&format!("{comma}{}:{value}", Value::from(key)));
    }
    text.push('}');
}

/// An OpenAPI 3 schema in the words of version 2: references stand beside descriptions, and a choice of types is a
/// string, with the format that says what it is.
fn definition(schema: Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut changed = Map::new();
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("$ref", Value::String(target)) => {
                        changed.insert(name, target.replace(REFERENCE, DEFINITION).into());
                    }
                    ("allOf", Value::Array(mut all)) if all.len() == 1 => {
                        if let Some(Value::Object(only)) = all.pop().map(definition) {
                            changed.extend(only);
                        }
                    }
                    ("oneOf", Value::Array(_)) => {
                        changed.insert("type".to_string(), "string".into());
                    }
                    // Here the keys are names of fields, which may be called anything.
                    ("properties", Value::Object(properties)) => {
                        let properties: Map<String, Value> =
                            properties.into_iter().map(|(name, schema)| (name, definition(schema))).collect();
                        changed.insert(name, properties.into());
                    }
                    (_, value) => {
                        changed.insert(name, definition(value));
                    }
                }
            }
            Value::Object(changed)
        }
        Value::Array(items) => items.into_iter().map(definition).collect(),
        scalar => scalar,
    }
}

fn path_item(path: &Path) -> Value {
    let mut item: Map<String, Value> =
        path.operations.iter().map(|operation| (operation.method.to_string(), render(operation))).collect();
    let parameters: Vec<Value> = ["namespace", "name"]
        .into_iter()
        .filter(|name| path.url.contains(&format!("{{{name}}}")))
        .map(|name| {
            json!({
                "name": name,
                "in": "path",
                "description": format!("The {name} of the object."),
                "required": true,
                "type": "string",
                "uniqueItems": true,
            })
        })
        .collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_string(), parameters.into());
    }
    item.into()
}

fn render(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    let mut consumes = vec!["*/*"];
    if let Some(body) = &operation.body {
        consumes.clone_from(&body.media_types);
        parameters.push(json!({
            "name": "body",
            "in": "body",
            // Options may be left out; objects and patches may not.
            "required": operation.method != "delete",
            "schema": {"$ref": format!("{DEFINITION}{}", body.schema)},
        }));
    }
    parameters.extend(operation.parameters.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.description,
            "type": parameter.kind,
            "uniqueItems": true,
        })
    }));
    let mut answer = json!({ "description": "OK" });
    let produces: &[&str] = match &operation.answer {
        Some(schema) => {
            answer["schema"] = json!({ "$ref": format!("{DEFINITION}{schema}") });
            &["application/json", "application/yaml"]
        }
        None => &["*/*"],
    };
    json!({
        "description": operation.description,
        "consumes": consumes,
        "produces": produces,
        "parameters": parameters,
        "responses": {"200": answer},
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {
            "group": operation.kind.group, "version": operation.kind.version, "kind": operation.kind.kind,
        },
    })
}
