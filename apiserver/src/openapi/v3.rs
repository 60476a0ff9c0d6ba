//! OpenAPI 3.0, a document per group and version.

use super::operation::{self, Operation, Path};
use super::schemas::{REFERENCE, Schemas};
use super::v2::write_map;
use super::{API_VERSION, GroupVersion, hash_of};
use manifests::kinds::Kind;
use serde_json::{Map, Value, json};

/// `/openapi/v3`: where the document of each group-version is. The hash in the URL lets clients keep it forever.
pub(super) fn index(group_versions: Vec<GroupVersion<'_>>, kinds: &[&Kind]) -> Vec<u8> {
    let paths: Map<String, Value> = group_versions
        .into_iter()
        .map(|of| {
            let path = of.path();
            let url = format!("/openapi/v3/{path}?hash={}", hash_of(of, kinds));
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths }).to_string().into_bytes()
}

/// The document of one group-version. The schemas are copied as they stand.
pub(super) fn document(schemas: &Schemas, of: GroupVersion<'_>, kinds: &[&Kind]) -> Vec<u8> {
    let paths: Vec<Path> =
        kinds.iter().filter(|kind| of.has(kind)).flat_map(|kind| operation::paths(kind)).collect();
    let info = json!({ "title": "Kubernetes", "version": API_VERSION });
    let (patch, patch_schema) = operation::patch_schema();
    let mut text = format!(r#"{{"openapi":"3.0.0","info":{info}"#);
    write_map(&mut text, "paths", paths.iter().map(|path| (path.url.clone(), path_item(path))));
    text.push_str(&format!(r#","components":{{"schemas":{{{}:{patch_schema}"#, Value::from(patch)));
    for (name, schema) in schemas.reached(operation::named_schemas(&paths)) {
        text.push_str(&format!(",{}:{schema}", Value::from(name)));
    }
    text.push_str("}}}");
    text.into_bytes()
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
                "schema": {"type": "string", "uniqueItems": true},
            })
        })
        .collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_string(), parameters.into());
    }
    item.into()
}

fn render(operation: &Operation) -> Value {
    let parameters: Vec<Value> = operation
        .parameters
        .iter()
        .map(|parameter| {
            json!({
                "name": parameter.name,
                "in": "query",
                "description": parameter.description,
                "schema": {"type": parameter.kind, "uniqueItems": true},
            })
        })
        .collect();
    let content = |media_types: &[&str], schema: &str| -> Value {
        let reference = json!({ "schema": { "$ref": format!("{REFERENCE}{schema}") } });
        media_types
            .iter()
            .map(|media_type| ((*media_type).to_string(), reference.clone()))
            .collect::<Map<_, _>>()
            .into()
    };
    let answer = match &operation.answer {
        Some(schema) => content(&["application/json", "application/yaml"], schema),
        None => json!({ "*/*": { "schema": { "type": "string" } } }),
    };
    let mut rendered = json!({
        "description": operation.description,
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": answer}},
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {
            "group": operation.kind.group, "version": operation.kind.version, "kind": operation.kind.kind,
        },
    });
    if let Some(body) = &operation.body {
        rendered["requestBody"] = json!({ "content": content(&body.media_types, &body.schema) });
    }
    rendered
}
