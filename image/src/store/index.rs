//! `index.json`: the images that are complete, by name. Always replaced whole.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{ImageStore, StoreError};
use crate::Digest;

/// As the OCI image layout has it for names.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// As containerd writes complete names.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";
const REPO_DIGESTS: &str = "dev.coracle.repo-digests";
const UNPACKED_SIZE: &str = "dev.coracle.unpacked-size";

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// One name of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Complete form; `None` for an image without any name.
    pub(crate) name: Option<String>,
    pub(crate) manifest: Digest,
    pub(crate) manifest_size: u64,
    pub(crate) repo_digests: Vec<String>,
    /// Of all files, unpacked.
    pub(crate) size: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) entries: Vec<Entry>,
}

/// The index as it was read last, and from which file: it is replaced, never written to, so its inode and time tell.
#[derive(Debug, Default)]
pub(super) struct IndexCache(Mutex<Option<(Stamp, Arc<Index>)>>);

type Stamp = (u64, u64, i64, i64);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl ImageStore {
    /// The index as it is now.
    pub(crate) fn index(&self) -> Result<Arc<Index>, StoreError> {
        let path = self.root.join("index.json");
        let stamp = match std::fs::metadata(&path) {
            Ok(meta) => (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(StoreError::io("reading", &path)(error)),
        };
        let mut cache = self.index.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, index)) = cache.as_ref().filter(|(known, _)| *known == stamp) {
            let _ = known;
            return Ok(Arc::clone(index));
        }
        let index = Arc::new(self.read_index()?);
        *cache = Some((stamp, Arc::clone(&index)));
        Ok(index)
    }

    /// Read, change and replace the index; nothing is written if the change fails or changes nothing.
    pub(crate) fn change_index<T>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _lock = self.changing_index()?;
        let old = self.read_index()?;
        let mut new = old.clone();
        let outcome = change(&mut new)?;
        if new != old {
            self.write_durably("index.json", &new.encode()?)?;
        }
        Ok(outcome)
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        let path = self.root.join("index.json");
        match std::fs::read(&path) {
            Ok(bytes) => Index::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(StoreError::io("reading", &path)(error)),
        }
    }
}

impl Index {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let descriptor = |entry: &Entry| {
            let mut annotations = BTreeMap::new();
            if let Some(name) = &entry.name {
                annotations.insert(REF_NAME.to_owned(), name.clone());
                annotations.insert(FULL_NAME.to_owned(), name.clone());
            }
            if !entry.repo_digests.is_empty() {
                annotations.insert(REPO_DIGESTS.to_owned(), entry.repo_digests.join(","));
            }
            annotations.insert(UNPACKED_SIZE.to_owned(), entry.size.to_string());
            Descriptor {
                media_type: MANIFEST_TYPE.to_owned(),
                digest: entry.manifest.to_string(),
                size: entry.manifest_size,
                annotations,
            }
        };
        let file = File {
            schema_version: 2,
            media_type: INDEX_TYPE.to_owned(),
            manifests: self.entries.iter().map(descriptor).collect(),
        };
        serde_json::to_vec_pretty(&file)
            .map_err(|source| StoreError::Document { what: "index.json".to_owned(), source })
    }

    fn decode(bytes: &[u8]) -> Result<Index, StoreError> {
        let file: File = serde_json::from_slice(bytes).map_err(|source| StoreError::Document {
            what: "index.json of the image store".to_owned(),
            source,
        })?;
        let entry = |mut descriptor: Descriptor| {
            let repo_digests =
                descriptor.annotations.get(REPO_DIGESTS).map(String::as_str).unwrap_or_default();
            Ok(Entry {
                manifest: descriptor.digest.parse()?,
                manifest_size: descriptor.size,
                repo_digests: repo_digests
                    .split(',')
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned)
                    .collect(),
                size: descriptor
                    .annotations
                    .get(UNPACKED_SIZE)
                    .and_then(|size| size.parse().ok())
                    .unwrap_or(0),
                name: descriptor.annotations.remove(REF_NAME),
            })
        };
        Ok(Index { entries: file.manifests.into_iter().map(entry).collect::<Result<_, StoreError>>()? })
    }
}
