//! What a connection through the proxy costs, beside the direct way and beside haproxy (Debian's package).
//!
//! `cargo run --release -p proxy --example bench [seconds]`, as root. Everything happens in network namespaces of its
//! own: a host with a bridge, a client pod and two server pods. Client and servers run on one thread each; each way
//! is measured in turn, three times, and medians are printed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and ends when something is amiss"
)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use network::{NetNs, Network};
use proxy::table::{Entrance, Forward, Place, Protocol, ServiceName, Table};
use proxy::{Config, Source};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);
const ROUNDS: usize = 3;
const AT_ONCE: usize = 32;
/// Ports of the servers: one answers and ends, one answers on and on, one sends without end.
const ONCE: u16 = 8080;
const ON_AND_ON: u16 = 8081;
const STREAM: u16 = 8082;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("proxy") => proxy::run(config(Path::new(&arguments[2])), &Default::default()).unwrap(),
        seconds => {
            let seconds = seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(2);
            let host = NetNs::create().unwrap();
            host.enter().unwrap();
            runtime().block_on(measure(&host, Duration::from_secs(seconds)));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn config(directory: &Path) -> Config {
    Config {
        version: "bench".into(),
        source: Source::Disk,
        node_name: "here".into(),
        node_addresses: Vec::new(),
        run_dir: directory.join("run"),
        table_file: directory.join("table.json"),
        network: network::Config {
            bridge: "bench0".into(),
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: Some("10.43.0.0/16".parse().unwrap()),
            address: None,
            mtu: None,
            nft_table: "bench".into(),
            state_dir: directory.join("network"),
        },
        dns_address: Ipv4Addr::new(10, 43, 0, 10),
        cluster_domain: "cluster.local".into(),
        resolv_conf: "/etc/resolv.conf".into(),
        grace: Duration::ZERO,
    }
}

/// One way from the client to the servers.
struct Way {
    name: &'static str,
    address: Ipv4Addr,
    /// Added to the servers' ports.
    offset: u16,
    process: Option<Process>,
}

async fn measure(host: &NetNs, seconds: Duration) {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    let network = Network::new(config.network.clone()).unwrap();
    network.ensure().await.unwrap();
    // The client resets its connections, and connection tracking forgets them soon, so that ports do not run out.
    for timeout in ["time_wait", "close"] {
        let _ = std::fs::write(format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{timeout}"), "1");
    }
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let netns = NetNs::create().unwrap();
        let address = network.attach(netns.as_fd(), name, "eth0").await.unwrap().address;
        std::thread::spawn(move || {
            netns.enter().unwrap();
            runtime().block_on(serve());
        });
        servers.push(address);
    }
    let client = NetNs::create().unwrap();
    network.attach(client.as_fd(), "client", "eth0").await.unwrap();
    let _ = client.run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535"));

    let own = start_proxy(directory.path(), &config, &servers).await;
    let haproxy = start_haproxy(directory.path(), config.network.gateway(), &servers, false);
    let spliced = start_haproxy(directory.path(), config.network.gateway(), &servers, true);
    let ways = [
        Way { name: "direct", address: servers[0], offset: 0, process: None },
        Way { name: "coracle", address: SERVICE, offset: 0, process: Some(own) },
        Way { name: "haproxy", address: config.network.gateway(), offset: 1000, process: haproxy },
        Way {
            name: "haproxy, splice forced",
            address: config.network.gateway(),
            offset: 2000,
            process: spliced,
        },
    ];
    let _ = host;
    println!("Each number: median of {ROUNDS} rounds of {seconds:?}; client and servers on one thread each.");
    println!(
        "{:24} {:>8} {:>8} {:>16} {:>8} {:>18} {:>18} {:>14} {:>14}",
        "way",
        "stream",
        "CPU",
        "new, 32 at once",
        "CPU",
        "new, one by one",
        "request, kept",
        "RSS idle",
        "after"
    );
    println!(
        "{:24} {:>8} {:>8} {:>16} {:>8} {:>18} {:>18} {:>14} {:>14}",
        "",
        "Gbit/s",
        "s per GB",
        "1/s",
        "µs each",
        "p50 / p99 µs",
        "p50 / p99 µs",
        "KiB (anon)",
        "KiB (anon)"
    );
    let idle: Vec<_> = ways.iter().map(|way| memory(way.process.as_ref())).collect();
    let mut results: BTreeMap<usize, Vec<[f64; 8]>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (index, way) in ways.iter().enumerate() {
            if way.process.is_none() && way.offset > 0 {
                continue;
            }
            let row = client.run(|| runtime().block_on(load(way, seconds))).unwrap();
            results.entry(index).or_default().push(row);
        }
    }
    let idle_connections = hold_idle(&client, ways.iter().find(|way| way.name == "coracle").unwrap());
    for (index, way) in ways.iter().enumerate() {
        let Some(rows) = results.get(&index) else {
            println!("{:24} not installed", way.name);
            continue;
        };
        let median = |column: usize| {
            let mut values: Vec<_> = rows.iter().map(|row| row[column]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{:24} {:>8.1} {:>8.2} {:>16.0} {:>8.0} {:>18} {:>18} {:>14} {:>14}",
            way.name,
            median(0),
            median(6),
            median(1),
            median(7),
            format!("{:.0} / {:.0}", median(2), median(3)),
            format!("{:.0} / {:.0}", median(4), median(5)),
            idle[index],
            memory(way.process.as_ref()),
        );
    }
    println!("{idle_connections}");
}

/// A process that ends with us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What connections that do nothing cost.
fn hold_idle(client: &NetNs, way: &Way) -> String {
    const COUNT: usize = 2000;
    let before = memory(way.process.as_ref());
    let address = SocketAddr::new(way.address.into(), ON_AND_ON);
    let connect = || (0..COUNT).map(|_| std::net::TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
    let open = client.run(connect).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let with = memory(way.process.as_ref());
    drop(open);
    std::thread::sleep(Duration::from_millis(300));
    let after = memory(way.process.as_ref());
    format!(
        "{}: RSS before, with and after {COUNT} idle connections: {before}, {with}, {after} KiB",
        way.name
    )
}

/// Resident memory of a process, and how much of it is not a file's.
fn memory(process: Option<&Process>) -> String {
    let Some(process) = process else { return String::new() };
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or("?").to_owned()
    };
    format!("{} ({})", kib("VmRSS:"), kib("RssAnon:"))
}

/// Processor time that a process has used.
fn processor_seconds(process: Option<&Process>) -> f64 {
    let Some(process) = process else { return 0.0 };
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id())).unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in hundredths of a second.
    (ticks(11) + ticks(12)) / 100.0
}

async fn start_proxy(directory: &Path, config: &Config, servers: &[Ipv4Addr]) -> Process {
    let mut table = Table::default();
    for port in [ONCE, ON_AND_ON, STREAM] {
        let entrance =
            Entrance { place: Place::Services, protocol: Protocol::Tcp, address: SERVICE.into(), port };
        let service = ServiceName { namespace: "default".into(), name: format!("web{port}") };
        let backends = servers.iter().map(|address| SocketAddr::new((*address).into(), port)).collect();
        table.forwards.insert(entrance, Forward { service, backends, affinity_seconds: None });
    }
    proxy::table::save(&config.table_file, &table).unwrap();
    let spawn = || Command::new(std::env::current_exe()?).arg("proxy").arg(directory).spawn();
    match proxy::ensure_running(&config.run_dir, "bench", spawn).await.unwrap() {
        proxy::Launched::Started(_, child) => Process(child),
        proxy::Launched::Found(_) => unreachable!("the directory is new"),
    }
}

fn start_haproxy(directory: &Path, address: Ipv4Addr, servers: &[Ipv4Addr], splice: bool) -> Option<Process> {
    let offset = if splice { 2000 } else { 1000 };
    let mut text = String::from("global\n nbthread 2\n maxconn 4000\ndefaults\n mode tcp\n");
    text += " timeout connect 5s\n timeout client 1h\n timeout server 1h\n";
    if splice {
        text += " option splice-request\n option splice-response\n";
    }
    for port in [ONCE, ON_AND_ON, STREAM] {
        text += &format!("listen l{port}\n bind {address}:{}\n balance roundrobin\n", port + offset);
        for (index, server) in servers.iter().enumerate() {
            text += &format!(" server s{index} {server}:{port}\n");
        }
    }
    let file = directory.join(format!("haproxy{offset}.cfg"));
    std::fs::write(&file, text).unwrap();
    let command = Command::new("haproxy").arg("-db").arg("-f").arg(&file).stderr(Stdio::null()).spawn();
    let process = Process(command.ok()?);
    let started = Instant::now();
    while std::net::TcpStream::connect((address, ONCE + offset)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(5), "haproxy does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(process)
}

async fn serve() {
    let any = Ipv4Addr::UNSPECIFIED;
    let once = TcpListener::bind((any, ONCE)).await.unwrap();
    let on_and_on = TcpListener::bind((any, ON_AND_ON)).await.unwrap();
    let stream = TcpListener::bind((any, STREAM)).await.unwrap();
    let once = async {
        loop {
            let (mut client, _) = once.accept().await.unwrap();
            tokio::spawn(async move {
                if client.read(&mut [0; 64]).await.is_ok() {
                    let _ = client.write_all(b"hello").await;
                }
            });
        }
    };
    let on_and_on = async {
        loop {
            let (mut client, _) = on_and_on.accept().await.unwrap();
            let _ = client.set_nodelay(true);
            tokio::spawn(async move {
                while client.read(&mut [0; 64]).await.is_ok_and(|length| length > 0) {
                    if client.write_all(b"hello").await.is_err() {
                        return;
                    }
                }
            });
        }
    };
    let stream = async {
        loop {
            let (mut client, _) = stream.accept().await.unwrap();
            tokio::spawn(async move {
                let bytes = vec![7; 256 * 1024];
                while client.write_all(&bytes).await.is_ok() {}
            });
        }
    };
    tokio::join!(once, on_and_on, stream);
}

async fn load(way: &Way, time: Duration) -> [f64; 8] {
    let address = |port: u16| SocketAddr::new(way.address.into(), port + way.offset);
    let processor = || processor_seconds(way.process.as_ref());
    let start = processor();
    let gigabits = stream(address(STREAM), time).await;
    let middle = processor();
    let (rate, count) = at_once(address(ONCE), time).await;
    let per_connection = (processor() - middle) * 1e6 / count;
    let per_gigabyte = (middle - start) / (gigabits / 8.0 * time.as_secs_f64());
    let (new_median, new_worst) = percentiles(one_by_one(address(ONCE), time).await);
    let (kept_median, kept_worst) = percentiles(kept(address(ON_AND_ON), time).await);
    [gigabits, rate, new_median, new_worst, kept_median, kept_worst, per_gigabyte, per_connection]
}

async fn stream(address: SocketAddr, time: Duration) -> f64 {
    let mut server = TcpStream::connect(address).await.unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let warm = Instant::now() + Duration::from_millis(300);
    while Instant::now() < warm {
        assert_ne!(server.read(&mut buffer).await.unwrap(), 0);
    }
    let (started, mut bytes) = (Instant::now(), 0);
    while started.elapsed() < time {
        bytes += server.read(&mut buffer).await.unwrap();
    }
    bytes as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9
}

/// Connects, asks, reads to the end, and resets, so that nothing waits for stray segments.
async fn exchange(address: SocketAddr) {
    let mut server = TcpStream::connect(address).await.unwrap();
    server.write_all(b"hi").await.unwrap();
    let mut answer = Vec::with_capacity(16);
    server.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"hello");
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn at_once(address: SocketAddr, time: Duration) -> (f64, f64) {
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        tasks.spawn(async move {
            let mut count = 0;
            while started.elapsed() < time {
                exchange(address).await;
                count += 1;
            }
            count
        });
    }
    let total: usize = tasks.join_all().await.into_iter().sum();
    (total as f64 / started.elapsed().as_secs_f64(), total as f64)
}

async fn one_by_one(address: SocketAddr, time: Duration) -> Vec<Duration> {
    let (started, mut times) = (Instant::now(), Vec::new());
    while started.elapsed() < time {
        let begun = Instant::now();
        exchange(address).await;
        times.push(begun.elapsed());
    }
    times
}

async fn kept(address: SocketAddr, time: Duration) -> Vec<Duration> {
    let mut server = TcpStream::connect(address).await.unwrap();
    server.set_nodelay(true).unwrap();
    let (started, mut times) = (Instant::now(), Vec::new());
    while started.elapsed() < time {
        let begun = Instant::now();
        server.write_all(b"hi").await.unwrap();
        server.read_exact(&mut [0; 5]).await.unwrap();
        times.push(begun.elapsed());
    }
    times
}

fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    (at(0.5), at(0.99))
}
