//! Protobuf: request bodies to JSON, and JSON to answers.
//!
//! Typed Go clients send `application/vnd.kubernetes.protobuf` for built-in kinds. Such a body becomes the JSON that
//! the same client would have sent, and goes on from there like any other. Answers are made from the JSON that is kept
//! (`encode`), once for all who want an object so, and put into envelopes (`envelope`).
//!
//! ```text
//! 'k' 's' 's' 0   Unknown { typeMeta { apiVersion, kind }, raw, contentEncoding, contentType }
//!                                                          └ the message, read by the table in `messages`
//! ```
//!
//! Bodies come from outside: reading them never panics, stops at a depth and at a number of values, and takes no more
//! than one pass. Fields that the table does not have are skipped, as upstream does.

mod encode;
mod envelope;
mod message;
#[rustfmt::skip]
mod messages;
mod value;
pub(crate) mod wire;

pub(crate) use envelope::{Codec, Encoded, ListFrame, ListMeta, item, item_length};
use manifests::status::ApiError;
use message::Message;
use messages::ROOTS;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use value::Reader;
use wire::Wire;

/// The content type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body is not a message that this server reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// Something else than an envelope.
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    NoEnvelope,
    /// The bytes end too early, or are no protobuf.
    #[error("{message}.{field}: {problem}")]
    Malformed {
        /// The kind, or the part of it, that was being read.
        message: String,
        /// The JSON name of the field, or its number.
        field: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The envelope says that its content is encoded once more, or is something else.
    #[error("the content of the envelope is {0:?}, which is not read here")]
    Content(String),
    /// A kind that is not in the table.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// As the envelope names it.
        api_version: String,
        /// As the envelope names it.
        kind: String,
    },
}

impl From<ProtobufError> for ApiError {
    fn from(error: ProtobufError) -> ApiError {
        ApiError::bad_request(error.to_string())
    }
}

/// The JSON of a protobuf body, with the `apiVersion` and `kind` of its envelope.
///
/// `expected` is the apiVersion and kind to read the message as when the envelope names none, as it may when the URL
/// leaves no doubt.
pub fn to_json(body: &[u8], expected: (&str, &str)) -> Result<Value, ProtobufError> {
    let envelope = Envelope::read(body)?;
    let named = envelope.kind.is_empty() && envelope.api_version.is_empty();
    let (api_version, kind) = if named { expected } else { (envelope.api_version, envelope.kind) };
    let message = find(api_version, kind).ok_or_else(|| ProtobufError::UnknownKind {
        api_version: api_version.to_string(),
        kind: kind.to_string(),
    })?;
    let mut object = Map::new();
    object.insert("apiVersion".to_string(), api_version.into());
    object.insert("kind".to_string(), kind.into());
    Reader::new(kind).message(envelope.raw, message, &mut object)?;
    Ok(Value::Object(object))
}

/// A document of JSON as protobuf; none if its kind has no message.
pub(crate) fn from_json(json: &[u8]) -> Option<Result<Vec<u8>, serde_json::Error>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct TypeMeta<'a> {
        #[serde(borrow, default)]
        api_version: Cow<'a, str>,
        #[serde(borrow, default)]
        kind: Cow<'a, str>,
    }
    let of: TypeMeta<'_> = match serde_json::from_slice(json) {
        Ok(of) => of,
        Err(error) => return Some(Err(error)),
    };
    Codec::of(&of.api_version, &of.kind).map(|codec| codec.document(json))
}

fn find(api_version: &str, kind: &str) -> Option<&'static Message> {
    let fits = |of: &str| of.is_empty() || of == api_version;
    ROOTS.iter().find(|(of, name, _)| *name == kind && fits(of)).map(|(_, _, message)| *message)
}

#[derive(Default)]
struct Envelope<'b> {
    api_version: &'b str,
    kind: &'b str,
    raw: &'b [u8],
}

impl<'b> Envelope<'b> {
    fn read(body: &'b [u8]) -> Result<Envelope<'b>, ProtobufError> {
        let unknown = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoEnvelope)?;
        let mut envelope = Envelope::default();
        let mut reader = Reader::new("Unknown");
        reader.fields(unknown, |reader, number, wire| {
            match (number, wire) {
                (1, Wire::Bytes(meta)) => reader.fields(meta, |reader, number, wire| {
                    match (number, wire) {
                        (1, Wire::Bytes(text)) => envelope.api_version = reader.text(text, "apiVersion")?,
                        (2, Wire::Bytes(text)) => envelope.kind = reader.text(text, "kind")?,
                        _ => {}
                    }
                    Ok(())
                })?,
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                    return Err(ProtobufError::Content(String::from_utf8_lossy(encoding).into_owned()));
                }
                (4, Wire::Bytes(content)) if !content.is_empty() && content != MEDIA_TYPE.as_bytes() => {
                    return Err(ProtobufError::Content(String::from_utf8_lossy(content).into_owned()));
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(envelope)
    }
}

#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
