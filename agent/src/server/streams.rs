//! Exec and attach: a WebSocket on one side, a process's streams on the other.

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use runtime::{ExecSpec, ReadStream, WindowSize, WriteStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tracing::debug;

use super::channels::{self, Said};
use super::route::StreamOptions;
use super::{Body, RunningContainer, full, text};

/// What is read from a process at a time.
const CHUNK: usize = 32 << 10;
/// Chunks that may wait for a slow client; then the process waits.
const WAITING: usize = 4;
/// A client has no business with larger messages.
const MAX_MESSAGE: usize = 1 << 20;

/// Answers 101 and runs the command when the connection has switched.
pub(super) fn exec(
    container: RunningContainer,
    options: StreamOptions,
    request: Request<Incoming>,
) -> Response<Body> {
    upgrade(request, move |socket| async move {
        let spec = ExecSpec {
            argv: options.command.clone(),
            env: None,
            cwd: None,
            user: None,
            tty: options.tty,
            window: None,
            stdin: options.stdin,
            privileged: false,
        };
        let mut process = match container.sandbox.exec(&container.id, spec).await {
            Ok(process) => process,
            Err(error) => {
                let message = client::ErrorChain(&error).to_string();
                return refuse(socket, message).await;
            }
        };
        let (stdin, stdout, stderr) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (resizes, mut sizes) = mpsc::channel(4);
        let stdout = stdout.filter(|_| options.stdout);
        let stderr = stderr.filter(|_| options.stderr);
        let outcome = async {
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
        converse(socket, stdin, stdout, stderr, resizes, outcome).await;
    })
}

/// The same with the container's own first process.
pub(super) fn attach(
    container: RunningContainer,
    options: StreamOptions,
    request: Request<Incoming>,
) -> Response<Body> {
    upgrade(request, move |socket| async move {
        let mut attached = match container.sandbox.attach(&container.id).await {
            Ok(attached) => attached,
            Err(error) => {
                let message = client::ErrorChain(&error).to_string();
                return refuse(socket, message).await;
            }
        };
        let stdin = attached.stdin.take().filter(|_| options.stdin);
        let stdout = attached.stdout.take().filter(|_| options.stdout);
        let stderr = attached.stderr.take().filter(|_| options.stderr);
        let (resizes, mut sizes) = mpsc::channel(4);
        let outcome = async {
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
        converse(socket, stdin, stdout, stderr, resizes, outcome).await;
    })
}

pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Switches to a WebSocket with one of our protocols; `talk` runs in a task of its own, for as long as the connection.
pub(super) fn upgrade<F, T>(request: Request<Incoming>, talk: F) -> Response<Body>
where
    F: FnOnce(Socket) -> T + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let head = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_websocket = head(header::UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let key = head(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let (true, Some(accept)) = (is_websocket, key) else {
        return text(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: a WebSocket is needed (v4.channel.k8s.io or v5.channel.k8s.io)",
        );
    };
    let Some(protocol) = head(header::SEC_WEBSOCKET_PROTOCOL).and_then(channels::choose) else {
        let spoken = channels::PROTOCOLS.join(", ");
        return text(
            StatusCode::BAD_REQUEST,
            &format!("none of the offered protocols is spoken here: {spoken}"),
        );
    };
    // Detached: it ends with the process or with the connection, whichever is first.
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => {
                let config = WebSocketConfig::default()
                    .max_message_size(Some(MAX_MESSAGE))
                    .max_frame_size(Some(MAX_MESSAGE));
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config))
                        .await;
                talk(socket).await;
            }
            Err(error) => debug!(%error, "the connection did not switch protocols"),
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(full(""))
        .unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be built"))
}

async fn refuse(mut socket: Socket, message: String) {
    let status = channels::status(&Err(message));
    if socket.send(Message::Binary(status)).await.is_ok() {
        _ = socket.send(goodbye()).await;
        _ = socket.close(None).await;
    }
}

/// Moves bytes both ways until the process has ended and all that it wrote has been sent, or the client is gone.
async fn converse(
    socket: Socket,
    stdin: Option<WriteStream>,
    stdout: Option<ReadStream>,
    stderr: Option<ReadStream>,
    resizes: mpsc::Sender<WindowSize>,
    outcome: impl Future<Output = Result<i32, String>>,
) {
    let (sink, stream) = socket.split();
    let (to_client, waiting) = mpsc::channel::<Bytes>(WAITING);
    let output = async {
        // The channel closes when both streams have ended and the outcome is told.
        let to_client = to_client;
        tokio::join!(
            copy_out(stdout, channels::STDOUT, to_client.clone()),
            copy_out(stderr, channels::STDERR, to_client.clone())
        );
        let status = channels::status(&outcome.await);
        _ = to_client.send(status).await;
    };
    let input = copy_in(stream, stdin, resizes);
    let send = send_all(sink, waiting);
    // `output` ends by itself; `input` would wait for the client, who waits for us.
    tokio::select! {
        _ = futures_util::future::join(output, send) => {}
        () = input => {}
    }
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
    resizes: mpsc::Sender<WindowSize>,
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
            Said::Resize(size) => _ = resizes.send(size).await,
            Said::CloseStdin => stdin = None,
            Said::Other => {}
        }
    }
}
