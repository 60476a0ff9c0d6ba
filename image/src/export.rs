//! An image as one archive: an OCI image layout, with the `manifest.json` that `docker load` looks for.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ::tar::{Builder, EntryType, Header};

use crate::Digest;
use crate::reference::Reference;
use crate::store::index::{FULL_NAME, INDEX_TYPE, MANIFEST_TYPE, REF_NAME};
use crate::store::{ImageStore, LAYOUT, StoreError};

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such image.
    #[error("no image {name:?} here (see `coracle image list`)")]
    NotFound {
        /// As it was asked for.
        name: String,
    },
    /// The archive cannot be written.
    #[error("writing {path}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Reading it failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageStore {
    /// Write an image to a file: beside first, so that the name never stands for half an image.
    pub fn export(&self, name: &str, path: impl AsRef<Path>) -> Result<(), ExportError> {
        let path = path.as_ref();
        let failed = |source| ExportError::Write { path: path.to_owned(), source };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let file = File::create(&beside).map_err(failed)?;
        let written = self
            .export_to(name, io::BufWriter::with_capacity(128 << 10, &file))
            .and_then(|()| file.sync_all().and_then(|()| std::fs::rename(&beside, path)).map_err(failed));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    /// Write an image to a stream.
    pub fn export_to(&self, name: &str, target: impl Write) -> Result<(), ExportError> {
        // Nothing is collected while it is read.
        let _adding = self.adding()?;
        let image = self.get(name)?.ok_or_else(|| ExportError::NotFound { name: name.to_owned() })?;
        let manifest = self.manifest(&image.manifest)?;
        let manifest_size = self.small_blob("manifest", &image.manifest)?.len();
        // The name it was asked for, if it is one of its names; otherwise all.
        let asked = Reference::parse(name).ok().map(|reference| reference.to_string());
        let names: Vec<String> = match asked.filter(|name| image.names.contains(name)) {
            Some(name) => vec![name],
            None => image.names.clone(),
        };
        let descriptor = |name: Option<&String>| {
            let mut descriptor = serde_json::json!({
                "mediaType": MANIFEST_TYPE,
                "digest": image.manifest.to_string(),
                "size": manifest_size,
                "platform": {"os": "linux", "architecture": self.host.architecture},
            });
            if let Some(name) = name {
                let tag = Reference::parse(name).ok().and_then(|name| name.tag().map(str::to_owned));
                descriptor["annotations"] =
                    serde_json::json!({FULL_NAME: name, REF_NAME: tag.unwrap_or_else(|| name.clone())});
            }
            descriptor
        };
        let descriptors: Vec<_> = if names.is_empty() {
            vec![descriptor(None)]
        } else {
            names.iter().map(|name| descriptor(Some(name))).collect()
        };
        let index =
            serde_json::json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": descriptors});
        let in_layout = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let familiar = |name: &String| Reference::parse(name).map_or(name.clone(), |name| name.familiar());
        let docker = serde_json::json!([{
            "Config": in_layout(&manifest.config),
            "RepoTags": names.iter().map(familiar).collect::<Vec<_>>(),
            "Layers": manifest.layers.iter().map(|layer| in_layout(&layer.digest)).collect::<Vec<_>>(),
        }]);
        let failed = |source| ExportError::Write { path: PathBuf::from("the archive"), source };
        let mut archive = Builder::new(target);
        let mut document = |name: &str, bytes: &[u8]| {
            archive.append_data(&mut header(bytes.len() as u64), name, bytes).map_err(failed)
        };
        document("oci-layout", LAYOUT)?;
        document("index.json", index.to_string().as_bytes())?;
        document("manifest.json", docker.to_string().as_bytes())?;
        let mut written = std::collections::HashSet::new();
        let blobs = [image.manifest, manifest.config]
            .into_iter()
            .chain(manifest.layers.iter().map(|layer| layer.digest));
        for digest in blobs.filter(|digest| written.insert(*digest)) {
            let path = self.blob_path(&digest);
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(StoreError::Missing { what: "blob", digest }.into());
                }
                other => other.map_err(StoreError::io("opening", &path))?,
            };
            let size = file.metadata().map_err(StoreError::io("reading", &path))?.len();
            archive.append_data(&mut header(size), in_layout(&digest), file).map_err(failed)?;
        }
        let mut target = archive.into_inner().map_err(failed)?;
        target.flush().map_err(failed)
    }
}

fn header(size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
