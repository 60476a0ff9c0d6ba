//! What can go wrong with an API call, and what a caller may do about it.

use std::time::Duration;

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use crate::TransportError;

/// Why an API call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with a failure `Status`.
    #[error("{}", .0.message.as_deref().unwrap_or("the server refused the request without a message"))]
    Api(Box<Status>),
    /// The request did not reach the server, or its answer did not come back. Whether it was carried
    /// out is not known.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// No answer within the client's deadline. Whether the request was carried out is not known.
    #[error("no answer to {method} {path} within {after:?}")]
    Timeout {
        /// HTTP method.
        method: http::Method,
        /// Path and query.
        path: String,
        /// The deadline.
        after: Duration,
    },
    /// The answer was longer than the client accepts.
    #[error("answer to {method} {path} is larger than {limit} bytes")]
    TooLarge {
        /// HTTP method.
        method: http::Method,
        /// Path and query.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// The answer is not what the resource's type says.
    #[error("decoding the answer to {method} {path}")]
    Decode {
        /// HTTP method.
        method: http::Method,
        /// Path and query.
        path: String,
        /// What the decoder said.
        #[source]
        source: serde_json::Error,
    },
    /// The object cannot be written as JSON.
    #[error("encoding the body of {method} {path}")]
    Encode {
        /// HTTP method.
        method: http::Method,
        /// Path and query.
        path: String,
        /// What the encoder said.
        #[source]
        source: serde_json::Error,
    },
    /// The request itself is malformed, for example a name that does not fit in a URL.
    #[error("building {method} {path}")]
    Request {
        /// HTTP method.
        method: http::Method,
        /// Path and query.
        path: String,
        /// What the HTTP library said.
        #[source]
        source: http::Error,
    },
    /// A name that the request's path needs is empty, or would be read as a step in the path.
    #[error("{what} {value:?} of a {kind} does not fit in a path")]
    PathSegment {
        /// Kind of the object.
        kind: String,
        /// `name` or `namespace`.
        what: &'static str,
        /// The value.
        value: String,
    },
}

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Observe again, then try again: conflicts, time-outs, a server that is away or overloaded.
    Retry,
    /// The same request will be refused again.
    Invalid,
    /// What the request was about is no longer there.
    Gone,
    /// One of the two sides does not keep the protocol.
    Bug,
}

impl Error {
    /// The server's `Status`, if it gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(status) => Some(status),
            _ => None,
        }
    }

    fn code(&self) -> Option<i32> {
        self.status().and_then(|status| status.code)
    }

    fn reason(&self) -> Option<&str> {
        self.status().and_then(|status| status.reason.as_deref())
    }

    /// 404: the object or the resource does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason() == Some("NotFound") || (self.reason().is_none() && self.code() == Some(404))
    }

    /// 409: the write was based on an old resourceVersion or a failed precondition.
    pub fn is_conflict(&self) -> bool {
        self.reason() == Some("Conflict")
    }

    /// 409: an object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some("AlreadyExists")
    }

    /// 410: the resourceVersion or continue token is too old; list again.
    pub fn is_gone(&self) -> bool {
        matches!(self.reason(), Some("Gone" | "Expired")) || self.code() == Some(410)
    }

    /// 403: not allowed, or not allowed in the object's state (for example a terminating namespace).
    pub fn is_forbidden(&self) -> bool {
        self.reason() == Some("Forbidden") || self.code() == Some(403)
    }

    /// 422: validation refused the object.
    pub fn is_invalid(&self) -> bool {
        self.reason() == Some("Invalid")
    }

    /// 403 with the cause `NamespaceTerminating`: nothing can be created in this namespace any more.
    pub fn is_namespace_terminating(&self) -> bool {
        self.is_forbidden()
            && self
                .status()
                .and_then(|status| status.details.as_ref())
                .and_then(|details| details.causes.as_ref())
                .is_some_and(|causes| {
                    causes.iter().any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"))
                })
    }

    /// The server was not reached, or did not answer in time.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Transport(_) | Self::Timeout { .. })
    }

    /// How long the server asked to wait before trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds?;
        u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// What a caller may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Transport(_) | Self::Timeout { .. } => ErrorClass::Retry,
            Self::Decode { .. } | Self::Encode { .. } | Self::TooLarge { .. } | Self::Request { .. } => {
                ErrorClass::Bug
            }
            Self::PathSegment { .. } => ErrorClass::Invalid,
            Self::Api(status) => match (status.reason.as_deref(), status.code) {
                (Some("NotFound" | "Gone" | "Expired"), _) | (None, Some(404 | 410)) => ErrorClass::Gone,
                (Some("Conflict" | "AlreadyExists"), _) => ErrorClass::Retry,
                // A permission may be granted, a namespace may be made anew: worth another try, later.
                (_, Some(401 | 403 | 408 | 409 | 429)) => ErrorClass::Retry,
                (_, Some(code)) if code >= 500 => ErrorClass::Retry,
                (_, None) => ErrorClass::Retry,
                (_, Some(_)) => ErrorClass::Invalid,
            },
        }
    }
}

/// Prints an error and what caused it, joined by colons.
#[derive(Debug, Clone, Copy)]
pub struct ErrorChain<'a>(pub &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: i32, reason: &str, class: ErrorClass) -> Error {
        let error = Error::Api(Box::new(Status {
            code: Some(code),
            reason: Some(reason.to_owned()),
            ..Status::default()
        }));
        assert_eq!(error.class(), class, "{code} {reason}");
        error
    }

    #[test]
    fn classes() {
        assert!(check(404, "NotFound", ErrorClass::Gone).is_not_found());
        assert!(check(409, "Conflict", ErrorClass::Retry).is_conflict());
        assert!(check(409, "AlreadyExists", ErrorClass::Retry).is_already_exists());
        assert!(check(410, "Expired", ErrorClass::Gone).is_gone());
        assert!(check(422, "Invalid", ErrorClass::Invalid).is_invalid());
        check(400, "BadRequest", ErrorClass::Invalid);
        check(500, "InternalError", ErrorClass::Retry);
        check(429, "TooManyRequests", ErrorClass::Retry);
    }
}
