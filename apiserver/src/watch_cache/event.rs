//! One change of one object, as watchers see it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::filter::Filter;
use crate::object::{EventType, Layout, Object};

/// One change. At least one of `now` and `before` is there.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) now: Option<Arc<Object>>,
    pub(crate) before: Option<Arc<Object>>,
    /// The event for watchers whose selector the object has just entered.
    entered: OnceLock<Bytes>,
    /// The event of a deletion, and for watchers whose selector the object has just left.
    left: OnceLock<Bytes>,
    /// The same as protobuf.
    entered_protobuf: OnceLock<Box<Bytes>>,
    left_protobuf: OnceLock<Box<Bytes>>,
}

/// What a watcher is told, and about which object.
pub(crate) struct Seen<'a> {
    pub(crate) event: EventType,
    /// The state that is shown.
    pub(crate) object: &'a Arc<Object>,
    /// The encoded event, shared by all its watchers.
    pub(crate) frame: Bytes,
    /// Where its form in protobuf is kept, if that is not the object's own.
    pub(crate) protobuf: Option<&'a OnceLock<Box<Bytes>>>,
}

impl Event {
    pub(crate) fn new(revision: u64, now: Option<Arc<Object>>, before: Option<Arc<Object>>) -> Event {
        Event {
            revision,
            now,
            before,
            entered: OnceLock::new(),
            left: OnceLock::new(),
            entered_protobuf: OnceLock::new(),
            left_protobuf: OnceLock::new(),
        }
    }

    pub(crate) fn key(&self) -> &str {
        self.now.as_ref().or(self.before.as_ref()).map_or("", |object| object.key())
    }

    /// Bytes that are kept alive because of this event, roughly: the state before, which nobody else has any more. The
    /// state now is in the cache, or is the state before of a later event.
    pub(crate) fn weight(&self) -> usize {
        let before = self.before.as_ref().map_or(0, |object| object.weight());
        // A deletion is encoded anew for its watchers, because it has a revision of its own.
        160 + if self.now.is_some() { before } else { 2 * before }
    }

    /// How the event looks through a filter, if it is seen at all.
    pub(crate) fn seen(&self, filter: &Filter, layout: &Layout) -> Option<Seen<'_>> {
        let now = self.now.as_ref().filter(|object| filter.matches(object));
        let before = self.before.as_ref().filter(|object| filter.matches(object));
        match (now, before) {
            (Some(object), Some(_)) => Some(Seen {
                event: EventType::Modified,
                object,
                frame: object.framed_as(EventType::Modified),
                protobuf: None,
            }),
            (Some(object), None) => {
                let frame = self.entered.get_or_init(|| object.framed_as(EventType::Added)).clone();
                let protobuf = Some(&self.entered_protobuf);
                Some(Seen { event: EventType::Added, object, frame, protobuf })
            }
            (None, Some(object)) => {
                let frame = self.left.get_or_init(|| object.framed_as_deleted(layout, self.revision)).clone();
                let protobuf = Some(&self.left_protobuf);
                Some(Seen { event: EventType::Deleted, object, frame, protobuf })
            }
            (None, None) => None,
        }
    }
}
