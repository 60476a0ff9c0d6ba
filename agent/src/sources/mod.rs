//! Where pods come from: a directory, a URL, the API. Each source says which pods it wants; [`merge`] makes one set.

pub mod api;
pub mod file;
pub mod manifest;
pub mod merge;
pub mod mirror;
pub mod url;

use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::Pod;

/// A kind of source. The order is that of precedence: what lies on the machine itself wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A directory of manifests.
    File,
    /// Manifests at a URL.
    Http,
    /// The API server.
    Api,
}

impl Source {
    /// As the annotation `kubernetes.io/config.source` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Http => "http",
            Self::Api => "api",
        }
    }
}

/// What one source wants.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The source has been read at least once: a pod that is not in it is not wanted.
    pub ready: bool,
    /// The pods.
    pub pods: Vec<Arc<Pod>>,
}
