//! An API server for fuzzers: over the memory store, asked in process, with a few objects to change.

use std::sync::Arc;

use apiserver::{ApiServer, Body, Config, Identity};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tokio::runtime::Runtime;

/// The server and what it runs on.
pub struct Cluster {
    runtime: Runtime,
    server: Arc<ApiServer>,
}

const POD: &str = r#"{"metadata":{"name":"p","labels":{"a":"b"},"finalizers":["example.com/x"]},"spec":{"containers":[
    {"name":"a","image":"i","ports":[{"containerPort":80}],"env":[{"name":"A","value":"1"}]},{"name":"b","image":"j"}],
    "tolerations":[{"key":"k","operator":"Exists"}]}}"#;
const DEPLOYMENT: &str = r#"{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{
    "metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;

impl Cluster {
    fn start() -> Cluster {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let server = ApiServer::new(Arc::new(store::memory::MemoryStore::new()), Config::default());
        runtime.block_on(server.start()).expect("starts");
        let cluster = Cluster { runtime, server };
        for (path, body) in [
            ("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"default"}}"#),
            ("/api/v1/namespaces/default/pods", POD),
            ("/apis/apps/v1/namespaces/default/deployments", DEPLOYMENT),
        ] {
            assert_eq!(cluster.code("POST", path, "application/json", body.as_bytes()), Some(201), "{path}");
        }
        cluster
    }

    /// Does something with the one server of this thread.
    pub fn with<T>(work: impl FnOnce(&Cluster) -> T) -> T {
        thread_local!(static CLUSTER: Cluster = Cluster::start());
        CLUSTER.with(work)
    }

    /// Asks. The answer must not say that it is the server's fault.
    pub fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) {
        let _ = self.code(method, path, content_type, body);
    }

    fn code(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Option<u16> {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        // What is no URL does not get past the HTTP library.
        let request = request.body(Body::from(Bytes::copy_from_slice(body))).ok()?;
        let watches = path.contains("watch");
        self.runtime.block_on(async {
            let response = self.server.handle(request, Identity::admin()).await;
            let code = response.status().as_u16();
            if code >= 500 && !watches {
                let said =
                    response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let said = String::from_utf8_lossy(&said).into_owned();
                // Upstream has this one code for configurations that do not fit their type, and so have we.
                let as_upstream = [
                    "failed to create typed patch object",
                    "failed to create manager",
                    "failed to decode managed fields",
                ];
                assert!(
                    as_upstream.iter().any(|known| said.contains(known)),
                    "{method} {path}: {code} {said}"
                );
            }
            Some(code)
        })
    }
}
