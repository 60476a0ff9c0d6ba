//! Request bodies: which media type, and the document in it.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use manifests::json::{self, Document};
use manifests::status::ApiError;

/// What can be read.
const SUPPORTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The media type of a body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim()
}

/// Reads the document in a body.
pub(crate) fn document(headers: &HeaderMap, body: &[u8]) -> Result<Document, ApiError> {
    match media_type(headers) {
        "" | "application/json" => json::read(body).map_err(|error| {
            ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
        }),
        "application/yaml" => {
            let value = serde_yaml::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: {error}")))?;
            Ok(Document { value, duplicates: Vec::new() })
        }
        _ => Err(ApiError::unsupported_media_type(&SUPPORTED)),
    }
}
