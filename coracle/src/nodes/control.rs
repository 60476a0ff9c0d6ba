//! What `coracle node` says to the process that runs the nodes: a line of JSON each way over a socket in the run directory.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::instance::Instance;

/// A line is at most so long.
const LINE: u64 = 64 << 10;
/// A power cut waits until the last process has gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do", content = "node")]
pub(crate) enum Request {
    /// Which nodes are there?
    List,
    /// Cut the power.
    Kill(String),
    /// Switch it on.
    Start(String),
    /// Pull the cable.
    Partition(String),
    /// Plug it in.
    Heal(String),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// The nodes.
    Nodes(Vec<Seen>),
    /// It cannot be done.
    Failed(String),
}

/// A node, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) on: bool,
    pub(crate) plugged: bool,
}

/// Where the process listens.
pub(crate) fn socket(instance: &Instance) -> PathBuf {
    instance.run_dir.join("nodes/control.sock")
}

/// Asks the process that runs the nodes.
pub(crate) async fn ask(instance: &Instance, request: &Request) -> anyhow::Result<Vec<Seen>> {
    let path = socket(instance);
    let mut stream = UnixStream::connect(&path).await.with_context(|| {
        format!("no `coracle up --nodes` runs with this --run-dir: connecting to {}", path.display())
    })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    let mut reader = BufReader::new(stream).take(LINE);
    let read = reader.read_until(b'\n', &mut answer);
    tokio::time::timeout(PATIENCE, read).await.context("no answer comes")??;
    match serde_json::from_slice(&answer).context("the answer is not understood")? {
        Answer::Done => Ok(Vec::new()),
        Answer::Nodes(nodes) => Ok(nodes),
        Answer::Failed(reason) => bail!("{reason}"),
    }
}

/// Reads what somebody asks, and lets go of those who do not ask.
pub(crate) async fn read(stream: &mut UnixStream) -> anyhow::Result<Request> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream).take(LINE);
    let read = reader.read_until(b'\n', &mut line);
    tokio::time::timeout(Duration::from_secs(2), read).await.context("nothing was asked")??;
    serde_json::from_slice(&line).context("not understood")
}

/// Answers.
pub(crate) async fn answer(stream: &mut UnixStream, answer: &Answer) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    tokio::time::timeout(Duration::from_secs(2), stream.write_all(&line)).await??;
    Ok(())
}
