//! OCI image layouts: `index.json`, `blobs/sha256/…`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{Files, ImportError, names, only_one};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::documents::{Blob, Document, parse, read_bounded};
use crate::store::index::{FULL_NAME, REF_NAME};
use crate::store::{Image, ImageStore};

/// Indexes within indexes.
const DEEPEST: usize = 4;

/// A layout in a directory. Symbolic links in it are not followed.
pub(super) struct Directory {
    path: PathBuf,
    root: OwnedFd,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Directory, ImportError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| ImportError::Read { path: path.to_owned(), source: error.into() })?;
        Ok(Directory { path: path.to_owned(), root })
    }

    fn file(&self, name: &str) -> Result<Option<std::fs::File>, ImportError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let failed = |source| ImportError::Read { path: self.path.join(name), source };
        match rustix::fs::openat2(&self.root, name, flags, Mode::empty(), how) {
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(failed(error.into())),
            Ok(file) => {
                let file = std::fs::File::from(file);
                match file.metadata().map_err(failed)?.is_file() {
                    true => Ok(Some(file)),
                    false => Err(failed(io::Error::other("not a regular file"))),
                }
            }
        }
    }

    fn need(&self, name: &str) -> Result<std::fs::File, ImportError> {
        self.file(name)?.ok_or_else(|| ImportError::Missing { name: name.to_owned() })
    }
}

impl Files for Directory {
    fn document(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        match self.file(name)? {
            Some(file) => Ok(Some(read_bounded(file, limit, name)?)),
            None => Ok(None),
        }
    }

    fn blob(&self, store: &ImageStore, name: &str, expected: &Blob) -> Result<(), ImportError> {
        store.add_blob(self.need(name)?, Some(expected))?;
        Ok(())
    }

    fn layer(&self, store: &ImageStore, name: &str) -> Result<Blob, ImportError> {
        Ok(store.add_layer(self.need(name)?)?)
    }
}

/// One image of a layout: all descriptors with the same names belong to it, for different platforms.
struct Group {
    names: Vec<String>,
    descriptors: Vec<Descriptor>,
}

pub(super) fn import(
    store: &ImageStore,
    files: &impl Files,
    index: &[u8],
    name: Option<&Reference>,
) -> Result<Vec<Image>, ImportError> {
    let index: ImageIndex = serde_json::from_slice(index)
        .map_err(|source| ImportError::Document { name: "index.json".to_owned(), source })?;
    let groups = group(index.manifests());
    if groups.is_empty() {
        return Err(ImportError::NotAnImage);
    }
    let shown = |group: &Group| group.names.first().cloned().unwrap_or_else(|| "without a name".to_owned());
    only_one(name, &groups.iter().map(shown).collect::<Vec<_>>())?;
    let mut images = Vec::new();
    for group in groups {
        let names = names(name, &group.names)?;
        let (blob, bytes) = resolve(store, files, &group.descriptors)?;
        let Document::Manifest(manifest) =
            parse(&bytes, &format!("manifest {}", blob.digest), &store.limits)?
        else {
            return Err(ImportError::NotAnImage);
        };
        let config = Blob { digest: manifest.config, size: manifest.config_size };
        for part in manifest.layers.iter().chain([&config]) {
            if !store.has_blob(part) {
                files.blob(store, &path_of(&part.digest), part)?;
            }
        }
        store.add_blob(bytes.as_slice(), Some(&blob))?;
        let size = store.unpack_image(&manifest)?;
        images.push(store.record(blob.digest, blob.size, &names, Vec::new(), size)?);
    }
    Ok(images)
}

/// Descriptors with the same name are one image; one without a name stands alone unless others differ by platform only.
fn group(descriptors: &[Descriptor]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for descriptor in descriptors {
        let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|all| all.get(key)).cloned();
        let names: Vec<String> = annotation(FULL_NAME).or_else(|| annotation(REF_NAME)).into_iter().collect();
        let same = |group: &&mut Group| {
            group.names == names
                && descriptor.platform().is_some()
                && group.descriptors[0].platform().is_some()
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.descriptors.push(descriptor.clone()),
            None => groups.push(Group { names, descriptors: vec![descriptor.clone()] }),
        }
    }
    groups
}

/// Go down through indexes to the manifest for this machine. Returns it with its bytes, which have the right digest.
fn resolve(
    store: &ImageStore,
    files: &impl Files,
    descriptors: &[Descriptor],
) -> Result<(Blob, Vec<u8>), ImportError> {
    let mut descriptors = descriptors.to_vec();
    for _ in 0..DEEPEST {
        let chosen = store
            .host
            .choose(&descriptors)
            .map_err(|found| ImportError::Platform { wanted: store.host.to_string(), found })?;
        let blob = Blob::of(chosen)?;
        let name = path_of(&blob.digest);
        let bytes = files
            .document(&name, store.limits.manifest_bytes)?
            .ok_or_else(|| ImportError::Missing { name: name.clone() })?;
        let found = Digest::of(&bytes);
        if found != blob.digest || bytes.len() as u64 != blob.size {
            return Err(crate::store::blobs::mismatch("manifest", &blob.digest, &found).into());
        }
        match parse(&bytes, &format!("manifest {}", blob.digest), &store.limits)? {
            Document::Manifest(_) => return Ok((blob, bytes)),
            Document::Index(below) => descriptors = below,
        }
    }
    Err(ImportError::Invalid {
        what: "index.json".to_owned(),
        problem: "indexes within indexes within …".to_owned(),
    })
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
