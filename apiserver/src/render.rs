//! Writes answers in the form that the client asked for.
//!
//! The usual form, JSON of whole objects, is a copy of the cache's bytes. Tables, metadata only, and the second look that
//! `events.k8s.io` has at events are made from those bytes when they are asked for.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderValue, Response, StatusCode};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::kinds::Kind;
use manifests::status::ApiError;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::body::Body;
use crate::compress;
use crate::error::Error;
use crate::handlers::{Call, ListReply, Reply};
use crate::object::{EventType, Object, frame};
use crate::registry::Row;
use crate::request::accept::{Format, Output, Shape};
use crate::table::{IncludeObject, TableWriter};

/// Lists longer than this are written in chunks of about this size.
const CHUNK: usize = 64 << 10;

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
    // These types have string keys only, so writing them into memory does not fail.
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
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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
    let response = match reply {
        Reply::Object { code, json: object, warnings } => {
            let mut response = json(code, object_body(call, &object));
            for warning in warnings {
                add_warning(&mut response, &warning);
            }
            response
        }
        Reply::List(list) => {
            let body = match call.output.shape {
                Shape::Table => table(call, &list),
                Shape::Whole if call.row.view.is_none() => plain_list(call, list),
                Shape::Whole | Shape::Metadata => list_body(call, &list),
            };
            json(StatusCode::OK, body)
        }
        Reply::Events(body) => return json(StatusCode::OK, body),
        Reply::Status(status) => {
            let code = status.code.and_then(|code| u16::try_from(code).ok()).unwrap_or(200);
            json(StatusCode::from_u16(code).unwrap_or(StatusCode::OK), status_json(&status))
        }
        Reply::Raw(response) => return *response,
    };
    let response = reformat(call.output, response);
    let accepted = call.headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    compress::when_worth(response, accepted.unwrap_or_default())
}

/// YAML, or JSON for people, from JSON.
fn reformat(output: Output, response: Response<Body>) -> Response<Body> {
    if output.format == Format::Json && !output.pretty {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let bytes = body.into_bytes();
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
        return Response::from_parts(parts, bytes.into());
    };
    let text = match output.format {
        Format::Yaml => {
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
            serde_yaml::to_string(&value).unwrap_or_default()
        }
        Format::Json => serde_json::to_string_pretty(&value).unwrap_or_default() + "\n",
    };
    parts.headers.insert(CONTENT_LENGTH, text.len().into());
    Response::from_parts(parts, text.into())
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

fn object_body(call: &Call, object: &Bytes) -> Bytes {
    // A scale is of a kind of its own, whatever the row makes of its objects.
    let object = if call.path.subresource == "scale" { object.clone() } else { call.row.shown(object) };
    match call.output.shape {
        Shape::Whole => object,
        Shape::Metadata => partial(&object),
        Shape::Table => {
            let mut out = Vec::new();
            let mut writer = writer(call);
            let metadata = json!({ "resourceVersion": version_of(&object) }).to_string();
            writer.open(&mut out, &metadata, true);
            writer.row(&mut out, &object, Timestamp::now());
            writer.close(&mut out);
            out.into()
        }
    }
}

fn list_metadata(list: &ListReply) -> Value {
    let mut metadata = json!({ "resourceVersion": list.listed.revision.to_string() });
    if let Some(token) = &list.continue_token {
        metadata["continue"] = token.as_str().into();
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// What stands before the items of a list, and after them.
fn list_open(api_version: &str, kind: &str, list: &ListReply) -> String {
    let metadata = list_metadata(list);
    format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#)
}

const LIST_CLOSE: &[u8] = b"]}\n";

/// A list of objects as they are in the cache: copied when the connection takes them.
fn plain_list(call: &Call, list: ListReply) -> Body {
    let row = call.row.clone();
    let open = list_open(&row.kind.api_version(), &format!("{}List", row.kind.kind), &list);
    let objects = list.listed.objects;
    let layout = &row.cache.storage.layout;
    // A brace before each and a comma between them.
    let items: usize = objects.iter().map(|object| object.list_tail(layout).len() + 2).sum();
    let length = open.len() + items - usize::from(!objects.is_empty()) + LIST_CLOSE.len();
    let (mut open, mut objects, mut closed) = (Some(open), objects.into_iter(), false);
    Body::made(length, move || {
        if closed {
            return None;
        }
        let mut chunk = Vec::with_capacity(length.min(CHUNK + CHUNK / 4));
        let mut first = open.is_some();
        if let Some(open) = open.take() {
            chunk.extend_from_slice(open.as_bytes());
        }
        for object in objects.by_ref() {
            if !std::mem::take(&mut first) {
                chunk.push(b',');
            }
            chunk.push(b'{');
            chunk.extend_from_slice(object.list_tail(&row.cache.storage.layout));
            if chunk.len() >= CHUNK {
                return Some(chunk.into());
            }
        }
        closed = true;
        chunk.extend_from_slice(LIST_CLOSE);
        Some(chunk.into())
    })
}

fn list_body(call: &Call, list: &ListReply) -> Body {
    let row = &call.row;
    let metadata_only = call.output.shape == Shape::Metadata;
    let (api_version, kind) = if metadata_only {
        ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned())
    } else {
        (row.kind.api_version(), format!("{}List", row.kind.kind))
    };
    let mut out = Chunks::default();
    out.chunk.extend_from_slice(list_open(&api_version, &kind, list).as_bytes());
    for (index, object) in list.listed.objects.iter().enumerate() {
        if index > 0 {
            out.chunk.push(b',');
        }
        if metadata_only {
            out.chunk.extend_from_slice(&partial(object.json_bytes()));
        } else {
            out.chunk.extend_from_slice(&row.shown(&object.json()));
        }
        out.cut();
    }
    out.chunk.extend_from_slice(LIST_CLOSE);
    out.finish()
}

/// Long bodies in pieces, so that no allocation is huge.
#[derive(Default)]
struct Chunks {
    done: Vec<Bytes>,
    chunk: Vec<u8>,
}

impl Chunks {
    fn cut(&mut self) {
        if self.chunk.len() >= CHUNK {
            self.done.push(std::mem::take(&mut self.chunk).into());
        }
    }

    fn finish(mut self) -> Body {
        self.done.push(self.chunk.into());
        Body::chunks(self.done)
    }
}

fn writer(call: &Call) -> TableWriter {
    let include =
        IncludeObject::parse(call.params.get("includeObject").unwrap_or_default()).unwrap_or_default();
    let kind = match call.row.kind.subresource(&call.path.subresource) {
        // The scale of a deployment has the columns of a scale.
        Some(below) if !below.version.is_empty() => {
            Kind { group: below.group, version: below.version, kind: below.kind, ..*call.row.kind }
        }
        _ => *call.row.kind,
    };
    TableWriter::new(&kind, call.output.table_version(), include)
}

fn table(call: &Call, list: &ListReply) -> Body {
    let mut writer = writer(call);
    let now = Timestamp::now();
    let mut out = Chunks::default();
    writer.open(&mut out.chunk, &list_metadata(list).to_string(), true);
    for object in &list.listed.objects {
        writer.row(&mut out.chunk, &call.row.shown(&object.json()), now);
        out.cut();
    }
    writer.close(&mut out.chunk);
    out.finish()
}

#[derive(Deserialize)]
struct MetadataOnly<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// Only the type and the metadata of an object.
fn partial(object: &[u8]) -> Bytes {
    let metadata =
        serde_json::from_slice::<MetadataOnly<'_>>(object).map_or("{}", |found| found.metadata.get());
    format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{metadata}}}"#)
        .into()
}

/// The resourceVersion in an encoded object.
fn version_of(object: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Versioned {
        metadata: Meta,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        resource_version: Option<String>,
    }
    let found = serde_json::from_slice::<Versioned>(object).ok();
    found.and_then(|found| found.metadata.resource_version).unwrap_or_default()
}

/// How a watcher wants its events.
#[derive(Debug)]
pub(crate) struct EventForm {
    row: std::sync::Arc<Row>,
    shape: Shape,
    table: TableWriter,
    /// The columns come with the first table only.
    columns_sent: bool,
}

impl EventForm {
    pub(crate) fn new(call: &Call) -> EventForm {
        EventForm {
            row: call.row.clone(),
            shape: call.output.shape,
            table: writer(call),
            columns_sent: false,
        }
    }

    /// An event in this form: the shared bytes where they are in it already.
    pub(crate) fn event(&mut self, event: EventType, object: &Object, shared: Bytes) -> Bytes {
        if self.shape == Shape::Whole && self.row.view.is_none() {
            return shared;
        }
        // The shared event has the right revision, also for deletions; its object is shown differently.
        let json = event.object_in(&shared).unwrap_or_else(|| object.json());
        let json = self.row.shown(&json);
        match self.shape {
            Shape::Whole => frame(event, &json),
            Shape::Metadata => frame(event, &partial(&json)),
            Shape::Table => {
                let metadata = json!({ "resourceVersion": version_of(&json) }).to_string();
                frame(event, &self.table(&metadata, Some(&json)))
            }
        }
    }

    fn table(&mut self, metadata: &str, object: Option<&[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        self.table.open(&mut out, metadata, !self.columns_sent);
        self.columns_sent = true;
        if let Some(object) = object {
            self.table.row(&mut out, object, Timestamp::now());
        }
        self.table.close(&mut out);
        out
    }

    /// A bookmark; the one that ends the initial events says so.
    pub(crate) fn bookmark(&mut self, revision: u64, ends_initial: bool) -> Bytes {
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if ends_initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.shape {
            Shape::Table => {
                let metadata = json!({ "resourceVersion": revision.to_string() }).to_string();
                return frame(EventType::Bookmark, &self.table(&metadata, None));
            }
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Whole => {
                json!({"kind": self.row.kind.kind, "apiVersion": self.row.kind.api_version(), "metadata": metadata})
            }
        };
        frame(EventType::Bookmark, object.to_string().as_bytes())
    }
}
