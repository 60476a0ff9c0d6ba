//! A machine of its own per test: a network namespace that plays the host, others that play pods and outside.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use network::{Attachment, Config, NetNs, Network};

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a test on a runtime all of whose threads live in a new network namespace.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send) {
    let host = NetNs::create().expect("tests of the kernel's networking need root");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            host.enter().unwrap();
            let threads = host.try_clone().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .on_thread_start(move || threads.enter().unwrap())
                .build()
                .unwrap();
            let directory = tempfile::tempdir().unwrap();
            runtime.block_on(test(Host { netns: host.try_clone().unwrap(), directory }));
        });
    });
}

pub(crate) struct Host {
    pub(crate) netns: NetNs,
    pub(crate) directory: tempfile::TempDir,
}

impl Host {
    pub(crate) fn config(&self, number: u8) -> Config {
        Config {
            bridge: format!("test{number}"),
            pod_cidr: format!("10.{number}.1.0/24").parse().unwrap(),
            cluster_cidr: format!("10.{number}.0.0/16").parse().unwrap(),
            service_cidr: Some(format!("10.{}.0.0/16", number + 1).parse().unwrap()),
            address: None,
            mtu: None,
            nft_table: format!("test{number}"),
            state_dir: self.directory.path().join(format!("network{number}")),
        }
    }

    pub(crate) async fn network(&self, number: u8) -> Network {
        let network = Network::new(self.config(number)).unwrap();
        let warnings = network.ensure().await.unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        network
    }

    /// A network that plays the world outside: the host is its router, and translates nothing that comes from it.
    pub(crate) async fn outside(&self) -> (Network, Machine) {
        let config = Config {
            bridge: "outside".into(),
            pod_cidr: "192.168.77.0/24".parse().unwrap(),
            cluster_cidr: "192.168.77.0/24".parse().unwrap(),
            service_cidr: None,
            nft_table: "outside".into(),
            state_dir: self.directory.path().join("outside"),
            ..self.config(1)
        };
        let network = Network::new(config).unwrap();
        network.ensure().await.unwrap();
        self.output("nft delete table ip outside");
        let machine = Machine::attach(&network, "machine").await;
        (network, machine)
    }

    /// Output of a command that runs on this host.
    pub(crate) fn output(&self, command: &str) -> String {
        let words: Vec<_> = command.split(' ').collect();
        let output = self.netns.run(|| Command::new(words[0]).args(&words[1..]).output()).unwrap();
        let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Everything that there is of networking on this host. What the kernel settles in its own time is left out: packet
    /// counts, IPv6, and the operational state of a link, which follows its carrier a moment later.
    pub(crate) fn everything(&self) -> Vec<String> {
        let commands = ["ip -o link", "ip -o -4 addr", "ip -4 route show table all", "nft -s list ruleset"];
        commands.iter().flat_map(|c| self.output(c).lines().map(without_state).collect::<Vec<_>>()).collect()
    }
}

/// A line of `ip link` without ` state UP`.
fn without_state(line: &str) -> String {
    match line.split_once(" state ") {
        Some((before, after)) => {
            let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
            format!("{before} {rest}")
        }
        None => line.to_owned(),
    }
}

/// A namespace with an attachment.
pub(crate) struct Machine {
    pub(crate) netns: NetNs,
    pub(crate) attachment: Attachment,
}

impl Machine {
    pub(crate) async fn attach(network: &Network, id: &str) -> Self {
        let netns = NetNs::create().unwrap();
        let attachment = network.attach(netns.as_fd(), id, "eth0").await.unwrap();
        Self { netns, attachment }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.attachment.address
    }
}

/// A server that answers each connection with its own name and the client's address as it sees it.
pub(crate) fn serve(netns: &NetNs, port: u16, name: &'static str) {
    let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "{name} {peer}");
        }
    });
}

/// The same for datagrams.
pub(crate) fn serve_udp(netns: &NetNs, port: u16, name: &'static str) {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// What the server at that address says to a client in `netns`, or the error.
pub(crate) fn ask(netns: &NetNs, address: impl Into<IpAddr>, port: u16) -> std::io::Result<String> {
    let address = SocketAddr::new(address.into(), port);
    netns
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
        .unwrap()
}

pub(crate) fn udp_client(netns: &NetNs, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(SocketAddrV4::new(address, port)).unwrap();
    socket
}

pub(crate) fn ask_again(socket: &UdpSocket) -> std::io::Result<String> {
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub(crate) fn ask_udp(netns: &NetNs, address: Ipv4Addr, port: u16) -> std::io::Result<String> {
    ask_again(&udp_client(netns, address, port))
}
