//! Logs, exec, attach, port-forward and proxies: the server authorises, the agent of the pod's node answers, or connects to the pod.
//!
//! ```text
//! client ──▶ API server ──TLS, own certificate──▶ agent :10250
//!        ◀──────────── answer, or 101 ◀──────────
//!        ◀═══════ bytes, untouched, both ways ══▶   after an upgrade (WebSocket, SPDY)
//! ```

mod destination;
mod proxy;
mod target;

use std::net::{IpAddr, SocketAddr};

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::status::ApiError;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) use self::target::{Stream, agent_address};

use crate::body::Body;
use crate::error::Error;
use crate::handlers::{Call, Reply};
use crate::metrics::Counted;
use crate::server::ApiServer;

/// An agent that cannot be reached within this is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// What an agent says about a failure is not longer than this.
const LONGEST_REFUSAL: usize = 64 << 10;

/// An agent did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("no client certificate is configured")]
    NoIdentity,
    #[error("the certificate of a node named {node:?} cannot be asked for")]
    Name { node: String, source: rustls_pki_types::InvalidDnsNameError },
    #[error("dialing {address}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("dialing {address}: timed out")]
    Timeout { address: SocketAddr },
    #[error("asking {address}")]
    Http { address: SocketAddr, source: hyper::Error },
    #[error("building the request to {address}")]
    Request { address: SocketAddr, source: http::Error },
}

impl ApiServer {
    /// Passes a request on to the agent of the pod's node, and the answer back.
    pub(crate) async fn stream(
        &self,
        call: &Call,
        stream: Stream,
        mut parts: Parts,
        body: Body,
    ) -> Result<Reply, Error> {
        self.refresh().await?;
        let name = &call.path.name;
        let object = call.row.cache.get(&call.key()).ok_or_else(|| call.row.not_found(name))?;
        let pod: Pod = serde_json::from_slice(object.json_bytes())
            .map_err(|source| Error::Stored { key: call.key(), source })?;
        let path = target::agent_path(stream, &pod, &call.params)?;
        let Some(node_name) = target::node_of(&pod) else {
            return if stream == Stream::Log {
                // There is no log yet, which is not an error.
                Ok(Reply::Raw(Box::new(crate::render::respond(StatusCode::OK, "text/plain", Body::empty()))))
            } else {
                Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")).into())
            };
        };
        let node: Node = self.env().decode("", "nodes", node_name).ok_or_else(|| {
            ApiError::internal(format!("node {} of pod {name} is not there", manifests::go::quote(node_name)))
        })?;
        let (address, port) = target::agent_address(&node)?;
        let upgrade = call.headers.contains_key(UPGRADE).then(|| {
            let mut request = Request::new(());
            std::mem::swap(request.extensions_mut(), &mut parts.extensions);
            hyper::upgrade::on(&mut request)
        });
        if upgrade.is_none() && stream != Stream::Log {
            return Err(ApiError::bad_request("Upgrade request required").into());
        }
        // What comes after an upgrade is not a body, and an agent that waited for one would wait for good.
        let body = if upgrade.is_some() { Body::empty() } else { body };
        let request = Request::builder().method(parts.method).uri(path);
        let open = self.metrics.streams.enter();
        let answer = self.ask_agent(node_name, address, port, request, &call.headers, body).await.map_err(
            |error| {
                let cause =
                    std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
                ApiError::internal(format!("error dialing backend: {error}{cause}"))
            },
        )?;
        let response = match (answer.status(), upgrade) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(client)) => self.tunnel(client, answer, open),
            (status, _) if status.is_success() => {
                let (parts, body) = answer.into_parts();
                Response::from_parts(
                    without_hop_headers(parts),
                    hold(Body::wrap(body), open, self.stop.clone()),
                )
            }
            (status, _) => return Err(refusal(status, answer).await.into()),
        };
        Ok(Reply::Raw(Box::new(response)))
    }

    /// Asks a node's agent something.
    pub(crate) async fn ask_agent(
        &self,
        node: &str,
        address: IpAddr,
        port: u16,
        request: http::request::Builder,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>, AgentError> {
        let address = SocketAddr::new(address, port);
        let stream = self.connect_agent(node, address).await?;
        let mut request = request.body(body).map_err(|source| AgentError::Request { address, source })?;
        let passed = headers.iter().filter(|(name, _)| !is_private(name) && **name != HOST);
        request.headers_mut().extend(passed.map(|(name, value)| (name.clone(), value.clone())));
        if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
            request.headers_mut().insert(HOST, host);
        }
        ask(stream, request).await.map_err(|source| AgentError::Http { address, source })
    }

    /// A connection to a node's agent, as whom it trusts. Whoever answers must be that node, wherever it is: its
    /// certificate carries its name.
    async fn connect_agent(
        &self,
        node: &str,
        address: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, AgentError> {
        let tls = self.config.agent_tls.clone().ok_or(AgentError::NoIdentity)?;
        let name = ServerName::try_from(node.to_owned())
            .map_err(|source| AgentError::Name { node: node.to_owned(), source })?;
        let connected = tokio::time::timeout(CONNECT, async {
            let stream = TcpStream::connect(address).await?;
            // Keystrokes are small and should not wait for company.
            stream.set_nodelay(true)?;
            TlsConnector::from(tls).connect(name, stream).await
        });
        match connected.await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(AgentError::Connect { address, source }),
            Err(_) => Err(AgentError::Timeout { address }),
        }
    }

    /// Answers 101 and copies bytes both ways until either side or the server ends it.
    fn tunnel(
        &self,
        client: hyper::upgrade::OnUpgrade,
        mut answer: Response<Incoming>,
        open: Counted,
    ) -> Response<Body> {
        let agent = hyper::upgrade::on(&mut answer);
        let (parts, _) = answer.into_parts();
        let stop = self.stop.clone();
        // Ends with either connection, or with the server.
        tokio::spawn(async move {
            let _open = open;
            let tunnel = async {
                let (client, agent) = tokio::try_join!(client, agent).map_err(|error| error.to_string())?;
                let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
                let copied = tokio::io::copy_bidirectional(&mut client, &mut agent).await;
                copied.map_err(|error| error.to_string())
            };
            tokio::select! {
                ended = tunnel => if let Err(error) = ended {
                    tracing::debug!(%error, "a stream to an agent broke off");
                },
                () = stop.cancelled() => {}
            }
        });
        Response::from_parts(parts, Body::empty())
    }
}

/// Sends one request over a connection of its own.
async fn ask<T>(stream: T, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer's body or the tunnel, whose owners are bounded by the client's connection.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await
}

/// Headers that say who asks. They are for this server alone.
fn is_private(name: &HeaderName) -> bool {
    *name == AUTHORIZATION || name.as_str().starts_with("impersonate-")
}

/// Headers that are about one connection.
const HOP: [HeaderName; 3] = [CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive")];

fn without_hop_headers(mut parts: http::response::Parts) -> http::response::Parts {
    for name in HOP {
        parts.headers.remove(name);
    }
    parts
}

/// A body that ends with the server and is counted while it lasts.
fn hold(body: Body, open: Counted, stop: CancellationToken) -> Body {
    use futures_util::StreamExt;
    let state = (body.into_stream(), open);
    let stream = futures_util::stream::unfold(state, async |(mut stream, open)| {
        let chunk = stream.next().await?;
        Some((chunk, (stream, open)))
    });
    Body::stream(stream.take_until(stop.cancelled_owned()))
}

/// What an agent says about a failure.
async fn said(answer: Response<Incoming>) -> Bytes {
    let body = http_body_util::Limited::new(answer.into_body(), LONGEST_REFUSAL).collect().await;
    body.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

/// The same as a Status.
async fn refusal(status: StatusCode, answer: Response<Incoming>) -> ApiError {
    let bytes = said(answer).await;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    match status {
        StatusCode::BAD_REQUEST if !text.starts_with('{') => ApiError::bad_request(text),
        StatusCode::NOT_FOUND if !text.starts_with('{') => {
            let mut status = ApiError::from_response(404, b"").into_status();
            status.message = Some(format!("the server could not find the requested resource ({text})"));
            ApiError::from_status(status)
        }
        _ => ApiError::from_response(status.as_u16(), &bytes),
    }
}
