use super::*;
use crate::protobuf::wire::{self, Wire};
use manifests::kinds::{self, KINDS};
use serde_json::Value;
use std::collections::BTreeSet;

fn get(path: &str, accept: &str) -> Document {
    match reply(Request { path, accept, ..Request::default() }, KINDS) {
        Reply::Document(document) => document,
        other => panic!("{path}: {other:?}"),
    }
}

fn json(path: &str) -> Value {
    let document = get(path, JSON);
    assert_eq!(document.content_type, JSON);
    serde_json::from_slice(&document.body).unwrap()
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                found.insert(target.clone());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn negotiation() {
    for (path, accept, expected) in [
        ("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", Some(V2_PROTOBUF)),
        ("/openapi/v2", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", Some(V2_PROTOBUF)),
        ("/openapi/v2", "application/json", Some(JSON)),
        ("/openapi/v2", "", Some(JSON)),
        ("/openapi/v2", "*/*", Some(JSON)),
        ("/openapi/v2", "text/html", None),
        ("/openapi/v3", "application/json, */*", Some(JSON)),
        ("/openapi/v3/api/v1", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf", None),
        (
            "/openapi/v3/api/v1",
            "application/com.github.proto-openapi.spec.v3@v1.0+protobuf,application/json",
            Some(JSON),
        ),
    ] {
        let found = match reply(Request { path, accept, ..Request::default() }, KINDS) {
            Reply::Document(document) => Some(document.content_type),
            Reply::NotAcceptable(_) => None,
            other => panic!("{path} {accept}: {other:?}"),
        };
        assert_eq!(found, expected, "{path} {accept}");
    }
    for path in ["/openapi/v3/api/v2", "/openapi/v3/apis/none/v1", "/openapi/v3/version"] {
        assert_eq!(reply(Request { path, ..Request::default() }, KINDS), Reply::NotFound, "{path}");
    }
}

#[test]
fn clients_keep_what_they_have() {
    let index = json("/openapi/v3");
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let (path, hash) = url.split_once("?hash=").unwrap();
    assert_eq!(path, "/openapi/v3/apis/apps/v1");

    let ask = |hash, if_none_match| reply(Request { path, hash, accept: JSON, if_none_match }, KINDS);
    let Reply::Document(document) = ask(Some(hash), None) else { panic!() };
    assert!(document.immutable);
    let Reply::Document(stale) = ask(Some("old"), Some("\"old\"")) else { panic!() };
    assert!(!stale.immutable);
    assert_eq!(ask(None, Some(&document.etag)), Reply::NotModified { etag: document.etag.clone() });

    let fewer = reply(Request { path, accept: JSON, ..Request::default() }, &[&kinds::DEPLOYMENT]);
    let Reply::Document(fewer) = fewer else { panic!() };
    assert_ne!(fewer.etag, document.etag);
}

#[test]
fn every_reference_leads_somewhere() {
    let mut found = BTreeSet::new();
    let v2 = json("/openapi/v2");
    references(&v2, &mut found);
    for target in &found {
        let name = target.strip_prefix("#/definitions/").unwrap_or_else(|| panic!("{target}"));
        assert!(v2["definitions"].get(name).is_some(), "{target}");
    }
    for path in json("/openapi/v3")["paths"].as_object().unwrap().keys() {
        let document = json(&format!("/openapi/v3/{path}"));
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for target in &found {
            let name = target.strip_prefix("#/components/schemas/").unwrap_or_else(|| panic!("{target}"));
            assert!(document["components"]["schemas"].get(name).is_some(), "{path}: {target}");
        }
    }
}

/// What kubectl looks up before it explains, validates or patches.
#[test]
fn every_kind_is_found_by_its_patch_and_its_schema() {
    let v2 = json("/openapi/v2");
    for kind in KINDS.iter().filter(|kind| kind.is_stored()) {
        let wanted = serde_json::json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let of = GroupVersion { group: kind.group, version: kind.version };
        let v3 = json(&format!("/openapi/v3/{}", of.path()));
        for (document, schemas) in [(&v2, &v2["definitions"]), (&v3, &v3["components"]["schemas"])] {
            let patches: Vec<&Value> = document["paths"]
                .as_object()
                .unwrap()
                .values()
                .map(|item| &item["patch"])
                .filter(|patch| patch["x-kubernetes-group-version-kind"] == wanted)
                .collect();
            assert!(!patches.is_empty(), "{wanted}");
            for patch in patches {
                for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
                    let known = patch["parameters"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .any(|p| p["name"] == name && p["in"] == "query");
                    assert!(known, "{wanted}: {name}");
                }
            }
            let named = schemas.as_object().unwrap().values().filter(|schema| {
                schema["x-kubernetes-group-version-kind"]
                    .as_array()
                    .is_some_and(|kinds| kinds.contains(&wanted))
            });
            assert_eq!(named.count(), 1, "{wanted}");
        }
        let plural = kind.plural;
        let path = format!(
            "/{}/{}{plural}/{{name}}",
            of.path(),
            if kind.namespaced { "namespaces/{namespace}/" } else { "" }
        );
        let content = &v3["paths"][&path]["patch"]["requestBody"]["content"];
        assert!(content.get("application/strategic-merge-patch+json").is_some(), "{path}: {content}");
        let consumes = &v2["paths"][&path]["patch"]["consumes"];
        assert!(
            consumes.as_array().unwrap().contains(&"application/strategic-merge-patch+json".into()),
            "{path}"
        );
        assert_eq!(v3["paths"][&path]["get"]["x-kubernetes-group-version-kind"], wanted);
    }
}

#[test]
fn schemas_say_how_patches_merge() {
    let v3 = json("/openapi/v3/api/v1");
    let v2 = json("/openapi/v2");
    for schemas in [&v3["components"]["schemas"], &v2["definitions"]] {
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
        let finalizers =
            &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]["finalizers"];
        assert_eq!(finalizers["x-kubernetes-patch-strategy"], "merge");
        assert!(finalizers.get("x-kubernetes-patch-merge-key").is_none());
    }
}

#[test]
fn the_two_versions_write_types_differently() {
    let v3 = json("/openapi/v3/api/v1");
    let v2 = json("/openapi/v2");
    let (new, old) = (&v3["components"]["schemas"], &v2["definitions"]);

    let port = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
    assert_eq!(new[port]["oneOf"], serde_json::json!([{"type": "integer"}, {"type": "string"}]));
    assert_eq!((&old[port]["type"], &old[port]["format"]), (&"string".into(), &"int-or-string".into()));
    assert!(old[port].get("oneOf").is_none());

    let spec = |schemas: &Value| schemas["io.k8s.api.core.v1.Pod"]["properties"]["spec"].clone();
    assert_eq!(spec(new)["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert_eq!(spec(old)["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert!(spec(new)["description"].is_string() && spec(old)["description"].is_string());
    assert!(old["io.k8s.api.core.v1.Pod"].get("required").is_none());
}

#[test]
fn a_document_has_only_its_group_version() {
    let leases = json("/openapi/v3/apis/coordination.k8s.io/v1");
    assert!(leases["components"]["schemas"].get("io.k8s.api.core.v1.Pod").is_none());
    assert!(
        leases["paths"]
            .as_object()
            .unwrap()
            .keys()
            .all(|path| path.starts_with("/apis/coordination.k8s.io/v1/"))
    );
    let namespaces = json("/openapi/v3/api/v1");
    assert!(namespaces["paths"]["/api/v1/namespaces"].get("delete").is_none());
    assert_eq!(
        namespaces["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/log"]["get"]["x-kubernetes-action"],
        "connect"
    );
}

/// The values of field `number` in a message.
fn fields(mut message: &[u8], number: u32) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !message.is_empty() {
        if let (at, Wire::Bytes(bytes)) = wire::next(&mut message).unwrap()
            && at == number
        {
            found.push(bytes);
        }
    }
    found
}

/// The message in field 2 of the entry of field `number` whose field 1 is `name`.
fn entry<'b>(message: &'b [u8], number: u32, name: &str) -> &'b [u8] {
    let entries = fields(message, number);
    let found = entries.into_iter().find(|entry| fields(entry, 1) == [name.as_bytes()]);
    fields(found.unwrap_or_else(|| panic!("{name} is missing")), 2)[0]
}

#[test]
fn the_protobuf_document_says_the_same() {
    let document = get("/openapi/v2", V2_PROTOBUF);
    let body = document.body.as_slice();
    assert_eq!(fields(body, 1), [b"2.0"]);

    let definitions = fields(body, 9)[0];
    let pod = entry(definitions, 1, "io.k8s.api.core.v1.Pod");
    let kinds = entry(pod, 31, "x-kubernetes-group-version-kind");
    assert_eq!(fields(kinds, 2), [br#"[{"group":"","kind":"Pod","version":"v1"}]"#]);
    let spec = entry(fields(pod, 25)[0], 1, "spec");
    assert_eq!(fields(spec, 1), [b"#/definitions/io.k8s.api.core.v1.PodSpec"]);
    let labels = entry(
        fields(entry(definitions, 1, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"), 25)[0],
        1,
        "labels",
    );
    assert_eq!(fields(fields(fields(labels, 21)[0], 1)[0], 22), [b"\x0a\x06string"]);

    let item = entry(fields(body, 8)[0], 2, "/api/v1/namespaces/{namespace}/pods/{name}");
    let patch = fields(item, 8)[0];
    let names: Vec<&[u8]> = fields(patch, 8)
        .into_iter()
        .filter_map(|item| fields(fields(item, 1)[0], 2).first().map(|choice| fields(choice, 3)[0]))
        .flat_map(|query| fields(query, 4))
        .collect();
    assert!(names.contains(&&b"fieldValidation"[..]), "{names:?}");
    assert!(fields(patch, 7).contains(&&b"application/strategic-merge-patch+json"[..]));
}

#[test]
fn openapi_paths() {
    for (path, expected) in [
        ("/openapi/v2", true),
        ("/openapi/v3", true),
        ("/openapi/v3/api/v1", true),
        ("/openapi/v4", false),
        ("/openapi", false),
    ] {
        assert_eq!(is_openapi_path(path), expected, "{path}");
    }
}
