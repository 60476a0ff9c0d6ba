//! Images from archives and directories: OCI image layouts, and what `docker save` writes.
//!
//! An archive is read once, from front to back, so it can come from a pipe. Its files wait in `work/` under names of our
//! own until it is known what they are. Nothing of it is believed: digests are computed, sizes bounded, names never used as paths.

mod archive;
mod docker;
mod layout;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::reference::{Reference, ReferenceError};
use crate::store::documents::Blob;
use crate::store::{Image, ImageStore, StoreError};
use crate::tar::TarError;

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source cannot be read.
    #[error("reading {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The archive is damaged.
    #[error("reading the archive")]
    Archive(#[from] TarError),
    /// It is something else.
    #[error(
        "no image found: neither an OCI image layout (index.json) nor an archive of docker save (manifest.json); \
         for a root file system use `coracle image build-rootfs`"
    )]
    NotAnImage,
    /// A file that another one names is not there.
    #[error("{name} is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A document in it cannot be read.
    #[error("{name} cannot be understood")]
    Document {
        /// Its name.
        name: String,
        /// Where it is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// It holds more than it may, or contradicts itself.
    #[error("{what}: {problem}")]
    Invalid {
        /// What of it.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// A name in it is none.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// There are several images, but one name was given.
    #[error("the archive holds {count} images ({names}): a name can be given to one only")]
    SeveralImages {
        /// How many.
        count: usize,
        /// What they are called in it.
        names: String,
    },
    /// There is no image for this machine.
    #[error("no image for {wanted}; there are: {found}")]
    Platform {
        /// This machine.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// Storing it failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where the files of an image come from.
trait Files {
    /// A small document; `None` if there is no such file.
    fn document(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError>;

    /// Copy a file into the store as a blob with a digest that is known.
    fn blob(&self, store: &ImageStore, name: &str, expected: &Blob) -> Result<(), ImportError>;

    /// Copy a layer of any form into the store; plain ones are compressed.
    fn layer(&self, store: &ImageStore, name: &str) -> Result<Blob, ImportError>;
}

impl ImageStore {
    /// Import all images of a directory or archive. `name` renames the one image that there is; without it they keep the
    /// names that they have there.
    pub fn import(
        &self,
        source: impl AsRef<Path>,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, ImportError> {
        let path = source.as_ref();
        let failed = |source| ImportError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            let _adding = self.adding()?;
            return self.import_files(&layout::Directory::open(path)?, name);
        }
        self.import_stream(std::fs::File::open(path).map_err(failed)?, name)
    }

    /// Import all images of an archive, compressed or not.
    pub fn import_stream(
        &self,
        source: impl Read,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, ImportError> {
        let _adding = self.adding()?;
        let archive = archive::Archive::stage(self, source)?;
        self.import_files(&archive, name)
    }

    fn import_files(&self, files: &impl Files, name: Option<&Reference>) -> Result<Vec<Image>, ImportError> {
        // What `docker save` writes nowadays is both; the layout says more.
        if let Some(index) = files.document("index.json", self.limits.manifest_bytes)? {
            return layout::import(self, files, &index, name);
        }
        if let Some(manifest) = files.document("manifest.json", self.limits.manifest_bytes)? {
            return docker::import(self, files, &manifest, name);
        }
        Err(ImportError::NotAnImage)
    }
}

/// The names under which an image is recorded: the one that was given, or those that it has in the archive.
fn names(given: Option<&Reference>, own: &[String]) -> Result<Vec<String>, ImportError> {
    match given {
        Some(name) => Ok(vec![name.to_string()]),
        None => own.iter().map(|name| Ok(Reference::parse(name)?.to_string())).collect(),
    }
}

fn only_one(given: Option<&Reference>, names: &[String]) -> Result<(), ImportError> {
    match given {
        Some(_) if names.len() > 1 => {
            Err(ImportError::SeveralImages { count: names.len(), names: names.join(", ") })
        }
        _ => Ok(()),
    }
}
