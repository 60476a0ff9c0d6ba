//! A host of its own per test: a network namespace with a bridge, pods on it, a proxy, and somebody outside.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use network::{NetNs, Network};
use proxy::{Config, Control, Source};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Endpoint};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);
pub(crate) const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

/// The host and what is on it.
pub(crate) struct World {
    pub(crate) host: NetNs,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) network: Network,
    pub(crate) api: Api,
}

/// A running proxy; stops when dropped.
pub(crate) struct Proxy {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// Runs a test on a host of its own.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send) {
    let host = NetNs::create().expect("tests of the kernel's networking need root");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            host.enter().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let network = Network::new(network_config(directory.path().join("network"))).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                network.ensure().await.unwrap();
                std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
                test(World { host: host.try_clone().unwrap(), directory, network, api: Api::new() }).await;
            });
        });
    });
}

/// A proxy's configuration, all of it in one directory.
pub(crate) fn config(directory: &Path, version: &str, source: Source) -> Config {
    let network = network_config(directory.join("network"));
    Config {
        version: version.into(),
        source,
        node_name: "here".into(),
        node_addresses: vec![network.gateway().into()],
        run_dir: directory.join("run"),
        table_file: directory.join("table.json"),
        network,
        dns_address: DNS,
        cluster_domain: "cluster.local".into(),
        resolv_conf: directory.join("resolv.conf"),
        grace: Duration::from_millis(100),
    }
}

pub(crate) fn network_config(state_dir: PathBuf) -> network::Config {
    network::Config {
        bridge: "proxytest0".into(),
        pod_cidr: "10.42.0.0/24".parse().unwrap(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: Some("10.43.0.0/16".parse().unwrap()),
        address: None,
        mtu: None,
        nft_table: "proxytest".into(),
        state_dir,
    }
}

/// A pod.
pub(crate) struct Pod {
    pub(crate) netns: NetNs,
    pub(crate) address: Ipv4Addr,
    pub(crate) uid: String,
}

impl Pod {
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address.to_string(), uid: self.uid.clone() }
    }
}

impl World {
    pub(crate) fn config(&self, version: &str, source: Source) -> Config {
        config(self.directory.path(), version, source)
    }

    pub(crate) async fn proxy(&self) -> Proxy {
        let proxy = self.start(self.config("test", Source::Client(self.api.client())));
        self.until(async || self.control().await.ping().await.unwrap().synced).await;
        proxy
    }

    pub(crate) fn start(&self, config: Config) -> Proxy {
        let stop = CancellationToken::new();
        let (host, stopped) = (self.host.try_clone().unwrap(), stop.clone());
        let thread = std::thread::spawn(move || {
            host.enter().unwrap();
            proxy::run(config, &stopped).unwrap();
        });
        Proxy { stop, thread: Some(thread) }
    }

    pub(crate) async fn control(&self) -> Control {
        let started = Instant::now();
        loop {
            match Control::connect(&self.directory.path().join("run")).await {
                Ok(control) => return control,
                Err(error) if started.elapsed() > PATIENCE => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub(crate) async fn until(&self, condition: impl AsyncFn() -> bool) {
        let started = Instant::now();
        while !condition().await {
            assert!(started.elapsed() < PATIENCE, "it did not come to pass");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many entrances are open.
    pub(crate) async fn listeners(&self, count: usize) {
        self.until(async || self.control().await.ping().await.unwrap().listeners == count).await;
    }

    pub(crate) async fn pod(&self, name: &str) -> Pod {
        let netns = NetNs::create().unwrap();
        let attachment = self.network.attach(netns.as_fd(), name, "eth0").await.unwrap();
        Pod { netns, address: attachment.address, uid: format!("uid-{name}") }
    }

    /// Pods that each serve their name on port 8080, behind the service `web` at port 80.
    pub(crate) async fn web(&self, names: &[&'static str]) -> Vec<Pod> {
        let mut pods = Vec::new();
        for name in names {
            let pod = self.pod(name).await;
            serve_name(&pod.netns, name);
            pods.push(pod);
        }
        self.api.service("web", json!({"clusterIP": SERVICE.to_string(), "ports": [{"port": 80}]}));
        self.behind_web(pods.iter());
        pods
    }

    pub(crate) fn behind_web<'a>(&self, pods: impl Iterator<Item = &'a Pod>) {
        let endpoints: Vec<_> = pods.map(Pod::endpoint).collect();
        self.api.slice("web", web_ports(), &endpoints);
    }
}

pub(crate) fn web_ports() -> Value {
    json!([{"port": 8080, "protocol": "TCP"}])
}

/// Sends its name and the client's address to everybody who connects to port 8080.
pub(crate) fn serve_name(netns: &NetNs, name: &'static str) {
    serve(netns, 8080, move |mut stream| {
        let peer = stream.peer_addr().unwrap().ip();
        let _ = write!(stream, "{name} {peer}");
    });
}

/// Sends back what it gets, until the end.
pub(crate) fn serve_echo(netns: &NetNs, port: u16) {
    serve(netns, port, |stream| {
        let _ = io::copy(&mut &stream, &mut &stream);
    });
}

pub(crate) fn serve(netns: &NetNs, port: u16, each: impl Fn(TcpStream) + Clone + Send + 'static) {
    let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let each = each.clone();
            std::thread::spawn(move || each(stream.unwrap()));
        }
    });
}

pub(crate) fn connect(netns: &NetNs, address: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::new(address.into(), port);
    let stream = netns.run(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What the server says to a client in `netns` that only listens.
pub(crate) fn ask(netns: &NetNs, address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    let mut answer = String::new();
    connect(netns, address, port)?.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Only the server's name.
pub(crate) fn name(netns: &NetNs, address: impl Into<IpAddr>, port: u16) -> String {
    let answer = ask(netns, address, port).unwrap();
    answer.split(' ').next().unwrap_or_default().to_owned()
}

/// How often each name answers in so many connections.
pub(crate) fn names(netns: &NetNs, count: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        *seen.entry(name(netns, SERVICE, 80)).or_default() += 1;
    }
    seen
}

pub(crate) fn expect(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// Says something on an open connection and expects to hear it back.
pub(crate) fn echoes(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, text.as_bytes());
}

/// Ends the sending half and reads to the end.
pub(crate) fn finish(mut stream: &TcpStream) -> Vec<u8> {
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

/// Answers datagrams with its name and what it got.
pub(crate) fn serve_udp(netns: &NetNs, port: u16, name: &'static str) {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let _ = socket.send_to(format!("{name} {text}").as_bytes(), from);
        }
    });
}

/// A UDP client in `netns`.
pub(crate) fn udp(netns: &NetNs, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((address.into(), port)).unwrap();
    socket
}

pub(crate) fn ask_udp(socket: &UdpSocket, text: &str) -> io::Result<String> {
    socket.send(text.as_bytes())?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
