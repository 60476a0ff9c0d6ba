//! Exec and attach over a WebSocket: each message belongs to one of a process's streams, as its first byte says.

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use runtime::{ReadStream, WindowSize, WriteStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tracing::debug;

use super::RunningContainer;
use super::channels::{self, Said};
use super::process::{Process, Verb};
use super::route::StreamOptions;
use super::upgrade::{LINGER, Socket};

/// What is read from a process at a time.
const CHUNK: usize = 32 << 10;
/// Chunks that may wait for a slow client; then the process waits.
const WAITING: usize = 4;

/// Speaks with a client until the process has ended and the client has heard of it, or the client is gone.
pub(super) async fn converse(
    socket: Socket,
    verb: Verb,
    container: RunningContainer,
    options: StreamOptions,
) {
    let (sink, stream) = socket.split();
    let process = Process::start(verb, container, options).await;
    let (to_client, waiting) = mpsc::channel::<Bytes>(WAITING);
    let (stdin, resizes, output) = match process {
        Ok(process) => {
            let Process { stdin, stdout, stderr, resizes, outcome } = process;
            // The channel closes when both streams have ended and the outcome is told.
            let output = async move {
                let copied = async {
                    tokio::join!(
                        copy_out(stdout, channels::STDOUT, to_client.clone()),
                        copy_out(stderr, channels::STDERR, to_client.clone())
                    )
                };
                let (_, outcome) = tokio::join!(copied, outcome);
                _ = to_client.send(channels::status(&outcome)).await;
            };
            (stdin, Some(resizes), futures_util::future::Either::Left(output))
        }
        Err(why) => {
            let refuse = async move { _ = to_client.send(channels::status(&Err(why))).await };
            (None, None, futures_util::future::Either::Right(refuse))
        }
    };
    let send = send_all(sink, waiting);
    let mut input = std::pin::pin!(copy_in(stream, stdin, resizes));
    // `output` ends by itself; `input` would wait for the client, who waits for us.
    tokio::select! {
        _ = futures_util::future::join(output, send) => {}
        () = &mut input => return,
    }
    // Whoever has read everything closes. Closing first could take from a slow reader what is still on its way.
    _ = tokio::time::timeout(LINGER, input).await;
}

async fn copy_out(stream: Option<ReadStream>, channel: u8, to: mpsc::Sender<Bytes>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return,
            Ok(count) => {
                if to.send(channels::message(channel, &buffer[..count])).await.is_err() {
                    return;
                }
            }
            Err(error) => return debug!(%error, "reading from a process"),
        }
    }
}

async fn send_all(
    mut sink: impl Sink<Message, Error = WebSocketError> + Unpin,
    mut waiting: mpsc::Receiver<Bytes>,
) {
    while let Some(message) = waiting.recv().await {
        if let Err(error) = sink.send(Message::Binary(message)).await {
            return debug!(%error, "sending to a client");
        }
    }
    _ = sink.send(goodbye()).await;
    _ = sink.close().await;
}

/// Clients take a close without a code for a connection that broke off.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Ends only when the client is gone: one that has no more to say may still listen.
async fn copy_in(
    mut stream: impl Stream<Item = Result<Message, WebSocketError>> + Unpin,
    mut stdin: Option<WriteStream>,
    resizes: Option<mpsc::Sender<WindowSize>>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            _ => continue,
        };
        match channels::read(&data) {
            Said::Stdin(bytes) => {
                if let Some(to) = &mut stdin
                    && let Err(error) = to.write_all(&bytes).await
                {
                    // The process reads no more; what it writes still matters.
                    debug!(%error, "writing to a process");
                    stdin = None;
                }
            }
            Said::Resize(size) => {
                if let Some(resizes) = &resizes {
                    _ = resizes.send(size).await;
                }
            }
            Said::CloseStdin => stdin = None,
            Said::Other => {}
        }
    }
}
