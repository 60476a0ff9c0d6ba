//! One client: one TLS connection with one HTTP/2 connection in it, as the Go clients have.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use client::kubeconfig::{Credentials, Kubeconfig, Resolved};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What Go's client lets a server send ahead on a stream.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Where to connect, and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    address: String,
    host: ServerName<'static>,
    base: Arc<str>,
    tls: Arc<ClientConfig>,
    authorization: Option<HeaderValue>,
}

impl Target {
    /// Reads a kubeconfig's current context.
    pub(crate) fn from_kubeconfig(path: &std::path::Path) -> anyhow::Result<Target> {
        let resolved = Kubeconfig::from_file(path)?.resolve(None)?;
        let uri: Uri = resolved.server.parse().context("the server's URL")?;
        let authority = uri.authority().context("a server without a host")?;
        ensure!(uri.scheme_str() == Some("https"), "{}: only https is measured", resolved.server);
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let authorization = match &resolved.credentials {
            Credentials::None => None,
            Credentials::Token(token) => Some(HeaderValue::from_str(&format!("Bearer {token}"))?),
            other => bail!("{other:?} credentials are not supported here"),
        };
        Ok(Target {
            address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(443)),
            host: ServerName::try_from(host)?,
            base: format!("https://{authority}").into(),
            tls: Arc::new(tls(&resolved)?),
            authorization,
        })
    }

    /// Opens a connection of its own.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.address).await.with_context(|| self.address.clone())?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(self.host.clone(), stream).await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        // Detached: it ends with the last sender.
        tokio::spawn(async move {
            let _ended = connection.await;
        });
        Ok(Connection { sender, target: self.clone() })
    }
}

fn tls(resolved: &Resolved) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = resolved.certificate_authority.as_deref().context("a kubeconfig without a CA")?;
    for certificate in CertificateDer::pem_slice_iter(authority) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &resolved.identity {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// An open connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    target: Target,
}

impl Connection {
    /// Sends a request; the answer's body has yet to come.
    pub(crate) async fn start(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.target.base))
            .header(ACCEPT, "application/json");
        if !content_type.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(value) = &self.target.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Asks and reads the whole answer.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.start(method, path, content_type, body).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Asks and only counts the bytes of the answer, so that a large one is not kept.
    pub(crate) async fn count(&mut self, path: &str) -> anyhow::Result<(u64, Bytes)> {
        let response = self.start(Method::GET, path, "", Bytes::new()).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        let (mut bytes, mut first) = (0, Bytes::new());
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if first.is_empty() {
                first = data.clone();
            }
            bytes += data.len() as u64;
        }
        Ok((bytes, first))
    }
}
