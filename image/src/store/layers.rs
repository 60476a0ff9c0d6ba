//! Layers, unpacked: made beside, synced, renamed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::blobs::{mismatch, unique};
use super::documents::{Blob, Manifest, chains, diff_ids};
use super::{ImageStore, StoreError};
use crate::Digest;
use crate::digest::Hashing;
use crate::tar::{TarError, decompress};
use crate::unpack::{Budget, UnpackError, unpack};

/// A directory in `work/` that is removed unless it is renamed.
pub(crate) struct UnfinishedDirectory(PathBuf);

impl Drop for UnfinishedDirectory {
    fn drop(&mut self) {
        // Gone if it has been renamed; otherwise the next opening of the store tries again.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl ImageStore {
    /// The lower directory of a layer.
    pub(crate) fn layer_path(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex()).join("fs")
    }

    /// Unpack all layers of an image that are not yet. Returns the bytes of all files.
    pub(crate) fn unpack_image(&self, manifest: &Manifest) -> Result<u64, StoreError> {
        let config = self.config(&manifest.config)?;
        let diff_ids = diff_ids(&config)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(StoreError::Invalid {
                what: format!("image {}", manifest.config),
                problem: format!(
                    "the manifest has {} layers and the configuration {}",
                    manifest.layers.len(),
                    diff_ids.len()
                ),
            });
        }
        let chains = chains(&diff_ids);
        let mut budget = Budget::new(&self.limits);
        let mut size = 0;
        for (i, (blob, diff_id)) in manifest.layers.iter().zip(&diff_ids).enumerate() {
            size += self.unpack_layer(&chains[..=i], blob, diff_id, &mut budget)?;
        }
        Ok(size)
    }

    /// Unpack one layer on top of those below, whose chain comes first. Returns the bytes of its files.
    pub(crate) fn unpack_layer(
        &self,
        chain: &[Digest],
        blob: &Blob,
        diff_id: &Digest,
        budget: &mut Budget,
    ) -> Result<u64, StoreError> {
        let Some((own, below)) = chain.split_last() else { return Ok(0) };
        if let Some(size) = self.unpacked_size(own) {
            return Ok(size);
        }
        let _lock = self.working_on(&own.hex())?;
        if let Some(size) = self.unpacked_size(own) {
            return Ok(size);
        }
        let lower: Vec<PathBuf> = below.iter().rev().map(|chain| self.layer_path(chain)).collect();
        let path = self.blob_path(&blob.digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { what: "layer", digest: blob.digest });
            }
            other => other.map_err(StoreError::io("opening", &path))?,
        };
        let (directory, found, size) = self
            .unpack_stream(file, &lower, budget)?
            .map_err(|source| StoreError::Unpack { digest: blob.digest, source: Box::new(source) })?;
        if found != *diff_id {
            return Err(mismatch("the plain content of a layer", diff_id, &found));
        }
        self.publish_layer(directory, own, size)?;
        Ok(size)
    }

    /// Unpack a stream, compressed or not, into a directory that has no name yet. Returns the digest of the plain stream
    /// and the bytes of the files.
    pub(crate) fn unpack_stream(
        &self,
        source: impl Read,
        lower: &[PathBuf],
        budget: &mut Budget,
    ) -> Result<Result<(UnfinishedDirectory, Digest, u64), UnpackError>, StoreError> {
        let directory = UnfinishedDirectory(self.root.join("work").join(unique()));
        let root = directory.0.join("fs");
        std::fs::create_dir_all(&root).map_err(StoreError::io("creating", &root))?;
        let unpack = || {
            let (_, plain) = decompress(source).map_err(TarError::Read)?;
            let mut plain = Hashing::new(plain);
            let size = unpack(&mut plain, &root, lower, budget)?;
            let (_, digest, _) = plain.finish();
            Ok((directory, digest, size))
        };
        Ok(unpack())
    }

    /// Give an unpacked layer its name, after all of it is on disk.
    pub(crate) fn publish_layer(
        &self,
        directory: UnfinishedDirectory,
        chain: &Digest,
        size: u64,
    ) -> Result<(), StoreError> {
        let note = directory.0.join("size");
        std::fs::write(&note, size.to_string()).map_err(StoreError::io("writing", &note))?;
        // One sync for thousands of files.
        let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(&directory.0)?)?) };
        sync().map_err(StoreError::io("syncing", &directory.0))?;
        let layers = self.root.join("layers");
        let path = layers.join(chain.hex());
        match std::fs::rename(&directory.0, &path) {
            // Somebody was faster; the content is the same.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) => {}
            other => other.map_err(StoreError::io("naming", &path))?,
        }
        File::open(&layers).and_then(|layers| layers.sync_all()).map_err(StoreError::io("syncing", &layers))
    }

    /// The bytes of a layer's files, if it is unpacked.
    pub(crate) fn unpacked_size(&self, chain: &Digest) -> Option<u64> {
        let path = self.root.join("layers").join(chain.hex());
        if !Path::is_dir(&path.join("fs")) {
            return None;
        }
        Some(std::fs::read_to_string(path.join("size")).ok()?.trim().parse().unwrap_or(0))
    }
}
