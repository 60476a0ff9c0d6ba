//! Request bodies: which media type, and the document in it.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use manifests::json::{self, Document};
use manifests::status::ApiError;

use crate::protobuf;

/// What can be read.
const SUPPORTED: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// The media type of a body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim()
}

/// Reads the document in a body. `expected` is the apiVersion and kind that the URL asks for.
pub(crate) fn document(
    headers: &HeaderMap,
    body: &[u8],
    expected: (&str, &str),
) -> Result<Document, ApiError> {
    match media_type(headers) {
        protobuf::MEDIA_TYPE => {
            Ok(Document { value: protobuf::to_json(body, expected)?, duplicates: Vec::new() })
        }
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
