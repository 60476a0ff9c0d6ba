//! The errors that an API server returns: `Status` objects with upstream's codes, reasons and messages.
//!
//! Follows `k8s.io/apimachinery/pkg/api/errors`. [`ApiError`] is used on both sides: the server builds one, the client
//! reads one back and asks `is_not_found()` and the like.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use serde_json::Value;

use crate::field::ErrorList;
use crate::go;

/// A failure that has a `Status`.
#[derive(Clone, PartialEq)]
pub struct ApiError(Box<Status>);

impl ApiError {
    /// An error from a status that a server sent.
    pub fn from_status(status: Status) -> ApiError {
        ApiError(Box::new(status))
    }

    fn new(code: i32, reason: &str, message: String) -> ApiError {
        ApiError::from_status(Status {
            code: Some(code),
            reason: Some(reason.to_owned()),
            message: Some(message),
            status: Some("Failure".to_owned()),
            ..Status::default()
        })
    }

    fn details(mut self, group: &str, kind: &str, name: &str) -> ApiError {
        self.0.details = Some(StatusDetails {
            group: non_empty(group),
            kind: non_empty(kind),
            name: non_empty(name),
            ..StatusDetails::default()
        });
        self
    }

    /// Says after how many seconds the client should try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: i32) -> ApiError {
        self.0.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// Names the object's uid, as a failed precondition on it does.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> ApiError {
        self.0.details.get_or_insert_default().uid = non_empty(uid);
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, field: &str, message: &str) -> ApiError {
        self.0.details.get_or_insert_default().causes.get_or_insert_default().push(StatusCause {
            reason: non_empty(reason),
            field: non_empty(field),
            message: non_empty(message),
        });
        self
    }

    /// 404: no object of this name.
    pub fn not_found(resource: &str, group: &str, name: &str) -> ApiError {
        let message = format!("{} {} not found", qualified(resource, group), go::quote(name));
        ApiError::new(404, "NotFound", message).details(group, resource, name)
    }

    /// 404: no such path or resource.
    pub fn unknown_path() -> ApiError {
        let mut error =
            ApiError::new(404, "NotFound", "the server could not find the requested resource".to_owned());
        error.0.details = Some(StatusDetails::default());
        error
    }

    /// 409: an object of this name exists.
    pub fn already_exists(resource: &str, group: &str, name: &str) -> ApiError {
        let message = format!("{} {} already exists", qualified(resource, group), go::quote(name));
        ApiError::new(409, "AlreadyExists", message).details(group, resource, name)
    }

    /// 409: every generated name was taken.
    pub fn generate_name_conflict(resource: &str, group: &str, name: &str, retry_after: i32) -> ApiError {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            qualified(resource, group),
            go::quote(name)
        );
        ApiError::new(409, "AlreadyExists", message).details(group, resource, name).retry_after(retry_after)
    }

    /// 409: the object is not in the state that the request was based on.
    pub fn conflict(resource: &str, group: &str, name: &str, why: &str) -> ApiError {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            qualified(resource, group),
            go::quote(name)
        );
        ApiError::new(409, "Conflict", message).details(group, resource, name)
    }

    /// 409: the resourceVersion of an update is not the newest.
    pub fn modified(resource: &str, group: &str, name: &str) -> ApiError {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(resource, group, name, why)
    }

    /// 422: the object was understood and is not valid.
    pub fn invalid(kind: &str, group: &str, name: &str, errors: &ErrorList) -> ApiError {
        let mut message = format!("{} {} is invalid", qualified(kind, group), go::quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&errors.to_string());
        }
        let mut error = ApiError::new(422, "Invalid", message).details(group, kind, name);
        let causes = errors.iter().map(|error| StatusCause {
            reason: Some(error.kind.reason().to_owned()),
            message: Some(error.body()),
            field: Some(error.path.to_string()),
        });
        error.0.details.get_or_insert_default().causes = Some(causes.collect());
        error
    }

    /// 400: the request could not be understood.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message.into())
    }

    /// 401: we do not know who asks.
    pub fn unauthorized() -> ApiError {
        ApiError::new(401, "Unauthorized", "Unauthorized".to_owned())
    }

    /// 403: we know who asks, and they may not. An empty `resource` is a request that is not about one.
    pub fn forbidden(resource: &str, group: &str, name: &str, why: &str) -> ApiError {
        let message = if resource.is_empty() && group.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(resource, group))
        } else {
            format!("{} {} is forbidden: {why}", qualified(resource, group), go::quote(name))
        };
        ApiError::new(403, "Forbidden", message).details(group, resource, name)
    }

    /// 410 Gone: kept for clients that know nothing newer than that; see [`ApiError::expired`].
    pub fn gone(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Gone", message.into())
    }

    /// 410 Expired: the resourceVersion or continue token is older than the history that is kept.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message.into())
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed(resource: &str, group: &str, action: &str) -> ApiError {
        let message = format!(
            "{action} is not supported on resources of kind {}",
            go::quote(&qualified(resource, group))
        );
        ApiError::new(405, "MethodNotAllowed", message).details(group, resource, "")
    }

    /// 406: none of the accepted media types can be produced.
    pub fn not_acceptable(supported: &[&str]) -> ApiError {
        let message = format!("only the following media types are accepted: {}", supported.join(", "));
        ApiError::new(406, "NotAcceptable", message)
    }

    /// 413: the body is larger than the limit.
    pub fn too_large(message: impl fmt::Display) -> ApiError {
        ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 415: the body has a media type that is not read here.
    pub fn unsupported_media_type(supported: &[&str]) -> ApiError {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        ApiError::new(415, "UnsupportedMediaType", message)
    }

    /// 429: try again later.
    pub fn too_many_requests(message: impl Into<String>, retry_after: i32) -> ApiError {
        ApiError::new(429, "TooManyRequests", message.into()).retry_after(retry_after)
    }

    /// 500: our fault.
    pub fn internal(cause: impl fmt::Display) -> ApiError {
        let cause = cause.to_string();
        ApiError::new(500, "InternalError", format!("Internal error occurred: {cause}"))
            .with_cause("", "", &cause)
    }

    /// 500: the operation did not come to an end and can be tried again.
    pub fn server_timeout(resource: &str, group: &str, operation: &str, retry_after: i32) -> ApiError {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(resource, group)
        );
        ApiError::new(500, "ServerTimeout", message)
            .details(group, resource, operation)
            .retry_after(retry_after)
    }

    /// 503: not ready, or a part that is needed cannot be reached.
    pub fn service_unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(503, "ServiceUnavailable", message.into())
    }

    /// 504: the request took too long; it may still complete.
    pub fn timeout(message: impl fmt::Display, retry_after: i32) -> ApiError {
        ApiError::new(504, "Timeout", format!("Timeout: {message}")).retry_after(retry_after)
    }

    /// An error from a response: its `Status` when the body is one, otherwise what the code says, as client-go puts it.
    pub fn from_response(code: u16, body: &[u8]) -> ApiError {
        if let Ok(value) = serde_json::from_slice::<Value>(body)
            && value.get("kind").and_then(Value::as_str) == Some("Status")
            && let Ok(status) = serde_json::from_value::<Status>(value)
            && status.status.as_deref() != Some("Success")
        {
            return ApiError::from_status(Status { code: status.code.or(Some(code.into())), ..status });
        }
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        let (reason, message) = match code {
            400 => ("BadRequest", "the server rejected our request for an unknown reason".to_owned()),
            401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
            403 => ("Forbidden", text.to_owned()),
            404 => ("NotFound", "the server could not find the requested resource".to_owned()),
            405 => {
                ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned())
            }
            406 => (
                "NotAcceptable",
                "the server was unable to respond with a content type that the client supports".to_owned(),
            ),
            409 => ("Conflict", "the server reported a conflict".to_owned()),
            415 => ("UnsupportedMediaType", text.to_owned()),
            422 => ("Invalid", "the server rejected our request due to an error in our request".to_owned()),
            429 => (
                "TooManyRequests",
                "the server has received too many requests and has asked us to try again later".to_owned(),
            ),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
            504 => (
                "Timeout",
                "the server was unable to return a response in the time allotted, but may still be processing the request"
                    .to_owned(),
            ),
            500.. => (
                "InternalError",
                format!(
                    "an error on the server ({}) has prevented the request from succeeding",
                    go::quote(text)
                ),
            ),
            _ => (
                "",
                format!(
                    "the server responded with the status code {code} but did not return more information"
                ),
            ),
        };
        ApiError::new(code.into(), reason, message).with_cause("UnexpectedServerResponse", "", text)
    }

    /// The status.
    pub fn status(&self) -> &Status {
        &self.0
    }

    /// The status, to send.
    pub fn into_status(self) -> Status {
        *self.0
    }

    /// The HTTP code.
    pub fn code(&self) -> u16 {
        self.0.code.and_then(|code| u16::try_from(code).ok()).unwrap_or(500)
    }

    /// The reason; empty when unknown.
    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or_default()
    }

    /// The message.
    pub fn message(&self) -> &str {
        self.0.message.as_deref().unwrap_or_default()
    }

    /// The seconds after which the server asked to try again.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        let seconds = self.0.details.as_ref()?.retry_after_seconds?;
        u32::try_from(seconds).ok().filter(|seconds| *seconds > 0)
    }

    /// The reason decides; a code alone only where the reason is not one that is known.
    fn is(&self, reason: &str, code: Option<u16>) -> bool {
        self.reason() == reason || (code == Some(self.code()) && !KNOWN_REASONS.contains(&self.reason()))
    }

    /// 404.
    pub fn is_not_found(&self) -> bool {
        self.is("NotFound", Some(404))
    }

    /// 409 on a create.
    pub fn is_already_exists(&self) -> bool {
        self.is("AlreadyExists", None)
    }

    /// 409 on an update or delete.
    pub fn is_conflict(&self) -> bool {
        self.is("Conflict", Some(409))
    }

    /// 422.
    pub fn is_invalid(&self) -> bool {
        self.is("Invalid", Some(422))
    }

    /// 410, either reason: a list must be taken again.
    pub fn is_gone(&self) -> bool {
        self.is("Gone", Some(410)) || self.is("Expired", None)
    }

    /// 400.
    pub fn is_bad_request(&self) -> bool {
        self.is("BadRequest", Some(400))
    }

    /// 401.
    pub fn is_unauthorized(&self) -> bool {
        self.is("Unauthorized", Some(401))
    }

    /// 403.
    pub fn is_forbidden(&self) -> bool {
        self.is("Forbidden", Some(403))
    }

    /// 405.
    pub fn is_method_not_allowed(&self) -> bool {
        self.is("MethodNotAllowed", Some(405))
    }

    /// 429.
    pub fn is_too_many_requests(&self) -> bool {
        self.reason() == "TooManyRequests" || self.code() == 429
    }

    /// 500.
    pub fn is_internal(&self) -> bool {
        self.is("InternalError", Some(500))
    }

    /// 503.
    pub fn is_service_unavailable(&self) -> bool {
        self.is("ServiceUnavailable", Some(503))
    }

    /// 504, or the server's word that the operation can be tried again.
    pub fn is_timeout(&self) -> bool {
        self.is("Timeout", Some(504)) || self.is("ServerTimeout", None)
    }
}

const KNOWN_REASONS: &[&str] = &[
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "StoreReadError",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "Expired",
    "ServiceUnavailable",
];

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiError({} {}: {})", self.code(), self.reason(), self.message())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for ApiError {}

impl From<Status> for ApiError {
    fn from(status: Status) -> ApiError {
        ApiError::from_status(status)
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        error.into_status()
    }
}

/// The status of a deletion that is complete.
pub fn success(resource: &str, group: &str, name: &str, uid: &str) -> Status {
    Status {
        status: Some("Success".to_owned()),
        details: Some(StatusDetails {
            group: non_empty(group),
            kind: non_empty(resource),
            name: non_empty(name),
            uid: non_empty(uid),
            ..StatusDetails::default()
        }),
        ..Status::default()
    }
}

/// `deployments.apps`, and `pods` for the core group.
pub fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{FieldError, Path};

    fn check(error: ApiError, code: u16, reason: &str, message: &str) {
        assert_eq!((error.code(), error.reason(), error.message()), (code, reason, message));
        assert_eq!(error.status().status.as_deref(), Some("Failure"));
    }

    #[test]
    fn messages() {
        check(ApiError::not_found("pods", "", "web"), 404, "NotFound", r#"pods "web" not found"#);
        check(
            ApiError::not_found("deployments", "apps", "web"),
            404,
            "NotFound",
            r#"deployments.apps "web" not found"#,
        );
        check(
            ApiError::modified("pods", "", "web"),
            409,
            "Conflict",
            r#"Operation cannot be fulfilled on pods "web": the object has been modified; please apply your changes to the latest version and try again"#,
        );
        check(ApiError::forbidden("pods", "", "", "no"), 403, "Forbidden", "pods is forbidden: no");
        check(ApiError::forbidden("", "", "", "no"), 403, "Forbidden", "forbidden: no");
        check(
            ApiError::method_not_allowed("pods", "", "patch"),
            405,
            "MethodNotAllowed",
            r#"patch is not supported on resources of kind "pods""#,
        );
        check(ApiError::internal("disk"), 500, "InternalError", "Internal error occurred: disk");
    }

    #[test]
    fn invalid_lists_causes() {
        let mut errors = ErrorList::new();
        errors.push(FieldError::required(&Path::new("spec").child("containers"), ""));
        let error = ApiError::invalid("Pod", "", "web", &errors);
        check(error.clone(), 422, "Invalid", r#"Pod "web" is invalid: spec.containers: Required value"#);
        let status = serde_json::to_value(error.into_status()).unwrap();
        assert_eq!(
            status["details"],
            serde_json::json!({
                "kind": "Pod", "name": "web",
                "causes": [{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"}],
            })
        );
    }

    #[test]
    fn responses() {
        let sent = serde_json::to_vec(&ApiError::not_found("pods", "", "web").into_status()).unwrap();
        assert!(ApiError::from_response(404, &sent).is_not_found());
        let proxy = ApiError::from_response(503, b"upstream down");
        assert!(proxy.is_service_unavailable());
        assert_eq!(proxy.message(), "the server is currently unable to handle the request");
        assert!(
            ApiError::from_response(410, br#"{"kind":"Status","reason":"Expired","code":410}"#).is_gone()
        );
        assert!(!ApiError::already_exists("pods", "", "a").is_conflict());
    }
}
