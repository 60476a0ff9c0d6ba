//! Frames as values, from bytes and to bytes. Pure.
//!
//! ```text
//! control  1 version:15 type:16 │ flags:8 length:24 │ …      data  0 stream:31 │ flags:8 length:24 │ …
//! ```

use bytes::{Buf, Bytes, BytesMut};

use crate::headers::{Compressor, Decompressor, HeaderError, Headers, MAX_BLOCK};

/// Larger control frames are not taken: a header block with its fixed part.
const MAX_CONTROL: usize = MAX_BLOCK + 64;
/// What precedes every frame's content.
const HEAD: usize = 8;
const VERSION: u16 = 3;
/// The last frame of a direction.
const FIN: u8 = 1;
/// More settings than there are.
const MAX_SETTINGS: usize = 32;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream is reset.
pub mod status {
    /// The peer broke the rules.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// There is no such stream.
    pub const INVALID_STREAM: u32 = 2;
    /// It was not taken.
    pub const REFUSED_STREAM: u32 = 3;
    /// It is no longer wanted.
    pub const CANCEL: u32 = 5;
    /// More was sent than the window allows.
    pub const FLOW_CONTROL_ERROR: u32 = 7;
}

/// The setting that says how much may be sent ahead on a new stream.
pub(crate) const INITIAL_WINDOW_SIZE: u32 = 7;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A part of a stream. A large frame comes in several parts, the last of which has its end.
    Data {
        /// Whose.
        stream: u32,
        /// Nothing comes after it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
    /// A new stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// Who opens it will send nothing.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// A new stream has been taken.
    SynReply {
        /// Which.
        stream: u32,
        /// Who took it will send nothing.
        fin: bool,
        /// What there is to say about it.
        headers: Headers,
    },
    /// A stream is over at once.
    RstStream {
        /// Which.
        stream: u32,
        /// Why; see [`status`].
        status: u32,
    },
    /// Settings: numbers with their values.
    Settings(Vec<(u32, u32)>),
    /// A question that is answered by itself.
    Ping(u32),
    /// No stream after this one will be taken.
    GoAway {
        /// The last one.
        last: u32,
        /// Why; 0 if nothing is wrong.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Which.
        stream: u32,
        /// Nothing comes after it.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// More may be sent.
    WindowUpdate {
        /// On this stream; 0 is the session.
        stream: u32,
        /// So many bytes.
        delta: u32,
    },
    /// A kind of frame that nobody here knows; it has been skipped.
    Unknown(u16),
}

/// Bytes that are not SPDY. The session is over, as nobody knows where the next frame begins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol.
    #[error("version {0} of SPDY is not spoken")]
    Version(u16),
    /// A control frame has a length that it cannot have.
    #[error("a frame of type {kind} has {length} bytes")]
    Length {
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// Streams are numbered from 1.
    #[error("a frame of type {0} is about stream 0")]
    ZeroStream(u16),
    /// A block of headers is wrong.
    #[error("a frame of type {kind}")]
    Headers {
        /// The frame's type.
        kind: u16,
        /// What is wrong.
        source: HeaderError,
    },
}

/// Turns what one peer sends into frames. Keeps what the compression of headers needs.
#[derive(Debug)]
pub struct Decoder {
    headers: Decompressor,
    /// Stream, end, and what is missing of a data frame that has begun.
    open: Option<(u32, bool, usize)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Before the first frame.
    pub fn new() -> Self {
        Self { headers: Decompressor::new(), open: None }
    }

    /// Takes the next frame from the front of what has been read; `None` if there is none yet. Never needs more than
    /// a control frame's length of bytes to go on.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(open) = self.open {
            return Ok(self.data(open, input));
        }
        let Some(head) = input.first_chunk::<HEAD>() else { return Ok(None) };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if first >> 31 == 0 {
            if first == 0 {
                return Err(FrameError::ZeroStream(0));
            }
            input.advance(HEAD);
            return Ok(self.data((first, flags & FIN != 0, length), input));
        }
        let [version, kind] = [(first >> 16) & 0x7fff, first & 0xffff].map(|half| half as u16);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(FrameError::Length { kind, length });
        }
        if input.len() < HEAD + length {
            return Ok(None);
        }
        input.advance(HEAD);
        let content = input.split_to(length);
        self.control(kind, flags, &content).map(Some)
    }

    fn data(&mut self, (stream, fin, left): (u32, bool, usize), input: &mut BytesMut) -> Option<Frame> {
        if left > 0 && input.is_empty() {
            self.open = Some((stream, fin, left));
            return None;
        }
        let data = input.split_to(left.min(input.len())).freeze();
        let left = left - data.len();
        self.open = (left > 0).then_some((stream, fin, left));
        Some(Frame::Data { stream, fin: fin && left == 0, data })
    }

    fn control(&mut self, kind: u16, flags: u8, content: &[u8]) -> Result<Frame, FrameError> {
        let length = FrameError::Length { kind, length: content.len() };
        let word = |at: usize| {
            let bytes = content.get(at..at + 4)?.first_chunk::<4>()?;
            Some(u32::from_be_bytes(*bytes))
        };
        // The highest bit is reserved.
        let number = |at: usize| word(at).map(|word| word & 0x7fff_ffff);
        let stream = |at: usize| match number(at) {
            Some(0) => Err(FrameError::ZeroStream(kind)),
            Some(stream) => Ok(stream),
            None => Err(length.clone()),
        };
        let fin = flags & FIN != 0;
        let mut headers = |at: usize| {
            let block = content.get(at..).ok_or_else(|| length.clone())?;
            self.headers.read(block).map_err(|source| FrameError::Headers { kind, source })
        };
        match kind {
            // Beside the stream: one that it belongs to, a priority and a slot, none of which matters here.
            SYN_STREAM => Ok(Frame::SynStream { stream: stream(0)?, headers: headers(10)?, fin }),
            SYN_REPLY => Ok(Frame::SynReply { stream: stream(0)?, headers: headers(4)?, fin }),
            HEADERS => Ok(Frame::Headers { stream: stream(0)?, headers: headers(4)?, fin }),
            RST_STREAM => Ok(Frame::RstStream { stream: stream(0)?, status: word(4).ok_or(length)? }),
            PING => Ok(Frame::Ping(word(0).ok_or(length)?)),
            GOAWAY => Ok(Frame::GoAway { last: number(0).ok_or(length)?, status: word(4).unwrap_or(0) }),
            WINDOW_UPDATE => {
                let (stream, delta) = (number(0).ok_or_else(|| length.clone())?, number(4).ok_or(length)?);
                Ok(Frame::WindowUpdate { stream, delta })
            }
            SETTINGS => {
                let count = word(0).and_then(|count| usize::try_from(count).ok());
                let count = count.filter(|count| *count <= MAX_SETTINGS).ok_or_else(|| length.clone())?;
                let setting = |index: usize| {
                    let (id, value) = word(4 + 8 * index).zip(word(8 + 8 * index)).ok_or(length.clone())?;
                    Ok((id & 0xff_ffff, value))
                };
                Ok(Frame::Settings((0..count).map(setting).collect::<Result<_, FrameError>>()?))
            }
            other => Ok(Frame::Unknown(other)),
        }
    }
}

/// Turns frames into bytes. Keeps what the compression of headers needs.
#[derive(Debug)]
pub struct Encoder {
    headers: Compressor,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Before the first frame.
    pub fn new() -> Self {
        Self { headers: Compressor::new() }
    }

    /// Appends a frame. Data beyond the 16 MiB that a frame can have is the caller's to split.
    pub fn encode(&mut self, frame: &Frame, output: &mut Vec<u8>) {
        let mut content = Vec::new();
        let mut numbers = |numbers: &[u32]| {
            numbers.iter().for_each(|number| content.extend_from_slice(&number.to_be_bytes()));
        };
        let (kind, fin) = match frame {
            Frame::Data { stream, fin, data } => {
                output.extend_from_slice(&(stream & 0x7fff_ffff).to_be_bytes());
                put_flags_and_length(output, *fin, data.len());
                output.extend_from_slice(data);
                return;
            }
            Frame::SynStream { stream, fin, headers } => {
                numbers(&[*stream, 0]);
                content.extend_from_slice(&[0, 0]);
                self.headers.write(headers, &mut content);
                (SYN_STREAM, *fin)
            }
            Frame::SynReply { stream, fin, headers } => {
                numbers(&[*stream]);
                self.headers.write(headers, &mut content);
                (SYN_REPLY, *fin)
            }
            Frame::Headers { stream, fin, headers } => {
                numbers(&[*stream]);
                self.headers.write(headers, &mut content);
                (HEADERS, *fin)
            }
            Frame::RstStream { stream, status } => {
                numbers(&[*stream, *status]);
                (RST_STREAM, false)
            }
            Frame::Settings(settings) => {
                numbers(&[u32::try_from(settings.len()).unwrap_or(0)]);
                settings.iter().for_each(|(id, value)| numbers(&[*id, *value]));
                (SETTINGS, false)
            }
            Frame::Ping(id) => {
                numbers(&[*id]);
                (PING, false)
            }
            Frame::GoAway { last, status } => {
                numbers(&[*last, *status]);
                (GOAWAY, false)
            }
            Frame::WindowUpdate { stream, delta } => {
                numbers(&[*stream, *delta]);
                (WINDOW_UPDATE, false)
            }
            Frame::Unknown(kind) => (*kind, false),
        };
        output.extend_from_slice(&(VERSION | 0x8000).to_be_bytes());
        output.extend_from_slice(&kind.to_be_bytes());
        put_flags_and_length(output, fin, content.len());
        output.extend_from_slice(&content);
    }
}

fn put_flags_and_length(output: &mut Vec<u8>, fin: bool, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0xff_ffff;
    output.extend_from_slice(&(u32::from(fin) << 24 | length).to_be_bytes());
}
