//! Where pods come from: a directory, a URL, the API. Each source says which pods it wants; [`merge`] makes one set.
//! Files and URLs may hold objects of any other kind too; those are for whoever writes to the control plane.

pub mod api;
pub mod file;
pub mod manifest;
pub mod merge;
pub mod mirror;
pub mod url;

use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::yaml::Document;

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
    /// Objects of other kinds, for a control plane.
    pub objects: Vec<Arc<Document>>,
}

impl Wanted {
    /// Whether two states are made of the very same values.
    fn is_same(&self, other: &Self) -> bool {
        self.ready == other.ready
            && is_same(&self.pods, &other.pods)
            && is_same(&self.objects, &other.objects)
    }
}

/// All objects that are not pods, from all files and URLs.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Every source has been read at least once: what is not here is not wanted.
    pub ready: bool,
    /// The objects, each at most once.
    pub objects: Vec<Arc<Document>>,
}

impl Objects {
    /// Merges what the sources have; the first that defines an object wins it.
    pub fn merge(sources: &[(Source, Wanted)]) -> Self {
        let mut merged = Self { ready: true, objects: Vec::new() };
        let mut seen = std::collections::BTreeSet::new();
        for (_, wanted) in sources.iter().filter(|(source, _)| *source != Source::Api) {
            merged.ready &= wanted.ready;
            let new = wanted.objects.iter().filter(|object| seen.insert(manifest::ObjectId::of(object)));
            merged.objects.extend(new.cloned());
        }
        merged
    }

    /// Whether two states are made of the very same values.
    pub fn is_same(&self, other: &Self) -> bool {
        self.ready == other.ready && is_same(&self.objects, &other.objects)
    }
}

fn is_same<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
}
