//! Answers as tables, as metadata only, as YAML, compressed.

use apiserver::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::common::*;

async fn get_as(cluster: &Cluster, path: &str, accept: &str) -> Response<Body> {
    cluster.send(Request::builder().uri(path).header("accept", accept).body(Body::empty()).unwrap()).await
}

async fn json_as(cluster: &Cluster, path: &str, accept: &str) -> Value {
    answer(get_as(cluster, path, accept).await).await.expect(200)
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn tables() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.post(MAPS, config_map(name, json!({}))).await.expect(201);
    }
    let list = json_as(&cluster, MAPS, TABLE).await;
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(list["columnDefinitions"][0]["name"], "Name");
    assert_eq!((&list["rows"][1]["cells"][0], &list["rows"][1]["cells"][1]), (&json!("b"), &json!(1)));
    assert_eq!(list["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let one = json_as(&cluster, &format!("{MAPS}/a?includeObject=Object"), TABLE).await;
    assert_eq!(one["rows"][0]["object"]["kind"], "ConfigMap");
    assert_eq!(version(&one), version(&one["rows"][0]["object"]));
    let page = json_as(&cluster, &format!("{MAPS}?limit=1"), TABLE).await;
    assert!(page["metadata"]["continue"].is_string());
    assert_eq!(page["metadata"]["remainingItemCount"], 1);

    let response = get_as(&cluster, &format!("{MAPS}?watch=1&resourceVersion=0"), TABLE).await;
    let mut events = Events::of(response);
    let (kind, first) = events.next().await.unwrap();
    assert_eq!(
        (kind.as_str(), &first["kind"], &first["rows"][0]["cells"][0]),
        ("ADDED", &json!("Table"), &json!("a"))
    );
    assert!(!first["columnDefinitions"].as_array().unwrap().is_empty());
    let (_, second) = events.next().await.unwrap();
    assert_eq!(second["columnDefinitions"], json!([]));
    cluster.delete(&format!("{MAPS}/a")).await.expect(200);
    let (kind, last) = events.next().await.unwrap();
    assert_eq!((kind.as_str(), &last["rows"][0]["cells"][0]), ("DELETED", &json!("a")));
}

#[tokio::test]
async fn the_table_of_a_scale() {
    let cluster = Cluster::start().await;
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "x"}]},
            },
        },
    });
    let path = "/apis/apps/v1/namespaces/default/deployments";
    cluster.post(path, deployment).await.expect(201);
    let table = json_as(&cluster, &format!("{path}/web/scale"), TABLE).await;
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    assert_eq!(columns, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("web"), json!(3), json!(0)]);
}

#[tokio::test]
async fn metadata_only() {
    let cluster = Cluster::start().await;
    let object = cluster.post(MAPS, config_map("a", json!({"x": "y"}))).await.expect(201);
    let one = json_as(&cluster, &format!("{MAPS}/a"), METADATA).await;
    assert_eq!(
        one,
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    );
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = json_as(&cluster, MAPS, accept).await;
    assert_eq!((&list["kind"], &list["items"][0]), (&json!("PartialObjectMetadataList"), &one));
    let mut events = Events::of(get_as(&cluster, &format!("{MAPS}?watch=1"), METADATA).await);
    assert_eq!(events.next().await, Some(("ADDED".to_owned(), one)));
}

#[tokio::test]
async fn other_media_types() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let response = get_as(&cluster, &format!("{MAPS}/a"), "application/yaml").await;
    assert_eq!(response.headers()["content-type"], "application/yaml");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"apiVersion: v1\ndata:\n  k: v\nkind: ConfigMap\n"), "{text:?}");
    let refused = answer(get_as(&cluster, MAPS, "application/xml").await).await;
    refused.refused(406, "NotAcceptable");
    json_as(&cluster, MAPS, "application/xml,application/json").await;
    let pretty = get_as(&cluster, &format!("{MAPS}/a?pretty=true"), "").await;
    let text = pretty.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"{\n  \"apiVersion\""), "{text:?}");
}

#[tokio::test]
async fn large_answers_are_compressed() {
    let cluster = Cluster::start().await;
    for n in 0..8 {
        let mut object = config_map(&format!("m{n}"), json!({}));
        object["data"]["k"] = "abcdefgh".repeat(8 << 10).into();
        cluster.post(MAPS, object).await.expect(201);
    }
    let request = Request::builder().uri(MAPS).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
    let response = cluster.send(request).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.len() < 50_000, "{}", bytes.len());
    let plain = cluster.send(Request::builder().uri(MAPS).body(Body::empty()).unwrap()).await;
    assert!(plain.headers().get("content-encoding").is_none());
    assert_eq!(plain.into_body().collect().await.unwrap().to_bytes().len().to_string().len(), 6);
}

#[tokio::test]
async fn documents_are_kept_by_their_tags() {
    let cluster = Cluster::start().await;
    let index = json_as(&cluster, "/openapi/v3", "application/json").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    for (path, cache) in
        [(url, "public, immutable, max-age=31536000"), ("/openapi/v3/api/v1", "no-cache, public")]
    {
        let response = get_as(&cluster, path, "application/json").await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["cache-control"]),
            (200, &cache.parse().unwrap())
        );
        let tag = response.headers()["etag"].clone();
        let again = Request::builder().uri(path).header("if-none-match", &tag).body(Body::empty()).unwrap();
        let again = cluster.send(again).await;
        assert_eq!((again.status().as_u16(), &again.headers()["etag"]), (304, &tag));
        assert!(again.into_body().collect().await.unwrap().to_bytes().is_empty());
    }

    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let response = get_as(&cluster, "/openapi/v2", protobuf).await;
    // As clients can parse it, which is not as they ask for it.
    let named = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!(response.headers()["content-type"], named);
    answer(get_as(&cluster, "/openapi/v3/api/v1", protobuf).await).await.refused(406, "NotAcceptable");
    cluster.get("/openapi/v3/apis/none/v1").await.refused(404, "NotFound");
}

#[tokio::test]
async fn answers_that_are_no_objects_have_no_rows() {
    let cluster = Cluster::start().await;
    let review = |accept: &'static str| {
        let body = json!({"spec": {"nonResourceAttributes": {"path": "/x", "verb": "get"}}}).to_string();
        let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
        let request = request.header("content-type", "application/json").header("accept", accept);
        cluster.send(request.body(Body::from(bytes::Bytes::from(body))).unwrap())
    };
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    answer(review(table).await).await.refused(406, "NotAcceptable");
    assert_eq!(answer(review(TABLE).await).await.expect(201)["kind"], "SelfSubjectAccessReview");
}
