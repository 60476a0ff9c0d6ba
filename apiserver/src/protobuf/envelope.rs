//! What stands around messages on their way to a client.
//!
//! ```text
//! length  WatchEvent { type, object { raw ─┐ } }
//!                     'k' 's' 's' 0  Unknown { typeMeta { apiVersion, kind }, raw ─┐, contentEncoding, contentType }
//!                                                                               the message
//! └ 4 bytes └──────── frame: watch events ──────────────────────────────────────────────────────────────────────┘
//!                     └──────── document: GET ──────────────────────────────────────────────────────────────────┘
//!                                                                               └ raw: items of lists ┘
//! ```
//!
//! As with JSON (see [`crate::object`]), one buffer serves all three, and all watchers of an event share it.

use bytes::Bytes;

use super::message::Message;
use super::wire::put;
use super::{MAGIC, encode, find};
use crate::object::EventType;

/// The content's encoding and type: empty, but there, as Go writes them.
const TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

/// How objects of a kind are written.
#[derive(Debug, Clone)]
pub(crate) struct Codec {
    message: &'static Message,
    /// The magic and the type.
    head: Box<[u8]>,
}

impl Codec {
    /// The codec of a kind; none for those that have no message.
    pub(crate) fn of(api_version: &str, kind: &str) -> Option<Codec> {
        Some(Codec { message: find(api_version, kind)?, head: head(api_version, kind) })
    }

    /// What the table says of the kind.
    #[cfg(test)]
    pub(super) fn message(&self) -> &'static Message {
        self.message
    }

    /// The message of an object.
    pub(crate) fn raw(&self, json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        let mut raw = Vec::with_capacity(json.len());
        encode::message(self.message, json, &mut raw)?;
        Ok(raw)
    }

    /// The object by itself.
    pub(crate) fn document(&self, json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        let raw = self.raw(json)?;
        let mut out = Vec::with_capacity(self.document_length(raw.len()));
        self.document_into(&raw, &mut out);
        Ok(out)
    }

    /// The object in an event.
    pub(crate) fn frame(&self, event: EventType, json: &[u8]) -> Result<Bytes, serde_json::Error> {
        let mut out = Vec::new();
        self.frame_into(event, &self.raw(json)?, &mut out);
        Ok(out.into())
    }

    /// The object, so that it serves in events, by itself, and in lists.
    pub(crate) fn encoded(&self, event: EventType, json: &[u8]) -> Result<Encoded, serde_json::Error> {
        let raw = self.raw(json)?;
        let mut out = Vec::new();
        self.frame_into(event, &raw, &mut out);
        let raw_at = out.len() - TAIL.len() - raw.len();
        Ok(Encoded { event, frame: out.into(), raw_at })
    }

    fn document_length(&self, raw: usize) -> usize {
        self.head.len() + put::bytes_length(raw) + TAIL.len()
    }

    fn document_into(&self, raw: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        put::bytes(2, raw, out);
        out.extend_from_slice(TAIL);
    }

    fn frame_into(&self, event: EventType, raw: &[u8], out: &mut Vec<u8>) {
        let document = self.document_length(raw.len());
        let object = put::bytes_length(document);
        let whole = put::bytes_length(event.name().len()) + put::bytes_length(object);
        out.reserve_exact(4 + whole);
        // Events of four gigabytes cannot be: an object is a few megabytes at most.
        out.extend_from_slice(&u32::try_from(whole).unwrap_or(u32::MAX).to_be_bytes());
        put::bytes(1, event.name().as_bytes(), out);
        put::tag(2, put::BYTES, out);
        put::varint(object as u64, out);
        put::tag(1, put::BYTES, out);
        put::varint(document as u64, out);
        self.document_into(raw, out);
    }
}

/// An encoded object.
#[derive(Debug)]
pub(crate) struct Encoded {
    event: EventType,
    frame: Bytes,
    raw_at: usize,
}

impl Encoded {
    /// The message.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.frame[self.raw_at..self.frame.len() - TAIL.len()]
    }

    /// The object in an event.
    pub(crate) fn framed_as(&self, codec: &Codec, event: EventType) -> Bytes {
        if event == self.event {
            return self.frame.clone();
        }
        let mut out = Vec::new();
        codec.frame_into(event, self.raw(), &mut out);
        out.into()
    }
}

fn head(api_version: &str, kind: &str) -> Box<[u8]> {
    let mut type_meta = Vec::new();
    put::bytes(1, api_version.as_bytes(), &mut type_meta);
    put::bytes(2, kind.as_bytes(), &mut type_meta);
    let mut head = MAGIC.to_vec();
    put::bytes(1, &type_meta, &mut head);
    head.into()
}

/// What a list says of itself.
#[derive(Debug, Default)]
pub(crate) struct ListMeta<'a> {
    pub(crate) revision: u64,
    pub(crate) continue_token: Option<&'a str>,
    pub(crate) remaining: Option<u64>,
}

impl ListMeta<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put::bytes(1, b"", &mut out);
        put::bytes(2, self.revision.to_string().as_bytes(), &mut out);
        put::bytes(3, self.continue_token.unwrap_or_default().as_bytes(), &mut out);
        if let Some(remaining) = self.remaining {
            put::tag(4, put::VARINT, &mut out);
            put::varint(remaining, &mut out);
        }
        out
    }
}

/// What stands before the items of a list, and after them.
#[derive(Debug)]
pub(crate) struct ListFrame {
    pub(crate) open: Vec<u8>,
    pub(crate) close: &'static [u8],
}

impl ListFrame {
    /// `items` is the length of all items, each with what [`item`] writes.
    pub(crate) fn new(api_version: &str, kind: &str, metadata: &ListMeta<'_>, items: usize) -> ListFrame {
        let metadata = metadata.encode();
        let raw = put::bytes_length(metadata.len()) + items;
        let mut open = head(api_version, kind).into_vec();
        put::tag(2, put::BYTES, &mut open);
        put::varint(raw as u64, &mut open);
        put::bytes(1, &metadata, &mut open);
        ListFrame { open, close: TAIL }
    }
}

/// Appends an item of a list.
pub(crate) fn item(raw: &[u8], out: &mut Vec<u8>) {
    put::bytes(2, raw, out);
}

/// How long an item is in a list.
pub(crate) fn item_length(raw: &[u8]) -> usize {
    put::bytes_length(raw.len())
}
