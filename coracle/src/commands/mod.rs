//! The commands that a person types. One file per command; what they share is here.

pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod cp;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod get;
pub(crate) mod image;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod port_forward;
pub(crate) mod rollout;
pub(crate) mod scale;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod vm;
pub(crate) mod wait;
pub(crate) mod why;

mod files;
mod jsonpath;
mod output;
pub(crate) mod resources;
pub(crate) mod session;
mod targets;
pub(crate) mod three_way;

pub(crate) use files::{FileArgs, Manifest};
pub(crate) use resources::Resource;
pub(crate) use session::Session;

/// Writes to standard output; a reader that has gone away ends the program quietly, as with any other tool.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Silent.into()),
        result => Ok(result?),
    }
}

/// Prints one line.
pub(crate) fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    print(&format!("{line}\n"))
}

/// Nothing more is to be said: the exit status tells.
#[derive(Debug, thiserror::Error)]
#[error("broken pipe")]
pub(crate) struct Silent;

/// The program's exit status is that of a command in a container.
#[derive(Debug, thiserror::Error)]
#[error("command terminated with exit code {0}")]
pub(crate) struct ExitStatus(pub(crate) u8);
