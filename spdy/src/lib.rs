//! SPDY/3.1, as far as Kubernetes' clients speak it: many streams of bytes over one connection.
//!
//! ```text
//! bytes ─▶ frame::Decoder (pure) ─▶ session ─▶ Stream (AsyncRead, AsyncWrite), one per stream
//! bytes ◀─ frame::Encoder (pure) ◀─ session ◀─┘
//! ```
//!
//! Knows nothing of pods, of what streams are for, and of what carries the bytes: TLS, a WebSocket, a pipe in a test.
//!
//! Everything is bounded. Streams per session, bytes that wait to be sent per stream and in all, bytes that wait to be read: whoever
//! is too fast waits. A peer that takes part in flow control (it says so by a SETTINGS or a WINDOW_UPDATE frame) is held to a window per
//! stream, so that a stream nobody reads does not hold up the others. Kubernetes' own clients and servers never did; of them the session as a whole takes
//! [`Limits::unread`] bytes ahead, and reads on when these have been read.
//!
//! Follows the draft `draft-mbelshe-httpbis-spdy-00` with the changes of version 3.1.

mod frame;
mod headers;
mod session;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use frame::{Decoder, Encoder, Frame, FrameError, status};
pub use headers::{HeaderError, Headers};
pub use session::{Driver, Incoming, Limits, OpenError, Opened, Role, Session, SessionError, session};
pub use stream::Stream;
