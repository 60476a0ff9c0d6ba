//! Why a pull fails, and what to do about it.

use crate::store::StoreError;

/// Every message names the image, the registry and, if there was an answer, its status.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry wants to know who we are, or does not like who we are.
    #[error(
        "registry {registry} refuses {reference} (HTTP {status}{message}): the image does not exist, or credentials are \
         missing or wrong (give them as imagePullSecrets, or with --credentials USER:PASSWORD)"
    )]
    Refused {
        /// Complete name of the image.
        reference: String,
        /// Its registry.
        registry: String,
        /// 401 or 403.
        status: u16,
        /// What the registry said.
        message: String,
    },
    /// There is no such image.
    #[error("{reference} is not in registry {registry} (HTTP 404{message}): check the name and the tag")]
    NotFound {
        /// Complete name of the image.
        reference: String,
        /// Its registry.
        registry: String,
        /// What the registry said.
        message: String,
    },
    /// The registry wants us to wait longer than we do.
    #[error(
        "registry {registry} limits how often images are pulled (HTTP 429{message}): try {reference} again later"
    )]
    TooManyRequests {
        /// Complete name of the image.
        reference: String,
        /// Its registry.
        registry: String,
        /// What the registry said.
        message: String,
    },
    /// Any other answer that is of no use.
    #[error("registry {registry} answers {url} for {reference} with HTTP {status}{message}")]
    Status {
        /// Complete name of the image.
        reference: String,
        /// Its registry.
        registry: String,
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// What the registry said.
        message: String,
    },
    /// No connection.
    #[error(
        "registry {registry} cannot be reached for {reference}: check the name, the network and DNS, and for a registry with \
         its own certificate authority that it is trusted"
    )]
    Unreachable {
        /// Complete name of the image.
        reference: String,
        /// Its registry.
        registry: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The link broke again and again.
    #[error(
        "the link to registry {registry} broke {attempts} times in a row while {what} of {reference} was fetched"
    )]
    Broken {
        /// Complete name of the image.
        reference: String,
        /// Its registry.
        registry: String,
        /// A layer, a manifest.
        what: String,
        /// How often it was tried without getting any further.
        attempts: u32,
        /// What went wrong the last time.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry does not keep to the protocol.
    #[error("registry {registry} does not answer like a registry for {reference}: {problem}")]
    Protocol {
        /// Complete name of the image.
        reference: String,
        /// Its registry.
        registry: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no image for this machine.
    #[error("{reference} has no image for {wanted}; it has: {found}")]
    Platform {
        /// Complete name of the image.
        reference: String,
        /// This machine.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The options cannot be used.
    #[error("the options for registry {registry} cannot be used")]
    Options {
        /// The registry.
        registry: String,
        /// What is wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The runtime is shutting down.
    #[error("pulling {reference} was stopped")]
    Stopped {
        /// Complete name of the image.
        reference: String,
    },
    /// Checking, unpacking or storing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A digest that cannot be checked.
    #[error(transparent)]
    Digest(#[from] crate::DigestError),
}

impl PullError {
    /// Whether trying again may help without anybody changing anything.
    pub fn may_pass(&self) -> bool {
        match self {
            PullError::TooManyRequests { .. }
            | PullError::Unreachable { .. }
            | PullError::Broken { .. }
            | PullError::Stopped { .. } => true,
            PullError::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}
