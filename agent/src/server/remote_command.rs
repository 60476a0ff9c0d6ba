//! Exec and attach over SPDY: one stream for each of a process's, one for how it ended, one for the size of the terminal.
//!
//! The versions of the protocol differ little: the first two know no terminal size, and until the fourth the end is told
//! in words alone, not as a `Status`.

use std::time::Duration;

use runtime::WindowSize;
use spdy::{Incoming, Limits, Opened, Role, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tracing::debug;

use super::RunningContainer;
use super::channels;
use super::process::{Process, Verb};
use super::route::StreamOptions;
use super::upgrade::{Carrier, LINGER};

/// What is spoken, best first.
pub(super) const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// All streams are opened within this.
const OPENING: Duration = Duration::from_secs(30);
/// Sizes are small; what is longer is none.
const LONGEST_SIZE: usize = 4096;

/// Speaks with a client until the process has ended and the client has heard of it, or the client is gone.
pub(super) async fn converse(
    carrier: impl Carrier,
    protocol: &str,
    verb: Verb,
    container: RunningContainer,
    options: StreamOptions,
) {
    let Opened { session, incoming, driver } = spdy::session(carrier, Role::Server, Limits::default());
    let mut driver = std::pin::pin!(driver.run());
    let talk = async {
        talk(incoming, protocol, verb, container, options).await;
        session.finish();
    };
    tokio::select! {
        ended = &mut driver => {
            if let Err(error) = ended {
                debug!(error = %client::ErrorChain(&error), "a conversation with a process broke off");
            }
            return;
        }
        () = talk => {}
    }
    // Whoever has read everything closes. Closing first could take from a slow reader what is still on its way.
    _ = tokio::time::timeout(LINGER, driver).await;
}

#[derive(Debug, Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    fn place(&mut self, name: &str) -> Option<&mut Option<Stream>> {
        match name {
            "error" => Some(&mut self.error),
            "stdin" => Some(&mut self.stdin),
            "stdout" => Some(&mut self.stdout),
            "stderr" => Some(&mut self.stderr),
            "resize" => Some(&mut self.resize),
            _ => None,
        }
    }
}

/// How many streams a client has to open.
fn expected(options: &StreamOptions, protocol: &str) -> usize {
    let resizes = options.tty && !matches!(protocol, "v2.channel.k8s.io" | "channel.k8s.io");
    1 + [options.stdin, options.stdout, options.stderr, resizes].into_iter().filter(|wanted| *wanted).count()
}

async fn gather(mut incoming: mpsc::Receiver<Incoming>, count: usize) -> Option<Streams> {
    let mut streams = Streams::default();
    let mut have = 0;
    while have < count {
        let stream = incoming.recv().await?;
        let kind = stream.headers().get("streamtype").unwrap_or_default().to_owned();
        match streams.place(&kind) {
            Some(place) if place.is_none() => {
                *place = Some(stream.accept());
                have += 1;
            }
            _ => debug!(kind, "unexpected stream type"),
        }
    }
    Some(streams)
}

async fn talk(
    incoming: mpsc::Receiver<Incoming>,
    protocol: &str,
    verb: Verb,
    container: RunningContainer,
    options: StreamOptions,
) {
    let gathered = tokio::time::timeout(OPENING, gather(incoming, expected(&options, protocol))).await;
    let Ok(Some(mut streams)) = gathered else {
        return debug!("timed out waiting for client to create streams");
    };
    let outcome = match Process::start(verb, container, options).await {
        Ok(process) => run(process, &mut streams).await,
        Err(why) => Err(why),
    };
    if let Some(error) = &mut streams.error {
        let in_words = !matches!(protocol, "v4.channel.k8s.io" | "v5.channel.k8s.io");
        if let Some(text) = channels::verdict(&outcome, in_words) {
            _ = error.write_all(text.as_bytes()).await;
        }
    }
    let rest = [streams.error, streams.stdin, streams.stdout, streams.stderr, streams.resize];
    for mut stream in rest.into_iter().flatten() {
        _ = stream.shutdown().await;
    }
}

/// Moves bytes until the process has ended and all that it wrote is on its way.
async fn run(process: Process, streams: &mut Streams) -> Result<i32, String> {
    let Process { stdin, stdout, stderr, resizes, outcome } = process;
    let copy_in = async {
        let Some(from) = &mut streams.stdin else { return };
        if let Some(mut to) = stdin
            && let Err(error) = tokio::io::copy(from, &mut to).await
        {
            // The process reads no more; what it writes still matters.
            debug!(%error, "writing to a process");
        }
        _ = tokio::io::copy(from, &mut tokio::io::sink()).await;
    };
    let copy_sizes = async {
        if let Some(from) = &mut streams.resize {
            follow_sizes(from, resizes).await;
        }
    };
    let copy_out = async {
        tokio::join!(copy(stdout, &mut streams.stdout), copy(stderr, &mut streams.stderr));
    };
    let finished = async { tokio::join!(copy_out, outcome).1 };
    let input = async {
        tokio::join!(copy_in, copy_sizes);
        // Whoever has no more to say may still listen.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = finished => outcome,
        () = input => Err("the client is gone".to_owned()),
    }
}

async fn copy(from: Option<runtime::ReadStream>, to: &mut Option<Stream>) {
    let Some(to) = to else { return };
    if let Some(mut from) = from
        && let Err(error) = tokio::io::copy(&mut from, to).await
    {
        debug!(%error, "reading from a process");
    }
    _ = to.shutdown().await;
}

async fn follow_sizes(from: &mut Stream, to: mpsc::Sender<WindowSize>) {
    let mut buffer = Vec::new();
    let mut chunk = [0; 512];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        buffer.extend_from_slice(&chunk[..count]);
        for size in take_sizes(&mut buffer) {
            _ = to.send(size).await;
        }
        if buffer.len() > LONGEST_SIZE {
            return debug!("the size of a terminal is too long");
        }
    }
}

/// Takes whole JSON objects from the front of what was read.
fn take_sizes(buffer: &mut Vec<u8>) -> Vec<WindowSize> {
    let mut found = Vec::new();
    let mut objects = serde_json::Deserializer::from_slice(buffer).into_iter::<channels::Size>();
    let mut taken = 0;
    while let Some(Ok(size)) = objects.next() {
        taken = objects.byte_offset();
        found.push(size.into());
    }
    buffer.drain(..taken);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_that_a_client_opens() {
        let options =
            |stdin, tty| StreamOptions { stdin, tty, stdout: true, stderr: !tty, ..StreamOptions::default() };
        assert_eq!(expected(&options(false, false), "v4.channel.k8s.io"), 3);
        assert_eq!(expected(&options(true, true), "v4.channel.k8s.io"), 4);
        assert_eq!(expected(&options(true, true), "v2.channel.k8s.io"), 3);
    }

    #[test]
    fn sizes_are_taken_as_they_come() {
        let mut buffer = br#"{"Width":80,"Height":24}"#.to_vec();
        buffer.extend_from_slice(b"\n{\"Width\":100,\"Hei");
        assert_eq!(take_sizes(&mut buffer), [WindowSize { columns: 80, rows: 24 }]);
        buffer.extend_from_slice(b"ght\":30}");
        assert_eq!(take_sizes(&mut buffer), [WindowSize { columns: 100, rows: 30 }]);
        assert_eq!(buffer.len(), 0);
        buffer.extend_from_slice(b"nonsense");
        assert_eq!(take_sizes(&mut buffer), []);
    }
}
