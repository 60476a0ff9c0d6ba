//! Load on an API server, any that a kubeconfig leads to: what it does per second, how long it takes, what it needs.
//!
//! Over TLS with JSON; every client is one HTTP/2 connection; client and server share the machine. The figures beside are
//! those of kube-apiserver 1.20.2 on etcd 3.4, measured in the same way on a machine of the same kind (two cores at
//! 2.6 GHz): the better of two runs, to be read to about 30 %.

mod closed;
mod connection;
mod fanout;
mod pod;
mod process;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use http::{Method, StatusCode};

use closed::{Operation, Until, percentile};
use connection::Target;
use process::{Cores, Engine, Process, Server};

/// Drives an API server and prints what it does, beside what kube-apiserver does.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask load",
    after_help = "Without --kubeconfig a server is started: `coracle apiserver` (CORACLE_BIN, or \
                  target/release/coracle) on the store that --store names.\n\n\
                  cargo xtask load                                      all of it, on the embedded store\n  \
                  cargo xtask load --store etcd --short                 a minute, on etcd\n  \
                  cargo xtask load --kubeconfig k.conf --pid 4711       any other server"
)]
struct Arguments {
    /// Measure the server of this kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The server's process, for its memory and processor time
    #[arg(long, requires = "kubeconfig")]
    pid: Option<u32>,
    /// Where the started server keeps objects
    #[arg(long, value_enum, default_value_t = StoreName::Embedded, conflicts_with = "kubeconfig")]
    store: StoreName,
    /// A minute instead of several, without the 50,000 pods
    #[arg(long)]
    short: bool,
    /// Only these parts: create, get, patch, list, watch, many
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum StoreName {
    Embedded,
    Etcd,
}

/// kube-apiserver's figures.
mod peer {
    /// By 1, 16 and 64 clients, per second.
    pub(super) const CREATE: [f64; 3] = [635.0, 1747.0, 1956.0];
    pub(super) const GET: [f64; 3] = [1592.0, 4631.0, 4795.0];
    pub(super) const PATCH: [f64; 3] = [595.0, 1408.0, 1299.0];
    /// Milliseconds for 10,000 pods.
    pub(super) const LIST: f64 = 374.5;
    pub(super) const LIST_ANY: f64 = 174.1;
    pub(super) const PAGE: f64 = 15.2;
    /// Milliseconds for 50,000 pods.
    pub(super) const LIST_50K: f64 = 2097.5;
    /// Milliseconds from acknowledgement to the last of 100 watchers, p99: at 50 writes a second, and at the 173 that
    /// it came to when it was given more.
    pub(super) const LAST_AT_50: f64 = 5.4;
    pub(super) const LAST_AT_173: f64 = 31.3;
    /// Resident MiB with 0, 10,000 and 50,000 pods.
    pub(super) const EMPTY: f64 = 303.0;
    pub(super) const PODS_10K: f64 = 625.0;
    pub(super) const PODS_50K: f64 = 2114.0;
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Plan {
    series: Duration,
    lists: u32,
    fanout_seconds: f64,
    to_50k: bool,
}

const SHORT: Plan = Plan { series: Duration::from_secs(2), lists: 5, fanout_seconds: 3.0, to_50k: false };

pub(crate) fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let arguments = Arguments::parse_from(std::iter::once("load".to_owned()).chain(arguments));
    runtime()?.block_on(async {
        match &arguments.kubeconfig {
            Some(path) => {
                let processes: Vec<_> =
                    arguments.pid.map(|pid| Process { name: "server", pid }).into_iter().collect();
                let target = Target::from_kubeconfig(path)?;
                Load { target, processes, plan: plan(&arguments), only: arguments.only.clone() }
                    .measure()
                    .await
            }
            None => on_own_server(arguments.store, plan(&arguments), &arguments.only).await,
        }
    })
}

fn plan(arguments: &Arguments) -> Plan {
    if arguments.short {
        SHORT
    } else {
        Plan { series: Duration::from_secs(10), lists: 10, fanout_seconds: 10.0, to_50k: true }
    }
}

/// The short form on both stores: a part of `make bench`.
pub(crate) fn short() -> anyhow::Result<()> {
    runtime()?.block_on(async {
        on_own_server(StoreName::Embedded, SHORT, &[]).await?;
        on_own_server(StoreName::Etcd, SHORT, &[]).await
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    raise_descriptor_limit();
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn on_own_server(store: StoreName, plan: Plan, only: &[String]) -> anyhow::Result<()> {
    let engine = match store {
        StoreName::Embedded => Engine::Embedded,
        StoreName::Etcd => Engine::Etcd,
    };
    println!("\nAPI server over TLS, JSON, HTTP/2; store: {engine:?}");
    let mut server = Server::start(engine)?;
    let target = ready(&mut server).await?;
    let load = Load { target, processes: server.processes.clone(), plan, only: only.to_vec() };
    let measured = load.measure().await;
    server.check()?;
    println!("on disk: {:.0} MiB", server.disk() as f64 / 1048576.0);
    measured
}

async fn ready(server: &mut Server) -> anyhow::Result<Target> {
    let begin = Instant::now();
    loop {
        server.check()?;
        if let Ok(target) = Target::from_kubeconfig(&server.kubeconfig())
            && let Ok(mut connection) = target.connect().await
            && let Ok((StatusCode::OK, _)) = connection.ask(Method::GET, "/readyz", "", Bytes::new()).await
        {
            return Ok(target);
        }
        ensure!(begin.elapsed() < Duration::from_secs(30), "the server does not become ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Thousands of connections need as many descriptors.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

struct Load {
    target: Target,
    processes: Vec<Process>,
    plan: Plan,
    only: Vec<String>,
}

const CLIENTS: [usize; 3] = [1, 16, 64];
const CREATED: [u64; 3] = [1000, 4000, 5000];
const PODS: u64 = 10_000;
const MORE: u64 = 40_000;

impl Load {
    fn wanted(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    async fn measure(&self) -> anyhow::Result<()> {
        println!(
            "{:<34} {:>9} {:>9} {:>9} {:>10} {:>7}   cores used",
            "", "", "p50 ms", "p99 ms", "k8s 1.20", "times"
        );
        let namespace = format!("load-{}", std::process::id());
        self.prepare(&namespace).await?;
        let collection = format!("/api/v1/namespaces/{namespace}/pods");
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.memory("no pods", peer::EMPTY);
        let mut made = 0;
        for (index, clients) in CLIENTS.into_iter().enumerate() {
            let until = Until::Requests(CREATED[index]);
            self.series("create", &collection, Operation::Create, clients, made, until, peer::CREATE[index])
                .await?;
            made += CREATED[index];
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.memory("10,000 pods", peer::PODS_10K);
        let until = Until::Elapsed(self.plan.series);
        for (index, clients) in CLIENTS.into_iter().enumerate().filter(|_| self.wanted("get")) {
            self.series("get", &collection, Operation::Get { of: PODS }, clients, 0, until, peer::GET[index])
                .await?;
        }
        for (index, clients) in CLIENTS.into_iter().enumerate().filter(|_| self.wanted("patch")) {
            let operation = Operation::Patch { of: PODS };
            let from = 1_000_000 * (index as u64 + 1);
            self.series("patch status", &collection, operation, clients, from, until, peer::PATCH[index])
                .await?;
        }
        if self.wanted("list") {
            self.list("list 10,000", &collection, peer::LIST).await?;
            self.list("list 10,000, any version", &format!("{collection}?resourceVersion=0"), peer::LIST_ANY)
                .await?;
            self.pages(&collection).await?;
            self.memory("10,000 pods, after lists", f64::NAN);
        }
        if self.wanted("watch") {
            for (watchers, rate, peer) in
                [(100, 50.0, peer::LAST_AT_50), (100, 200.0, peer::LAST_AT_173), (100, 1000.0, f64::NAN)]
            {
                self.fanout(&collection, watchers, rate, peer).await?;
            }
            self.memory("10,000 pods, after watches", f64::NAN);
        }
        if self.wanted("many") {
            self.fanout(&collection, 1000, 20.0, f64::NAN).await?;
        }
        if self.plan.to_50k && self.wanted("create") {
            let until = Until::Requests(MORE);
            self.series("create to 50,000", &collection, Operation::Create, 64, made, until, 1459.0).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.memory("50,000 pods", peer::PODS_50K);
            self.list("list 50,000", &collection, peer::LIST_50K).await?;
        }
        self.clean(&namespace).await
    }

    /// A namespace with the account that pods run as: nobody else may be there to make it.
    async fn prepare(&self, namespace: &str) -> anyhow::Result<()> {
        let mut connection = self.target.connect().await?;
        let namespaces = "/api/v1/namespaces";
        let accounts = format!("{namespaces}/{namespace}/serviceaccounts");
        for (path, kind, name) in
            [(namespaces, "Namespace", namespace), (&accounts, "ServiceAccount", "default")]
        {
            let body = serde_json::json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
            let body = body.to_string().into();
            let (status, answer) = connection.ask(Method::POST, path, "application/json", body).await?;
            if !status.is_success() && status != StatusCode::CONFLICT {
                bail!("{path}: {status}: {}", String::from_utf8_lossy(&answer));
            }
        }
        Ok(())
    }

    async fn clean(&self, namespace: &str) -> anyhow::Result<()> {
        let mut connection = self.target.connect().await?;
        for path in [
            format!("/api/v1/namespaces/{namespace}/pods?gracePeriodSeconds=0"),
            format!("/api/v1/namespaces/{namespace}"),
        ] {
            connection.ask(Method::DELETE, &path, "", Bytes::new()).await.context("cleaning up")?;
        }
        Ok(())
    }

    fn memory(&self, when: &str, peer: f64) {
        for process in &self.processes {
            let memory = process.memory();
            let peer = if process.name == "etcd" { f64::NAN } else { peer };
            let what = format!("{}: MiB, {when}", process.name);
            let anonymous = format!("{:.1} of it anonymous", memory.anonymous);
            row(&what, memory.rss, [f64::NAN; 2], peer, peer / memory.rss, &anonymous);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a row of a table")]
    async fn series(
        &self,
        what: &str,
        collection: &str,
        operation: Operation,
        clients: usize,
        from: u64,
        until: Until,
        peer: f64,
    ) -> anyhow::Result<()> {
        let cores = Cores::begin(&self.processes);
        let outcome = closed::run(&self.target, collection, operation, clients, from, until).await?;
        let rate = outcome.per_second();
        let mean = outcome.bytes as f64 / outcome.latencies.len().max(1) as f64;
        let mut how = format!("{}; {mean:.0} bytes", cores.end());
        if let Some(error) = &outcome.first_error {
            how.push_str(&format!("; {} ERRORS: {error}", outcome.errors));
        }
        let middle = [outcome.percentile(50), outcome.percentile(99)];
        row(&format!("{what}, {clients} clients: /s"), rate, middle, peer, rate / peer, &how);
        Ok(())
    }

    async fn list(&self, what: &str, path: &str, peer: f64) -> anyhow::Result<()> {
        let mut connection = self.target.connect().await?;
        let cores = Cores::begin(&self.processes);
        let (mut took, mut bytes) = (Vec::new(), 0);
        for _ in 0..self.plan.lists {
            let begin = Instant::now();
            bytes = connection.count(path).await?.0;
            took.push(begin.elapsed());
        }
        took.sort();
        let middle = percentile(&took, 50);
        let how = format!("{}; {:.1} MB", cores.end(), bytes as f64 / 1e6);
        row(&format!("{what}: ms"), middle, [middle, percentile(&took, 99)], peer, peer / middle, &how);
        Ok(())
    }

    /// All pages of 500, one after the other.
    async fn pages(&self, collection: &str) -> anyhow::Result<()> {
        let mut connection = self.target.connect().await?;
        let cores = Cores::begin(&self.processes);
        let (mut took, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("{collection}?limit=500&continue={token}");
            let begin = Instant::now();
            let (status, page) = connection.ask(Method::GET, &path, "", Bytes::new()).await?;
            took.push(begin.elapsed());
            ensure!(status.is_success(), "{path}: {status}");
            #[derive(serde::Deserialize)]
            struct Page {
                metadata: Metadata,
            }
            #[derive(serde::Deserialize)]
            struct Metadata {
                #[serde(default, rename = "continue")]
                token: String,
            }
            token = serde_json::from_slice::<Page>(&page)?.metadata.token;
            if token.is_empty() {
                break;
            }
        }
        took.sort();
        let middle = percentile(&took, 50);
        let how = format!("{}; {} pages", cores.end(), took.len());
        row(
            "a page of 500: ms",
            middle,
            [middle, percentile(&took, 99)],
            peer::PAGE,
            peer::PAGE / middle,
            &how,
        );
        Ok(())
    }

    async fn fanout(&self, collection: &str, watchers: usize, rate: f64, peer: f64) -> anyhow::Result<()> {
        let writes = (rate * self.plan.fanout_seconds).max(40.0) as u64;
        let cores = Cores::begin(&self.processes);
        let run = fanout::run(&self.target, collection, PODS, watchers, writes, rate).await?;
        let how = format!(
            "{}; {:.0} writes/s, acknowledged p50 {:.2} p99 {:.2} ms; {} missing, {} ended",
            cores.end(),
            run.writes_per_second,
            run.acknowledged(50),
            run.acknowledged(99),
            run.missing,
            run.ended
        );
        let last = run.last(99);
        let what = format!("{watchers} watchers, {rate:.0} writes/s: ms");
        row(&what, last, [run.last(50), last], peer, peer / last, &how);
        Ok(())
    }
}

fn row(what: &str, ours: f64, middle: [f64; 2], peer: f64, times: f64, how: &str) {
    let number = |number: f64, digits: usize| {
        if number.is_nan() { String::new() } else { format!("{number:.digits$}") }
    };
    let digits = if ours >= 100.0 { 0 } else { 1 };
    println!(
        "{what:<34} {:>9} {:>9} {:>9} {:>10} {:>7}   {how}",
        number(ours, digits),
        number(middle[0], 2),
        number(middle[1], 2),
        number(peer, 1),
        number(times, 1),
    );
}
