//! Images with one layer, from a root file system as mmdebstrap makes it.

use std::fs::File;
use std::path::{Path, PathBuf};

use oci_spec::image::{Arch, Config, ImageConfiguration, ImageConfigurationBuilder, Os, RootFsBuilder};

use crate::pack::{PackError, write_directory};
use crate::reference::Reference;
use crate::store::{Image, ImageStore, StoreError};
use crate::unpack::{Budget, UnpackError};

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The source cannot be read.
    #[error("reading {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The directory cannot be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The archive is no root file system.
    #[error("unpacking {path}")]
    Unpack {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<UnpackError>,
    },
    /// The configuration cannot be written.
    #[error("writing the configuration")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Storing it failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageStore {
    /// Make an image of a root file system: a directory, or an archive of one (plain, gzip or zstd). The same input gives
    /// the same image.
    pub fn build_rootfs(
        &self,
        rootfs: impl AsRef<Path>,
        name: &Reference,
        config: Config,
    ) -> Result<Image, BuildError> {
        let path = rootfs.as_ref();
        let failed = |source| BuildError::Read { path: path.to_owned(), source };
        let _adding = self.adding()?;
        let mut budget = Budget::new(&self.limits);
        let (blob, unpacked) = if std::fs::metadata(path).map_err(failed)?.is_dir() {
            let mut layer = self.new_layer()?;
            write_directory(path, &mut layer)?;
            let (blob, diff_id) = self.finish_layer(layer)?;
            let size = self.unpack_layer(&[diff_id], &blob, &diff_id, &mut budget)?;
            (blob, (diff_id, size))
        } else {
            let blob = self.add_layer(File::open(path).map_err(failed)?)?;
            let layer = self.blob_path(&blob.digest);
            let layer = File::open(&layer).map_err(StoreError::io("opening", &layer))?;
            let (directory, diff_id, size) = self
                .unpack_stream(layer, &[], &mut budget)?
                .map_err(|source| BuildError::Unpack { path: path.to_owned(), source: Box::new(source) })?;
            self.publish_layer(directory, &diff_id, size)?;
            (blob, (diff_id, size))
        };
        let (diff_id, size) = unpacked;
        let wrong = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Config(error);
        let config = self.configuration(config, &diff_id.to_string()).map_err(|error| wrong(error.into()))?;
        let config = serde_json::to_vec(&config).map_err(|error| wrong(error.into()))?;
        let (manifest, _) = self.add_manifest(&config, &[blob])?;
        Ok(self.record(manifest.digest, manifest.size, &[name.to_string()], Vec::new(), size)?)
    }

    fn configuration(
        &self,
        config: Config,
        diff_id: &str,
    ) -> Result<ImageConfiguration, oci_spec::OciSpecError> {
        let rootfs = RootFsBuilder::default().typ("layers").diff_ids(vec![diff_id.to_owned()]).build()?;
        ImageConfigurationBuilder::default()
            .architecture(Arch::from(self.host.architecture))
            .os(Os::Linux)
            .config(config)
            .rootfs(rootfs)
            .build()
    }
}
