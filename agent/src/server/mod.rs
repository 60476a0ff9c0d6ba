//! The node's own API, on port 10250 by default: what the API server passes on (logs, exec, attach) and what tells how the
//! node is.
//!
//! Only clients with a certificate of the cluster's CA get as far as a request, and only the API server and administrators
//! get an answer: who may enter containers owns the node. Paths and parameters are the kubelet's.
//!
//! ```text
//! accept ─▶ TLS, client certificate ─▶ route (pure) ─▶ /healthz  /pods  /containerLogs  /exec  /attach  /portForward  /dial
//!                                                      /stats/summary  /metrics  /metrics/resource  /metrics/cadvisor
//! ```

mod channels;
mod dial;
mod forward;
mod peer;
mod port_forward;
mod process;
mod remote_command;
mod route;
mod streams;
mod tunnel;
mod upgrade;

use std::convert::Infallible;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use manifests::k8s_openapi::api::core::v1::Pod;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::machine::PodSandbox;
use process::Verb;
use route::{BadRequest, Route};
pub use route::{ContainerPath, LogOptions, StreamOptions};
use upgrade::{Spoken, Switched, upgrade};

/// Connections at a time: every follower of a log and every exec is one.
const MAX_CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADER_READ: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a log as they come.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// What the server tells about, and reaches into.
#[async_trait]
pub trait Pods: Debug + Send + Sync + 'static {
    /// The pods of this node, with their status.
    fn list(&self) -> Vec<Arc<Pod>>;
    /// Where a running container is.
    async fn running(&self, path: &ContainerPath) -> Result<RunningContainer, NotThere>;
    /// The sandbox of a pod.
    fn sandbox(&self, namespace: &str, pod: &str) -> Result<Arc<dyn PodSandbox>, NotThere>;
    /// The address of a pod.
    fn address(&self, namespace: &str, pod: &str) -> Result<IpAddr, NotThere>;
    /// What pods use, as `/stats/summary` says it.
    async fn summary(&self) -> serde_json::Value;
    /// The same as `/metrics/resource` says it.
    async fn resource_metrics(&self) -> String;
    /// The same as `/metrics/cadvisor` says it.
    async fn container_metrics(&self) -> String;
    /// Counters, in Prometheus' text format.
    fn metrics(&self) -> String;
    /// A container's log.
    async fn logs(&self, path: &ContainerPath, options: &LogOptions) -> Result<LogStream, NotThere>;
}

/// A container that processes can join.
#[derive(Debug, Clone)]
pub struct RunningContainer {
    /// Its sandbox.
    pub sandbox: Arc<dyn PodSandbox>,
    /// Its id there.
    pub id: String,
    /// It has a terminal.
    pub tty: bool,
}

/// Why there is no such container, in the kubelet's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    /// No such pod on this node.
    #[error("pod does not exist")]
    Pod,
    /// The pod is there; the container is not, or does not run, or has no log.
    #[error("{0}")]
    Container(String),
    /// Reading failed.
    #[error("{0}")]
    Failed(String),
}

/// Serves until told to stop. Open streams go on until their process ends or this process does.
pub async fn serve(
    pods: Arc<dyn Pods>,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (pods, acceptor, stop) = (Arc::clone(&pods), acceptor.clone(), stop.clone());
        // Detached: the connection holds its place and ends with the token.
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(pods, acceptor, stream) => {}
            }
            drop(place);
        });
    }
}

async fn connection(pods: Arc<dyn Pods>, acceptor: TlsAcceptor, stream: TcpStream) {
    _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake"),
        Err(_) => return debug!("TLS handshake took too long"),
    };
    let trusted = peer::is_trusted(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request| {
        let pods = Arc::clone(&pods);
        async move { Ok::<_, Infallible>(answer(pods, trusted, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        debug!(%error, "connection ended");
    }
}

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

async fn answer(pods: Arc<dyn Pods>, trusted: bool, request: Request<Incoming>) -> Response<Body> {
    let route =
        match route::parse(request.method(), request.uri().path(), request.uri().query().unwrap_or_default())
        {
            Ok(route) => route,
            Err(BadRequest::NoSuchPath) => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
            Err(BadRequest::Parameter(problem)) => return text(StatusCode::BAD_REQUEST, &problem),
        };
    if !trusted && route != Route::Health {
        return text(
            StatusCode::FORBIDDEN,
            "Forbidden: only the API server and administrators may ask this\n",
        );
    }
    match route {
        Route::Health => text(StatusCode::OK, "ok"),
        Route::Pods => list(&*pods),
        Route::Logs(path, options) => match pods.logs(&path, &options).await {
            Ok(stream) => {
                let body = StreamBody::new(stream.map_ok(Frame::data));
                let response = Response::builder().header(header::CONTENT_TYPE, "text/plain");
                response.body(body.boxed_unsync()).unwrap_or_else(|_| internal())
            }
            Err(error) => not_there(&error),
        },
        Route::Exec(path, options) => match pods.running(&path).await {
            Ok(container) => remote_command(Verb::Exec, container, options, request),
            Err(error) => not_there(&error),
        },
        Route::Attach(path, options) => match pods.running(&path).await {
            Ok(container) => remote_command(Verb::Attach, container, options, request),
            Err(error) => not_there(&error),
        },
        Route::PortForward { namespace, pod, ports } => match pods.sandbox(&namespace, &pod) {
            Ok(sandbox) => port_forward(port_forward::Target { sandbox, pod }, ports, request),
            Err(error) => not_there(&error),
        },
        Route::Dial { namespace, pod, port } => match pods.address(&namespace, &pod) {
            Ok(address) => dial::pipe(SocketAddr::new(address, port), request).await,
            Err(error) => not_there(&error),
        },
        Route::Summary => json(&pods.summary().await),
        Route::ResourceMetrics => text(StatusCode::OK, &pods.resource_metrics().await),
        Route::ContainerMetrics => text(StatusCode::OK, &pods.container_metrics().await),
        Route::Metrics => text(StatusCode::OK, &pods.metrics()),
    }
}

fn remote_command(
    verb: Verb,
    container: RunningContainer,
    options: StreamOptions,
    request: Request<Incoming>,
) -> Response<Body> {
    let spoken = Spoken { web_socket: &channels::PROTOCOLS, spdy: &remote_command::PROTOCOLS };
    upgrade(request, spoken, move |switched| async move {
        match switched {
            Switched::WebSocket(socket) => streams::converse(*socket, verb, container, options).await,
            Switched::Spdy(carrier, protocol) => {
                remote_command::converse(carrier, protocol, verb, container, options).await;
            }
        }
    })
}

fn port_forward(target: port_forward::Target, ports: Vec<u16>, request: Request<Incoming>) -> Response<Body> {
    // Channels have to know their ports beforehand.
    let web_socket: &[&str] = if ports.is_empty() { &[] } else { &channels::PORT_PROTOCOLS };
    let spoken = Spoken { web_socket, spdy: &port_forward::PROTOCOLS };
    upgrade(request, spoken, move |switched| async move {
        match switched {
            Switched::WebSocket(socket) => forward::converse(target.sandbox, ports, *socket).await,
            Switched::Spdy(carrier, _) => port_forward::converse(target, carrier).await,
        }
    })
}

fn list(pods: &dyn Pods) -> Response<Body> {
    let items: Vec<serde_json::Value> =
        pods.list().iter().filter_map(|pod| serde_json::to_value(&**pod).ok()).collect();
    json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
    response.body(full(value.to_string())).unwrap_or_else(|_| internal())
}

fn not_there(error: &NotThere) -> Response<Body> {
    let code = match error {
        NotThere::Pod => StatusCode::NOT_FOUND,
        NotThere::Container(_) => StatusCode::BAD_REQUEST,
        NotThere::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(code, &error.to_string())
}

pub(crate) fn text(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(text.to_owned()));
    *response.status_mut() = code;
    response
}

fn internal() -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be built")
}

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}
