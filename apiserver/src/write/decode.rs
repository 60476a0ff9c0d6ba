//! From the document of a request to an object of the row's kind.

use manifests::json::Document;
use manifests::status::ApiError;
use serde_json::Value;

use crate::registry::{AnyObject, Row};
use manifests::decode::FieldValidation;

/// An object from a request.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) object: Box<dyn AnyObject>,
    /// About fields that were dropped.
    pub(crate) warnings: Vec<String>,
}

/// Reads an object of the row's kind. What it says of its kind must fit; it may say nothing.
pub(crate) fn decode(
    row: &Row,
    mut document: Document,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let api_version = row.kind.api_version();
    check_type(&mut document.value, &api_version, row.kind.kind)?;
    if let Some(view) = &row.view {
        view.to_stored(&mut document.value);
    }
    let (mut object, warnings) = row
        .hooks
        .decode(&document, validation)
        .map_err(|error| ApiError::bad_request(error.for_kind(&api_version, row.kind.kind)))?;
    let meta = object.meta_mut();
    meta.self_link = None;
    Ok(Decoded { object, warnings })
}

/// Checks apiVersion and kind of a document, and fills them in.
pub(crate) fn check_type(value: &mut Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    let Some(fields) = value.as_object_mut() else {
        return Err(ApiError::bad_request(
            "couldn't get version/kind; json parse error: the body is not an object",
        ));
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let (own_version, own_kind) = (text(fields.get("apiVersion")), text(fields.get("kind")));
    if !own_kind.is_empty() && own_kind != kind {
        return Err(ApiError::bad_request(format!(
            "{own_kind} in version {} cannot be handled as a {kind}",
            manifests::go::quote(if own_version.is_empty() { api_version } else { &own_version })
        )));
    }
    if !own_version.is_empty() && own_version != api_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({own_version}) does not match the expected API version ({api_version})"
        )));
    }
    fields.insert("apiVersion".to_owned(), api_version.into());
    fields.insert("kind".to_owned(), kind.into());
    Ok(())
}
