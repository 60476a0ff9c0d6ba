//! Port forwarding as it was before SPDY came into WebSockets: a WebSocket on one side, connections to ports inside a pod on the other.
//!
//! Each port has two channels: an even one for its bytes, the odd one after it for what went wrong. Both begin with
//! the port's number in two bytes, the low one first.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::channels;
use super::dial::connect;
use super::upgrade::Socket;
use crate::machine::PodSandbox;

/// What is read from a connection at a time.
const CHUNK: usize = 32 << 10;
/// Messages that may wait for a slow side; then the other one waits.
const WAITING: usize = 8;

/// Forwards until the client or all connections are gone.
pub(super) async fn converse(sandbox: Arc<dyn PodSandbox>, ports: Vec<u16>, socket: Socket) {
    let (mut sink, mut stream) = socket.split();
    let (to_client, mut waiting) = mpsc::channel::<Bytes>(WAITING);
    let mut to_ports = Vec::new();
    let mut connections = Vec::new();
    // `MAX_PORTS` keeps the channels within a byte.
    for (channel, port) in (0_u8..).step_by(2).zip(ports) {
        let (sender, receiver) = mpsc::channel::<Bytes>(WAITING);
        to_ports.push(sender);
        connections.push(serve_port(sandbox.clone(), port, channel, to_client.clone(), receiver));
    }
    drop(to_client);
    let send = async {
        while let Some(message) = waiting.recv().await {
            if sink.send(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        _ = sink.close().await;
    };
    let receive = async {
        while let Some(Ok(message)) = stream.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => return,
                _ => continue,
            };
            let Some(channel) = data.first() else { continue };
            // A port whose connection is gone takes no more; the others go on.
            if channel % 2 == 0
                && let Some(port) = to_ports.get(usize::from(channel / 2))
            {
                _ = port.send(data.slice(1..)).await;
            }
        }
    };
    tokio::select! {
        _ = futures_util::future::join(futures_util::future::join_all(connections), send) => {}
        () = receive => {}
    }
}

async fn serve_port(
    sandbox: Arc<dyn PodSandbox>,
    port: u16,
    channel: u8,
    to_client: mpsc::Sender<Bytes>,
    mut from_client: mpsc::Receiver<Bytes>,
) {
    for channel in [channel, channel + 1] {
        if to_client.send(channels::message(channel, &port.to_le_bytes())).await.is_err() {
            return;
        }
    }
    let stream = match connect(sandbox, port).await {
        Ok(stream) => stream,
        Err(error) => {
            let text = format!("error forwarding port {port} to the pod: {error}");
            _ = to_client.send(channels::message(channel + 1, text.as_bytes())).await;
            // The channel stays open, as nothing closes a single one; what is sent to it goes nowhere.
            while from_client.recv().await.is_some() {}
            return;
        }
    };
    let (mut reader, writer) = stream.into_split();
    let out = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return,
                Ok(count) => {
                    if to_client.send(channels::message(channel, &buffer[..count])).await.is_err() {
                        return;
                    }
                }
                Err(error) => return debug!(%error, "reading from a forwarded port"),
            }
        }
    };
    // The connection is over when the pod says so; a client that has no more to say may still listen.
    tokio::join!(out, write_all(writer, from_client));
}

async fn write_all(mut writer: OwnedWriteHalf, mut from_client: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = from_client.recv().await {
        if let Err(error) = writer.write_all(&bytes).await {
            return debug!(%error, "writing to a forwarded port");
        }
    }
}
