//! Swagger 2.0, one document with everything.

use super::API_VERSION;
use super::operation::{self, Operation, Path};
use super::schemas::{REFERENCE, Schemas};
use manifests::kinds::Kind;
use serde_json::{Map, Value, json};

const DEFINITION: &str = "#/definitions/";

pub(super) fn document(schemas: &Schemas, kinds: &[&Kind]) -> Value {
    let paths: Vec<Path> = kinds.iter().flat_map(|kind| operation::paths(kind)).collect();
    let (patch, patch_schema) = operation::patch_schema();
    let mut definitions: Map<String, Value> = schemas
        .reached(operation::named_schemas(&paths))
        .into_iter()
        .filter_map(|(name, schema)| Some((name.to_string(), definition(serde_json::from_str(schema).ok()?))))
        .collect();
    definitions.insert(patch.to_string(), patch_schema);
    let items: Map<String, Value> = paths.iter().map(|path| (path.url.clone(), path_item(path))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": API_VERSION},
        "paths": items,
        "definitions": definitions,
    })
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
