//! A server on a socket, and clients of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use apiserver::pki::{Pair, Pki, Subject};
use apiserver::{ApiServer, Config};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::Value;
use store::memory::MemoryStore;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) struct Port {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) pki: Pki,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

pub(crate) fn subject(name: &str, group: &str) -> Subject {
    Subject {
        common_name: name.to_owned(),
        organization: (!group.is_empty()).then(|| group.to_owned()),
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        ..Subject::default()
    }
}

impl Port {
    pub(crate) async fn open() -> Port {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let own = pki.pair("apiserver", &subject("apiserver", "system:masters")).unwrap();
        let config =
            Config { agent_tls: Some(Arc::new(own.client_config(pki.ca()).unwrap())), ..Config::default() };
        let api = ApiServer::new(Arc::new(MemoryStore::new()), config);
        api.start().await.unwrap();
        let listener = TcpListener::bind((IpAddr::from(Ipv4Addr::LOCALHOST), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Arc::new(own.server_config(pki.ca(), false).unwrap());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(apiserver::serve(api.clone(), listener, tls, stop.clone()));
        Port { api, pki, address, stop, serving, _directory: directory }
    }

    pub(crate) fn admin(&self) -> Pair {
        self.pki.pair("admin", &subject("admin", "system:masters")).unwrap()
    }

    /// A connection with this certificate, or with none.
    pub(crate) async fn connect(
        &self,
        pair: Option<&Pair>,
        protocol: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = match pair {
            Some(pair) => pair.client_config(self.pki.ca()).unwrap(),
            None => {
                let mut roots = rustls::RootCertStore::empty();
                let pem = self.pki.ca().as_bytes();
                let ca = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(pem);
                roots.add(ca.unwrap()).unwrap();
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let builder = rustls::ClientConfig::builder_with_provider(provider);
                builder
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots)
                    .with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::IpAddress(self.address.ip().into()), stream)
            .await
    }

    pub(crate) async fn ask(&self, pair: Option<&Pair>, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = self.connect(pair, b"http/1.1").await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    pub(crate) async fn ask_http2(
        &self,
        pair: &Pair,
        requests: Vec<Request<Full<Bytes>>>,
    ) -> Vec<Response<Incoming>> {
        let stream = self.connect(Some(pair), b"h2").await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answers = requests.into_iter().map(|request| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await.unwrap() }
        });
        futures_util::future::join_all(answers).await
    }
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(path).header("host", "server").body(Full::default()).unwrap()
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let request = Request::builder().method("POST").uri(path).header("host", "server");
    request.header("content-type", "application/json").body(Full::from(body.to_string())).unwrap()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
