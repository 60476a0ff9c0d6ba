//! Memory and processor time of the processes that are measured, and starting a server to measure.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A process that serves.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
}

/// What a process has resident, in MiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) rss: f64,
    pub(crate) anonymous: f64,
}

impl Process {
    pub(crate) fn memory(&self) -> Memory {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).unwrap_or_default();
        let field = |name: &str| -> f64 {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN)
                / 1024.0
        };
        Memory { rss: field("Rss:"), anonymous: field("Anonymous:") }
    }

    /// Seconds of processor time so far.
    pub(crate) fn processor(&self) -> f64 {
        let ticks = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        };
        ticks().unwrap_or(0) as f64 / rustix::param::clock_ticks_per_second() as f64
    }
}

/// Cores that processes use between two looks.
#[derive(Debug)]
pub(crate) struct Cores<'a> {
    processes: &'a [Process],
    begin: Instant,
    before: Vec<f64>,
}

impl<'a> Cores<'a> {
    pub(crate) fn begin(processes: &'a [Process]) -> Cores<'a> {
        let before = processes.iter().map(Process::processor).collect();
        Cores { processes, begin: Instant::now(), before }
    }

    /// For people: who has used how much of a core.
    pub(crate) fn end(&self) -> String {
        let elapsed = self.begin.elapsed().as_secs_f64();
        let used = self.processes.iter().zip(&self.before).map(|(process, before)| {
            format!("{} {:.2}", process.name, (process.processor() - before) / elapsed)
        });
        used.collect::<Vec<_>>().join(", ")
    }
}

/// A server that was started for the measurement, and ends with it.
#[derive(Debug)]
pub(crate) struct Server {
    children: Vec<Child>,
    pub(crate) processes: Vec<Process>,
    pub(crate) directory: tempfile::TempDir,
}

/// Where objects are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Embedded,
    Etcd,
}

impl Server {
    /// Starts `coracle apiserver`, on etcd if asked.
    pub(crate) fn start(engine: Engine) -> anyhow::Result<Server> {
        let directory = tempfile::Builder::new().prefix("coracle-load-").tempdir_in("target")?;
        let mut server = Server { children: Vec::new(), processes: Vec::new(), directory };
        let binary = std::env::var_os("CORACLE_BIN").unwrap_or_else(|| "target/release/coracle".into());
        let mut coracle = Command::new(binary);
        coracle.args(["apiserver", "--log", "warn", "--listen", &format!("127.0.0.1:{}", free_port()?)]);
        coracle.arg("--data-dir").arg(server.path("data")).arg("--run-dir").arg(server.path("run"));
        if engine == Engine::Etcd {
            let (client, peer) = (free_port()?, free_port()?);
            let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut etcd = Command::new("etcd");
            etcd.args(["--name", "load", "--initial-cluster", &format!("load={peer}")]);
            etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            etcd.args(["--quota-backend-bytes", "4294967296"]).arg("--data-dir").arg(server.path("etcd"));
            server.spawn("etcd", &mut etcd)?;
            coracle.args(["--etcd-servers", &client]);
        }
        server.spawn("coracle", &mut coracle)?;
        Ok(server)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn spawn(&mut self, name: &'static str, command: &mut Command) -> anyhow::Result<()> {
        let log = fs::File::create(self.path(&format!("{name}.log")))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.processes.push(Process { name, pid: child.id() });
        self.children.push(child);
        Ok(())
    }

    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.path("data/kubeconfig")
    }

    /// Bytes of files below the data directories.
    pub(crate) fn disk(&self) -> u64 {
        size(&self.path("data/store")) + size(&self.path("etcd"))
    }

    /// What the processes had to say, for when something goes wrong; an error if one has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for (child, process) in self.children.iter_mut().zip(&self.processes) {
            if let Some(status) = child.try_wait()? {
                let log = self.directory.path().join(format!("{}.log", process.name));
                bail!(
                    "{} ended with {status}:\n{}",
                    process.name,
                    fs::read_to_string(log).unwrap_or_default()
                );
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server first: without its store it would only complain.
        for child in self.children.iter_mut().rev() {
            let pid = rustix::process::Pid::from_child(child);
            _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let begin = Instant::now();
            while matches!(child.try_wait(), Ok(None)) {
                if begin.elapsed() > Duration::from_secs(15) {
                    _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
