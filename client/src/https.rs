//! The transport over HTTPS: reqwest with rustls, HTTP/2 where the server has it, one pool of connections.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use reqwest::Url;
use tokio::time::Instant;

use crate::kubeconfig::{Credentials, Resolved};
use crate::transport::{Body, Transport, TransportError, Upgraded};

/// A server that does not accept in this time is treated as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that carries requests is probed this often, so that a dead peer ends its watches.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections that nobody uses are closed after this.
const POOL_IDLE: Duration = Duration::from_secs(90);

/// HTTP/1.1 servers get one connection per request in flight; this many are kept.
const POOL_PER_HOST: usize = 8;

/// Token files are read again after this.
const TOKEN_FILE_AGE: Duration = Duration::from_secs(60);

/// Why no transport can be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpsTransportError {
    /// The server's URL cannot be used.
    #[error("server {url:?}: {problem}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The authorities to trust are not PEM certificates.
    #[error("reading the certificate authority")]
    CertificateAuthority(#[source] reqwest::Error),
    /// The client's certificate and key cannot be used.
    #[error("reading the client certificate and key")]
    Identity(#[source] reqwest::Error),
    /// A token or user name does not fit in a header.
    #[error("{0} cannot be sent in a header")]
    Header(&'static str),
    /// The proxy's URL cannot be used.
    #[error("proxy-url {url:?}")]
    Proxy {
        /// The URL.
        url: String,
        /// What is wrong with it.
        #[source]
        source: reqwest::Error,
    },
    /// The server's certificate cannot be checked against another name.
    #[error("tls-server-name is not supported; use the name in the server's URL")]
    ServerName,
    /// The HTTP client could not be built.
    #[error("building the HTTP client")]
    Build(#[source] reqwest::Error),
}

/// How requests prove who we are.
enum Authorization {
    None,
    Fixed(HeaderValue),
    File { path: PathBuf, newest: Mutex<Option<(Instant, HeaderValue)>> },
}

/// Pools of connections with one identity.
#[derive(Clone)]
struct Connections {
    http: reqwest::Client,
    /// Upgrades need HTTP/1.1.
    http1: reqwest::Client,
}

impl Connections {
    fn new(config: &Resolved, server: &Url) -> Result<Self, HttpsTransportError> {
        let http = builder(config, server)?.build().map_err(HttpsTransportError::Build)?;
        let http1 = builder(config, server)?.http1_only().build().map_err(HttpsTransportError::Build)?;
        Ok(Self { http, http1 })
    }
}

/// A certificate that comes from files, which somebody renews.
struct Renewed {
    config: Resolved,
    certificate: PathBuf,
    key: PathBuf,
    /// Of the certificate's file when it was read last.
    written: Mutex<Option<SystemTime>>,
}

/// Requests over HTTPS to one server.
pub struct HttpsTransport {
    connections: Mutex<Connections>,
    renewed: Option<Renewed>,
    server: Url,
    authorization: Authorization,
    headers: HeaderMap,
}

impl fmt::Debug for HttpsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsTransport").field("server", &self.server.as_str()).finish_non_exhaustive()
    }
}

impl HttpsTransport {
    /// Prepares connections; nothing is sent yet.
    pub fn new(config: &Resolved) -> Result<Self, HttpsTransportError> {
        let server = parse_server(&config.server)?;
        if config.tls_server_name.as_deref().is_some_and(|name| Some(name) != server.host_str()) {
            return Err(HttpsTransportError::ServerName);
        }
        let authorization = match &config.credentials {
            Credentials::None => Authorization::None,
            Credentials::Token(token) => {
                Authorization::Fixed(secret(&format!("Bearer {token}"), "the bearer token")?)
            }
            Credentials::TokenFile(path) => {
                Authorization::File { path: path.clone(), newest: Mutex::new(None) }
            }
            Credentials::Basic(user, password) => {
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                Authorization::Fixed(secret(&format!("Basic {pair}"), "the user name")?)
            }
        };
        let mut headers = HeaderMap::new();
        if let Some(user) = &config.impersonate {
            headers.insert("impersonate-user", secret(user, "the user to act as")?);
            for group in &config.impersonate_groups {
                headers.append("impersonate-group", secret(group, "the group to act as")?);
            }
        }
        let connections = Mutex::new(Connections::new(config, &server)?);
        let renewed = config.identity_files.clone().map(|(certificate, key)| Renewed {
            written: Mutex::new(written(&certificate)),
            config: config.clone(),
            certificate,
            key,
        });
        Ok(Self { connections, renewed, server, authorization, headers })
    }

    /// Connections with the certificate of now. What runs over those of before goes on.
    fn connections(&self) -> Connections {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(renewed) = &self.renewed
            && let Some(fresh) = renewed.read_again()
        {
            match Connections::new(&fresh, &self.server) {
                Ok(made) => *connections = made,
                Err(error) => {
                    tracing::warn!(file = %renewed.certificate.display(), %error, "a new client certificate cannot be used");
                }
            }
        }
        connections.clone()
    }

    /// The request as reqwest wants it.
    fn prepare<B>(
        &self,
        request: Request<B>,
    ) -> Result<(Method, String, reqwest::Request, B), TransportError> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.to_string();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| TransportError {
            method: parts.method.clone(),
            path: path.clone(),
            source,
        };
        let prefix = self.server.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{prefix}{path}")).map_err(|error| failed(error.into()))?;
        let mut outgoing = reqwest::Request::new(parts.method.clone(), url);
        *outgoing.headers_mut() = parts.headers;
        for (name, value) in &self.headers {
            outgoing.headers_mut().append(name, value.clone());
        }
        if let Some(value) = self.authorization.header().map_err(|error| failed(error.into()))? {
            outgoing.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok((parts.method, path, outgoing, body))
    }
}

fn written(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|facts| facts.modified()).ok()
}

impl Renewed {
    /// The configuration with what the files hold now, if they have been replaced.
    fn read_again(&self) -> Option<Resolved> {
        let mut last = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let now = written(&self.certificate);
        if now.is_none() || now == *last {
            return None;
        }
        let certificate = std::fs::read(&self.certificate).ok()?;
        let key = std::fs::read(&self.key).ok()?;
        *last = now;
        Some(Resolved { identity: Some((certificate, key)), ..self.config.clone() })
    }
}

fn parse_server(url: &str) -> Result<Url, HttpsTransportError> {
    let refused =
        |problem: &str| HttpsTransportError::Url { url: url.to_owned(), problem: problem.to_owned() };
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let parsed = Url::parse(&with_scheme).map_err(|error| refused(&error.to_string()))?;
    match parsed.scheme() {
        "https" | "http" if parsed.has_host() && parsed.query().is_none() => Ok(parsed),
        "https" | "http" => Err(refused("must be a host, a port and perhaps a path")),
        _ => Err(refused("must begin with https://")),
    }
}

fn secret(value: &str, what: &'static str) -> Result<HeaderValue, HttpsTransportError> {
    let mut header = HeaderValue::from_str(value.trim()).map_err(|_| HttpsTransportError::Header(what))?;
    header.set_sensitive(true);
    Ok(header)
}

fn builder(config: &Resolved, server: &Url) -> Result<reqwest::ClientBuilder, HttpsTransportError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(PING_INTERVAL)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_PER_HOST)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(false);
    if config.insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    } else if let Some(pem) = &config.certificate_authority {
        let authorities =
            reqwest::Certificate::from_pem_bundle(pem).map_err(HttpsTransportError::CertificateAuthority)?;
        builder = builder.tls_certs_only(authorities);
    }
    if let Some((certificate, key)) = &config.identity {
        let pem = [certificate.as_slice(), b"\n", key.as_slice()].concat();
        builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(HttpsTransportError::Identity)?);
    }
    if let Some(url) = &config.proxy {
        let proxy = reqwest::Proxy::all(url)
            .map_err(|source| HttpsTransportError::Proxy { url: url.clone(), source })?;
        builder = builder.proxy(proxy);
    } else if is_loopback(server) {
        // A proxy from the environment is on another machine; it cannot reach our loopback.
        builder = builder.no_proxy();
    }
    Ok(builder)
}

fn is_loopback(server: &Url) -> bool {
    let host = server.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("reading token file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the token in {path} cannot be sent in a header")]
    Header { path: PathBuf },
}

impl Authorization {
    fn header(&self) -> Result<Option<HeaderValue>, TokenError> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(value) => Ok(Some(value.clone())),
            Self::File { path, newest } => {
                let mut newest = newest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some((read_at, value)) = &*newest
                    && read_at.elapsed() < TOKEN_FILE_AGE
                {
                    return Ok(Some(value.clone()));
                }
                let token = std::fs::read_to_string(path)
                    .map_err(|source| TokenError::Read { path: path.clone(), source })?;
                let value = secret(&format!("Bearer {}", token.trim()), "the bearer token")
                    .map_err(|_| TokenError::Header { path: path.clone() })?;
                *newest = Some((Instant::now(), value.clone()));
                Ok(Some(value))
            }
        }
    }
}

/// reqwest's answer as plain http types; its errors carry the request that they belong to.
fn answer(method: &Method, path: &str, response: reqwest::Response) -> Response<Body> {
    let (method, path) = (method.clone(), path.to_owned());
    let response: Response<reqwest::Body> = response.into();
    let (parts, body) = response.into_parts();
    let chunks = http_body_util::BodyDataStream::new(body)
        .map_err(move |error| TransportError::new(&method, path.clone(), error.without_url()));
    Response::from_parts(parts, chunks.boxed())
}

impl Transport for HttpsTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let prepared = self.prepare(request);
        let Connections { http, .. } = self.connections();
        Box::pin(async move {
            let (method, path, mut outgoing, body) = prepared?;
            if !body.is_empty() {
                *outgoing.body_mut() = Some(reqwest::Body::from(body));
            }
            match http.execute(outgoing).await {
                Ok(response) => Ok(answer(&method, &path, response)),
                Err(error) => Err(TransportError::new(&method, path, error.without_url())),
            }
        })
    }

    fn upgrade(&self, request: Request<()>) -> BoxFuture<'static, Result<Upgraded, TransportError>> {
        let prepared = self.prepare(request);
        let Connections { http1: http, .. } = self.connections();
        Box::pin(async move {
            let (method, path, outgoing, ()) = prepared?;
            let response = http
                .execute(outgoing)
                .await
                .map_err(|error| TransportError::new(&method, path.clone(), error.without_url()))?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Upgraded::Refused(answer(&method, &path, response)));
            }
            let mut head = Response::new(());
            *head.status_mut() = response.status();
            *head.headers_mut() = response.headers().clone();
            let (parts, ()) = head.into_parts();
            let connection = response
                .upgrade()
                .await
                .map_err(|error| TransportError::new(&method, path, error.without_url()))?;
            Ok(Upgraded::Switched(parts, Box::new(connection)))
        })
    }
}
