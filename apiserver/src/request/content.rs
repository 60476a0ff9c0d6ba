//! Request bodies: which media type, and the JSON value in it.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use manifests::status::ApiError;
use serde_json::Value;

/// What can be read.
const SUPPORTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Reads the object in a body.
pub(crate) fn value(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = header.split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" => json(body),
        "application/yaml" => serde_yaml::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: {error}"))),
        _ => Err(ApiError::unsupported_media_type(&SUPPORTED)),
    }
}

fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
    })
}
