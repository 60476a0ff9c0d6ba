//! Removing what nobody needs any more.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::blobs::unique;
use super::documents::{chains, diff_ids};
use super::{ImageStore, StoreError};
use crate::Digest;

/// What a collection has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Bytes of both, on disk.
    pub bytes: u64,
}

impl ImageStore {
    /// Remove all content that no image in the index needs, and none of the images in use (by [`super::Image::id`]).
    /// `None` if somebody is adding an image at this moment: try again later.
    pub fn collect(&self, in_use: &HashSet<Digest>) -> Result<Option<Collected>, StoreError> {
        let Some(_lock) = self.try_removing()? else { return Ok(None) };
        let index = self.index()?;
        let mut needed = Needed::default();
        for entry in &index.entries {
            needed.blobs.insert(entry.manifest);
            let manifest = self.manifest(&entry.manifest)?;
            needed.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
            self.need(&manifest.config, &mut needed)?;
        }
        for id in in_use {
            match self.need(id, &mut needed) {
                // It is in use, so it was there; but nothing can be protected that is not known.
                Err(StoreError::Missing { .. }) => {}
                other => other?,
            }
        }
        let mut collected = Collected::default();
        for (path, name) in children(&self.root.join("blobs/sha256"))? {
            if !needed.blobs.iter().any(|digest| digest.hex() == name) {
                let meta = std::fs::symlink_metadata(&path).map_err(StoreError::io("reading", &path))?;
                std::fs::remove_file(&path).map_err(StoreError::io("removing", &path))?;
                collected.blobs += 1;
                collected.bytes += meta.blocks() * 512;
            }
        }
        for (path, name) in children(&self.root.join("layers"))? {
            if name != "empty" && !needed.layers.iter().any(|digest| digest.hex() == name) {
                // Out of sight first: half a layer must never be found under its name.
                let out = self.root.join("work").join(unique());
                std::fs::rename(&path, &out).map_err(StoreError::io("moving", &path))?;
                collected.bytes += size_on_disk(&out);
                std::fs::remove_dir_all(&out).map_err(StoreError::io("removing", &out))?;
                collected.layers += 1;
            }
        }
        self.empty_work()?;
        Ok(Some(collected))
    }

    /// A configuration and the layers that it names.
    fn need(&self, id: &Digest, needed: &mut Needed) -> Result<(), StoreError> {
        if needed.blobs.insert(*id) {
            needed.layers.extend(chains(&diff_ids(&self.config(id)?)?));
        }
        Ok(())
    }

    /// Remove what killed processes have left, if nobody is at work.
    pub(super) fn clean(&self) -> Result<(), StoreError> {
        match self.try_removing()? {
            Some(_lock) => self.empty_work(),
            None => Ok(()),
        }
    }

    fn empty_work(&self) -> Result<(), StoreError> {
        for (path, _) in children(&self.root.join("work"))? {
            let meta = std::fs::symlink_metadata(&path).map_err(StoreError::io("reading", &path))?;
            let removed =
                if meta.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(StoreError::io("removing", &path))?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Needed {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

fn children(directory: &Path) -> Result<Vec<(PathBuf, String)>, StoreError> {
    let failed = || StoreError::io("reading", directory);
    let mut children = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        children.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
    }
    Ok(children)
}

/// Bytes that go away with a directory. Roughly: hard links are counted each time.
fn size_on_disk(directory: &Path) -> u64 {
    let mut open = vec![directory.to_owned()];
    let mut bytes = 0;
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    bytes
}
