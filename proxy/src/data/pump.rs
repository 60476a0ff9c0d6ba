//! Moving bytes between two connections until both are done.
//!
//! ```text
//!             ┌── two full buffers in a row ──▶ splicing ──┐
//!   copying ──┤                                            ├── end of stream ──▶ shut the other side's writing
//!             ◀── small pieces, or pipes are short ───────┘
//! ```
//!
//! Copying goes through one buffer per thread that is borrowed only while a piece moves from socket to socket; a
//! connection has a buffer of its own only while its reader is slower than its sender. So an idle connection
//! costs its two sockets and its task. Splicing moves pages without copying them, which pays for streams.
//!
//! The end of one direction (half-close) is passed on and the other direction goes on. A reset ends both
//! and is passed on as a reset: nobody takes half a message for a whole one.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::pipe::{Pipe, PipePool};

const BUFFER: usize = 64 * 1024;

/// Full buffers in a row that make a stream.
const STREAM_AFTER: u32 = 2;

/// Pieces smaller than this, so many in a row, are no stream any more.
const SMALL: usize = 8 * 1024;
const SMALL_IN_A_ROW: u32 = 16;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes moved.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) to_backend: u64,
    pub(crate) to_client: u64,
}

/// Moves bytes both ways until both directions have ended. On an error, which is a reset or a time-out of one of
/// the two, the caller resets both. `unanswered` is dropped when the backend has said something.
pub(crate) async fn pump<T>(
    client: &mut TcpStream,
    backend: &mut TcpStream,
    pipes: &PipePool,
    unanswered: T,
) -> io::Result<Moved> {
    let (client_read, client_write) = client.split();
    let (backend_read, backend_write) = backend.split();
    let (to_backend, to_client) = tokio::try_join!(
        one_way(client_read, backend_write, pipes, ()),
        one_way(backend_read, client_write, pipes, unanswered),
    )?;
    Ok(Moved { to_backend, to_client })
}

async fn one_way<T>(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    pipes: &PipePool,
    silent: T,
) -> io::Result<u64> {
    let mut silent = Some(silent);
    let mut total = 0;
    let mut full = 0;
    loop {
        let piece = poll_fn(|cx| move_piece(cx, &mut from, &mut to)).await?;
        drop(silent.take());
        if let Some(rest) = piece.rest {
            to.write_all(&rest).await?;
        }
        if piece.length == 0 {
            to.shutdown().await?;
            return Ok(total);
        }
        total += piece.length as u64;
        full = if piece.length == BUFFER { full + 1 } else { 0 };
        if full >= STREAM_AFTER
            && let Some(pipe) = pipes.take()
        {
            full = 0;
            let (moved, ended) = stream(from.as_ref(), to.as_ref(), pipe).await?;
            total += moved;
            if ended {
                to.shutdown().await?;
                return Ok(total);
            }
        }
        tokio::task::consume_budget().await;
    }
}

/// A piece that was read.
struct Piece {
    /// Its length; 0 is the end.
    length: usize,
    /// What the other side did not take at once.
    rest: Option<Vec<u8>>,
}

/// Reads a piece into the shared buffer and writes as much of it as goes at once.
fn move_piece(
    cx: &mut Context<'_>,
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
) -> Poll<io::Result<Piece>> {
    SHARED.with_borrow_mut(|shared| {
        shared.resize(BUFFER, 0);
        let mut buffer = ReadBuf::new(shared);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let piece = buffer.filled();
        let length = piece.len();
        if length == 0 {
            return Poll::Ready(Ok(Piece { length, rest: None }));
        }
        let written = match Pin::new(to).poll_write(cx, piece) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        let rest = (written < length).then(|| piece[written..].to_vec());
        Poll::Ready(Ok(Piece { length, rest }))
    })
}

/// Splices until the stream ends or is none any more. Answers the bytes moved and whether it was the end.
async fn stream(from: &TcpStream, to: &TcpStream, mut pipe: Pipe<'_>) -> io::Result<(u64, bool)> {
    let (mut total, mut small) = (0, 0);
    loop {
        match pipe.fill(from) {
            Ok(0) => return Ok((total, true)),
            Ok(moved) => {
                total += moved as u64;
                small = if moved < SMALL { small + 1 } else { 0 };
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !pipe.may_wait() {
                    return Ok((total, false));
                }
                from.readable().await?;
                continue;
            }
            Err(error) => return Err(error),
        }
        while pipe.holds() > 0 {
            match pipe.drain(to) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        if small >= SMALL_IN_A_ROW {
            return Ok((total, false));
        }
        tokio::task::consume_budget().await;
    }
}
