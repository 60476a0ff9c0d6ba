//! Writes answers in the form that the client asked for.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderValue, Response, StatusCode};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use manifests::status::ApiError;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::body::Body;
use crate::error::Error;
use crate::handlers::{Call, ListReply, Reply};
use crate::object::{EventType, Object, frame};
use crate::request::accept::Shape;

/// Lists longer than this are written in chunks of about this size, so that they are never in memory twice.
const CHUNK: usize = 256 << 10;

/// An answer with a body of JSON.
pub(crate) fn json(code: StatusCode, body: impl Into<Body>) -> Response<Body> {
    respond(code, "application/json", body.into())
}

pub(crate) fn respond(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let length = body.known_length();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// A `Status` as JSON.
pub(crate) fn status_json(status: &Status) -> Vec<u8> {
    // Serialising these types into memory cannot fail: they have string keys only.
    serde_json::to_vec(status).unwrap_or_default()
}

/// The answer to a request that failed.
pub(crate) fn failure(error: Error) -> Response<Body> {
    if let Error::Store(_) | Error::Stored { .. } | Error::Encode { .. } = &error {
        tracing::warn!(error = %chain(&error), "a request failed");
    }
    refusal(error.into_api())
}

/// The answer that says no.
pub(crate) fn refusal(error: ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let retry = error.retry_after_seconds();
    let mut response = json(code, status_json(&error.into_status()));
    if let Some(seconds) = retry {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The answer of a handler.
pub(crate) fn reply(call: &Call, reply: Reply) -> Response<Body> {
    match reply {
        Reply::Object { code, json: object, warnings } => {
            let object = match call.output.shape {
                Shape::Metadata => partial(&object, "PartialObjectMetadata"),
                Shape::Whole | Shape::Table => object,
            };
            let mut response = json(code, object);
            for warning in warnings {
                add_warning(&mut response, &warning);
            }
            response
        }
        Reply::List(list) => json(StatusCode::OK, list_body(call, &list)),
        Reply::Events(body) => json(StatusCode::OK, body),
        Reply::Status(status) => {
            let code = status.code.and_then(|code| u16::try_from(code).ok()).unwrap_or(200);
            json(StatusCode::from_u16(code).unwrap_or(StatusCode::OK), status_json(&status))
        }
    }
}

/// `Warning: 299 - "text"`, as RFC 7234 has it.
fn add_warning(response: &mut Response<Body>, text: &str) {
    let quoted: String = text
        .chars()
        .filter(|c| !c.is_control())
        .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
        .collect();
    if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
        response.headers_mut().append(WARNING, value);
    }
}

fn list_body(call: &Call, list: &ListReply) -> Body {
    let row = &call.row;
    let metadata_only = call.output.shape == Shape::Metadata;
    let (api_version, kind) = if metadata_only {
        ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned())
    } else {
        (row.kind.api_version(), format!("{}List", row.kind.kind))
    };
    let mut metadata = serde_json::json!({ "resourceVersion": list.listed.revision.to_string() });
    if let Some(token) = &list.continue_token {
        metadata["continue"] = token.as_str().into();
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let head = format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#);
    let mut chunks = Vec::new();
    let mut chunk = head.into_bytes();
    for (index, object) in list.listed.objects.iter().enumerate() {
        if index > 0 {
            chunk.push(b',');
        }
        if metadata_only {
            chunk.extend_from_slice(&partial(object.json_bytes(), "PartialObjectMetadata"));
        } else {
            chunk.push(b'{');
            chunk.extend_from_slice(object.list_tail(&row.cache.storage.layout));
        }
        if chunk.len() >= CHUNK {
            chunks.push(Bytes::from(std::mem::take(&mut chunk)));
        }
    }
    chunk.extend_from_slice(b"]}\n");
    chunks.push(chunk.into());
    Body::chunks(chunks)
}

#[derive(Deserialize)]
struct MetadataOnly<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// Only the type and the metadata of an object.
fn partial(object: &[u8], kind: &str) -> Bytes {
    let metadata =
        serde_json::from_slice::<MetadataOnly<'_>>(object).map_or("{}", |found| found.metadata.get());
    format!(r#"{{"kind":"{kind}","apiVersion":"meta.k8s.io/v1","metadata":{metadata}}}"#).into()
}

/// How a watcher wants its events.
pub(crate) struct EventForm {
    shape: Shape,
    api_version: String,
    kind: &'static str,
}

impl EventForm {
    pub(crate) fn new(call: &Call) -> Result<EventForm, Error> {
        Ok(EventForm {
            shape: call.output.shape,
            api_version: call.row.kind.api_version(),
            kind: call.row.kind.kind,
        })
    }

    /// An event in this form; the shared bytes where they are in it already.
    pub(crate) fn event(&self, event: EventType, object: &Object, shared: Bytes) -> Bytes {
        match self.shape {
            Shape::Whole | Shape::Table => shared,
            Shape::Metadata => frame(event, &partial(object.json_bytes(), "PartialObjectMetadata")),
        }
    }

    /// A bookmark; the one that ends the initial events says so.
    pub(crate) fn bookmark(&self, revision: u64, ends_initial: bool) -> Bytes {
        let (api_version, kind) = match self.shape {
            Shape::Metadata => ("meta.k8s.io/v1", "PartialObjectMetadata"),
            Shape::Whole | Shape::Table => (self.api_version.as_str(), self.kind),
        };
        let annotations =
            if ends_initial { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
        let json = format!(
            r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{revision}","creationTimestamp":null{annotations}}}}}"#
        );
        frame(EventType::Bookmark, json.as_bytes())
    }
}
