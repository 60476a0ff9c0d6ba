//! Between etcd's words and ours.

use std::collections::VecDeque;

use bytes::Bytes;
use etcd_client::{
    Compare as EtcdCompare, CompareOp, Event as EtcdEvent, EventType, GetResponse, ResponseHeader, TxnOp,
};

use crate::hub::Commit;
use crate::{Compare, Event, KeyValue, Op, Revision, StoreError};

/// etcd counts in `i64`.
pub(super) fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn from_number(n: i64) -> Revision {
    Revision(u64::try_from(n).unwrap_or(0))
}

pub(super) fn revision(header: Option<&ResponseHeader>) -> Result<Revision, StoreError> {
    let header = header.ok_or_else(|| StoreError::Unavailable("an answer without a header".into()))?;
    Ok(from_number(header.revision()))
}

/// The first key after all that start with the prefix; `\0` stands for "no end".
pub(super) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_owned();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Keys that are no text are not ours.
pub(super) fn key_value(kv: etcd_client::KeyValue) -> Option<KeyValue> {
    let (create_revision, mod_revision) = (from_number(kv.create_revision()), from_number(kv.mod_revision()));
    let (key, value) = kv.into_key_value();
    Some(KeyValue {
        key: String::from_utf8(key).ok()?,
        value: Bytes::from(value),
        create_revision,
        mod_revision,
    })
}

pub(super) fn key_values(mut response: GetResponse) -> Vec<KeyValue> {
    response.take_kvs().into_iter().filter_map(key_value).collect()
}

pub(super) fn compare(compare: &Compare) -> EtcdCompare {
    match compare {
        Compare::Absent(key) => EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, 0),
        Compare::ModRevision(key, revision) => {
            // etcd's 0 means "absent", which no revision of ours means: compare with one that no key can have.
            let revision = if revision.0 == 0 { -1 } else { number(revision.0) };
            EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, revision)
        }
    }
}

pub(super) fn op(op: Op) -> TxnOp {
    match op {
        Op::Put(key, value) => TxnOp::put(key, value, None),
        Op::Delete(key) => TxnOp::delete(key, None),
    }
}

/// Collects the events of a watch into whole revisions. etcd may send one revision in several fragments.
#[derive(Debug, Default)]
pub(super) struct Collector {
    pending: Vec<Event>,
    /// The revision that `pending` belongs to, also if all its keys are foreign.
    revision: Option<Revision>,
    complete: VecDeque<Commit>,
}

impl Collector {
    /// Take the events of a message; `more` if the next message belongs to it.
    pub(super) fn add(&mut self, events: Vec<EtcdEvent>, more: bool) {
        for event in events {
            let revision = event.kv().map(|kv| from_number(kv.mod_revision()));
            if revision != self.revision {
                self.finish();
                self.revision = revision;
            }
            self.pending.extend(convert_event(event));
        }
        if !more {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(revision) = self.revision.take() {
            self.complete.push_back(Commit { revision, events: std::mem::take(&mut self.pending) });
        }
    }

    /// The whole revisions so far, oldest first.
    pub(super) fn commits(&mut self) -> impl Iterator<Item = Commit> {
        self.complete.drain(..)
    }
}

fn convert_event(event: EtcdEvent) -> Option<Event> {
    let kind = event.event_type();
    let event = event.0;
    let before = event.prev_kv.map(etcd_client::KeyValue).and_then(key_value);
    let now = key_value(etcd_client::KeyValue(event.kv?))?;
    Some(match kind {
        EventType::Put => Event::Put { now, before },
        EventType::Delete => Event::Delete { key: now.key, revision: now.mod_revision, before },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end("/registry/pods/"), b"/registry/pods0");
        assert_eq!(prefix_end(""), [0]);
        assert_eq!(prefix_end("\u{7f}"), [0x80]);
    }

    fn event(key: &str, revision: i64, version: i64) -> EtcdEvent {
        let kv = etcd_client::proto::PbKeyValue {
            key: key.as_bytes().to_owned(),
            mod_revision: revision,
            create_revision: revision,
            version,
            ..Default::default()
        };
        EtcdEvent(etcd_client::proto::PbEvent { r#type: 0, kv: Some(kv), prev_kv: None })
    }

    #[test]
    fn fragments_become_whole_revisions() {
        let mut collector = Collector::default();
        let revisions = |collector: &mut Collector| {
            collector.commits().map(|commit| (commit.revision.0, commit.events.len())).collect::<Vec<_>>()
        };
        collector.add(vec![event("a", 5, 1), event("b", 5, 1), event("c", 6, 1)], true);
        assert_eq!(revisions(&mut collector), [(5, 2)], "revision 6 may go on");
        collector.add(vec![event("d", 6, 1)], true);
        assert_eq!(revisions(&mut collector), []);
        collector.add(vec![], false);
        assert_eq!(revisions(&mut collector), [(6, 2)]);
        collector.add(vec![event("e", 7, 1), event("f", 8, 1)], false);
        assert_eq!(revisions(&mut collector), [(7, 1), (8, 1)]);
    }
}
