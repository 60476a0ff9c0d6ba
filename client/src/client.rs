//! Sends requests, reads bounded answers, and turns failure answers into [`Error`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use manifests::k8s_openapi;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::Api;
use crate::error::Error;
use crate::kubeconfig::{Kubeconfig, KubeconfigError};
use crate::object::Object;
use crate::request;
use crate::transport::{Body, Transport, TransportError, Upgraded};

/// A server answers ordinary requests within a minute or says that it could not.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);

/// A whole list may be long; more than this is a mistake on one of the two sides.
const BODY_LIMIT: usize = 256 << 20;

/// A handle to one API server; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    deadline: Duration,
    /// Added to paths, for servers behind a prefix.
    body_limit: usize,
}

impl Client {
    /// A client over a transport.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, deadline: REQUEST_DEADLINE, body_limit: BODY_LIMIT }
    }

    /// A client over HTTPS for the current context of a kubeconfig file.
    pub fn from_kubeconfig(path: impl AsRef<std::path::Path>) -> Result<Self, KubeconfigError> {
        Kubeconfig::from_file(path)?.client(None)
    }

    /// The same client with another deadline for requests that are not watches.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The transport underneath.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// All objects of a kind, or a cluster-scoped kind.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Object + k8s_openapi::Metadata<Ty = ObjectMeta>,
    {
        Api::all(self.clone())
    }

    /// The objects of a kind in one namespace.
    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Object
            + k8s_openapi::Metadata<Ty = ObjectMeta>
            + k8s_openapi::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.clone(), namespace)
    }

    /// Sends any request with a JSON answer. `path` is path and query.
    pub async fn request<B, T>(&self, method: Method, path: &str, body: Option<&B>) -> Result<T, Error>
    where
        B: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        let body = match body {
            Some(body) => {
                let encoded = serde_json::to_vec(body).map_err(|source| Error::Encode {
                    method: method.clone(),
                    path: path.to_owned(),
                    source,
                })?;
                Some(("application/json", Bytes::from(encoded)))
            }
            None => None,
        };
        self.json(request::build(method, path.to_owned(), "application/json", body)?).await
    }

    /// Sends a request and decodes its answer.
    pub async fn json<T: DeserializeOwned>(&self, request: Request<Bytes>) -> Result<T, Error> {
        let (method, path) = identify(&request);
        let body = self.bytes(request).await?;
        serde_json::from_slice(&body).map_err(|source| Error::Decode { method, path, source })
    }

    /// Sends a request and returns its whole answer.
    pub async fn bytes(&self, request: Request<Bytes>) -> Result<Bytes, Error> {
        let (method, path) = identify(&request);
        let answer = async {
            let response = self.transport.send(request).await?;
            let status = response.status();
            let body = self.read(&method, &path, response.into_body()).await?;
            if status.is_success() { Ok(body) } else { Err(failure(status, &body)) }
        };
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(Error::Timeout { method: method.clone(), path: path.clone(), after: self.deadline })
            }
        }
    }

    /// Sends a request whose answer goes on for as long as it likes; only its head has a deadline.
    pub async fn stream(&self, request: Request<Bytes>) -> Result<Response<Body>, Error> {
        let (method, path) = identify(&request);
        let head = async {
            let response = self.transport.send(request).await?;
            if response.status().is_success() {
                return Ok(response);
            }
            let status = response.status();
            let body = self.read(&method, &path, response.into_body()).await?;
            Err(failure(status, &body))
        };
        match tokio::time::timeout(self.deadline, head).await {
            Ok(head) => head,
            Err(_) => {
                Err(Error::Timeout { method: method.clone(), path: path.clone(), after: self.deadline })
            }
        }
    }

    /// Asks for another protocol, for exec, attach and port-forward.
    pub async fn upgrade(&self, request: Request<()>) -> Result<Upgraded, Error> {
        let (method, path) = (request.method().clone(), request.uri().to_string());
        match tokio::time::timeout(self.deadline, self.transport.upgrade(request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::Timeout { method, path, after: self.deadline }),
        }
    }

    async fn read(&self, method: &Method, path: &str, mut body: Body) -> Result<Bytes, Error> {
        let Some(first) = body.next().await.transpose()? else { return Ok(Bytes::new()) };
        // Most answers are one chunk: no copy then.
        let Some(second) = body.next().await.transpose()? else { return Ok(first) };
        let mut whole = BytesMut::with_capacity(first.len() + second.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        while let Some(chunk) = body.next().await.transpose()? {
            if whole.len() + chunk.len() > self.body_limit {
                return Err(Error::TooLarge {
                    method: method.clone(),
                    path: path.to_owned(),
                    limit: self.body_limit,
                });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

fn identify(request: &Request<Bytes>) -> (Method, String) {
    (request.method().clone(), request.uri().to_string())
}

/// A failure answer as an error. Proxies and half-started servers answer without a `Status`; they get one
/// that says what they said.
fn failure(code: StatusCode, body: &[u8]) -> Error {
    if let Ok(status) = serde_json::from_slice::<Status>(body)
        && (status.code.is_some() || status.reason.is_some() || status.message.is_some())
    {
        let code = status.code.or(Some(i32::from(code.as_u16())));
        return Error::Api(Box::new(Status { code, ..status }));
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    let text = text.trim();
    let message = if text.is_empty() { code.to_string() } else { format!("{code}: {text}") };
    let reason = match code {
        StatusCode::NOT_FOUND => Some("NotFound"),
        StatusCode::UNAUTHORIZED => Some("Unauthorized"),
        StatusCode::FORBIDDEN => Some("Forbidden"),
        StatusCode::GONE => Some("Gone"),
        StatusCode::TOO_MANY_REQUESTS => Some("TooManyRequests"),
        StatusCode::SERVICE_UNAVAILABLE => Some("ServiceUnavailable"),
        StatusCode::INTERNAL_SERVER_ERROR => Some("InternalError"),
        StatusCode::GATEWAY_TIMEOUT => Some("Timeout"),
        _ => None,
    };
    Error::Api(Box::new(Status {
        status: Some("Failure".to_owned()),
        code: Some(i32::from(code.as_u16())),
        reason: reason.map(str::to_owned),
        message: Some(message),
        ..Status::default()
    }))
}

impl TransportError {
    /// An error of a request that is known by its method and path.
    pub fn new(
        method: &Method,
        path: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { method: method.clone(), path: path.into(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_without_a_status_say_what_was_said() {
        let error = failure(StatusCode::BAD_GATEWAY, b"upstream is away\n");
        assert_eq!(error.to_string(), "502 Bad Gateway: upstream is away");
        assert!(failure(StatusCode::NOT_FOUND, b"").is_not_found());
        let status = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"a\" not found","reason":"NotFound","code":404}"#;
        let error = failure(StatusCode::NOT_FOUND, status);
        assert_eq!(error.to_string(), "pods \"a\" not found");
    }
}
