//! From a document and a patch to the patched document, for the three patch types that need no field ownership:
//! JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes' strategic merge patch.
//!
//! Everything here is a pure function over `serde_json::Value`. The result is not validated: whoever asked for it
//! decodes, defaults and validates it like any other new version of the object.
//!
//! What a patch may cost is bounded: the number of JSON patch operations, the bytes that its copies add, and the
//! depth of the result. The size of the request body is the caller's bound.

mod go;
mod json;
mod merge;
mod strategic;

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use manifests::status::ApiError;
use manifests::strategic::Field;
use serde_json::{Map, Value};

/// Operations that one JSON patch may hold.
pub const MAX_OPERATIONS: usize = 10_000;
/// Bytes that the copies of one JSON patch may add together.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;
/// Levels that a patched document may be nested. The JSON decoder stops at 128 on the way in; operations that copy
/// or add below one another could build deeper documents than any later recursion has stack for.
pub const MAX_DEPTH: usize = 128;

/// Values that the operations of one JSON patch may touch together, beyond those that the patch itself holds.
pub const MAX_STEPS: usize = 50_000_000;

/// How a patch is written, as its content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`: a list of operations.
    Json,
    /// `application/merge-patch+json`: the fields to change, lists as a whole.
    Merge,
    /// `application/strategic-merge-patch+json`: the fields to change, lists merged as the type says.
    Strategic,
}

impl PatchType {
    /// All of them, in the order in which servers list what they accept.
    pub const ALL: [PatchType; 3] = [PatchType::Json, PatchType::Merge, PatchType::Strategic];

    /// The content type that announces it.
    pub fn media_type(self) -> &'static str {
        match self {
            PatchType::Json => "application/json-patch+json",
            PatchType::Merge => "application/merge-patch+json",
            PatchType::Strategic => "application/strategic-merge-patch+json",
        }
    }

    /// The patch type of a `Content-Type` header; its parameters (`; charset=…`) do not matter.
    pub fn from_content_type(header: &str) -> Option<PatchType> {
        let media_type = header.split(';').next().unwrap_or_default().trim();
        PatchType::ALL.into_iter().find(|kind| kind.media_type().eq_ignore_ascii_case(media_type))
    }
}

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not what its content type says. (400 BadRequest)
    #[error("{0}")]
    Malformed(String),
    /// More operations than [`MAX_OPERATIONS`]. (413 RequestEntityTooLarge)
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// A well-formed patch that does not fit this document. (422 Invalid)
    #[error("{0}")]
    Rejected(String),
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> ApiError {
        let message = error.to_string();
        match error {
            PatchError::Malformed(_) => ApiError::bad_request(message),
            PatchError::TooManyOperations(_) => ApiError::too_large(message),
            // Upstream leaves it at this sentence. The cause is our addition: without it, nobody knows which
            // operation did not fit.
            PatchError::Rejected(_) => ApiError::from_status(Status {
                code: Some(422),
                reason: Some("Invalid".to_string()),
                message: Some("the server rejected our request due to an error in our request".to_string()),
                status: Some("Failure".to_string()),
                ..Status::default()
            })
            .with_cause("FieldValueInvalid", "patch", &message),
        }
    }
}

/// Applies `patch` to `current`.
///
/// `type_name` is the OpenAPI name of the object's type, by which a strategic merge patch finds the merge keys
/// (see [`manifests::strategic::type_name`]); the other types do not look at it.
pub fn apply(kind: PatchType, current: &Value, patch: &[u8], type_name: &str) -> Result<Value, PatchError> {
    let patch: Value =
        serde_json::from_slice(patch).map_err(|_| PatchError::Malformed("invalid JSON patch".to_string()))?;
    match kind {
        PatchType::Json => json::apply(current.clone(), patch),
        PatchType::Merge => Ok(merge::apply(current.clone(), object(patch, "error decoding patch: ")?)),
        PatchType::Strategic => {
            let patch = object(patch, "")?;
            let Value::Object(current) = current.clone() else {
                return Err(PatchError::Malformed("invalid JSON document".to_string()));
            };
            strategic::apply(current, patch, type_name, field).map(Value::Object)
        }
    }
}

fn field(of: &str, name: &str) -> Option<Field> {
    manifests::strategic::field(of, name).copied()
}

fn object(patch: Value, context: &str) -> Result<Map<String, Value>, PatchError> {
    match patch {
        Value::Object(map) => Ok(map),
        other => Err(PatchError::Malformed(format!(
            "{context}json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go::json_kind(&other)
        ))),
    }
}

#[cfg(test)]
mod tests;
