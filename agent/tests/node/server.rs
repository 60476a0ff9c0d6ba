//! The agent's own API, asked as the API server asks it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::bench::{Bench, on_a_node};
use crate::need_root;

/// An authority, and the two ends of a conversation that it vouches for.
struct Client {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    nobody: Arc<ClientConfig>,
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn pair(issuer: &Issuer<'_, KeyPair>, name: &str) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["node".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, issuer).unwrap();
    (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

impl Client {
    /// Makes `bench` serve, and a client that it trusts.
    async fn of(bench: &mut Bench) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let issuer = Issuer::new(params, key);

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
        let (chain, key) = pair(&issuer, "node");
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let server = server.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        let client = |name: &str| {
            let (chain, key) = pair(&issuer, name);
            let config = ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .unwrap();
            Arc::new(config.with_root_certificates(roots.clone()).with_client_auth_cert(chain, key).unwrap())
        };
        bench.set_loopback_up();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        bench.serve = Some(agent::Serve { listener, tls: Arc::new(server) });
        Self { address, tls: client("kube-apiserver-kubelet-client"), nobody: client("system:kube-proxy") }
    }

    async fn connect(&self, tls: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("node").unwrap();
        TlsConnector::from(tls.clone()).connect(name, stream).await.unwrap()
    }

    async fn request(&self, tls: &Arc<ClientConfig>, path: &str) -> http::Response<hyper::body::Incoming> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect(tls).await)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(path).header("Host", "node").body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.request(&self.tls, path).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn socket(&self, path: &str) -> WebSocketStream<TokioIo<hyper::upgrade::Upgraded>> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect(&self.tls).await)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = http::Request::get(path)
            .header("Host", "node")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Protocol", "v5.channel.k8s.io, v4.channel.k8s.io")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 101);
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
    }
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = vec![channel];
    bytes.extend_from_slice(data);
    Message::Binary(bytes.into())
}

const WEB: &str = "containers: [{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, 'mkdir /www; echo hi > /www/index.html; for i in $(seq 5); do echo line $i; done; httpd -p 127.0.0.1:8080 -h /www; sleep 1000']}]";

#[test]
fn the_api_of_a_node() {
    need_root!();
    on_a_node(async |mut bench| {
        let client = Client::of(&mut bench).await;
        bench.start();
        bench.apply("web", WEB);
        bench.phase("web", "Running").await;
        bench.until("the log", |bench| bench.log("web", "a", 0).lines().count() == 5).await;

        assert_eq!(client.get("/healthz").await, (200, "ok".to_owned()));
        let path = "/containerLogs/default/web-node/a";
        assert_eq!(client.get(&format!("{path}?tailLines=2")).await, (200, "line 4\nline 5\n".to_owned()));
        let (status, text) = client.get(&format!("{path}?previous=true")).await;
        assert_eq!(
            (status, text.as_str()),
            (400, "previous terminated container \"a\" in pod \"web-node\" not found")
        );
        assert_eq!(client.get("/containerLogs/default/nobody/a").await.0, 404);
        let (_, pods) = client.get("/pods").await;
        let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
        assert_eq!(pods["items"][0]["status"]["phase"], "Running");
        let (_, summary) = client.get("/stats/summary").await;
        let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(summary["pods"][0]["podRef"]["name"], "web-node");
        assert!(
            summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"].as_u64() > Some(0),
            "{summary}"
        );
        assert_eq!(summary["node"]["nodeName"], "node");
        for figure in
            ["/node/cpu/usageCoreNanoSeconds", "/node/memory/workingSetBytes", "/node/fs/capacityBytes"]
        {
            assert!(
                summary.pointer(figure).and_then(serde_json::Value::as_u64) > Some(0),
                "{figure}: {summary}"
            );
        }
        let (_, resources) = client.get("/metrics/resource").await;
        for figure in [
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"default\",pod=\"web-node\"} ",
            "container_start_time_seconds{container=\"a\",namespace=\"default\",pod=\"web-node\"} ",
            "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web-node\"} ",
            "node_cpu_usage_seconds_total ",
        ] {
            assert!(resources.lines().any(|line| line.starts_with(figure)), "{figure}: {resources}");
        }
        let (_, containers) = client.get("/metrics/cadvisor").await;
        assert!(
            containers.contains("container_memory_working_set_bytes{container=\"a\",id=\""),
            "{containers}"
        );
        assert!(client.get("/metrics").await.1.contains("kubelet_running_pods 1\n"));

        let refused = client.request(&client.nobody, "/pods").await;
        assert_eq!(refused.status(), 403, "any other certificate of the cluster is not enough");
        bench.finish().await;
    });
}

#[test]
fn exec_over_a_web_socket() {
    need_root!();
    on_a_node(async |mut bench| {
        let client = Client::of(&mut bench).await;
        bench.start();
        bench.apply("web", WEB);
        bench.phase("web", "Running").await;
        let path = "/exec/default/web-node/a?command=sh&command=-c&command=cat%3B%20echo%20err%20%3E%262%3B%20exit%205&stdin=1&stdout=1&stderr=1";
        let mut socket = client.socket(path).await;
        socket.send(message(0, b"over and out\n")).await.unwrap();
        socket.send(message(255, &[0])).await.unwrap();
        let mut heard = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        while let Some(Ok(Message::Binary(data))) = socket.next().await {
            heard[usize::from(data[0])].extend_from_slice(&data[1..]);
        }
        assert_eq!(String::from_utf8_lossy(&heard[1]), "over and out\n");
        assert_eq!(String::from_utf8_lossy(&heard[2]), "err\n");
        let status: serde_json::Value = serde_json::from_slice(&heard[3]).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "5");
        bench.finish().await;
    });
}

#[test]
fn ports_are_forwarded_to_the_pods_loopback() {
    need_root!();
    on_a_node(async |mut bench| {
        let client = Client::of(&mut bench).await;
        bench.start();
        bench.apply("web", WEB);
        bench.phase("web", "Running").await;
        bench.until("the log", |bench| bench.log("web", "a", 0).lines().count() == 5).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut socket = client.socket("/portForward/default/web-node?ports=8080&ports=9").await;
        socket.send(message(0, b"GET /index.html HTTP/1.0\r\n\r\n")).await.unwrap();
        let mut heard = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        while !(heard[0].ends_with(b"hi\n") && heard[3].len() > 2) {
            let message = tokio::time::timeout(Duration::from_secs(5), socket.next()).await;
            let Ok(Some(Ok(Message::Binary(data)))) = message else { panic!("no answer: {heard:?}") };
            heard[usize::from(data[0])].extend_from_slice(&data[1..]);
        }
        assert_eq!(heard[0][..2], 8080_u16.to_le_bytes());
        assert!(String::from_utf8_lossy(&heard[0][2..]).starts_with("HTTP/1.1 200"), "{heard:?}");
        assert!(String::from_utf8_lossy(&heard[3][2..]).starts_with("error forwarding port 9"), "{heard:?}");
        bench.finish().await;
    });
}
