//! An API server that fits in a test: any object under its path, versions, conflicts; no watch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::transport::{Body, Transport, TransportError};

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    failures: u32,
}

#[derive(Default)]
pub(crate) struct Fake(Mutex<State>);

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The next requests do not arrive.
    pub(crate) fn fail_next(&self, requests: u32) {
        self.0.lock().unwrap().failures = requests;
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().objects.clear();
    }
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}))
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

impl State {
    fn store(&mut self, path: String, mut object: Value) -> (u16, Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        (200, object)
    }

    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let existing = self.objects.get(path).cloned();
        match (method.as_str(), existing) {
            ("POST", _) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return status(409, "AlreadyExists");
                }
                self.store(path, body)
            }
            ("GET", None) if path.rsplit('/').next().is_some_and(|last| last.ends_with('s')) => {
                let prefix = format!("{path}/");
                let items: Vec<&Value> = self
                    .objects
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix))
                    .map(|(_, object)| object)
                    .collect();
                (200, json!({"metadata": {"resourceVersion": self.version.to_string()}, "items": items}))
            }
            (_, None) => status(404, "NotFound"),
            ("GET", Some(object)) => (200, object),
            ("PUT", Some(object)) => {
                let based_on = &body["metadata"]["resourceVersion"];
                if !based_on.is_null() && *based_on != object["metadata"]["resourceVersion"] {
                    return status(409, "Conflict");
                }
                self.store(path.to_owned(), body)
            }
            ("PATCH", Some(mut object)) => {
                merge(&mut object, &body);
                self.store(path.to_owned(), object)
            }
            ("DELETE", Some(_)) => {
                self.objects.remove(path);
                (200, json!({"kind": "Status", "status": "Success"}))
            }
            _ => status(405, "MethodNotAllowed"),
        }
    }
}

impl Transport for Fake {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let mut state = self.0.lock().unwrap();
        if state.failures > 0 {
            state.failures -= 1;
            let error =
                TransportError::new(request.method(), request.uri().to_string(), "connection refused");
            return async move { Err(error) }.boxed();
        }
        let (code, value) = state.answer(request.method(), request.uri().path(), request.body());
        let chunks = stream::iter([Ok(Bytes::from(value.to_string()))]).boxed();
        let response = Response::builder().status(code).body(chunks).unwrap();
        async move { Ok(response) }.boxed()
    }
}
