//! A process that a client speaks with: a new one in a container, or the container's own first one.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use runtime::{ExecSpec, ReadStream, WindowSize, WriteStream};
use tokio::sync::mpsc;
use tracing::debug;

use super::RunningContainer;
use super::route::StreamOptions;

/// Changes of a terminal's size that may wait.
const SIZES: usize = 4;

/// What our program is called in a container, and its subcommand that copies files. It decides what it takes for a
/// command: a container's user gets no other of its subcommands.
const OWN_PROGRAM: &str = "coracle";
const ARCHIVE: &str = "archive";

/// Which process is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// A new one.
    Exec,
    /// The container's own.
    Attach,
}

/// A process with the streams that the client asked for.
pub(super) struct Process {
    pub(super) stdin: Option<WriteStream>,
    pub(super) stdout: Option<ReadStream>,
    pub(super) stderr: Option<ReadStream>,
    pub(super) resizes: mpsc::Sender<WindowSize>,
    /// Its exit code. Has to be polled for resizes to take effect.
    pub(super) outcome: BoxFuture<'static, Result<i32, String>>,
}

impl Process {
    /// Starts or joins it; an error is in words for the client.
    pub(super) async fn start(
        verb: Verb,
        container: RunningContainer,
        options: StreamOptions,
    ) -> Result<Self, String> {
        match verb {
            Verb::Exec => exec(container, options).await,
            Verb::Attach => attach(container, options).await,
        }
    }
}

async fn exec(container: RunningContainer, options: StreamOptions) -> Result<Process, String> {
    let argv = match options.builtin {
        true => [OWN_PROGRAM, ARCHIVE].into_iter().map(str::to_owned).chain(options.command).collect(),
        false => options.command,
    };
    let spec = ExecSpec {
        argv,
        env: None,
        cwd: None,
        user: None,
        tty: options.tty,
        window: None,
        stdin: options.stdin,
        privileged: false,
        own_program: options.builtin,
    };
    let started = container.sandbox.exec(&container.id, spec).await;
    let mut process = started.map_err(|error| client::ErrorChain(&error).to_string())?;
    let (stdin, stdout, stderr) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
    let (resizes, mut sizes) = mpsc::channel(SIZES);
    let outcome = async move {
        loop {
            tokio::select! {
                // Cancel safe, as its documentation says.
                code = process.wait() => return code.map_err(|error| client::ErrorChain(&error).to_string()),
                Some(size) = sizes.recv() => {
                    if let Err(error) = process.resize(size) {
                        debug!(%error, "resizing a terminal");
                    }
                }
            }
        }
    };
    Ok(Process {
        stdin,
        stdout: stdout.filter(|_| options.stdout),
        stderr: stderr.filter(|_| options.stderr),
        resizes,
        outcome: outcome.boxed(),
    })
}

async fn attach(container: RunningContainer, options: StreamOptions) -> Result<Process, String> {
    let attached = container.sandbox.attach(&container.id).await;
    let mut attached = attached.map_err(|error| client::ErrorChain(&error).to_string())?;
    let (stdin, stdout, stderr) = (attached.stdin.take(), attached.stdout.take(), attached.stderr.take());
    let (resizes, mut sizes) = mpsc::channel(SIZES);
    let outcome = async move {
        loop {
            tokio::select! {
                exit = container.sandbox.wait(&container.id) => {
                    return exit.map(|exit| exit.code).map_err(|error| client::ErrorChain(&error).to_string());
                }
                Some(size) = sizes.recv() => {
                    if let Err(error) = attached.resize(size) {
                        debug!(%error, "resizing a terminal");
                    }
                }
            }
        }
    };
    Ok(Process {
        stdin: stdin.filter(|_| options.stdin),
        stdout: stdout.filter(|_| options.stdout),
        stderr: stderr.filter(|_| options.stderr),
        resizes,
        outcome: outcome.boxed(),
    })
}
