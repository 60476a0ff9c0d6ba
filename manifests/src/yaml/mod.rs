//! Manifests from files: YAML and JSON, read as kubectl reads them, with the line and column of every field.
//!
//! kubectl's reader is go-yaml v2, which follows YAML 1.1: `0644` is 420, `yes` and `on` are true, `<<` merges, and what
//! looks like a date stays a string. Sexagesimal numbers are not read there either. A key that stands twice in one
//! mapping, of which kubectl silently takes the last, is an error here.
//!
//! Everything is bounded: nesting at [`MAX_DEPTH`], and what aliases expand to at [`MAX_EXPANSION`] bytes.

mod load;
mod position;
mod scalar;

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::decode::{self, DecodeError, FieldValidation};
use crate::field::ErrorList;
use position::Mark;
pub use position::Position;

/// How deep mappings and sequences may be nested; JSON readers, the API server's included, stop soon after.
pub const MAX_DEPTH: usize = 100;
/// How much memory the aliases of one file may expand to.
pub const MAX_EXPANSION: usize = 16 << 20;

/// One document of a file, or one item of a `List` in it.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it says.
    pub value: Value,
    source: Arc<str>,
    mark: Arc<Mark>,
}

/// Something wrong at a place in a file. Prints as `pod.yaml:12:7: unknown field "spec.foo"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The file, as it was named to [`read`].
    pub source: String,
    /// Where in the file.
    pub position: Position,
    /// Where in the object; empty where that is not known.
    pub path: String,
    /// What is wrong; names the field.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.source, self.position, self.message)
    }
}

impl std::error::Error for Error {}

/// Reads all documents of a file, leaving out empty ones. `source` names the file in errors.
pub fn read(source: &str, bytes: &[u8]) -> Result<Vec<Document>, Error> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            let column = 1 + good.iter().rev().take_while(|byte| **byte != b'\n').count();
            let message = "not valid UTF-8".to_owned();
            let position = Position { line, column };
            return Err(Error { source: source.to_owned(), position, path: String::new(), message });
        }
    };
    match load::documents(source, text) {
        Ok(documents) => Ok(documents),
        // JSON objects one after the other are not YAML, and kubectl reads them.
        Err(error) => json_stream(source, text).ok_or(error),
    }
}

fn json_stream(source: &str, text: &str) -> Option<Vec<Document>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let source: Arc<str> = source.into();
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut start = 0;
    while let Some(value) = stream.next() {
        let before = &text[..start + (text[start..].len() - text[start..].trim_start().len())];
        let line = 1 + before.matches('\n').count();
        let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
        let mark = Arc::new(Mark::leaf(Position { line, column }));
        documents.push(Document { value: value.ok()?, source: source.clone(), mark });
        start = stream.byte_offset();
    }
    Some(documents)
}

impl Document {
    /// The file that it is from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it begins.
    pub fn start(&self) -> Position {
        self.mark.position()
    }

    /// Where a field is: `spec.containers[0].name`, `data[a.b]`. Where the field is missing, where it would belong.
    pub fn position(&self, path: &str) -> Position {
        self.mark.find(path)
    }

    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.value.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.value.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// The objects of a `List`, or the document itself.
    pub fn into_objects(self) -> Vec<Document> {
        let is_list = self.kind().ends_with("List");
        match self.value {
            Value::Object(mut map) if is_list && map.get("items").is_some_and(Value::is_array) => {
                let Some(Value::Array(items)) = map.remove("items") else { return Vec::new() };
                let items = items.into_iter().enumerate().map(|(index, value)| Document {
                    value,
                    source: self.source.clone(),
                    mark: self.mark.descend(&format!("items[{index}]")),
                });
                items.flat_map(Document::into_objects).collect()
            }
            value => vec![Document { value, ..self }],
        }
    }

    /// Decodes the document; warnings and errors say where in the file.
    pub fn decode<T: DeserializeOwned>(
        &self,
        validation: FieldValidation,
    ) -> Result<(T, Vec<Error>), Vec<Error>> {
        match decode::decode(&self.value, validation) {
            Ok((object, warnings)) => {
                let warnings = warnings.into_iter().map(|warning| self.error(&warning.path, warning.message));
                Ok((object, warnings.collect()))
            }
            Err(DecodeError::Strict(warnings)) => {
                Err(warnings.into_iter().map(|warning| self.error(&warning.path, warning.message)).collect())
            }
            Err(DecodeError::Type { path, message }) => Err(vec![self.error(&path, message)]),
            Err(error @ DecodeError::Syntax(_)) => Err(vec![self.error("", error.to_string())]),
        }
    }

    /// An error about a field.
    pub fn error(&self, path: &str, message: impl Into<String>) -> Error {
        Error {
            source: self.source.to_string(),
            position: self.position(path),
            path: path.to_owned(),
            message: message.into(),
        }
    }

    /// Says where in the file each field error is.
    pub fn locate(&self, errors: &ErrorList) -> Vec<Error> {
        errors.iter().map(|error| self.error(error.path.as_str(), error.to_string())).collect()
    }
}

#[cfg(test)]
mod tests;
