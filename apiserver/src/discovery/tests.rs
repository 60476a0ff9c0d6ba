use super::*;
use manifests::kinds::{self, KINDS};
use serde_json::{Value, json};

fn read(path: &str, format: Format) -> Value {
    let document =
        document(path, format, KINDS, "10.0.0.1:6443").unwrap_or_else(|| panic!("{path} is missing"));
    assert_eq!(document.content_type, format.content_type());
    serde_json::from_slice(&document.body).unwrap()
}

#[test]
fn accept_headers() {
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let v2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    for (accept, expected) in [
        ("", Some(Format::Plain)),
        ("application/json", Some(Format::Plain)),
        ("application/json, */*", Some(Format::Plain)),
        ("*/*", Some(Format::Plain)),
        ("application/vnd.kubernetes.protobuf,application/json", Some(Format::Plain)),
        (&format!("{v2},{v2beta1},application/json"), Some(Format::V2)),
        (&format!("{v2};profile=nopeer,{v2},application/json"), Some(Format::V2)),
        (&format!("{v2beta1},application/json"), Some(Format::V2Beta1)),
        (
            "application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json",
            Some(Format::Plain),
        ),
        ("application/vnd.kubernetes.protobuf", None),
        ("text/html", None),
    ] {
        assert_eq!(Format::negotiate(accept), expected, "{accept}");
    }
}

#[test]
fn the_core_group() {
    assert_eq!(
        read("/api", Format::Plain),
        json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443"}],
        })
    );
    let resources = read("/api/v1", Format::Plain);
    assert_eq!(resources["groupVersion"], "v1");
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    let find =
        |name: &str| resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned();
    assert_eq!(
        find("pods"),
        Some(json!({
            "name": "pods",
            "singularName": "pod",
            "namespaced": true,
            "kind": "Pod",
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            "shortNames": ["po"],
            "categories": ["all"],
            // The value that clusters have shown for pods since hashes exist.
            "storageVersionHash": "xPOwRZ+Yhw8=",
        }))
    );
    assert_eq!(
        find("pods/eviction"),
        Some(json!({
            "name": "pods/eviction",
            "singularName": "",
            "namespaced": true,
            "group": "policy",
            "version": "v1",
            "kind": "Eviction",
            "verbs": ["create"],
        }))
    );
    let namespaces = find("namespaces").unwrap();
    assert_eq!(namespaces["namespaced"], false);
    assert!(!namespaces["verbs"].as_array().unwrap().contains(&json!("deletecollection")), "{namespaces}");
}

#[test]
fn named_groups() {
    let groups = read("/apis", Format::Plain);
    assert_eq!(
        groups["groups"][0],
        json!({
            "name": "apps",
            "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
            "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
        })
    );
    let apps = read("/apis/apps", Format::Plain);
    assert_eq!(
        (&apps["kind"], &apps["apiVersion"], &apps["name"]),
        (&json!("APIGroup"), &json!("v1"), &json!("apps"))
    );
    let list = read("/apis/apps/v1/", Format::Plain);
    assert_eq!((&list["apiVersion"], &list["groupVersion"]), (&json!("v1"), &json!("apps/v1")));
    for missing in ["/apis/nothing", "/apis/apps/v2", "/api/v2", "/apis/apps/v1/deployments", "/version"] {
        assert_eq!(document(missing, Format::Plain, KINDS, ""), None, "{missing}");
    }
}

#[test]
fn aggregated() {
    let core = read("/api", Format::V2);
    assert_eq!(
        (&core["kind"], &core["apiVersion"]),
        (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
    );
    assert_eq!(core["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(core["items"][0]["metadata"], json!({}));

    let named = read("/apis", Format::V2Beta1);
    assert_eq!(named["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    let apps = &named["items"][0];
    assert_eq!(apps["metadata"]["name"], "apps");
    let resources = apps["versions"][0]["resources"].as_array().unwrap();
    assert_eq!(
        *resources.iter().find(|resource| resource["resource"] == "deployments").unwrap(),
        json!({
            "resource": "deployments",
            "responseKind": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "scope": "Namespaced",
            "singularResource": "deployment",
            "verbs": kinds::VERBS,
            "shortNames": ["deploy"],
            "categories": ["all"],
            "subresources": [
                {
                    "subresource": "scale",
                    "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
                    "verbs": ["get", "patch", "update"],
                },
                {
                    "subresource": "status",
                    "responseKind": {"group": "apps", "version": "v1", "kind": "Deployment"},
                    "verbs": ["get", "patch", "update"],
                },
            ],
        })
    );
}

#[test]
fn etags_follow_the_content() {
    let etag = |kinds: &[&Kind]| document("/apis", Format::V2, kinds, "a").and_then(|document| document.etag);
    assert_eq!(etag(KINDS), etag(KINDS));
    assert_ne!(etag(KINDS), etag(&KINDS[1..KINDS.len() - 1]));
    assert!(etag(KINDS).is_some_and(|etag| etag.starts_with('"') && etag.ends_with('"') && etag.len() == 66));
}

#[test]
fn discovery_paths() {
    for (path, expected) in [
        ("/api", true),
        ("/api/v1", true),
        ("/api/v1/pods", false),
        ("/apis/", true),
        ("/apis/apps", true),
        ("/apis/apps/v1", true),
        ("/apis/apps/v1/deployments", false),
        ("/openapi/v2", false),
    ] {
        assert_eq!(is_discovery_path(path), expected, "{path}");
    }
}
