//! The release binary in a temporary directory and a network namespace of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use client::Client;
use manifests::k8s_openapi::api::core::v1::Node;

pub(crate) const IMAGE: &str = "coracle.example/busybox:1";

pub(crate) struct Cluster {
    process: Option<Child>,
    directory: tempfile::TempDir,
    net: u8,
}

impl Cluster {
    /// Starts `coracle up`; returns as soon as the process is there.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("coracle-bench-").tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut cluster = Self::prepare(directory)?;
        cluster.spawn("up", &["--listen", &format!("127.0.0.1:{port}")])?;
        Ok(cluster)
    }

    /// Starts `coracle up --nodes N`; returns as soon as the process is there.
    pub(crate) fn start_nodes(nodes: usize) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("coracle-bench-").tempdir()?;
        let mut cluster = Self::prepare(directory)?;
        let mut command = cluster.command(&["up", "--log", "warn", "--nodes", &nodes.to_string()]);
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        command.args(["--listen", &format!("0.0.0.0:{port}")]);
        command.args(["--pod-cidr", &format!("10.{}.0.0/16", cluster.net)]);
        command.args(["--service-cidr", &format!("10.{}.0.0/16", cluster.net + 1)]);
        command.stdout(Stdio::null()).stderr(std::fs::File::create(cluster.path("log"))?);
        cluster.process = Some(command.spawn().context("starting coracle")?);
        Ok(cluster)
    }

    /// An instance whose machines will have the image.
    pub(crate) fn prepare_machines() -> anyhow::Result<Self> {
        Self::prepare(tempfile::Builder::new().prefix("coracle-bench-").tempdir()?)
    }

    /// Starts `coracle agent` on a directory of manifests, with room for as many pods as there are; answers when.
    pub(crate) fn start_directory(manifests: &[String]) -> anyhow::Result<(Self, Instant)> {
        let directory = tempfile::Builder::new().prefix("coracle-bench-").tempdir()?;
        let mut cluster = Self::prepare(directory)?;
        let path = cluster.path("manifests");
        std::fs::create_dir(&path)?;
        for (index, manifest) in manifests.iter().enumerate() {
            std::fs::write(path.join(format!("{index}.yaml")), manifest)?;
        }
        let (path, most) = (path.display().to_string(), manifests.len().to_string());
        let range = format!("10.{}.0.0/22", cluster.net);
        let begin = Instant::now();
        cluster.spawn("agent", &["--manifests", &path, "--max-pods", &most, "--node-cidr", &range])?;
        Ok((cluster, begin))
    }

    /// All but the process: the image is there.
    fn prepare(directory: tempfile::TempDir) -> anyhow::Result<Self> {
        let cluster = Self { process: None, directory, net: free_network()? };
        let rootfs = cluster.path("rootfs");
        check(Command::new("hack/busybox-rootfs").arg(&rootfs))?;
        check(cluster.command(&["image", "build-rootfs", "--name", IMAGE]).arg(&rootfs))?;
        Ok(cluster)
    }

    fn spawn(&mut self, subcommand: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let net = self.net;
        let mut command = self.command(&[subcommand, "--node-name", "bench", "--log", "warn"]);
        command.args(arguments);
        command.args([
            "--pod-cidr",
            &format!("10.{net}.0.0/16"),
            "--service-cidr",
            &format!("10.{}.0.0/16", net + 1),
        ]);
        command.stdout(Stdio::null()).stderr(std::fs::File::create(self.path("log"))?);
        self.process = Some(command.spawn().context("starting coracle")?);
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `coracle` with a subcommand on this instance.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Self::client_command();
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.path("data"))
            .arg("--run-dir")
            .arg(self.path("run"));
        command
    }

    /// `coracle` for a subcommand that speaks to an API.
    pub(crate) fn client_command() -> Command {
        Command::new(std::env::var_os("CORACLE_BIN").unwrap_or_else(|| "target/release/coracle".into()))
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::from_kubeconfig(self.path("data/kubeconfig"))?)
    }

    /// Until the server says that it is ready, over TLS.
    pub(crate) async fn wait_readyz(&mut self) -> anyhow::Result<()> {
        let mut client = None;
        loop {
            self.alive()?;
            if client.is_none() {
                client = self.client().ok();
            }
            let request = http::Request::get("/readyz").body(bytes::Bytes::new())?;
            if let Some(client) = &client
                && client.bytes(request).await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn wait_node_ready(&mut self) -> anyhow::Result<()> {
        self.wait_readyz().await?;
        let nodes = self.client()?.all::<Node>();
        let begin = Instant::now();
        loop {
            self.alive()?;
            if let Some(node) = nodes.get_opt("bench").await? {
                let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
                if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
                {
                    return Ok(());
                }
            }
            if begin.elapsed() > Duration::from_secs(60) {
                bail!("the node did not become ready:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn alive(&mut self) -> anyhow::Result<()> {
        match self.process.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => bail!("coracle ended with {status}:\n{}", self.log()),
            _ => Ok(()),
        }
    }

    /// Ends everything and reports what went wrong.
    pub(crate) fn down(mut self) -> anyhow::Result<()> {
        self.stop();
        check(&mut self.command(&["down", "--grace-period=0"]))
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.process.take() {
            _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(&child),
                rustix::process::Signal::TERM,
            );
            _ = child.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.stop();
            _ = self.command(&["down", "--grace-period=0"]).status();
        }
    }
}

fn check(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A pair of /16 networks that no route of this machine is in.
fn free_network() -> anyhow::Result<u8> {
    let routes = String::from_utf8(Command::new("ip").args(["route", "show"]).output()?.stdout)?;
    (96..250)
        .step_by(2)
        .find(|net| !routes.contains(&format!("10.{net}.")) && !routes.contains(&format!("10.{}.", net + 1)))
        .context("every network from 10.96.0.0/16 on is in use")
}
