//! A Kubernetes client over reqwest, or over an API server in the same process.
//!
//! [`Client`] owns a [`Transport`]; [`Api`] is a typed view of one resource; [`watcher`] turns list and
//! watch into one stream that survives disconnects and 410 Gone; [`Informer`] keeps a cache from
//! it; [`WorkQueue`] carries keys, never payloads.
//!
//! The in-process transport has the same semantics as HTTPS (conflicts, watch, 410 Gone): it is the same
//! request and response values, without the sockets.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

/// A response body as it arrives.
pub type Body = BoxStream<'static, Result<Bytes, TransportError>>;

/// The request could not be carried to the server or its answer not back.
#[derive(Debug, thiserror::Error)]
#[error("sending {method} {path}")]
pub struct TransportError {
    /// HTTP method.
    pub method: http::Method,
    /// Path and query.
    pub path: String,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Carries API requests to a server. The URI of a request is path and query only.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends one request; resolves when the response's head is there.
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>>;
}
