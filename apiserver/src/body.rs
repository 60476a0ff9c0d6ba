//! Bodies of requests and responses, the same type for sockets and in-process callers.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http_body::{Frame, SizeHint};

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body: nothing, some bytes, a list of chunks, or a stream.
pub struct Body(Kind);

enum Kind {
    Chunks(VecDeque<Bytes>),
    Made(Made),
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
}

/// Chunks that are made when they are wanted, of a length that is known beforehand.
struct Made {
    left: usize,
    next: Box<dyn FnMut() -> Option<Bytes> + Send>,
}

impl Made {
    fn next(&mut self) -> Option<Bytes> {
        let chunk = (self.next)()?;
        debug_assert!(chunk.len() <= self.left, "the length is known");
        self.left = self.left.saturating_sub(chunk.len());
        Some(chunk)
    }
}

/// The body is longer than allowed, or broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("limit is {limit}")]
    TooLarge { limit: usize },
    #[error("reading the request body")]
    Broken(#[source] BodyError),
}

impl Body {
    /// No body.
    pub fn empty() -> Body {
        Body(Kind::Chunks(VecDeque::new()))
    }

    /// Chunks that are all there.
    pub fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Body {
        Body(Kind::Chunks(chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect()))
    }

    /// Chunks that are made one after the other when the connection takes them: a long list is never in memory as a whole.
    /// All together they have `length` bytes.
    pub(crate) fn made(length: usize, next: impl FnMut() -> Option<Bytes> + Send + 'static) -> Body {
        Body(Kind::Made(Made { left: length, next: Box::new(next) }))
    }

    /// Chunks that come one after the other.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Body {
        Body(Kind::Stream(stream.boxed()))
    }

    /// The body of another implementation, for example hyper's. Trailers are dropped: the API has none.
    pub fn wrap<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        if body.is_end_stream() {
            return Body::empty();
        }
        let frames = http_body_util::BodyStream::new(body);
        Body::stream(frames.filter_map(|frame| {
            std::future::ready(match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(error.into())),
            })
        }))
    }

    /// The chunks as a stream.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes, BodyError>> {
        match self.0 {
            Kind::Chunks(chunks) => futures_util::stream::iter(chunks.into_iter().map(Ok)).boxed(),
            Kind::Made(mut made) => {
                futures_util::stream::iter(std::iter::from_fn(move || made.next().map(Ok))).boxed()
            }
            Kind::Stream(stream) => stream,
        }
    }

    /// The length, if it is known before the last chunk has come.
    pub fn known_length(&self) -> Option<usize> {
        match &self.0 {
            Kind::Chunks(chunks) => Some(chunks.iter().map(Bytes::len).sum()),
            Kind::Made(made) => Some(made.left),
            Kind::Stream(_) => None,
        }
    }

    /// The chunks in one piece, of a body whose length is known.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.0 {
            Kind::Chunks(mut chunks) if chunks.len() == 1 => chunks.pop_front().unwrap_or_default(),
            Kind::Chunks(chunks) => {
                let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
                chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
                whole.freeze()
            }
            Kind::Made(mut made) => {
                let mut whole = BytesMut::with_capacity(made.left);
                while let Some(chunk) = made.next() {
                    whole.extend_from_slice(&chunk);
                }
                whole.freeze()
            }
            Kind::Stream(_) => Bytes::new(),
        }
    }

    /// The whole body, if it is not longer than `limit`.
    pub(crate) async fn read(self, limit: usize) -> Result<Bytes, ReadError> {
        if self.known_length().is_some_and(|length| length > limit) {
            return Err(ReadError::TooLarge { limit });
        }
        let mut stream = self.into_stream();
        let Some(first) = stream.next().await.transpose().map_err(ReadError::Broken)? else {
            return Ok(Bytes::new());
        };
        let Some(second) = stream.next().await.transpose().map_err(ReadError::Broken)? else {
            return if first.len() > limit { Err(ReadError::TooLarge { limit }) } else { Ok(first) };
        };
        let mut whole = BytesMut::from(first);
        let mut next = Some(second);
        while let Some(chunk) = next {
            if whole.len() + chunk.len() > limit {
                return Err(ReadError::TooLarge { limit });
            }
            whole.extend_from_slice(&chunk);
            next = stream.next().await.transpose().map_err(ReadError::Broken)?;
        }
        Ok(whole.freeze())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known_length() {
            Some(length) => write!(f, "Body({length} bytes)"),
            None => f.write_str("Body(stream)"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::chunks([bytes])
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::chunks([bytes.into()])
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::chunks([text.into()])
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Chunks(chunks) => Poll::Ready(chunks.pop_front().map(|chunk| Ok(Frame::data(chunk)))),
            Kind::Made(made) => Poll::Ready(made.next().map(|chunk| Ok(Frame::data(chunk)))),
            Kind::Stream(stream) => {
                stream.poll_next_unpin(cx).map(|next| next.map(|chunk| chunk.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Chunks(chunks) => chunks.is_empty(),
            Kind::Made(made) => made.left == 0,
            Kind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.known_length().map_or_else(SizeHint::default, |length| SizeHint::with_exact(length as u64))
    }
}
