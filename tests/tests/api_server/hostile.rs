//! Clients that are slow, dead or mean: the server's memory stays bounded, the others are served, and whoever sends
//! nonsense is told so with a `Status`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::kubeconfig::Kubeconfig;
use client::{Api, Client, WatchEvent, WatchParams};
use manifests::k8s_openapi::api::core::v1::ConfigMap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::server::Server;

/// The administrator's connections, made by hand.
struct Raw {
    address: SocketAddr,
    config: rustls::ClientConfig,
}

impl Raw {
    fn new(server: &Server) -> Raw {
        let resolved = Kubeconfig::from_file(server.path("data/kubeconfig")).unwrap().resolve(None).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&resolved.certificate_authority.unwrap()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let (certificate, key) = resolved.identity.unwrap();
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let address = resolved.server.strip_prefix("https://").unwrap().parse().unwrap();
        Raw { address, config }
    }

    async fn connect(&self, protocol: &str) -> TlsStream<TcpStream> {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::IpAddress(self.address.ip().into()), stream).await.unwrap()
    }

    /// Sends a request over HTTP/1.1 and reads the answer: its status line and body.
    async fn ask(&self, head: &str, body: &[u8]) -> (String, String) {
        let mut stream = self.connect("http/1.1").await;
        let head = format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may answer, and hang up, before it has read everything.
        let _cut = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _cut = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

/// Anonymous memory of the server, in MiB.
fn memory(server: &Server) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn map(name: &str, size: usize) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.data = Some([("v".to_owned(), "x".repeat(size))].into());
    map
}

/// Somebody with good intentions gets an answer.
async fn others_are_served(client: &Client, name: &str) {
    let maps: Api<ConfigMap> = client.namespaced("default");
    maps.create(&map(name, 10)).await.unwrap();
    assert_eq!(maps.get(name).await.unwrap().data.unwrap()["v"], "xxxxxxxxxx");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_with_a_status() {
    let mut server = Server::start(&[]);
    server.ready().await;
    let raw = Raw::new(&server);
    let maps = "/api/v1/namespaces/default/configmaps";
    let post = |kind: &str, length: usize| {
        format!("POST {maps} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {length}")
    };
    let huge = vec![b' '; 4 << 20];
    let deep = "[".repeat(200_000);
    let deep_object = "{\"a\":".repeat(100_000);
    let deep_yaml = format!("a: {}", "[".repeat(100_000));
    let bomb: String = std::iter::once("a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned())
        .chain((0..12).map(|n| {
            let (from, to) = (char::from(b'a' + n), char::from(b'b' + n));
            format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 10].join(","))
        }))
        .collect();
    let mut protobuf = b"k8s\0".to_vec();
    protobuf.extend([0x12].repeat(50_000));
    for (what, kind, body, expected) in [
        ("a huge body", "application/json", &huge[..], "413"),
        ("deep arrays", "application/json", deep.as_bytes(), "400"),
        ("deep objects", "application/json", deep_object.as_bytes(), "400"),
        ("deep YAML", "application/yaml", deep_yaml.as_bytes(), "400"),
        ("a YAML bomb", "application/yaml", bomb.as_bytes(), "400"),
        ("no protobuf", "application/vnd.kubernetes.protobuf", &protobuf[..], "400"),
        ("another type", "text/html", b"<p>", "415"),
        ("nothing", "application/json", b"", "400"),
    ] {
        let (line, body) = raw.ask(&post(kind, body.len()), body).await;
        assert!(line.contains(expected), "{what}: {line}\n{}", &body[..body.len().min(500)]);
        let status: serde_json::Value =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{what}: {error}: {body:.300}"));
        assert_eq!(status["kind"], "Status", "{what}: {body}");
    }
    // A body that never says how long it is, and never ends.
    let mut stream = raw.connect("http/1.1").await;
    let head = format!(
        "POST {maps} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "the server reads an endless body");
    let patch = format!(
        "PATCH {maps}/none HTTP/1.1\r\nContent-Type: application/json-patch+json\r\nContent-Length: 3"
    );
    let (line, _) = raw.ask(&patch, b"{]}").await;
    assert!(line.contains("404") || line.contains("400"), "{line}");
    let long = format!("GET {maps}?labelSelector={} HTTP/1.1", "a".repeat(1 << 20));
    let (line, _) = raw.ask(&long, b"").await;
    assert!(
        line.is_empty() || line.contains("414") || line.contains("431") || line.contains("400"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_nothing_stop_nobody() {
    let mut server = Server::start(&[]);
    let client = server.ready().await;
    let raw = Raw::new(&server);
    let before = memory(&server);
    // Without a handshake; with half a request; with half a body; with HTTP/2 and then nothing.
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(raw.address).await.unwrap());
    }
    let mut slow = Vec::new();
    for n in 0..150 {
        let mut stream = raw.connect(if n % 3 == 2 { "h2" } else { "http/1.1" }).await;
        let text: &[u8] = match n % 3 {
            0 => b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nX-Slow:",
            1 => b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n{\"a\":",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        };
        stream.write_all(text).await.unwrap();
        slow.push(stream);
    }
    others_are_served(&client, "beside-the-slow").await;
    let grown = memory(&server) - before;
    println!("{} idle and {} slow connections: {grown:.1} MiB", held.len(), slow.len());
    assert!(grown < 40.0, "{grown} MiB for connections that do nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_do_not_read_cost_nobody_anything() {
    let mut server = Server::start(&[]);
    let client = server.ready().await;
    let raw = Raw::new(&server);
    let mut deaf = Vec::new();
    for _ in 0..50 {
        let mut stream = raw.connect("http/1.1").await;
        let request = b"GET /api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        deaf.push(stream);
    }
    let maps: Api<ConfigMap> = client.namespaced("default");
    let from = maps.list(&client::ListParams::default()).await.unwrap().metadata.resource_version;
    let params = WatchParams { resource_version: from, ..WatchParams::default() };
    let mut good = maps.watch(&params).await.unwrap();
    let before = memory(&server);
    // A hundred megabytes of events for each of them.
    const WRITES: usize = 1000;
    let reader = tokio::spawn(async move {
        for _ in 0..WRITES {
            let event = tokio::time::timeout(Duration::from_secs(30), good.next()).await;
            assert!(
                matches!(event, Ok(Some(Ok(WatchEvent::Added(_) | WatchEvent::Modified(_))))),
                "{event:?}"
            );
        }
    });
    let mut current = maps.create(&map("noise", 100_000)).await.unwrap();
    for n in 1..WRITES {
        current.data = Some([("v".to_owned(), format!("{n}{}", "x".repeat(100_000)))].into());
        current = maps.replace(&current).await.unwrap();
    }
    reader.await.unwrap();
    let grown = memory(&server) - before;
    println!("50 watchers that read nothing of 100 MB each: {grown:.1} MiB");
    assert!(grown < 100.0, "{grown} MiB for watchers that do not read");
    others_are_served(&client, "beside-the-deaf").await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET /api/v1/pods` in HPACK: three fields of the static table, two literals without indexing.
fn headers() -> Vec<u8> {
    let mut block = vec![0x82, 0x87];
    block.extend([0x04, 12]);
    block.extend(b"/api/v1/pods");
    block.extend([0x01, 1, b'x']);
    block
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_pings_and_settings_without_end() {
    let mut server = Server::start(&[]);
    let client = server.ready().await;
    let raw = Raw::new(&server);
    let before = memory(&server);
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    let block = headers();
    for attack in ["reset", "ping", "settings"] {
        for _ in 0..4 {
            let mut stream = raw.connect("h2").await;
            stream.write_all(&preface).await.unwrap();
            let mut sent = 0;
            let begin = Instant::now();
            for n in 0..20_000_u32 {
                let bytes = match attack {
                    // A request that is taken back at once: the rapid reset.
                    "reset" => {
                        let id = 2 * n + 1;
                        [frame(1, 5, id, &block), frame(3, 0, id, &8_u32.to_be_bytes())].concat()
                    }
                    // Answers pile up, because nobody reads them.
                    "ping" => frame(6, 0, 0, &u64::from(n).to_be_bytes()),
                    _ => frame(4, 0, 0, &[0, 4, 0, 1, 0, 0]),
                };
                let written = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&bytes)).await;
                if !matches!(written, Ok(Ok(()))) || begin.elapsed() > Duration::from_secs(3) {
                    break;
                }
                sent += 1;
            }
            println!("{attack}: {sent} in {:.1?}", begin.elapsed());
        }
        others_are_served(&client, &format!("beside-{attack}")).await;
    }
    let grown = memory(&server) - before;
    println!("after all of it: {grown:.1} MiB");
    assert!(grown < 60.0, "{grown} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_places() {
    let mut server = Server::start(&[]);
    // How long they wait for their turn on a busy machine is not the question.
    let client = server.ready().await.with_deadline(Duration::from_secs(120));
    let before = memory(&server);
    let maps: Api<ConfigMap> = client.namespaced("default");
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..5000 {
        let maps = maps.clone();
        asking.spawn(async move { maps.create(&map(&format!("small-{n}"), 10)).await.map(drop) });
    }
    let (mut served, mut refused) = (0, 0);
    while let Some(answer) = asking.join_next().await {
        match answer.unwrap() {
            Ok(()) => served += 1,
            Err(error) => {
                let status = error.status().unwrap_or_else(|| panic!("no answer: {error}"));
                assert_eq!(status.code, Some(429), "{error}");
                refused += 1;
            }
        }
    }
    let grown = memory(&server) - before;
    println!("{served} served, {refused} told to come back; {grown:.1} MiB");
    assert!(served > 0);
    others_are_served(&client, "beside-the-many").await;
}
