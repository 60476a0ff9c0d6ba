//! An object as it is kept and served: encoded once, then copied.
//!
//! The store keeps the JSON of an object without its resourceVersion, because the revision is only known after the
//! commit. When the object comes back from the store its revision is spliced in, and the result is laid out
//! as the watch event that it most likely is part of:
//!
//! ```text
//! {"type":"ADDED","object":{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"17","name":…}}}\n
//! └──────── frame ────────────────────────────────────────────────────────────────────────────────────────┘
//!                          └──────── json: GET, and the object of every event ────────────────────────┘
//!                                                       └──────── tail: items of a list (behind a brace) ┘
//! ```
//!
//! So one buffer serves GET, LIST and WATCH, and all watchers of an event share it. Once somebody lists or watches the
//! kind in protobuf there is a second such buffer, which [`crate::protobuf`] lays out.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::fields::Extracted;
use crate::protobuf::{Codec, Encoded};

/// What is the same for all objects of a kind.
#[derive(Debug)]
pub(crate) struct Layout {
    /// `{"apiVersion":"v1","kind":"Pod",`
    head: String,
    /// `{"apiVersion":"v1","kind":"Pod","metadata":{`
    stored_head: String,
    /// How objects are written as protobuf.
    pub(crate) protobuf: Option<Codec>,
}

/// `"metadata":{`, as it follows the type in every stored object.
const METADATA: &str = r#""metadata":{"#;
/// What comes before and after the digits of the resourceVersion.
const VERSION_OPEN: &str = r#""resourceVersion":""#;
const VERSION_CLOSE: &str = r#"","#;

impl Layout {
    pub(crate) fn new(api_version: &str, kind: &str) -> Layout {
        let head = format!(r#"{{"apiVersion":"{api_version}","kind":"{kind}","#);
        let stored_head = format!("{head}{METADATA}");
        Layout { head, stored_head, protobuf: Codec::of(api_version, kind) }
    }

    /// A stored object from its encoded metadata (with braces) and its other fields (`,"key":value` each).
    pub(crate) fn assemble(&self, metadata: &[u8], rest: &[u8]) -> Vec<u8> {
        let metadata = metadata.strip_prefix(b"{").unwrap_or(b"}");
        [self.stored_head.as_bytes(), metadata, rest, b"}"].concat()
    }

    /// Whether these bytes are laid out as this kind stores them.
    pub(crate) fn fits(&self, stored: &[u8]) -> bool {
        stored.starts_with(self.stored_head.as_bytes())
    }

    /// The object with its resourceVersion, from the stored bytes.
    pub(crate) fn splice(&self, stored: &[u8], revision: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(stored.len() + VERSION_OPEN.len() + VERSION_CLOSE.len() + 20);
        self.splice_into(stored, revision, &mut out);
        out
    }

    fn splice_into(&self, stored: &[u8], revision: u64, out: &mut Vec<u8>) {
        let rest = stored.get(self.stored_head.len()..).unwrap_or_default();
        out.extend_from_slice(self.stored_head.as_bytes());
        out.extend_from_slice(VERSION_OPEN.as_bytes());
        out.extend_from_slice(revision.to_string().as_bytes());
        if rest.first() == Some(&b'}') {
            out.push(b'"');
        } else {
            out.extend_from_slice(VERSION_CLOSE.as_bytes());
        }
        out.extend_from_slice(rest);
    }
}

/// The type of a watch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl EventType {
    /// As it stands in events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
            EventType::Bookmark => "BOOKMARK",
            EventType::Error => "ERROR",
        }
    }

    /// What stands before the object in the event.
    fn open(self) -> &'static str {
        match self {
            EventType::Added => r#"{"type":"ADDED","object":"#,
            EventType::Modified => r#"{"type":"MODIFIED","object":"#,
            EventType::Deleted => r#"{"type":"DELETED","object":"#,
            EventType::Bookmark => r#"{"type":"BOOKMARK","object":"#,
            EventType::Error => r#"{"type":"ERROR","object":"#,
        }
    }

    /// The object in an encoded event of this type.
    pub(crate) fn object_in(self, frame: &Bytes) -> Option<Bytes> {
        let end = frame.len().checked_sub(FRAME_CLOSE.len())?;
        (frame.starts_with(self.open().as_bytes())).then(|| frame.slice(self.open().len()..end))
    }
}

const FRAME_CLOSE: &[u8] = b"}\n";

/// One watch event around an encoded object.
pub(crate) fn frame(event: EventType, json: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(json.len() + 32);
    frame_into(event, json, &mut out);
    out.into()
}

/// Appends one watch event to a buffer.
pub(crate) fn frame_into(event: EventType, json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(event.open().as_bytes());
    out.extend_from_slice(json);
    out.extend_from_slice(FRAME_CLOSE);
}

/// An object in the watch cache.
#[derive(Debug)]
pub(crate) struct Object {
    /// `namespace/name`, or `name` for kinds without namespaces: the store's key after the resource's prefix.
    key: Box<str>,
    frame: Bytes,
    event: EventType,
    revision: u64,
    /// The same as protobuf, from when somebody has wanted it; none of what cannot be written so.
    protobuf: OnceLock<Option<Box<Encoded>>>,
    /// What selectors look at.
    pub(crate) extracted: Extracted,
}

impl Object {
    /// Lays out what came from the store.
    pub(crate) fn new(
        layout: &Layout,
        key: &str,
        event: EventType,
        stored: &[u8],
        revision: u64,
        extracted: Extracted,
    ) -> Object {
        let open = event.open().as_bytes();
        let mut out = Vec::with_capacity(open.len() + stored.len() + 48);
        out.extend_from_slice(open);
        layout.splice_into(stored, revision, &mut out);
        out.extend_from_slice(FRAME_CLOSE);
        out.shrink_to_fit();
        Object { key: key.into(), frame: out.into(), event, revision, protobuf: OnceLock::new(), extracted }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub(crate) fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }

    /// Bytes that this object keeps in memory, roughly.
    pub(crate) fn weight(&self) -> usize {
        self.frame.len() + self.key.len() + 128
    }

    /// The whole object.
    pub(crate) fn json(&self) -> Bytes {
        self.frame.slice(self.event.open().len()..self.frame.len() - FRAME_CLOSE.len())
    }

    /// The whole object, borrowed.
    pub(crate) fn json_bytes(&self) -> &[u8] {
        &self.frame[self.event.open().len()..self.frame.len() - FRAME_CLOSE.len()]
    }

    /// The object without its opening brace and type, as it stands in a list.
    pub(crate) fn list_tail<'a>(&'a self, layout: &Layout) -> &'a [u8] {
        &self.json_bytes()[layout.head.len()..]
    }

    /// The bytes as the store has them.
    pub(crate) fn stored(&self, layout: &Layout) -> Vec<u8> {
        let json = self.json_bytes();
        let (head, tail) = self.around_version(layout);
        [&json[..head], &json[tail..]].concat()
    }

    /// Whether the store has just these bytes.
    pub(crate) fn is_stored_as(&self, layout: &Layout, stored: &[u8]) -> bool {
        let json = self.json_bytes();
        let (head, tail) = self.around_version(layout);
        stored.strip_prefix(&json[..head]).is_some_and(|rest| rest == &json[tail..])
    }

    /// Where the version begins in the encoded object, and where it ends.
    fn around_version(&self, layout: &Layout) -> (usize, usize) {
        let head = layout.stored_head.len();
        let digits = self.revision.checked_ilog10().unwrap_or(0) as usize + 1;
        // The separator after the version is absent when nothing else is in the metadata.
        let tail = head + VERSION_OPEN.len() + digits + 1;
        (head, if self.json_bytes().get(tail) == Some(&b',') { tail + 1 } else { tail })
    }

    /// The object as protobuf.
    pub(crate) fn protobuf(&self, codec: &Codec) -> Option<&Encoded> {
        let encoded = self.protobuf.get_or_init(|| {
            let encoded = codec.encoded(self.event, self.json_bytes());
            encoded
                .map(Box::new)
                .inspect_err(|error| {
                    tracing::error!(key = %self.key, %error, "an object cannot be written as protobuf");
                })
                .ok()
        });
        encoded.as_deref()
    }

    /// The event that the object's bytes are laid out for.
    pub(crate) fn event(&self) -> EventType {
        self.event
    }

    /// The same object in an event of another type.
    pub(crate) fn framed_as(&self, event: EventType) -> Bytes {
        if event == self.event { self.frame.clone() } else { frame(event, self.json_bytes()) }
    }

    /// The last state of an object in the event of its deletion, which has its own revision.
    pub(crate) fn framed_as_deleted(&self, layout: &Layout, revision: u64) -> Bytes {
        frame(EventType::Deleted, &layout.splice(&self.stored(layout), revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(event: EventType, revision: u64) -> (Layout, Object) {
        let layout = Layout::new("v1", "Pod");
        let stored = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"n"},"spec":{}}"#;
        assert!(layout.fits(stored));
        let object = Object::new(&layout, "n/a", event, stored, revision, Extracted::default());
        (layout, object)
    }

    #[test]
    fn one_buffer_serves_all_shapes() {
        let (layout, object) = object(EventType::Modified, 170);
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"170","name":"a","namespace":"n"},"spec":{}}"#;
        assert_eq!(object.json(), json);
        let modified = object.framed_as(EventType::Modified);
        assert_eq!(modified, format!("{{\"type\":\"MODIFIED\",\"object\":{json}}}\n"));
        assert_eq!(EventType::Modified.object_in(&modified), Some(object.json()));
        assert_eq!(object.framed_as(EventType::Added), format!("{{\"type\":\"ADDED\",\"object\":{json}}}\n"));
        assert!(object.list_tail(&layout).starts_with(br#""metadata":{"resourceVersion":"170""#));
        assert_eq!((object.namespace(), object.name()), ("n", "a"));
    }

    #[test]
    fn a_deletion_carries_its_own_revision() {
        let (layout, object) = object(EventType::Added, 9);
        let frame = object.framed_as_deleted(&layout, 12_345);
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"12345","name":"a","namespace":"n"},"spec":{}}"#;
        assert_eq!(frame, format!("{{\"type\":\"DELETED\",\"object\":{json}}}\n"));
    }

    #[test]
    fn stored_bytes_come_back_unchanged() {
        let layout = Layout::new("v1", "X");
        for stored in [
            r#"{"apiVersion":"v1","kind":"X","metadata":{}}"#,
            r#"{"apiVersion":"v1","kind":"X","metadata":{"a":1}}"#,
        ] {
            for revision in [1, 9, 10, 99, 100, u64::MAX] {
                let object = Object::new(
                    &layout,
                    "a",
                    EventType::Added,
                    stored.as_bytes(),
                    revision,
                    Extracted::default(),
                );
                serde_json::from_slice::<serde_json::Value>(&object.json()).expect("valid JSON");
                assert_eq!(object.stored(&layout), stored.as_bytes());
                assert!(object.is_stored_as(&layout, stored.as_bytes()));
                assert!(!object.is_stored_as(&layout, &stored.as_bytes()[1..]));
            }
        }
    }
}
