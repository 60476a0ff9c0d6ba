//! One stream of a session, to read from and to write to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::headers::Headers;
use crate::state::{Gone, Shared};

/// A stream. `shutdown` ends this side's direction alone; dropping it before that resets the stream.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    headers: Headers,
    pub(crate) shared: Arc<Shared>,
}

impl Stream {
    pub(crate) fn new(id: u32, headers: Headers, shared: Arc<Shared>) -> Self {
        Self { id, headers, shared }
    }

    /// Its number in the session.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// With what it was opened.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }
}

fn broken(gone: Gone) -> io::Error {
    match gone {
        Gone::Reset => io::Error::new(io::ErrorKind::BrokenPipe, "the stream was closed"),
        Gone::Ended => io::Error::new(io::ErrorKind::ConnectionAborted, "the session has ended"),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = self.shared.lock().poll_read(self.id, buf.remaining(), cx.waker());
        match read {
            None => Poll::Pending,
            Some(Err(gone)) => Poll::Ready(Err(broken(gone))),
            Some(Ok(bytes)) => {
                buf.put_slice(&bytes);
                // There is room again, and perhaps credit to be given.
                self.shared.read.notify_one();
                self.shared.write.notify_one();
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = self.shared.lock().poll_write(self.id, buf, cx.waker());
        match written {
            None => Poll::Pending,
            Some(Err(gone)) => Poll::Ready(Err(broken(gone))),
            Some(Ok(count)) => {
                self.shared.write.notify_one();
                Poll::Ready(Ok(count))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.shared.lock().poll_flush(self.id, cx.waker());
        flushed.map_or(Poll::Pending, |result| Poll::Ready(result.map_err(broken)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.lock().close(self.id);
        self.shared.write.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().abandon(self.id);
        self.shared.write.notify_one();
        self.shared.read.notify_one();
    }
}
