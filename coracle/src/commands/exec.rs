//! `coracle exec`: a command in a container, over a WebSocket with the channels of `v5.channel.k8s.io`.

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use client::{Duplex, Upgraded};
use futures_util::{SinkExt, StreamExt};
use http::Request;
use rustix::termios::{self, OptionalActions, Termios};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::logs::{default_container, find_pod};
use super::resources::encode;
use super::{ExitStatus, Session};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coracle exec web -- ls /\n  coracle exec -it deployment/web -- sh")]
pub(crate) struct ExecArgs {
    /// POD, or TYPE/NAME of something that has pods
    #[arg(value_name = "POD")]
    pod: String,
    /// Container [default: the only one, or the first]
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    tty: bool,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    api: ApiArgs,
}

// Channels of the protocol: the first byte of every message.
pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
const RESIZE: u8 = 4;
pub(super) const CLOSE: u8 = 255;

pub(crate) async fn run(args: ExecArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let pod = find_pod(&session, &args.pod).await?;
    let container = match &args.container {
        Some(container) => container.clone(),
        None => default_container(&pod)?,
    };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let tty = args.tty && termios::isatty(rustix::stdio::stdin());
    if args.tty && !tty {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let mut path = session.resource("pods").await?.object(&session.namespace, name);
    path += &format!(
        "/exec?container={}&stdout=true&stderr={}&stdin={}&tty={tty}",
        encode(&container),
        !tty,
        args.stdin
    );
    for argument in &args.command {
        path += &format!("&command={}", encode(argument));
    }
    stream(&session, path, args.stdin, tty).await
}

/// Joins terminal and streams with a process in a container until it ends.
pub(crate) async fn stream(session: &Session, path: String, stdin: bool, tty: bool) -> anyhow::Result<()> {
    let socket = open(session, path).await?;
    let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
    converse(socket, stdin, tty).await
}

/// Opens the streams of a process in a container.
pub(super) async fn open(
    session: &Session,
    path: String,
) -> anyhow::Result<WebSocketStream<Box<dyn Duplex>>> {
    let request = Request::builder()
        .method(http::Method::GET)
        .uri(path)
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "websocket")
        .header(http::header::SEC_WEBSOCKET_VERSION, "13")
        .header(http::header::SEC_WEBSOCKET_KEY, generate_key())
        .header(http::header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io")
        .body(())
        .context("building the request")?;
    let connection = match session.client.upgrade(request).await? {
        Upgraded::Switched(_, connection) => connection,
        Upgraded::Refused(response) => return Err(refusal(response).await),
    };
    Ok(WebSocketStream::from_raw_socket(connection, Role::Client, None).await)
}

/// Why the server did not switch protocols, in its own words.
pub(crate) async fn refusal(response: http::Response<client::Body>) -> anyhow::Error {
    let code = response.status();
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(Ok(chunk)) = body.next().await {
        text.extend_from_slice(&chunk);
        if text.len() > 64 << 10 {
            break;
        }
    }
    let message = serde_json::from_slice::<Value>(&text)
        .ok()
        .and_then(|status| status["message"].as_str().map(str::to_owned));
    anyhow::anyhow!(message.unwrap_or_else(|| format!("{code}: {}", String::from_utf8_lossy(&text).trim())))
}

async fn converse<S>(socket: WebSocketStream<S>, with_stdin: bool, tty: bool) -> anyhow::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut stream) = socket.split();
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut stdin = tokio::io::stdin();
    let mut stdin_open = with_stdin;
    let mut buffer = vec![0; 32 << 10];
    let mut resized = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
    if tty {
        sink.send(window_size()?).await?;
    }
    loop {
        tokio::select! {
            // Cancel safe: `read` on stdin loses nothing that it has not returned.
            read = stdin.read(&mut buffer), if stdin_open => match read? {
                0 => {
                    stdin_open = false;
                    sink.send(Message::Binary(Bytes::from(vec![CLOSE, STDIN]))).await?;
                }
                count => {
                    let mut message = Vec::with_capacity(count + 1);
                    message.push(STDIN);
                    message.extend_from_slice(&buffer[..count]);
                    sink.send(Message::Binary(message.into())).await?;
                }
            },
            _ = resized.recv(), if tty => sink.send(window_size()?).await?,
            message = stream.next() => match message {
                Some(Ok(Message::Binary(data))) => match data.first() {
                    Some(&STDOUT) => {
                        stdout.write_all(&data[1..]).await?;
                        stdout.flush().await?;
                    }
                    Some(&STDERR) => stderr.write_all(&data[1..]).await?,
                    Some(&ERROR) => return verdict(&data[1..]),
                    _ => {}
                },
                Some(Ok(Message::Close(_))) | None => bail!("the connection ended before the command did"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("reading from the container"),
            },
        }
    }
}

fn window_size() -> anyhow::Result<Message> {
    let size = termios::tcgetwinsize(rustix::stdio::stdin()).context("reading the size of the terminal")?;
    let text = format!(r#"{{"Width":{},"Height":{}}}"#, size.ws_col, size.ws_row);
    Ok(Message::Binary([&[RESIZE], text.as_bytes()].concat().into()))
}

/// Reads the Status with which a command ends.
pub(super) fn verdict(data: &[u8]) -> anyhow::Result<()> {
    let status: Value = serde_json::from_slice(data).context("reading the command's status")?;
    if status["status"] == "Success" {
        return Ok(());
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes
        .filter(|cause| cause["reason"] == "ExitCode")
        .find_map(|cause| cause["message"].as_str()?.parse::<u8>().ok());
    match code {
        Some(code) => Err(ExitStatus(code).into()),
        None => bail!("{}", status["message"].as_str().unwrap_or("the command failed")),
    }
}

/// A terminal that passes every key on; it is as before when this goes.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(rustix::stdio::stdin()).context("reading the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)
            .context("setting the terminal's mode")?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nobody to tell, and nothing better to do.
        _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_own() {
        assert!(verdict(br#"{"metadata":{},"status":"Success"}"#).is_ok());
        let failure = br#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with non-zero exit code",
                          "details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        let error = verdict(failure).unwrap_err();
        assert_eq!(error.downcast::<ExitStatus>().unwrap().0, 7);
        assert_eq!(
            verdict(br#"{"status":"Failure","message":"no such container"}"#).unwrap_err().to_string(),
            "no such container"
        );
    }
}
