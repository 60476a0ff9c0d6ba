//! Writes answers in the form that the client asked for.
//!
//! The usual forms, JSON and protobuf of whole objects, are copies of the cache's bytes. Tables, metadata only, and the
//! second look that `events.k8s.io` has at events are made from those bytes when they are asked for.

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
use crate::object::{EventType, frame};
use crate::protobuf::{self, Codec};
use crate::registry::Row;
use crate::request::accept::{Format, Output, Shape, negotiate_whole};
use crate::table::{IncludeObject, TableWriter};
use crate::watch_cache::Seen;

/// Lists longer than this are written in chunks of about this size.
const CHUNK: usize = 64 << 10;
/// So many objects are encoded before others have their turn.
const AT_A_TIME: usize = 64;

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

/// The answer to a request on a resource that failed, in the form that its client reads best.
pub(crate) fn failure_as(error: Error, accept: Option<&str>) -> Response<Body> {
    let response = failure(error);
    match negotiate_whole(accept) {
        Ok(output) if output.format == Format::Protobuf => reformat(output, response),
        _ => response,
    }
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

/// Makes what a list in protobuf is written from. That takes a while the first time, and others want to go on.
pub(crate) async fn prepare(call: &Call, list: &ListReply) {
    if call.output.format != Format::Protobuf || call.output.shape != Shape::Whole || call.row.view.is_some()
    {
        return;
    }
    let Some(codec) = &call.row.cache.storage.layout.protobuf else { return };
    for some in list.listed.objects.chunks(AT_A_TIME) {
        for object in some {
            object.protobuf(codec);
        }
        tokio::task::yield_now().await;
    }
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
        Reply::List(list) if call.output.format == Format::Protobuf => {
            let body = match call.output.shape {
                Shape::Whole if call.row.view.is_none() => plain_protobuf_list(call, list),
                _ => protobuf_list(call, &list),
            };
            match body {
                Ok(body) => respond(StatusCode::OK, protobuf::MEDIA_TYPE, body),
                Err(error) => return failure(error),
            }
        }
        Reply::List(list) => {
            let body = match call.output.shape {
                Shape::Table => table(call, &list),
                Shape::Whole if call.row.view.is_none() => plain_list(call, list),
                Shape::Whole | Shape::Metadata => list_body(call, &list),
            };
            json(StatusCode::OK, body)
        }
        Reply::Events(body) if call.output.format == Format::Protobuf => {
            return respond(StatusCode::OK, "application/vnd.kubernetes.protobuf;stream=watch", body);
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

/// YAML, protobuf, or JSON for people, from JSON.
fn reformat(output: Output, response: Response<Body>) -> Response<Body> {
    let is = |content_type| {
        response.headers().get(CONTENT_TYPE).is_some_and(|header| header.as_bytes() == content_type)
    };
    if (output.format == Format::Json && !output.pretty) || !is(b"application/json") {
        return response;
    }
    if output.format == Format::Protobuf {
        return to_protobuf(response);
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
        Format::Json | Format::Protobuf => serde_json::to_string_pretty(&value).unwrap_or_default() + "\n",
    };
    parts.headers.insert(CONTENT_LENGTH, text.len().into());
    Response::from_parts(parts, text.into())
}

/// Protobuf from JSON; JSON stays what has no message.
fn to_protobuf(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let json = body.into_bytes();
    let bytes = match protobuf::from_json(&json) {
        None => return Response::from_parts(parts, json.into()),
        Some(Ok(bytes)) => bytes,
        Some(Err(error)) => {
            return failure(ApiError::internal(format_args!("encoding as protobuf: {error}")).into());
        }
    };
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(protobuf::MEDIA_TYPE));
    parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
    Response::from_parts(parts, bytes.into())
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

fn protobuf_metadata(list: &ListReply) -> protobuf::ListMeta<'_> {
    protobuf::ListMeta {
        revision: list.listed.revision,
        continue_token: list.continue_token.as_deref(),
        remaining: list.remaining,
    }
}

fn no_protobuf(kind: &str) -> Error {
    ApiError::internal(format_args!("a {kind} cannot be written as protobuf")).into()
}

/// The same as protobuf.
fn plain_protobuf_list(call: &Call, list: ListReply) -> Result<Body, Error> {
    let row = call.row.clone();
    let codec = row.cache.storage.layout.protobuf.as_ref().ok_or_else(|| no_protobuf(row.kind.kind))?;
    let mut items = 0;
    for object in &list.listed.objects {
        let encoded = object.protobuf(codec).ok_or_else(|| no_protobuf(row.kind.kind))?;
        items += protobuf::item_length(encoded.raw());
    }
    let kind = format!("{}List", row.kind.kind);
    let frame = protobuf::ListFrame::new(&row.kind.api_version(), &kind, &protobuf_metadata(&list), items);
    let length = frame.open.len() + items + frame.close.len();
    let (mut open, mut objects, mut closed) = (Some(frame.open), list.listed.objects.into_iter(), false);
    Ok(Body::made(length, move || {
        if closed {
            return None;
        }
        let mut chunk = Vec::with_capacity(length.min(CHUNK + CHUNK / 4));
        chunk.extend_from_slice(&open.take().unwrap_or_default());
        for object in objects.by_ref() {
            let codec = row.cache.storage.layout.protobuf.as_ref();
            if let Some(encoded) = codec.and_then(|codec| object.protobuf(codec)) {
                protobuf::item(encoded.raw(), &mut chunk);
            }
            if chunk.len() >= CHUNK {
                return Some(chunk.into());
            }
        }
        closed = true;
        chunk.extend_from_slice(frame.close);
        Some(chunk.into())
    }))
}

/// A list of objects that are shown in another way than they are kept, as protobuf.
fn protobuf_list(call: &Call, list: &ListReply) -> Result<Body, Error> {
    let row = &call.row;
    let metadata_only = call.output.shape == Shape::Metadata;
    let (api_version, kind) = if metadata_only {
        ("meta.k8s.io/v1".to_owned(), METADATA_KIND)
    } else {
        (row.kind.api_version(), row.kind.kind)
    };
    let codec = Codec::of(&api_version, kind).ok_or_else(|| no_protobuf(kind))?;
    let mut out = Chunks::default();
    let mut length = 0;
    for object in &list.listed.objects {
        let raw = if metadata_only {
            codec.raw(&partial(object.json_bytes()))
        } else {
            codec.raw(&row.shown(&object.json()))
        };
        let raw = raw.map_err(|_| no_protobuf(kind))?;
        length += protobuf::item_length(&raw);
        protobuf::item(&raw, &mut out.chunk);
        out.cut();
    }
    let frame =
        protobuf::ListFrame::new(&api_version, &format!("{kind}List"), &protobuf_metadata(list), length);
    out.done.insert(0, frame.open.into());
    out.chunk.extend_from_slice(frame.close);
    Ok(out.finish())
}

/// The kind of what has nothing but metadata.
const METADATA_KIND: &str = "PartialObjectMetadata";

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
    /// Of what is shown, for those who want protobuf.
    codec: Option<Codec>,
}

impl EventForm {
    pub(crate) fn new(call: &Call) -> EventForm {
        let codec = match (call.output.format, call.output.shape) {
            (Format::Protobuf, Shape::Metadata) => Codec::of("meta.k8s.io/v1", METADATA_KIND),
            (Format::Protobuf, _) => Codec::of(&call.row.kind.api_version(), call.row.kind.kind),
            _ => None,
        };
        EventForm {
            row: call.row.clone(),
            shape: call.output.shape,
            table: writer(call),
            columns_sent: false,
            codec,
        }
    }

    /// An event in this form: the shared bytes where they are in it already.
    pub(crate) fn event(&mut self, seen: Seen<'_>) -> Bytes {
        let Seen { event, object, frame: shared, protobuf } = seen;
        if self.shape == Shape::Whole && self.row.view.is_none() {
            let Some(codec) = &self.codec else { return shared };
            let make = || match event {
                // With the revision of the deletion.
                EventType::Deleted => {
                    protobuf_frame(codec, event, &event.object_in(&shared).unwrap_or_else(|| object.json()))
                }
                _ => match object.protobuf(codec) {
                    Some(encoded) => encoded.framed_as(codec, event),
                    None => unwritable(),
                },
            };
            return match protobuf {
                Some(kept) if event != object.event() => {
                    kept.get_or_init(|| Box::new(make())).as_ref().clone()
                }
                _ => make(),
            };
        }
        // The shared event has the right revision, also for deletions; its object is shown differently.
        let json = event.object_in(&shared).unwrap_or_else(|| object.json());
        let json = self.row.shown(&json);
        match self.shape {
            Shape::Whole => self.frame(event, &json),
            Shape::Metadata => self.frame(event, &partial(&json)),
            Shape::Table => {
                let metadata = json!({ "resourceVersion": version_of(&json) }).to_string();
                frame(event, &self.table(&metadata, Some(&json)))
            }
        }
    }

    /// One object, which is of the kind that is shown, in an event.
    fn frame(&self, event: EventType, json: &[u8]) -> Bytes {
        self.codec.as_ref().map_or_else(|| frame(event, json), |codec| protobuf_frame(codec, event, json))
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
                json!({"kind": METADATA_KIND, "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Whole => {
                json!({"kind": self.row.kind.kind, "apiVersion": self.row.kind.api_version(), "metadata": metadata})
            }
        };
        self.frame(EventType::Bookmark, object.to_string().as_bytes())
    }

    /// An event that carries a failure.
    pub(crate) fn error(&self, error: ApiError) -> Bytes {
        let json = status_json(&error.into_status());
        match &self.codec {
            Some(_) => error_frame(&json),
            None => frame(EventType::Error, &json),
        }
    }
}

/// An object in an event of protobuf.
fn protobuf_frame(codec: &Codec, event: EventType, json: &[u8]) -> Bytes {
    codec.frame(event, json).unwrap_or_else(|_| unwritable())
}

/// What stands for an object that cannot be written as protobuf, which is a bug.
fn unwritable() -> Bytes {
    error_frame(&status_json(&ApiError::internal("an object cannot be written as protobuf").into_status()))
}

/// A `Status` in an event of protobuf.
fn error_frame(status: &[u8]) -> Bytes {
    let codec = Codec::of("v1", "Status");
    // The table has it, and a status fits it; nothing is better than half an event.
    codec.and_then(|codec| codec.frame(EventType::Error, status).ok()).unwrap_or_default()
}
