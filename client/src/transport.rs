//! The seam between requests as values and whatever carries them.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

/// A response body as it arrives.
pub type Body = BoxStream<'static, Result<Bytes, TransportError>>;

/// A connection that has left HTTP behind, for exec, attach and port-forward.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The answer to a request with an `Upgrade` header.
pub enum Upgraded {
    /// 101 Switching Protocols: the connection now belongs to the caller.
    Switched(http::response::Parts, Box<dyn Duplex>),
    /// Any other status; the body usually holds a `Status`.
    Refused(http::Response<Body>),
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switched(head, _) => f.debug_tuple("Switched").field(&head.status).finish(),
            Self::Refused(response) => f.debug_tuple("Refused").field(&response.status()).finish(),
        }
    }
}

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

    /// Sends a request that asks for another protocol, over a connection of its own.
    fn upgrade(&self, request: http::Request<()>) -> BoxFuture<'static, Result<Upgraded, TransportError>> {
        let error = TransportError {
            method: request.method().clone(),
            path: request.uri().to_string(),
            source: "this transport cannot switch protocols".into(),
        };
        Box::pin(async move { Err(error) })
    }
}
