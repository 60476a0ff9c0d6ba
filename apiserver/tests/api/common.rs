//! A server for a test, and short ways to ask it.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Body, Config, Identity};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use store::memory::MemoryStore;

pub(crate) struct Cluster {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) store: Arc<MemoryStore>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    /// The body of an answer that must have this code.
    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{:#}", self.body);
        self.body
    }

    /// The message of a refusal with this code and reason.
    #[track_caller]
    pub(crate) fn refused(self, code: u16, reason: &str) -> String {
        assert_eq!((self.code, self.body["reason"].as_str()), (code, Some(reason)), "{:#}", self.body);
        self.body["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        Cluster::over(Arc::new(MemoryStore::new())).await
    }

    /// One more server over the same store.
    pub(crate) async fn over(store: Arc<MemoryStore>) -> Cluster {
        let server = ApiServer::new(store.clone(), Config::default());
        server.start().await.expect("starts");
        let cluster = Cluster { server, store };
        for namespace in ["default", "kube-system"] {
            cluster.account(namespace).await;
        }
        cluster
    }

    /// Makes a namespace's account, as a controller would.
    pub(crate) async fn account(&self, namespace: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let made = self.post(&path, serde_json::json!({"metadata": {"name": "default"}})).await;
        assert!([201, 409].contains(&made.code), "{made:?}");
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.server.handle(request, Identity::admin()).await
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(Body::from(body.into()))
            .expect("a request");
        answer(self.send(request).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, "", "").await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: Value) -> Answer {
        self.ask(Method::DELETE, path, "application/json", options.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        self.ask(Method::PATCH, path, &format!("application/{kind}-patch+json"), body.to_string()).await
    }

    pub(crate) async fn watch(&self, path: &str) -> Events {
        let response = self.send(Request::builder().uri(path).body(Body::empty()).expect("a request")).await;
        assert_eq!(response.status(), 200);
        Events::of(response)
    }
}

pub(crate) async fn answer(response: Response<Body>) -> Answer {
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning");
    let warnings =
        warnings.iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
    Answer { code, body, warnings }
}

/// The events of a watch.
pub(crate) struct Events {
    stream: BoxStream<'static, Result<Bytes, apiserver::BodyError>>,
    buffer: Vec<u8>,
}

impl Events {
    pub(crate) fn of(response: Response<Body>) -> Events {
        Events { stream: response.into_body().into_stream(), buffer: Vec::new() }
    }

    /// The next event; `None` at the end of the watch.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        self.next_within(10).await
    }

    pub(crate) async fn next_within(&mut self, seconds: u64) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).expect("an event");
                return Some((event["type"].as_str().expect("a type").to_owned(), event["object"].clone()));
            }
            let chunk = tokio::time::timeout(Duration::from_secs(seconds), self.stream.next())
                .await
                .expect("an event in time");
            self.buffer.extend_from_slice(&chunk?.expect("unbroken"));
        }
    }

    /// The type and name of the next event.
    pub(crate) async fn named(&mut self) -> (String, String) {
        let (kind, object) = self.next().await.expect("one more event");
        (kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }

    /// That nothing comes for a while.
    pub(crate) async fn quiet(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(50), self.stream.next()).await;
        assert!(next.is_err(), "{next:?}");
    }
}

/// A ConfigMap.
pub(crate) fn config_map(name: &str, labels: Value) -> Value {
    serde_json::json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"labels":labels},"data":{"k":"v"}})
}

pub(crate) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
