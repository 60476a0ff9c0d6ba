//! The process that runs the nodes: it starts an agent per node, starts it again when it ends by itself, and does what
//! `coracle node` asks.
//!
//! ```text
//!            start                    it ended by itself
//!   Off ────────────▶ Running ───────────────────────▶ Pausing ──▶ Running
//!    ▲                  │ kill                            │ kill
//!    └──────────────────┴─────────────────────────────────┘
//! ```
//!
//! That a node is off is a file in the run directory: another start of this process leaves it off, a reboot switches it on.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cables::Cables;
use super::control::{self, Answer, Request, Seen};
use super::layout::{Layout, Place};
use super::power;
use crate::instance::{Instance, Part, create_private_directory};
use crate::up::down;

/// An agent that ends by itself is started again after this.
const PAUSE: Duration = Duration::from_secs(1);
/// A log that is longer is begun again when its agent starts.
const LOG: u64 = 16 << 20;

/// How an agent is started.
#[derive(Debug, Clone)]
pub(crate) struct AgentLine {
    /// Where the API server is for the nodes.
    pub(crate) server: String,
    /// For nodes that are none yet.
    pub(crate) token: Option<String>,
    /// What all agents are told.
    pub(crate) flags: Vec<OsString>,
}

/// The nodes of an instance.
#[derive(Debug)]
pub(crate) struct Nodes {
    instance: Instance,
    layout: Layout,
    cables: Cables,
    services: Ipv4Net,
    line: AgentLine,
    states: Vec<State>,
    /// Agents that have ended: which node, and which of its agents.
    ends: JoinSet<(usize, u64, std::io::Result<ExitStatus>)>,
    started: u64,
}

#[derive(Debug)]
enum State {
    Off,
    Running { number: u64, process: OwnedFd },
    Pausing { until: Instant },
}

impl Nodes {
    pub(crate) fn new(
        instance: &Instance,
        layout: &Layout,
        cables: Cables,
        services: Ipv4Net,
        line: AgentLine,
    ) -> Self {
        Self {
            instance: instance.clone(),
            states: layout.nodes.iter().map(|_| State::Off).collect(),
            layout: layout.clone(),
            cables,
            services,
            line,
            ends: JoinSet::new(),
            started: 0,
        }
    }

    /// Runs the nodes until told to stop; then their agents end, and their pods go on.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let listener = self.listen()?;
        for index in 0..self.states.len() {
            if !self.off_file(index).exists() {
                // Of an earlier start of this process, which was killed.
                down::end_owner(&self.place(index).instance(&self.instance), Part::Node).await?;
                self.switch_on(index)?;
            }
        }
        self.route_services()?;
        loop {
            let next = self.states.iter().filter_map(|state| match state {
                State::Pausing { until } => Some(*until),
                _ => None,
            });
            let next = next.min();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.ends.join_next() => {
                    let (index, number, status) = ended.context("waiting for an agent")?;
                    self.ended(index, number, status);
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    for index in 0..self.states.len() {
                        if matches!(self.states[index], State::Pausing { until } if until <= Instant::now())
                            && let Err(error) = self.switch_on(index)
                        {
                            warn!(node = self.place(index).name, error = format!("{error:#}"), "the node cannot be started; trying again");
                            self.states[index] = State::Pausing { until: Instant::now() + PAUSE };
                        }
                    }
                }
                accepted = listener.accept() => {
                    let (stream, _) = accepted.context("listening for `coracle node`")?;
                    self.serve(stream).await;
                }
            }
        }
        self.end_all().await
    }

    fn listen(&self) -> anyhow::Result<UnixListener> {
        let path = control::socket(&self.instance);
        create_private_directory(&self.instance.run_dir.join("nodes"))?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))
    }

    fn place(&self, index: usize) -> &Place {
        &self.layout.nodes[index]
    }

    fn off_file(&self, index: usize) -> PathBuf {
        self.instance.run_dir.join("nodes").join(format!("{}.off", self.place(index).name))
    }

    /// Plugs the node in and starts its agent.
    fn switch_on(&mut self, index: usize) -> anyhow::Result<()> {
        let place = self.place(index).clone();
        let node = place.instance(&self.instance);
        node.create_directories()?;
        let netns = self.cables.connect(&place)?;
        let mut command = self.command(&place, &node)?;
        // A process starts in the namespace of the thread that starts it.
        let child = netns.run(|| command.spawn())?;
        let mut child = child.with_context(|| format!("starting the agent of {}", place.name))?;
        let pid = Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).context("watching an agent")?;
        self.started += 1;
        let number = self.started;
        self.ends.spawn_blocking(move || (index, number, child.wait()));
        info!(node = place.name, address = %place.address, pid = pid.as_raw_nonzero().get(), "started a node");
        self.states[index] = State::Running { number, process };
        Ok(())
    }

    fn command(&self, place: &Place, node: &Instance) -> anyhow::Result<Command> {
        let path = node.data_dir.join("agent.log");
        let full = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG);
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        if full {
            log.set_len(0).with_context(|| format!("shortening {}", path.display()))?;
        }
        let mut command = Command::new("/proc/self/exe");
        command.args(["agent", "--server", &self.line.server, "--node-name", &place.name]);
        command.args(["--node-ip", &place.address.to_string()]);
        command.args(["--cgroup-parent", &place.group(&self.instance)]);
        command.arg("--data-dir").arg(&node.data_dir).arg("--run-dir").arg(&node.run_dir);
        command.arg("--image-dir").arg(self.instance.image_dir());
        command.args(&self.line.flags);
        match &self.line.token {
            Some(token) => command.env("CORACLE_TOKEN", token),
            None => command.env_remove("CORACLE_TOKEN"),
        };
        // A group of its own: what a terminal sends to this process does not end the nodes in disorder.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        Ok(command)
    }

    fn ended(&mut self, index: usize, number: u64, status: std::io::Result<ExitStatus>) {
        // An agent whose power was cut, or that was replaced, is nobody's concern.
        if !matches!(self.states[index], State::Running { number: current, .. } if current == number) {
            return;
        }
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let log = self.place(index).instance(&self.instance).data_dir.join("agent.log");
        warn!(node = self.place(index).name, status, log = %log.display(), "an agent has ended; starting it again");
        self.states[index] = State::Pausing { until: Instant::now() + PAUSE };
    }

    async fn serve(&mut self, mut stream: UnixStream) {
        let reply = match control::read(&mut stream).await {
            Ok(request) => self.obey(request).await,
            Err(error) => Err(error),
        };
        let reply = reply.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        // Who has gone needs no answer.
        if let Err(error) = control::answer(&mut stream, &reply).await {
            tracing::debug!(%error, "nobody waits for the answer");
        }
    }

    async fn obey(&mut self, request: Request) -> anyhow::Result<Answer> {
        match request {
            Request::List => return Ok(Answer::Nodes(self.seen()?)),
            Request::Kill(name) => {
                let index = self.find(&name)?;
                self.kill(index).await?;
            }
            Request::Start(name) => {
                let index = self.find(&name)?;
                if matches!(self.states[index], State::Off) {
                    self.switch_on(index)?;
                    remove_if_there(&self.off_file(index))?;
                    self.route_services()?;
                }
            }
            Request::Partition(name) => self.set_cable(&name, false)?,
            Request::Heal(name) => self.set_cable(&name, true)?,
        }
        Ok(Answer::Done)
    }

    fn find(&self, name: &str) -> anyhow::Result<usize> {
        let names = || self.layout.nodes.iter().map(|place| place.name.as_str());
        match names().position(|known| known == name) {
            Some(index) => Ok(index),
            None => bail!("there is no node {name:?}; there are {}", names().collect::<Vec<_>>().join(", ")),
        }
    }

    fn seen(&self) -> anyhow::Result<Vec<Seen>> {
        let mut seen = Vec::new();
        for (place, state) in self.layout.nodes.iter().zip(&self.states) {
            seen.push(Seen {
                name: place.name.clone(),
                address: place.address.to_string(),
                on: !matches!(state, State::Off),
                plugged: self.cables.is_plugged(place)?.unwrap_or(false),
            });
        }
        Ok(seen)
    }

    async fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        let place = self.place(index).clone();
        let (node, group) = (place.instance(&self.instance), place.group(&self.instance));
        fs::write(self.off_file(index), "")?;
        self.states[index] = State::Off;
        let cables = self.cables.clone();
        let cut = tokio::task::spawn_blocking(move || {
            power::cut(&node, &group)?;
            cables.disconnect(&place)
        });
        cut.await??;
        info!(node = self.place(index).name, "the power of a node was cut");
        self.route_services()
    }

    fn set_cable(&mut self, name: &str, plugged: bool) -> anyhow::Result<()> {
        let index = self.find(name)?;
        if matches!(self.states[index], State::Off) {
            bail!("node {name} is off");
        }
        self.cables.set(self.place(index), plugged)?;
        info!(node = name, plugged, "the cable of a node");
        self.route_services()
    }

    /// The machine reaches services by way of the first node that can be reached itself.
    fn route_services(&self) -> anyhow::Result<()> {
        for (place, state) in self.layout.nodes.iter().zip(&self.states) {
            if !matches!(state, State::Off) && self.cables.is_plugged(place)? == Some(true) {
                return self.cables.route_services(self.services, place);
            }
        }
        Ok(())
    }

    /// Asks all agents to end, and waits until they have.
    async fn end_all(mut self) -> anyhow::Result<()> {
        for state in &mut self.states {
            if let State::Running { process, .. } = std::mem::replace(state, State::Off) {
                // It may have ended by itself.
                let _ = pidfd_send_signal(&process, Signal::TERM);
            }
        }
        while let Some(ended) = self.ends.join_next().await {
            let (index, _, status) = ended.context("waiting for an agent")?;
            tracing::debug!(node = self.place(index).name, ?status, "an agent has ended");
        }
        Ok(())
    }
}

fn remove_if_there(path: &std::path::Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
