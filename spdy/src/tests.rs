//! Two sessions over a pipe, and the decoder on garbage.

use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::{
    Decoder, Encoder, Frame, FrameError, Headers, Incoming, Limits, OpenError, Opened, Role, Session,
    SessionError, session, status,
};

fn all_frames() -> Vec<Frame> {
    let headers = Headers::new().with("streamType", "data").with("port", "80");
    vec![
        Frame::SynStream { stream: 1, fin: false, headers: headers.clone() },
        Frame::SynReply { stream: 1, fin: true, headers: Headers::new() },
        Frame::Data { stream: 1, fin: false, data: "hello".into() },
        Frame::Data { stream: 1, fin: true, data: "".into() },
        Frame::RstStream { stream: 3, status: status::CANCEL },
        Frame::Settings(vec![(7, 65536), (4, 100)]),
        Frame::Ping(5),
        Frame::GoAway { last: 9, status: 0 },
        Frame::Headers { stream: 1, fin: false, headers },
        Frame::WindowUpdate { stream: 0, delta: 1 << 20 },
        Frame::Unknown(77),
    ]
}

#[test]
fn frames_come_out_as_they_went_in_however_they_are_cut() {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new();
    all_frames().iter().for_each(|frame| encoder.encode(frame, &mut bytes));
    for step in [1, 7, bytes.len()] {
        let (mut decoder, mut input, mut found) = (Decoder::new(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            input.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut input).unwrap() {
                found.push(frame);
            }
        }
        if step == bytes.len() {
            assert_eq!(found, all_frames());
        }
        // Data may come in parts; put together it is the same.
        let text: Vec<u8> = found
            .iter()
            .filter_map(|frame| if let Frame::Data { data, .. } = frame { Some(data.to_vec()) } else { None })
            .flatten()
            .collect();
        assert_eq!(text, b"hello");
        let without_data = |frames: Vec<Frame>| -> Vec<Frame> {
            frames.into_iter().filter(|frame| !matches!(frame, Frame::Data { .. })).collect()
        };
        assert_eq!(without_data(found), without_data(all_frames()));
    }
}

#[test]
fn what_is_not_spdy_is_refused() {
    let check = |bytes: &[u8], expected: FrameError| {
        assert_eq!(Decoder::new().decode(&mut BytesMut::from(bytes)), Err(expected), "{bytes:?}");
    };
    check(&[0x80, 2, 0, 1, 0, 0, 0, 0], FrameError::Version(2));
    check(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], FrameError::Length { kind: 1, length: 0xff_ffff });
    check(&[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1], FrameError::Length { kind: 3, length: 4 });
    check(&[0, 0, 0, 0, 0, 0, 0, 1], FrameError::ZeroStream(0));
    assert!(
        Decoder::new().decode(&mut BytesMut::from(&b"GET / HTTP/1.1\r\n"[..])).is_ok(),
        "looks like data"
    );
}

proptest! {
    #[test]
    fn garbage_never_panics_and_never_grows(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (mut decoder, mut input) = (Decoder::new(), BytesMut::from(&bytes[..]));
        let mut taken = 0;
        while let Ok(Some(frame)) = decoder.decode(&mut input) {
            if let Frame::Data { data, .. } = frame {
                taken += data.len();
            }
        }
        prop_assert!(taken <= bytes.len());
    }

    #[test]
    fn damaged_frames_never_panic(position in 0_usize..200, value in any::<u8>()) {
        let (mut bytes, mut encoder) = (Vec::new(), Encoder::new());
        all_frames().iter().for_each(|frame| encoder.encode(frame, &mut bytes));
        let position = position % bytes.len();
        bytes[position] = value;
        let (mut decoder, mut input) = (Decoder::new(), BytesMut::from(&bytes[..]));
        while let Ok(Some(_)) = decoder.decode(&mut input) {}
    }
}

type Running = JoinHandle<Result<(), SessionError>>;

struct Pair {
    client: Session,
    server: Session,
    incoming: mpsc::Receiver<Incoming>,
    running: [Running; 2],
}

fn pair(limits: Limits) -> Pair {
    let (left, right) = tokio::io::duplex(8 << 10);
    let client = session(left, Role::Client, limits);
    let server = session(right, Role::Server, limits);
    let running = [tokio::spawn(client.driver.run()), tokio::spawn(server.driver.run())];
    Pair { client: client.session, server: server.session, incoming: server.incoming, running }
}

/// Sends everything back, on every stream.
fn echo(mut incoming: mpsc::Receiver<Incoming>) {
    tokio::spawn(async move {
        while let Some(stream) = incoming.recv().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream.accept());
                _ = tokio::io::copy(&mut reader, &mut writer).await;
                _ = writer.shutdown().await;
            });
        }
    });
}

async fn patience<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it ends")
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut pair = pair(Limits::default());
    let opening = tokio::spawn({
        let client = pair.client.clone();
        async move { client.open(Headers::new().with("streamType", "data")).await.unwrap() }
    });
    let incoming = pair.incoming.recv().await.unwrap();
    assert_eq!(incoming.headers().get("streamtype"), Some("data"));
    let mut server = incoming.accept();
    let mut client = opening.await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    text.clear();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    drop((client, server));
    pair.server.finish();
    let refused = patience(async {
        loop {
            if let Err(error) = pair.client.open(Headers::new()).await {
                return error;
            }
        }
    });
    assert!(matches!(refused.await, OpenError::Ended | OpenError::Refused));
    pair.client.finish();
    for running in pair.running {
        patience(running).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn many_streams_carry_much_at_once() {
    let pair = pair(Limits::default());
    echo(pair.incoming);
    let streams = (0..200_u32).map(|number| {
        let client = pair.client.clone();
        tokio::spawn(async move {
            let stream = client.open(Headers::new()).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sent: Vec<u8> = (0..60_000_u32).map(|i| (i * 7 + number) as u8).collect();
            let expected = sent.clone();
            let send = async move {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
                writer
            };
            let mut received = Vec::new();
            let (_writer, _) = tokio::join!(send, reader.read_to_end(&mut received));
            assert!(received == expected, "stream {number}");
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        patience(stream).await.unwrap();
    }
}

#[tokio::test]
async fn one_slow_reader_does_not_hold_up_the_others() {
    let limits = Limits::default();
    let mut pair = pair(limits);
    let opening = tokio::spawn({
        let client = pair.client.clone();
        async move { client.open(Headers::new()).await.unwrap() }
    });
    let _never_read = pair.incoming.recv().await.unwrap().accept();
    let mut slow = opening.await.unwrap();
    // Far more than the windows take: this one waits for good.
    let flood = tokio::spawn(async move { slow.write_all(&vec![0; 64 << 20]).await });
    echo(pair.incoming);
    for _ in 0..50 {
        patience(async {
            let mut stream = pair.client.open(Headers::new()).await.unwrap();
            stream.write_all(&[1; 30_000]).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            assert_eq!(received.len(), 30_000);
        })
        .await;
    }
    assert!(!flood.is_finished());
    flood.abort();
}

#[tokio::test]
async fn streams_beyond_the_limit_and_unwanted_ones_are_refused() {
    let pair = pair(Limits { streams: 1, ..Limits::default() });
    let (client, mut incoming) = (pair.client, pair.incoming);
    let accepting = tokio::spawn(async move {
        let first = incoming.recv().await.unwrap().accept();
        (first, incoming)
    });
    let first = client.open(Headers::new()).await.unwrap();
    assert_eq!(client.open(Headers::new()).await.unwrap_err(), OpenError::Refused);
    let (kept, mut incoming) = accepting.await.unwrap();
    drop((first, kept));
    let unwanted = tokio::spawn(async move { drop(incoming.recv().await) });
    assert_eq!(patience(client.open(Headers::new())).await.unwrap_err(), OpenError::Refused);
    unwanted.await.unwrap();
}

/// A peer without flow control, as Kubernetes' clients are: frames as bytes.
struct Plain {
    connection: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    input: BytesMut,
}

impl Plain {
    fn new(connection: DuplexStream) -> Self {
        Self { connection, encoder: Encoder::new(), decoder: Decoder::new(), input: BytesMut::new() }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = Vec::new();
        self.encoder.encode(&frame, &mut bytes);
        self.connection.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            if self.connection.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

#[tokio::test]
async fn a_peer_without_flow_control_gets_no_window_and_needs_none() {
    let (left, right) = tokio::io::duplex(4 << 10);
    let Opened { session: server, mut incoming, driver } = session(right, Role::Server, Limits::default());
    let running = tokio::spawn(driver.run());
    let mut client = Plain::new(left);
    client.send(Frame::Ping(7)).await;
    assert_eq!(client.receive().await, Some(Frame::Ping(7)));
    client.send(Frame::SynStream { stream: 1, fin: false, headers: Headers::new() }).await;
    let mut stream = incoming.recv().await.unwrap().accept();
    assert_eq!(
        client.receive().await,
        Some(Frame::SynReply { stream: 1, fin: false, headers: Headers::new() })
    );
    let writing = tokio::spawn(async move {
        stream.write_all(&vec![9; 1 << 20]).await.unwrap();
        stream.shutdown().await.unwrap();
        stream
    });
    let mut total = 0;
    loop {
        match patience(client.receive()).await {
            Some(Frame::Data { stream: 1, fin, data }) => {
                total += data.len();
                if fin {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(total, 1 << 20);
    let mut stream = writing.await.unwrap();
    // A stream with a number that was there already, and one that only the server may open.
    for wrong in [1, 2] {
        client.send(Frame::SynStream { stream: wrong, fin: false, headers: Headers::new() }).await;
        let expected = Frame::RstStream { stream: wrong, status: status::PROTOCOL_ERROR };
        assert_eq!(client.receive().await, Some(expected));
    }
    client.send(Frame::RstStream { stream: 1, status: status::CANCEL }).await;
    assert!(patience(stream.read(&mut [0; 8])).await.is_err());
    drop(stream);
    server.finish();
    assert_eq!(patience(client.receive()).await, Some(Frame::GoAway { last: 1, status: 0 }));
    assert_eq!(patience(client.receive()).await, None);
    drop(client);
    patience(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_sent_ahead_of_the_reader_is_bounded() {
    let (left, right) = tokio::io::duplex(1 << 10);
    let limits = Limits { unread: 64 << 10, ..Limits::default() };
    let Opened { session: _server, mut incoming, driver } = session(right, Role::Server, limits);
    let running = tokio::spawn(driver.run());
    let mut client = Plain::new(left);
    client.send(Frame::SynStream { stream: 1, fin: false, headers: Headers::new() }).await;
    let mut stream = incoming.recv().await.unwrap().accept();
    let mut sent = 0_usize;
    let chunk = bytes::Bytes::from(vec![3; 8 << 10]);
    // The pipe takes a KiB, the session 64 and what it reads at a time: then the sender waits.
    while tokio::time::timeout(
        Duration::from_millis(300),
        client.send(Frame::Data { stream: 1, fin: false, data: chunk.clone() }),
    )
    .await
    .is_ok()
    {
        sent += chunk.len();
        assert!(sent < 256 << 10, "nothing bounds it");
    }
    let mut read = vec![0; sent];
    patience(stream.read_exact(&mut read)).await.unwrap();
    drop((stream, client));
    _ = patience(running).await.unwrap();
}
