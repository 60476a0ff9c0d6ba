//! Answers as protobuf, beside the same answers as JSON.

use std::time::Duration;

use apiserver::Body;
use apiserver::protobuf::to_json;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::common::*;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What typed Go clients send.
const ACCEPT: &str = "application/vnd.kubernetes.protobuf,application/json";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

async fn ask(cluster: &Cluster, method: Method, path: &str, accept: &str, body: Value) -> Response<Body> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header("accept", accept);
    cluster.send(request.header("content-type", "application/json").body(body).unwrap()).await
}

async fn get(cluster: &Cluster, path: &str, accept: &str) -> Response<Body> {
    ask(cluster, Method::GET, path, accept, Value::Null).await
}

/// The code and the bytes of an answer in protobuf.
async fn bytes(response: Response<Body>) -> (u16, Bytes) {
    assert_eq!(response.headers()["content-type"], PROTOBUF);
    let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes.len(), length);
    (code, bytes)
}

/// The code and the object of an answer in protobuf.
async fn object(response: Response<Body>) -> (u16, Value) {
    let (code, bytes) = bytes(response).await;
    (code, to_json(&bytes, ("", "")).unwrap())
}

/// The next field of a message of fields with lengths: its number and bytes.
fn field<'b>(bytes: &mut &'b [u8]) -> Option<(u8, &'b [u8])> {
    let (tag, rest) = bytes.split_first()?;
    *bytes = rest;
    if tag & 7 == 0 {
        varint(bytes);
        return Some((tag >> 3, &[]));
    }
    assert_eq!(tag & 7, 2);
    let length = varint(bytes);
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    Some((tag >> 3, taken))
}

fn varint(bytes: &mut &[u8]) -> usize {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    std::iter::from_fn(|| field(&mut bytes)).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A document around a message.
fn document(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let put = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
        out
    };
    let meta = [put(1, api_version.as_bytes()), put(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), put(1, &meta), put(2, raw)].concat()
}

/// A list: its kind, resourceVersion, continue token, and items.
fn list(bytes: &[u8], kind: (&str, &str)) -> (String, String, String, Vec<Value>) {
    let unknown = fields(bytes.strip_prefix(b"k8s\0").unwrap());
    assert_eq!(unknown.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let type_meta = fields(unknown[0].1);
    let name = format!("{}.{}", text(type_meta[0].1), text(type_meta[1].1));
    let parts = fields(unknown[1].1);
    let metadata = fields(parts[0].1);
    let items = parts[1..].iter().map(|(number, item)| {
        assert_eq!(*number, 2);
        to_json(&document(kind.0, kind.1, item), ("", "")).unwrap()
    });
    (name, text(metadata[1].1).to_owned(), text(metadata[2].1).to_owned(), items.collect())
}

/// Events in protobuf.
struct Frames {
    stream: BoxStream<'static, Result<Bytes, apiserver::BodyError>>,
    buffer: Vec<u8>,
}

impl Frames {
    async fn of(cluster: &Cluster, path: &str, accept: &str) -> Frames {
        let response = get(cluster, path, accept).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], format!("{PROTOBUF};stream=watch"));
        Frames { stream: response.into_body().into_stream(), buffer: Vec::new() }
    }

    /// The next event: its bytes, its type, and its object.
    async fn next(&mut self) -> (Vec<u8>, String, Value) {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let end = 4 + u32::from_be_bytes(*length) as usize;
                if self.buffer.len() >= end {
                    let frame: Vec<u8> = self.buffer.drain(..end).collect();
                    let event = fields(&frame[4..]);
                    assert_eq!((event.len(), event[0].0, event[1].0), (2, 1, 2));
                    let raw = fields(event[1].1);
                    assert_eq!((raw.len(), raw[0].0), (1, 1));
                    let (kind, object) = (text(event[0].1).to_owned(), to_json(raw[0].1, ("", "")).unwrap());
                    return (frame, kind, object);
                }
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.stream.next());
            let chunk = chunk.await.expect("an event in time").expect("one more event").expect("unbroken");
            self.buffer.extend_from_slice(&chunk);
        }
    }
}

#[tokio::test]
async fn objects_and_lists() {
    let cluster = Cluster::start().await;
    let (code, made) =
        object(ask(&cluster, Method::POST, MAPS, ACCEPT, config_map("a", json!({}))).await).await;
    assert_eq!((code, &made), (201, &cluster.get(&format!("{MAPS}/a")).await.expect(200)));
    for name in ["b", "c"] {
        cluster.post(MAPS, config_map(name, json!({"l": name}))).await.expect(201);
    }
    let (code, one) = object(get(&cluster, &format!("{MAPS}/a"), ACCEPT).await).await;
    assert_eq!((code, one), (200, made));

    for path in [MAPS.to_owned(), format!("{MAPS}?limit=2"), format!("{MAPS}?labelSelector=l%3Db")] {
        let json = cluster.get(&path).await.expect(200);
        // The first time they are encoded, the second time they are there.
        for _ in 0..2 {
            let (_, answer) = bytes(get(&cluster, &path, ACCEPT).await).await;
            let (kind, revision, token, items) = list(&answer, ("v1", "ConfigMap"));
            assert_eq!(kind, "v1.ConfigMapList");
            assert_eq!(json["metadata"]["resourceVersion"], revision);
            assert_eq!(
                json["metadata"]["continue"].as_str().unwrap_or_default().is_empty(),
                token.is_empty()
            );
            let expected: Vec<Value> = json["items"].as_array().unwrap().iter().map(typed).collect();
            assert_eq!(items, expected);
        }
    }
    fn typed(item: &Value) -> Value {
        let mut item = item.clone();
        item["apiVersion"] = json!("v1");
        item["kind"] = json!("ConfigMap");
        item
    }
    // A list that is longer than what is written at a time.
    for name in 0..40 {
        let mut map = config_map(&format!("long-{name:02}"), json!({}));
        map["data"]["k"] = "x".repeat(5000).into();
        cluster.post(MAPS, map).await.expect(201);
    }
    let (_, answer) = bytes(get(&cluster, MAPS, ACCEPT).await).await;
    assert_eq!(list(&answer, ("v1", "ConfigMap")).3.len(), 43);
    let (_, nothing) = bytes(get(&cluster, "/api/v1/namespaces/none/configmaps", ACCEPT).await).await;
    assert!(list(&nothing, ("v1", "ConfigMap")).3.is_empty());
}

#[tokio::test]
async fn metadata_alone() {
    let cluster = Cluster::start().await;
    let made = cluster.post(MAPS, config_map("a", json!({"l": "1"}))).await.expect(201);
    let expected = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": made["metadata"]});
    let (_, one) = object(get(&cluster, &format!("{MAPS}/a"), METADATA).await).await;
    assert_eq!(one, expected);
    let (_, all) = bytes(get(&cluster, MAPS, METADATA).await).await;
    let (kind, _, _, items) = list(&all, ("meta.k8s.io/v1", "PartialObjectMetadata"));
    assert_eq!((kind.as_str(), items), ("meta.k8s.io/v1.PartialObjectMetadataList", vec![expected.clone()]));
    let mut frames = Frames::of(&cluster, &format!("{MAPS}?watch=1&resourceVersion=0"), METADATA).await;
    let (_, kind, object) = frames.next().await;
    assert_eq!((kind.as_str(), object), ("ADDED", expected));
}

#[tokio::test]
async fn other_looks_at_objects() {
    let cluster = Cluster::start().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "R",
        "message": "m", "source": {"component": "c"}, "firstTimestamp": "2024-01-01T00:00:00Z", "count": 3});
    cluster.post("/api/v1/namespaces/default/events", event).await.expect(201);
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let expected = cluster.get(&format!("{path}/e")).await.expect(200);
    assert_eq!(object(get(&cluster, &format!("{path}/e"), ACCEPT).await).await.1, expected);
    let (_, all) = bytes(get(&cluster, path, ACCEPT).await).await;
    assert_eq!(list(&all, ("events.k8s.io/v1", "Event")).3, [expected]);
}

#[tokio::test]
async fn events() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, config_map("a", json!({"l": "1"}))).await.expect(201);
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&labelSelector=l%3D1"
    );
    let (mut ours, mut same) =
        (Frames::of(&cluster, &path, ACCEPT).await, Frames::of(&cluster, &path, ACCEPT).await);
    let mut json = cluster.watch(&path).await;
    let mut check = async |expected: &str| {
        let (bytes, kind, object) = ours.next().await;
        let (json_kind, mut json_object) = json.next().await.unwrap();
        // Zero times are left out.
        if json_object["metadata"]["creationTimestamp"].is_null() {
            json_object["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
        }
        assert_eq!((kind.as_str(), json_kind.as_str()), (expected, expected));
        assert_eq!(object, json_object);
        assert_eq!(same.next().await.0, bytes);
    };
    check("ADDED").await;
    check("BOOKMARK").await;
    let one = format!("{MAPS}/a");
    cluster.patch(&one, "merge", json!({"data": {"k": "w"}})).await.expect(200);
    check("MODIFIED").await;
    // Out of what is watched, and in again.
    cluster.patch(&one, "merge", json!({"metadata": {"labels": {"l": "2"}}})).await.expect(200);
    check("DELETED").await;
    cluster.patch(&one, "merge", json!({"metadata": {"labels": {"l": "1"}}})).await.expect(200);
    check("ADDED").await;
    cluster.delete(&one).await.expect(200);
    check("DELETED").await;
}

#[tokio::test]
async fn refusals_and_what_comes_back_of_subresources() {
    let cluster = Cluster::start().await;
    let (code, status) = object(get(&cluster, &format!("{MAPS}/none"), ACCEPT).await).await;
    assert_eq!((code, &status["kind"], &status["reason"]), (404, &json!("Status"), &json!("NotFound")));
    assert_eq!(status, {
        let mut expected = cluster.get(&format!("{MAPS}/none")).await.expect(404);
        expected["metadata"] = json!({});
        expected
    });
    cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let (code, status) =
        object(ask(&cluster, Method::DELETE, &format!("{MAPS}/a"), ACCEPT, Value::Null).await).await;
    assert_eq!((code, &status["status"]), (200, &json!("Success")));
    let (code, review) = object(
        ask(
            &cluster,
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            ACCEPT,
            json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
        )
        .await,
    )
    .await;
    assert_eq!((code, &review["status"]["allowed"]), (201, &json!(true)));
    let token = json!({"spec": {"audiences": ["a"]}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, token) = object(ask(&cluster, Method::POST, path, ACCEPT, token).await).await;
    assert_eq!(
        (code, &token["kind"], token["status"]["token"].is_string()),
        (201, &json!("TokenRequest"), true)
    );

    // What only protobuf could not be written as is refused.
    let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
    assert_eq!(get(&cluster, MAPS, table).await.status(), 406);
}
