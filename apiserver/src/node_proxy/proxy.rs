//! Requests that are passed on to what pods, services and nodes listen to.
//!
//! ```text
//! …/pods/web:80/proxy/a?b ─▶ agent of the pod's node: connect to 10.42.0.5:80 ─▶ GET /a?b
//! …/services/web/proxy/   ─▶ the same with a ready endpoint, another one if it cannot be reached
//! …/nodes/n1/proxy/pods   ─▶ the agent's own API
//! ```
//!
//! Only the agent is sure to reach its node's pods: the control plane may be on a machine without a pod network. Follows
//! `k8s.io/apimachinery/pkg/util/proxy`; links in HTML are not rewritten, `Location` is.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::header::{CONNECTION, HOST, HeaderName, LOCATION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use manifests::k8s_openapi::api::core::v1::{Node, Pod, Service};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;
use manifests::status::ApiError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::destination::{self, Place};
use super::{CONNECT, HOP, ask, hold, is_private, target, without_hop_headers};
use crate::body::Body;
use crate::error::Error;
use crate::random;
use crate::request::path::{ResourcePath, split_proxy};
use crate::server::ApiServer;

/// Endpoints of a service that are tried before one gives up.
const TRIES: usize = 3;
/// Who else may use an answer is not for a backend to say that is behind somebody else's address.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// A connection, whatever it is made of.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}
type Connected = Pin<Box<dyn Connection>>;

impl ApiServer {
    /// Passes a request on.
    pub(crate) async fn proxy(
        &self,
        path: &ResourcePath,
        mut parts: Parts,
        body: Body,
    ) -> Result<Response<Body>, Error> {
        self.refresh().await?;
        let (own, rest) = split_proxy(parts.uri.path()).ok_or_else(ApiError::unknown_path)?;
        let own = own.to_owned();
        let wants_upgrade = parts.headers.contains_key(UPGRADE);
        if rest.is_empty() && !wants_upgrade && matches!(parts.method, Method::GET | Method::HEAD) {
            return Ok(redirect(&parts.uri));
        }
        let rest = if rest.is_empty() { "/" } else { rest };
        let uri = parts.uri.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
        let connected = self.reach(path).await?;
        let client = wants_upgrade.then(|| {
            let mut request = Request::new(());
            std::mem::swap(request.extensions_mut(), &mut parts.extensions);
            hyper::upgrade::on(&mut request)
        });
        let body = if client.is_some() { Body::empty() } else { body };
        let request = Request::builder().method(&parts.method).uri(uri).body(body);
        let mut request = request.map_err(|error| ApiError::bad_request(error.to_string()))?;
        *request.headers_mut() = passed_on(&parts);
        let open = self.metrics.streams.enter();
        let mut answer = ask(connected, request).await.map_err(|error| unreachable(&error))?;
        for name in CORS {
            answer.headers_mut().remove(name);
        }
        if let Some(client) = client
            && answer.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(self.tunnel(client, answer, open));
        }
        let (mut head, body) = answer.into_parts();
        if let Some(location) = head.headers.get(LOCATION).and_then(|value| value.to_str().ok())
            && let Some(changed) = moved(location, &own)
            && let Ok(value) = HeaderValue::from_str(&changed)
        {
            head.headers.insert(LOCATION, value);
        }
        Ok(Response::from_parts(without_hop_headers(head), hold(Body::wrap(body), open, self.stop.clone())))
    }

    /// Connects to what is meant.
    async fn reach(&self, path: &ResourcePath) -> Result<Connected, Error> {
        let env = self.env();
        let what = path.resource.trim_end_matches('s');
        let named = destination::read(&path.name, what)?;
        let key = format!("{}/{}", path.namespace, named.name);
        let not_found = || ApiError::not_found(&path.resource, "", named.name);
        let mut places = match what {
            "node" => return self.reach_node(named).await,
            "pod" => {
                let pod: Pod = env.decode("", "pods", &key).ok_or_else(not_found)?;
                vec![destination::of_pod(&pod, named)?]
            }
            _ => {
                let service: Service = env.decode("", "services", &key).ok_or_else(not_found)?;
                destination::of_service(&service, &self.slices(&path.namespace, named.name), named)?
            }
        };
        let mut failed = None;
        for _ in 0..TRIES.min(places.len()) {
            let chosen = random::below(places.len() as u64);
            let place = places.swap_remove(usize::try_from(chosen).unwrap_or(0));
            match self.connect(&place).await {
                Ok(stream) if named.https => return Ok(over_tls(stream, place.address).await?),
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| ApiError::service_unavailable("no endpoints available")).into())
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<EndpointSlice> {
        let Some(row) = self.registry.find("discovery.k8s.io", "v1", "endpointslices") else {
            return Vec::new();
        };
        let objects = row.cache.all(&format!("{namespace}/"));
        let decoded = objects
            .iter()
            .filter_map(|object| serde_json::from_slice::<EndpointSlice>(object.json_bytes()).ok());
        let of_service = |slice: &EndpointSlice| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get("kubernetes.io/service-name")).is_some_and(|of| of == service)
        };
        decoded.filter(of_service).collect()
    }

    /// The agent itself, or another port of its machine.
    async fn reach_node(&self, named: destination::Named<'_>) -> Result<Connected, Error> {
        let node: Option<Node> = self.env().decode("", "nodes", named.name);
        let node = node.ok_or_else(|| ApiError::not_found("nodes", "", named.name))?;
        let (address, agent) = target::agent_address(&node)?;
        let port = match named.port {
            "" => agent,
            text => text.parse().map_err(|_| ApiError::bad_request(format!("invalid port {text:?}")))?,
        };
        let address = SocketAddr::new(address, port);
        if port == agent {
            let connected = self.connect_agent(named.name, address).await;
            return Ok(Box::pin(connected.map_err(|error| unreachable(&error))?));
        }
        let stream = direct(address).await.map_err(|error| unreachable(&error))?;
        if named.https {
            return Ok(over_tls(Box::pin(stream), address.ip()).await?);
        }
        Ok(Box::pin(stream))
    }

    async fn connect(&self, place: &Place) -> Result<Connected, ApiError> {
        let node = place.node.as_deref().and_then(|name| {
            let node = self.env().decode::<Node>("", "nodes", name)?;
            Some((name, node))
        });
        let (Some((namespace, pod)), Some((name, node))) = (&place.pod, node) else {
            // Whoever is no pod of this cluster is reached from here or not at all.
            let address = SocketAddr::new(place.address, place.port);
            let stream = direct(address).await.map_err(|error| unreachable(&error))?;
            return Ok(Box::pin(stream));
        };
        let (address, port) = target::agent_address(&node)?;
        let request = Request::builder().uri(format!("/dial/{namespace}/{pod}/{}", place.port));
        let headers = HeaderMap::from_iter([
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (UPGRADE, HeaderValue::from_static("tcp")),
        ]);
        let answer = self.ask_agent(name, address, port, request, &headers, Body::empty()).await;
        let answer = answer.map_err(|error| unreachable(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let why = super::said(answer).await;
            let why = String::from_utf8_lossy(&why);
            let why = why.trim();
            return Err(ApiError::service_unavailable(format!("error trying to reach service: {why}")));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| unreachable(&error))?;
        Ok(Box::pin(TokioIo::new(upgraded)))
    }
}

async fn direct(address: SocketAddr) -> std::io::Result<TcpStream> {
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address));
    let stream = connecting.await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unreachable(error: &dyn std::error::Error) -> ApiError {
    let cause = error.source().map_or(String::new(), |source| format!(": {source}"));
    ApiError::service_unavailable(format!("error trying to reach service: {error}{cause}"))
}

/// A page's links are relative to it, so that an empty path needs its slash.
fn redirect(uri: &Uri) -> Response<Body> {
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Where a backend's own path is, seen from outside. Other machines' addresses stay.
fn moved(location: &str, own: &str) -> Option<String> {
    (location.starts_with('/') && !location.starts_with("//")).then(|| format!("{own}{location}"))
}

/// The headers that the backend gets: all but those about the connection and the credentials, and where the request went first.
fn passed_on(parts: &Parts) -> HeaderMap {
    let upgrades = parts.headers.contains_key(UPGRADE);
    let is_hop = |name: &HeaderName| HOP.contains(name) || *name == UPGRADE;
    let passed = parts.headers.iter().filter(|(name, _)| !is_private(name) && (upgrades || !is_hop(name)));
    let mut headers: HeaderMap = passed.map(|(name, value)| (name.clone(), value.clone())).collect();
    // With HTTP/2 it is not a header.
    if let Some(host) = parts.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        headers.entry(HOST).or_insert(host);
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.entry(HeaderName::from_static("x-forwarded-host")).or_insert(host);
    }
    let uri = HeaderName::from_static("x-forwarded-uri");
    if let Ok(path) = HeaderValue::from_str(parts.uri.path()) {
        headers.entry(uri).or_insert(path);
    }
    let https = HeaderValue::from_static("https");
    headers.entry(HeaderName::from_static("x-forwarded-proto")).or_insert(https);
    headers
}

async fn over_tls(stream: Connected, name: std::net::IpAddr) -> Result<Connected, ApiError> {
    let provider = Arc::new(default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ApiError::internal(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let connecting = TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(name.into()), stream);
    let connected = tokio::time::timeout(CONNECT, connecting).await;
    let connected =
        connected.map_err(|_| ApiError::service_unavailable("error trying to reach service: timed out"))?;
    Ok(Box::pin(connected.map_err(|error| unreachable(&error))?))
}

/// Backends have certificates that nobody knows; upstream does not ask for them either. No credentials of the cluster go there.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_connections_stay_here() {
        let request = |upgrade: bool| {
            let mut request = Request::get("https://api:6443/api/v1/nodes/n/proxy/a")
                .header("authorization", "Bearer secret")
                .header("impersonate-user", "jane")
                .header("keep-alive", "5")
                .header("accept", "text/html")
                .header("x-forwarded-host", "outer");
            if upgrade {
                request = request.header("connection", "Upgrade").header("upgrade", "websocket");
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let headers = passed_on(&parts);
            let mut lines: Vec<String> =
                headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            lines.sort();
            lines
        };
        let plain = [
            "accept: text/html",
            "host: api:6443",
            "x-forwarded-host: outer",
            "x-forwarded-proto: https",
            "x-forwarded-uri: /api/v1/nodes/n/proxy/a",
        ];
        assert_eq!(request(false), plain);
        assert!(request(true).contains(&"upgrade: websocket".to_owned()));
    }

    #[test]
    fn paths_are_seen_from_outside() {
        let own = "/api/v1/namespaces/n/pods/p/proxy";
        assert_eq!(moved("/login", own).as_deref(), Some("/api/v1/namespaces/n/pods/p/proxy/login"));
        assert_eq!(moved("https://example.com/", own), None);
        assert_eq!(moved("//example.com/", own), None);
        let answer = redirect(&"/api/v1/nodes/n/proxy?a=b".parse().unwrap());
        assert_eq!(answer.headers()["location"], "/api/v1/nodes/n/proxy/?a=b");
    }
}
