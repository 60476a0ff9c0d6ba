//! Garbage: requests that were right once, changed at random. Whatever comes of it, the answer says that the client was
//! wrong, or is right; no handler panics, and nothing is the server's fault.
//!
//! The random numbers are the same every time; `CORACLE_GARBAGE=SEED` tries others.

use http::Method;
use serde_json::json;

use crate::common::{Cluster, MAPS};

const ROUNDS: usize = 6000;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound.max(1)
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Pieces that mean something to one of the decoders.
const PIECES: [&str; 44] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "0.5",
    "\\u0000",
    "\\ud800",
    "$patch",
    "$setElementOrder/containers",
    "$retainKeys",
    "$deleteFromPrimitiveList/finalizers",
    "replace",
    "delete",
    "metadata",
    "managedFields",
    "f:spec",
    "k:{\"name\":\"a\"}",
    "v:1",
    "i:0",
    "name",
    "namespace",
    "labels",
    "resourceVersion",
    "/metadata/name",
    "/spec/containers/-",
    "~1",
    "&a",
    "*a",
    "<<",
    "- ",
    "!!binary",
    "in (",
    "notin",
    "!=",
    "é",
    "\u{0}",
];

fn mutate(dice: &mut Dice, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(5) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(7) {
            0 if !bytes.is_empty() => {
                let at = dice.below(bytes.len());
                bytes[at] ^= 1 << dice.below(8);
            }
            1 => bytes.truncate(at),
            2 => {
                let end = (at + dice.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + dice.below(60)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = dice.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            4 => {
                let from = dice.below(other.len());
                let end = (from + dice.below(60)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            5 => bytes.insert(at, u8::try_from(dice.below(256)).unwrap()),
            _ => {
                let piece = dice.pick(&PIECES).as_bytes();
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

fn pod() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["example.com/x"]},
        "spec": {
            "containers": [
                {"name": "a", "image": "i", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}],
                 "resources": {"limits": {"memory": "1Gi", "cpu": "500m"}}},
                {"name": "b", "image": "j"},
            ],
            "tolerations": [{"key": "k", "operator": "Exists"}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// Method, path, content type and body of requests that are right.
fn seeds() -> Vec<(Method, String, &'static str, Vec<u8>)> {
    let pods = "/api/v1/namespaces/default/pods";
    let one = format!("{pods}/p");
    let (json, yaml) = ("application/json", "application/yaml");
    let apply = "application/apply-patch+yaml";
    let yaml_pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: &l {a: b}}\nspec:\n  containers:\n  - name: a\n    image: i\n    env: [{name: A, value: '1'}]\n";
    let mut protobuf = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
    let map = b"\x0a\x05\x0a\x03map\x12\x06\x0a\x01k\x12\x01v";
    protobuf.push(u8::try_from(map.len()).unwrap());
    protobuf.extend(map);
    protobuf.extend(b"\x1a\0\x22\0");
    let patch = |kind: &'static str, body: serde_json::Value| {
        (Method::PATCH, one.clone(), kind, body.to_string().into_bytes())
    };
    vec![
        (Method::POST, pods.to_owned(), json, pod().to_string().into_bytes()),
        (Method::POST, pods.to_owned(), yaml, yaml_pod.into()),
        (Method::POST, MAPS.to_owned(), "application/vnd.kubernetes.protobuf", protobuf),
        (Method::PUT, one.clone(), json, pod().to_string().into_bytes()),
        patch(
            "application/strategic-merge-patch+json",
            json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}, {"name": "c", "image": "k"}],
                            "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]},
                   "metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/x"]}}),
        ),
        patch("application/merge-patch+json", json!({"metadata": {"labels": {"a": null, "c": "d"}}, "status": {"phase": "Failed"}})),
        patch(
            "application/json-patch+json",
            json!([{"op": "test", "path": "/metadata/name", "value": "p"},
                   {"op": "add", "path": "/metadata/labels/x~1y", "value": "z"},
                   {"op": "copy", "from": "/spec/containers/0", "path": "/spec/containers/-"},
                   {"op": "move", "from": "/metadata/labels/a", "path": "/metadata/labels/b"},
                   {"op": "remove", "path": "/spec/tolerations/0"}]),
        ),
        (Method::PATCH, format!("{one}?fieldManager=m&force=true"), apply, yaml_pod.into()),
        (Method::PATCH, format!("{one}/status?fieldManager=s"), apply, yaml_pod.into()),
        (Method::DELETE, one.clone(), json, br#"{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"x"},"propagationPolicy":"Orphan","dryRun":["All"]}"#.to_vec()),
        (Method::POST, format!("{one}/binding"), json, br#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#.to_vec()),
        (Method::POST, format!("{one}/eviction"), json, br#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}"#.to_vec()),
        (Method::POST, "/api/v1/namespaces/default/services".to_owned(), json, br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"selector":{"a":"b"},"ports":[{"port":80,"targetPort":"http"}]}}"#.to_vec()),
        (Method::POST, "/apis/apps/v1/namespaces/default/deployments".to_owned(), json, br#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}},"strategy":{"rollingUpdate":{"maxSurge":"25%"}}}}"#.to_vec()),
    ]
}

/// Queries of lists and watches.
const QUERIES: [&str; 8] = [
    "labelSelector=a%3Db%2Cc%20in%20%28d%2Ce%29%2C%21f%2Cg%20notin%20%28h%29",
    "fieldSelector=metadata.name%3Dp%2Cspec.nodeName%21%3Dn",
    "limit=2&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJkZWZhdWx0L3AifQ",
    "resourceVersion=3&resourceVersionMatch=NotOlderThan",
    "resourceVersion=2&resourceVersionMatch=Exact&limit=1",
    "watch=1&timeoutSeconds=0&resourceVersion=1&allowWatchBookmarks=true",
    "sendInitialEvents=true&watch=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=0",
    "pretty=true&includeObject=Metadata&fieldValidation=Strict&dryRun=All",
];

#[track_caller]
fn judge(code: u16, said: &str, what: &str) {
    // Upstream has this one code for configurations that do not fit their type, and so have we.
    let as_upstream = said.contains("failed to create typed patch object")
        || said.contains("failed to create manager")
        || said.contains("failed to decode managed fields");
    assert!(code < 500 || as_upstream, "{code} {said}\nfor {what}");
}

#[tokio::test]
async fn the_answer_to_garbage_is_that_it_is_garbage() {
    let seed = std::env::var("CORACLE_GARBAGE").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let cluster = Cluster::start().await;
    let seeds = seeds();
    let mut codes = std::collections::BTreeMap::new();
    for round in 0..ROUNDS {
        if round % 50 == 0 {
            // Something to change, whatever has become of the last one.
            cluster.post("/api/v1/namespaces/default/pods", pod()).await;
        }
        let (method, path, kind, body) = dice.pick(&seeds).clone();
        let other = &dice.pick(&seeds).3;
        let garbage = mutate(&mut dice, &body, other);
        let answer = cluster.ask(method.clone(), &path, kind, garbage.clone()).await;
        *codes.entry(answer.code).or_insert(0) += 1;
        judge(
            answer.code,
            &answer.body.to_string(),
            &format!("{method} {path} {kind}\n{}", String::from_utf8_lossy(&garbage)),
        );
        if answer.code >= 400 {
            assert_eq!(answer.body["kind"], "Status", "{}", answer.body);
        }
    }
    assert!(codes.len() > 4, "{codes:?}");
}

#[tokio::test]
async fn the_answer_to_a_garbled_query_is_that_it_is_wrong() {
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let cluster = Cluster::start().await;
    for _ in 0..ROUNDS {
        let query = dice.pick(&QUERIES);
        let other = dice.pick(&QUERIES);
        let garbled = mutate(&mut dice, query.as_bytes(), other.as_bytes());
        // What is no URL does not get past the HTTP library.
        let garbled: String = garbled
            .iter()
            .map(|byte| match byte {
                b'!'..=b'~' if !b"\"<>\\^`{|}#".contains(byte) => char::from(*byte).to_string(),
                byte => format!("%{byte:02x}"),
            })
            .collect();
        for path in ["/api/v1/pods", "/api/v1/namespaces/default/configmaps", "/apis/apps/v1/deployments/x"] {
            let path = format!("{path}?{garbled}");
            let Ok(request) = http::Request::builder().uri(&path).body(apiserver::Body::empty()) else {
                continue;
            };
            let response = cluster.send(request).await;
            let code = response.status().as_u16();
            judge(code, "", &path);
        }
    }
}
