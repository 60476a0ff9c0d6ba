//! Every failure of a request, and the `Status` that the client gets for it. Nothing else maps errors to codes.

use manifests::encode::EncodeError;
use manifests::status::ApiError;
use store::StoreError;

use crate::body::ReadError;
use crate::watch_cache::TooOld;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Already in the words of the API.
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Body(#[from] ReadError),
    /// A list or watch from a revision that is no longer known.
    #[error("too old resource version: {requested} ({oldest})")]
    TooOld { requested: u64, oldest: u64 },
    /// A read that must not be older than a revision that has not come.
    #[error("Too large resource version: {requested}, current: {current}")]
    TooNew { requested: u64, current: u64 },
    /// What the store has cannot be read as the kind that it should be.
    #[error("decoding {key}")]
    Stored { key: String, source: serde_json::Error },
    /// An object cannot be written as JSON.
    #[error("encoding {key}")]
    Encode { key: String, source: EncodeError },
    /// The request took longer than it may.
    #[error("request did not complete within the allotted timeout")]
    Deadline,
}

impl Error {
    pub(crate) fn too_old(requested: u64, reason: &TooOld) -> Error {
        Error::TooOld { requested, oldest: reason.floor }
    }

    /// The answer to the client.
    pub(crate) fn into_api(self) -> ApiError {
        match self {
            Error::Api(error) => error,
            Error::Store(error) => match error {
                StoreError::Compacted { .. } => ApiError::expired(
                    "The provided continue parameter is too old to display a consistent list result. \
                     You must start a new list without the continue parameter.",
                ),
                StoreError::Future { requested, current } => too_new(requested.0, current.0),
                StoreError::Invalid(_) | StoreError::Slow => ApiError::internal(&error),
                StoreError::Unknown(_) => ApiError::timeout(&error, 0),
                StoreError::Unavailable(_) => {
                    ApiError::service_unavailable("the server is currently unable to handle the request")
                        .retry_after(1)
                }
            },
            Error::Body(ReadError::TooLarge { limit }) => {
                ApiError::too_large(format_args!("limit is {limit}"))
            }
            Error::Body(error @ ReadError::Broken(_)) => ApiError::bad_request(error.to_string()),
            Error::TooOld { .. } => ApiError::expired(self.to_string()),
            Error::TooNew { requested, current } => too_new(requested, current),
            Error::Stored { ref source, .. } => ApiError::internal(format_args!("{self}: {source}")),
            Error::Encode { ref source, .. } => ApiError::internal(format_args!("{self}: {source}")),
            Error::Deadline => ApiError::timeout(&self, 0),
        }
    }
}

fn too_new(requested: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {requested}, current: {current}");
    ApiError::timeout(message, 1).with_cause("ResourceVersionTooLarge", "", "Too large resource version")
}
