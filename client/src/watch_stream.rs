//! Reads watch events, one JSON document per line, from a body that arrives in arbitrary pieces.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::Method;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::object::Object;
use crate::transport::Body;

/// Longer than any object that a server stores.
const LINE_LIMIT: usize = 16 << 20;

/// One change as the server sends it.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent<K> {
    /// The object is new to this watch.
    Added(K),
    /// The object has changed.
    Modified(K),
    /// The object is gone, or is no longer selected; this is its last state.
    Deleted(K),
    /// Nothing happened up to this version.
    Bookmark {
        /// The version to resume from.
        resource_version: String,
        /// With `k8s.io/initial-events-end`, the last of the initial events was sent.
        annotations: BTreeMap<String, String>,
    },
}

/// The events of one watch request.
pub struct WatchStream<K> {
    path: String,
    body: Body,
    lines: Lines,
    kind: PhantomData<fn() -> K>,
}

impl<K> fmt::Debug for WatchStream<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<K: Object> WatchStream<K> {
    pub(crate) fn new(path: String, body: Body) -> Self {
        Self { path, body, lines: Lines::default(), kind: PhantomData }
    }

    /// The next event; None when the server has ended the watch. An `ERROR` event is an error.
    ///
    /// Cancel safe: bytes that were read stay in the stream.
    pub async fn next(&mut self) -> Option<Result<WatchEvent<K>, Error>> {
        loop {
            if let Some(line) = self.lines.next() {
                return Some(self.decode(&line));
            }
            if self.lines.held() > LINE_LIMIT {
                let path = self.path.clone();
                return Some(Err(Error::TooLarge { method: Method::GET, path, limit: LINE_LIMIT }));
            }
            match self.body.next().await {
                Some(Ok(chunk)) => self.lines.push(chunk),
                Some(Err(error)) => return Some(Err(Error::Transport(error))),
                None => return None,
            }
        }
    }

    fn decode(&self, line: &[u8]) -> Result<WatchEvent<K>, Error> {
        decode(line).map_err(|failure| match failure {
            Failure::Json(source) => Error::Decode { method: Method::GET, path: self.path.clone(), source },
            Failure::Status(status) => Error::Api(status),
        })
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct BookmarkObject {
    #[serde(default)]
    metadata: BookmarkMeta,
}

enum Failure {
    Json(serde_json::Error),
    Status(Box<Status>),
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

fn decode<K: Object>(line: &[u8]) -> Result<WatchEvent<K>, Failure> {
    let envelope: Envelope<'_> = serde_json::from_slice(line)?;
    let object = envelope.object.get();
    match envelope.kind {
        "ADDED" => Ok(WatchEvent::Added(serde_json::from_str(object)?)),
        "MODIFIED" => Ok(WatchEvent::Modified(serde_json::from_str(object)?)),
        "DELETED" => Ok(WatchEvent::Deleted(serde_json::from_str(object)?)),
        "BOOKMARK" => {
            let BookmarkObject { metadata } = serde_json::from_str(object)?;
            Ok(WatchEvent::Bookmark {
                resource_version: metadata.resource_version,
                annotations: metadata.annotations.unwrap_or_default(),
            })
        }
        "ERROR" => Err(Failure::Status(serde_json::from_str(object)?)),
        other => {
            let message = format!("unknown watch event type {other:?}");
            Err(Failure::Json(<serde_json::Error as serde::de::Error>::custom(message)))
        }
    }
}

/// Cuts chunks into lines. A line that lies within one chunk is not copied.
#[derive(Default)]
struct Lines {
    /// The beginning of a line whose end has not come yet; holds no newline.
    partial: BytesMut,
    /// The unread rest of the newest chunk.
    chunk: Bytes,
}

impl Lines {
    fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the chunk before was not read to its end");
        self.chunk = chunk;
    }

    fn held(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') else {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk.clear();
                return None;
            };
            let mut line = self.chunk.split_to(end + 1);
            line.truncate(end);
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(&line);
                line = self.partial.split().freeze();
            }
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn lines_do_not_depend_on_how_the_body_is_cut() {
        let text = b"one\n\ntwo\r\nthree\nunfinished";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(Bytes::copy_from_slice(chunk));
                while let Some(line) = lines.next() {
                    seen.push(String::from_utf8(line.trim_ascii().to_vec()).unwrap());
                }
            }
            assert_eq!(seen, ["one", "two", "three"], "cut every {size} bytes");
            assert_eq!(lines.held(), "unfinished".len());
        }
    }

    fn check(line: &str) -> Result<WatchEvent<ConfigMap>, Failure> {
        decode(line.as_bytes())
    }

    #[test]
    fn events() {
        let added = check(
            r#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"5"}}}"#,
        );
        assert!(matches!(added, Ok(WatchEvent::Added(map)) if map.metadata.name.as_deref() == Some("a")));
        let bookmark = check(
            r#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"9","creationTimestamp":null,"annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
        );
        assert!(
            matches!(bookmark, Ok(WatchEvent::Bookmark { resource_version, annotations }) if resource_version == "9" && annotations.len() == 1)
        );
        let gone = check(
            r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#,
        );
        assert!(matches!(gone, Err(Failure::Status(status)) if status.code == Some(410)));
        assert!(matches!(check(r#"{"type":"NEW","object":{}}"#), Err(Failure::Json(_))));
        assert!(matches!(check("{"), Err(Failure::Json(_))));
    }
}
