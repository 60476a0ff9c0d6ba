//! A session over a connection: the two loops that move frames, and the handle that opens and ends streams.
//!
//! ```text
//!              ┌─ read loop: decode ─▶ state ─▶ streams' readers, Incoming
//! Driver::run ─┤
//!              └─ write loop: state ─▶ encode ─▶ connection      ─▶ GOAWAY and end of writing when finished
//! ```

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::frame::{Decoder, Encoder, FrameError};
use crate::headers::Headers;
use crate::state::{Effect, Gone, Shared};
use crate::stream::Stream;

/// What is read from the connection at a time.
const READ: usize = 16 << 10;
/// Frames are written together up to this.
const WRITE: usize = 32 << 10;
/// New streams that nobody has looked at; then no more is read.
const WAITING: usize = 16;

/// Which side of the connection this is: clients' streams have odd numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Who has made the connection.
    Client,
    /// Who has accepted it.
    Server,
}

/// What one session may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams at a time.
    pub streams: usize,
    /// Bytes of all streams that have come and have not been read.
    pub unread: usize,
    /// Bytes of all streams that wait to be sent, beyond a little that every stream has.
    pub unsent: usize,
    /// Bytes that a peer with flow control may send ahead on one stream.
    pub window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 2048, unread: 2 << 20, unsent: 1 << 20, window: 128 << 10 }
    }
}

/// How a session ended badly.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection broke.
    #[error("reading from the connection")]
    Read(#[source] io::Error),
    /// The same while writing.
    #[error("writing to the connection")]
    Write(#[source] io::Error),
    /// What came was not SPDY.
    #[error("reading a frame")]
    Frame(#[source] FrameError),
}

/// A stream that could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer does not want it.
    #[error("the peer refused the stream")]
    Refused,
    /// There is no session any more.
    #[error("the session has ended")]
    Ended,
}

/// The three parts of a new session.
#[derive(Debug)]
pub struct Opened<T> {
    /// Opens streams and ends the session.
    pub session: Session,
    /// Streams that the peer opens.
    pub incoming: mpsc::Receiver<Incoming>,
    /// Must be run for anything to move.
    pub driver: Driver<T>,
}

/// A session over a connection.
pub fn session<T: AsyncRead + AsyncWrite>(connection: T, role: Role, limits: Limits) -> Opened<T> {
    let shared = Arc::new(Shared::new(role, limits));
    let (sender, incoming) = mpsc::channel(WAITING);
    let (reader, writer) = tokio::io::split(connection);
    let driver = Driver { reader, writer, sender, shared: Ending(Arc::clone(&shared)) };
    Opened { session: Session { shared }, incoming, driver }
}

/// Opens streams and ends the session.
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

impl Session {
    /// Opens a stream and waits until the peer has taken it.
    pub async fn open(&self, headers: Headers) -> Result<Stream, OpenError> {
        let id = self.shared.lock().open(headers.clone()).ok_or(OpenError::Ended)?;
        self.shared.write.notify_one();
        // Owned from here on, so that it is reset when nobody waits any longer.
        let stream = Stream::new(id, headers, Arc::clone(&self.shared));
        let taken =
            poll_fn(|cx| self.shared.lock().poll_reply(id, cx.waker()).map_or(Poll::Pending, Poll::Ready));
        match taken.await {
            Ok(()) => Ok(stream),
            Err(Gone::Reset) => Err(OpenError::Refused),
            Err(Gone::Ended) => Err(OpenError::Ended),
        }
    }

    /// Takes no more streams, and says goodbye when all that waits has been written.
    pub fn finish(&self) {
        self.shared.lock().finish();
        self.shared.write.notify_one();
    }
}

/// A stream that the peer has opened. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming(Stream);

impl Incoming {
    /// What it is for.
    pub fn headers(&self) -> &Headers {
        self.0.headers()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Takes it.
    pub fn accept(self) -> Stream {
        self.0.shared.lock().reply(self.0.id());
        self.0.shared.write.notify_one();
        self.0
    }
}

/// Moves a session's frames.
#[derive(Debug)]
pub struct Driver<T> {
    reader: ReadHalf<T>,
    writer: WriteHalf<T>,
    sender: mpsc::Sender<Incoming>,
    shared: Ending,
}

/// Whoever still holds a stream learns that the session is over, however the driver ends.
#[derive(Debug)]
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.lock().end();
    }
}

impl<T: AsyncRead + AsyncWrite> Driver<T> {
    /// Runs until the peer closes the connection, or it breaks. After [`Session::finish`] the peer has to close; how long one waits for
    /// that is the caller's choice.
    pub async fn run(self) -> Result<(), SessionError> {
        let Self { reader, writer, sender, shared } = self;
        let read = read_all(reader, sender, &shared.0);
        let write = async {
            match write_all(writer, &shared.0).await {
                // The peer closes when it has read everything.
                Ok(()) => std::future::pending().await,
                Err(error) => SessionError::Write(error),
            }
        };
        tokio::select! {
            ended = read => ended,
            error = write => Err(error),
        }
    }
}

async fn read_all<R: AsyncRead + Unpin>(
    mut reader: R,
    sender: mpsc::Sender<Incoming>,
    shared: &Arc<Shared>,
) -> Result<(), SessionError> {
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::with_capacity(READ);
    loop {
        while !shared.lock().has_room() {
            shared.read.notified().await;
        }
        let Some(frame) = decoder.decode(&mut buffer).map_err(SessionError::Frame)? else {
            buffer.reserve(READ);
            let mut room = (&mut reader).take(READ as u64);
            match room.read_buf(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) => continue,
                Err(error) => return Err(SessionError::Read(error)),
            }
        };
        let effect = shared.lock().take(frame);
        shared.write.notify_one();
        if let Effect::Opened(id, headers) = effect {
            // If nobody takes streams, this one is refused by being dropped.
            _ = sender.send(Incoming(Stream::new(id, headers, Arc::clone(shared)))).await;
        }
    }
}

async fn write_all<W: AsyncWrite + Unpin>(mut writer: W, shared: &Shared) -> io::Result<()> {
    let mut encoder = Encoder::new();
    let mut buffer = Vec::new();
    loop {
        let mut last = false;
        while buffer.len() < WRITE {
            let mut state = shared.lock();
            if let Some(frame) = state.next_frame() {
                drop(state);
                encoder.encode(&frame, &mut buffer);
                continue;
            }
            if let Some(frame) = state.goodbye() {
                encoder.encode(&frame, &mut buffer);
                last = true;
            }
            break;
        }
        if buffer.is_empty() {
            shared.write.notified().await;
            continue;
        }
        // Answers have left the queue, so that more may be read.
        shared.read.notify_one();
        writer.write_all(&buffer).await?;
        writer.flush().await?;
        buffer.clear();
        if last {
            return writer.shutdown().await;
        }
    }
}
