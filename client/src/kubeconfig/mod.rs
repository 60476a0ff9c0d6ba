//! Kubeconfig files: which server, whom to trust, who we are.
//!
//! Files are read as kubectl reads them: `KUBECONFIG` is a list of files, the first that defines a name
//! wins, relative paths start at the file that holds them. Every error names the file and the field.

mod file;
mod resolve;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use resolve::{Credentials, Resolved};

use crate::client::Client;
use crate::https::{HttpsTransport, HttpsTransportError};
use file::{AuthInfo, Cluster, Context, File};

/// Where `KUBECONFIG` is not set.
const DEFAULT_FILE: &str = ".kube/config";

/// Why no client could be made from a kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error("reading kubeconfig {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not YAML, or a field has another type.
    #[error("kubeconfig {path}: field {field}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// The field, for example `clusters[0].cluster.server`.
        field: String,
        /// What the decoder said.
        #[source]
        source: serde_yaml::Error,
    },
    /// None of the files exists.
    #[error("no kubeconfig: {} not found", list(.tried))]
    Missing {
        /// The files that were tried.
        tried: Vec<PathBuf>,
    },
    /// A field is missing or refers to something that is not there.
    #[error("kubeconfig {path}: field {field}: {problem}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that the kubeconfig names cannot be read.
    #[error("kubeconfig {path}: field {field}: reading {file}")]
    ReadReferenced {
        /// The kubeconfig.
        path: PathBuf,
        /// The field that names the file.
        field: String,
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The pieces were read but no transport can be made of them.
    #[error("kubeconfig {path}: connecting to {server}")]
    Transport {
        /// The kubeconfig.
        path: PathBuf,
        /// The server's URL.
        server: String,
        /// Which piece.
        #[source]
        source: HttpsTransportError,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// An entry with the file that it came from and its place there.
#[derive(Debug, Clone)]
struct Entry<T> {
    path: PathBuf,
    /// For example `clusters[0].cluster`.
    field: String,
    value: T,
}

/// One or several kubeconfig files, merged.
#[derive(Debug, Clone, Default)]
pub struct Kubeconfig {
    clusters: BTreeMap<String, Entry<Cluster>>,
    users: BTreeMap<String, Entry<AuthInfo>>,
    contexts: BTreeMap<String, Entry<Context>>,
    current_context: Option<String>,
    files: Vec<PathBuf>,
}

impl Kubeconfig {
    /// Reads one file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, KubeconfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
        Self::from_text(&text, path)
    }

    /// Reads text; `path` is where relative paths start and what errors name.
    pub fn from_text(text: &str, path: &Path) -> Result<Self, KubeconfigError> {
        let mut config = Self::default();
        config.add(File::decode(text, path)?, path);
        Ok(config)
    }

    /// Reads the files of `KUBECONFIG`, or `~/.kube/config`.
    pub fn from_env() -> Result<Self, KubeconfigError> {
        let paths: Vec<PathBuf> = match std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
            Some(list) => std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(),
            None => std::env::home_dir().map(|home| home.join(DEFAULT_FILE)).into_iter().collect(),
        };
        Self::from_files(&paths)
    }

    /// Reads and merges files; those that do not exist are skipped, but not all of them may be missing.
    pub fn from_files(paths: &[PathBuf]) -> Result<Self, KubeconfigError> {
        let mut config = Self::default();
        for path in paths {
            match std::fs::read_to_string(path) {
                Ok(text) => config.add(File::decode(&text, path)?, path),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(KubeconfigError::Read { path: path.clone(), source }),
            }
        }
        if config.files.is_empty() {
            return Err(KubeconfigError::Missing { tried: paths.to_vec() });
        }
        Ok(config)
    }

    /// Adds what is not there yet: the first file that defines a name wins.
    fn add(&mut self, file: File, path: &Path) {
        let entry = |kind: &str, index: usize| format!("{kind}s[{index}].{kind}");
        for (index, named) in file.clusters.into_iter().enumerate() {
            let field = entry("cluster", index);
            self.clusters.entry(named.name).or_insert(Entry {
                path: path.to_owned(),
                field,
                value: named.cluster,
            });
        }
        for (index, named) in file.users.into_iter().enumerate() {
            let field = entry("user", index);
            self.users.entry(named.name).or_insert(Entry { path: path.to_owned(), field, value: named.user });
        }
        for (index, named) in file.contexts.into_iter().enumerate() {
            let field = entry("context", index);
            self.contexts.entry(named.name).or_insert(Entry {
                path: path.to_owned(),
                field,
                value: named.context,
            });
        }
        if self.current_context.is_none() {
            self.current_context = file.current_context.filter(|name| !name.is_empty());
        }
        self.files.push(path.to_owned());
    }

    /// The context that is used when none is named.
    pub fn current_context(&self) -> Option<&str> {
        self.current_context.as_deref()
    }

    /// The names of all contexts.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.keys().map(String::as_str)
    }

    /// A client for a context, or for the current one.
    pub fn client(&self, context: Option<&str>) -> Result<Client, KubeconfigError> {
        let resolved = self.resolve(context)?;
        let transport = HttpsTransport::new(&resolved).map_err(|source| KubeconfigError::Transport {
            path: resolved.path.clone(),
            server: resolved.server.clone(),
            source,
        })?;
        Ok(Client::new(std::sync::Arc::new(transport)))
    }
}

#[cfg(test)]
mod tests;
