//! The store on disk: what is in it, by which names.
//!
//! | path | what |
//! |---|---|
//! | `oci-layout`, `index.json` | this is an OCI image layout; the index names the images |
//! | `blobs/sha256/<hex>` | manifests, configurations and layers as they came |
//! | `layers/<chain id>/fs` | a layer unpacked, on top of those below it |
//! | `work/` | what is not finished |
//! | `lock`, `index.lock` | see [`lock`] |

pub(crate) mod blobs;
mod collect;
pub(crate) mod documents;
pub(crate) mod index;
pub(crate) mod layers;
mod lock;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use crate::platform::Host;
use crate::{Digest, Limits, Reference};
use index::{Entry, Index, IndexCache};

pub use collect::Collected;

/// What the file `oci-layout` says.
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image that is complete.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration: the same for the same content, whatever it is called.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// All names it has here, in their complete form.
    pub names: Vec<String>,
    /// Names with digests that it was pulled by, for example `docker.io/library/nginx@sha256:…`.
    pub repo_digests: Vec<String>,
    /// What to run, as whom, with which environment.
    pub config: ImageConfiguration,
    /// Unpacked layers, topmost first: the lower directories of an overlay. Never empty.
    pub layers: Vec<PathBuf>,
    /// Bytes of all files, unpacked.
    pub size: u64,
}

/// The outcome of [`ImageStore::remove`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The image that had the name.
    pub id: Digest,
    /// The names that are gone.
    pub names: Vec<String>,
    /// Whether other names are left. If not, the next collection takes the content unless it is in use.
    pub still_named: bool,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory or file of it cannot be made or read.
    #[error("opening image store {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory holds something else.
    #[error("{path} is not empty and no image store")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
}

/// What can go wrong with the files of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refuses.
    #[error("{step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Content is not what its name says.
    #[error("{what} is damaged: expected {expected}, got {found}")]
    Mismatch {
        /// Which content.
        what: String,
        /// The digest or size it must have.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A document cannot be read.
    #[error("{what} cannot be understood")]
    Document {
        /// Which document.
        what: String,
        /// Where it is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Content is missing.
    #[error("{what} {digest} is missing in the image store (import or pull the image again)")]
    Missing {
        /// Which content.
        what: &'static str,
        /// Its digest.
        digest: Digest,
    },
    /// A digest of another kind than SHA-256.
    #[error(transparent)]
    Digest(#[from] crate::DigestError),
    /// The documents contradict each other or a limit.
    #[error("{what}: {problem}")]
    Invalid {
        /// Which image or document.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// A layer cannot be unpacked.
    #[error("unpacking layer {digest}")]
    Unpack {
        /// The layer.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<crate::unpack::UnpackError>,
    },
}

impl StoreError {
    pub(crate) fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { step, path, source }
    }
}

/// A store of images. Its methods block on the disk; call the long ones (`import`, `build_rootfs`, `export`,
/// `collect`) where blocking is fine.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) host: Host,
    index: IndexCache,
}

impl ImageStore {
    /// Open the store in a directory, or begin one there. Removes what killed processes have left unfinished, unless
    /// another process is adding images at this moment.
    pub fn open(directory: impl AsRef<Path>) -> Result<Arc<ImageStore>, OpenError> {
        ImageStore::open_with(directory, Limits::default())
    }

    /// Open with other limits.
    pub fn open_with(directory: impl AsRef<Path>, limits: Limits) -> Result<Arc<ImageStore>, OpenError> {
        let root = directory.as_ref().to_owned();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let make = |path: &Path| {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))
        };
        make(&root)?;
        let mark = root.join("oci-layout");
        if !mark.try_exists().map_err(failed(&mark))? {
            // A directory with other things in it was not meant.
            let ours = |name: &std::ffi::OsStr| {
                ["lock", "index.lock", "work", "blobs", "layers", "oci-layout.new"]
                    .iter()
                    .any(|known| name == *known)
            };
            for entry in std::fs::read_dir(&root).map_err(failed(&root))? {
                let entry = entry.map_err(failed(&root))?;
                if !ours(&entry.file_name()) {
                    return Err(OpenError::Foreign { path: root });
                }
            }
        }
        for part in ["blobs/sha256", "layers", "work"] {
            make(&root.join(part))?;
        }
        let store = ImageStore { root, limits, host: Host::this(), index: IndexCache::default() };
        let io = |error: StoreError| match error {
            StoreError::Io { path, source, .. } => OpenError::Io { path, source },
            other => OpenError::Io { path: store.root.clone(), source: io::Error::other(other) },
        };
        store.clean().map_err(io)?;
        {
            let _lock = store.changing_index().map_err(io)?;
            if !mark.exists() {
                store.write_durably("oci-layout", LAYOUT).map_err(io)?;
            }
        }
        Ok(Arc::new(store))
    }

    /// The image with a name, an ID (`sha256:…`, or at least its first twelve digits), or a digest that it was pulled by.
    pub fn get(&self, name: &str) -> Result<Option<Image>, StoreError> {
        let index = self.index()?;
        match self.find(&index, name)? {
            Some(manifest) => self.image(&index, &manifest).map(Some),
            None => Ok(None),
        }
    }

    /// All images, in the order of their names.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let index = self.index()?;
        let mut manifests: Vec<Digest> = Vec::new();
        for entry in &index.entries {
            if !manifests.contains(&entry.manifest) {
                manifests.push(entry.manifest);
            }
        }
        let mut images =
            manifests.iter().map(|manifest| self.image(&index, manifest)).collect::<Result<Vec<_>, _>>()?;
        images.sort_by(|a, b| a.names.cmp(&b.names));
        Ok(images)
    }

    /// Take a name away, or all names of an image that is given by its ID. The content stays until [`ImageStore::collect`].
    pub fn remove(&self, name: &str) -> Result<Option<Removed>, StoreError> {
        let by_name = Reference::parse(name).ok().map(|reference| reference.to_string());
        self.change_index(|index| {
            let Some(manifest) = self.find(index, name)? else { return Ok(None) };
            let id = self.manifest(&manifest)?.config;
            let one =
                by_name.filter(|name| index.entries.iter().any(|entry| entry.name.as_ref() == Some(name)));
            let mut names = Vec::new();
            index.entries.retain(|entry| {
                let goes = entry.manifest == manifest && (one.is_none() || entry.name == one);
                if goes {
                    names.extend(entry.name.clone());
                }
                !goes
            });
            let still_named = index.entries.iter().any(|entry| entry.manifest == manifest);
            Ok(Some(Removed { id, names, still_named }))
        })
    }

    /// Give an image another name.
    pub fn tag(&self, name: &str, new: &Reference) -> Result<Option<Image>, StoreError> {
        let found = self.change_index(|index| {
            let Some(manifest) = self.find(index, name)? else { return Ok(None) };
            let known = index.entries.iter().find(|entry| entry.manifest == manifest).cloned();
            index.entries.retain(|entry| entry.name.as_deref() != Some(new.to_string().as_str()));
            index.entries.extend(known.map(|known| Entry { name: Some(new.to_string()), ..known }));
            Ok(Some(manifest))
        })?;
        match found {
            Some(manifest) => self.image(&*self.index()?, &manifest).map(Some),
            None => Ok(None),
        }
    }

    /// The manifest that a name stands for.
    fn find(&self, index: &Index, name: &str) -> Result<Option<Digest>, StoreError> {
        if let Ok(reference) = Reference::parse(name) {
            let full = reference.to_string();
            let by_name = |entry: &&Entry| entry.name.as_ref() == Some(&full);
            let by_digest = |entry: &&Entry| {
                reference.digest().is_some_and(|digest| {
                    *digest == entry.manifest
                        || entry.repo_digests.iter().any(|known| known.ends_with(&digest.to_string()))
                })
            };
            let found = index.entries.iter().find(by_name).or_else(|| index.entries.iter().find(by_digest));
            if let Some(entry) = found {
                return Ok(Some(entry.manifest));
            }
        }
        // By ID: a name could look like its beginning, so names come first.
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() < 12 || hex.len() > 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let mut found = None;
        for entry in &index.entries {
            let fits = entry.manifest.hex().starts_with(hex)
                || self.manifest(&entry.manifest)?.config.hex().starts_with(hex);
            match found {
                Some(other) if fits && other != entry.manifest => {
                    let problem = "it is the beginning of more than one image ID".to_owned();
                    return Err(StoreError::Invalid { what: name.to_owned(), problem });
                }
                _ if fits => found = Some(entry.manifest),
                _ => {}
            }
        }
        Ok(found)
    }

    fn image(&self, index: &Index, manifest_digest: &Digest) -> Result<Image, StoreError> {
        let manifest = self.manifest(manifest_digest)?;
        let config = self.config(&manifest.config)?;
        let entries = || index.entries.iter().filter(|entry| entry.manifest == *manifest_digest);
        let mut repo_digests: Vec<String> = entries().flat_map(|entry| entry.repo_digests.clone()).collect();
        repo_digests.sort();
        repo_digests.dedup();
        let mut names: Vec<String> = entries().filter_map(|entry| entry.name.clone()).collect();
        names.sort();
        let chains = documents::chains(&documents::diff_ids(&config)?);
        let mut layers: Vec<PathBuf> = chains.iter().rev().map(|chain| self.layer_path(chain)).collect();
        if layers.is_empty() {
            // overlayfs needs a lower directory.
            layers.push(self.empty_layer()?);
        }
        Ok(Image {
            id: manifest.config,
            manifest: *manifest_digest,
            names,
            repo_digests,
            config,
            layers,
            size: entries().map(|entry| entry.size).max().unwrap_or(0),
        })
    }

    /// Make an image part of the store, under the names given. All its content must be there.
    pub(crate) fn record(
        &self,
        manifest: Digest,
        manifest_size: u64,
        names: &[String],
        repo_digests: Vec<String>,
        size: u64,
    ) -> Result<Image, StoreError> {
        self.change_index(|index| {
            let known = index.entries.iter().filter(|entry| entry.manifest == manifest);
            let mut repo_digests = repo_digests;
            repo_digests.extend(known.flat_map(|entry| entry.repo_digests.clone()));
            repo_digests.sort();
            repo_digests.dedup();
            let new = |name: Option<String>| Entry {
                name,
                manifest,
                manifest_size,
                repo_digests: repo_digests.clone(),
                size,
            };
            // A name moves; an entry without a name is needed only while there is none with one.
            index.entries.retain(|entry| {
                let renamed = entry.name.as_ref().is_some_and(|name| names.contains(name));
                let superseded = entry.manifest == manifest && entry.name.is_none();
                !renamed && !superseded
            });
            index.entries.extend(names.iter().cloned().map(|name| new(Some(name))));
            if !index.entries.iter().any(|entry| entry.manifest == manifest) {
                index.entries.push(new(None));
            }
            Ok(())
        })?;
        self.image(&*self.index()?, &manifest)
    }

    fn empty_layer(&self) -> Result<PathBuf, StoreError> {
        let path = self.root.join("layers/empty/fs");
        std::fs::create_dir_all(&path).map_err(StoreError::io("creating", &path))?;
        Ok(path)
    }

    /// Write a small file of the store's own, so that after a crash it is the old or the new one. Under the lock of the
    /// index, which is why the name beside can be a fixed one.
    fn write_durably(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(name);
        let beside = self.root.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            use io::Write;
            let mut file = std::fs::File::create(&beside)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            std::fs::File::open(&self.root)?.sync_all()
        };
        write().map_err(StoreError::io("writing", &path))
    }
}
