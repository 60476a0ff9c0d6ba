//! Requests to the API server of the same process, without sockets: the same values as over HTTPS.

use std::sync::Arc;

use apiserver::{ApiServer, Body, Identity};
use bytes::Bytes;
use client::{Transport, TransportError};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};

/// Speaks to an API server as one identity.
#[derive(Debug)]
pub(crate) struct InProcess {
    server: Arc<ApiServer>,
    identity: Identity,
}

impl InProcess {
    pub(crate) fn new(server: Arc<ApiServer>, identity: Identity) -> Self {
        Self { server, identity }
    }

    /// A client that speaks as the identity.
    pub(crate) fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str]) -> client::Client {
        let identity = Identity::user(user, groups.iter().copied());
        client::Client::new(Arc::new(Self::new(Arc::clone(server), identity)))
    }
}

/// The program that upstream would run in the place of this part of ours: who owns the fields that it writes.
fn program(user: &str) -> &str {
    if user.starts_with("system:node:") { "kubelet" } else { user.strip_prefix("system:").unwrap_or(user) }
}

impl Transport for InProcess {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<client::Body>, TransportError>> {
        let (server, identity) = (Arc::clone(&self.server), self.identity.clone());
        let mut request = request;
        if let Ok(program) = HeaderValue::from_str(program(&identity.user)) {
            request.headers_mut().entry(USER_AGENT).or_insert(program);
        }
        Box::pin(async move {
            let (method, path) = (request.method().clone(), request.uri().to_string());
            let response = server.handle(request.map(Body::from), identity).await;
            Ok(response.map(|body| {
                body.into_stream()
                    .map_err(move |source| TransportError {
                        method: method.clone(),
                        path: path.clone(),
                        source,
                    })
                    .boxed()
            }))
        })
    }
}
