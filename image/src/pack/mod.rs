//! Layers in the making: plain archives are compressed, directories become archives.

mod directory;

use std::fs::File;
use std::io::{self, Read, Write};

pub use directory::PackError;
pub(crate) use directory::{write_directory, write_tree};

use flate2::write::GzEncoder;

use crate::digest::{Digest, Hashing};
use crate::store::blobs::Unfinished;
use crate::store::documents::Blob;
use crate::store::index::MANIFEST_TYPE;
use crate::store::{ImageStore, StoreError};
use crate::tar::{Compression, decompress};

/// gzip, because everybody reads it: tools that speak Docker's older formats refuse zstd. The first few levels are by far
/// the fastest, and not much larger.
const LEVEL: u32 = 2;

/// A layer that is compressed while it is written.
pub(crate) struct LayerWriter(Hashing<GzEncoder<Unfinished>>);

impl Write for LayerWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl ImageStore {
    /// Begin a layer.
    pub(crate) fn new_layer(&self) -> Result<LayerWriter, StoreError> {
        let encoder = GzEncoder::new(self.new_blob()?, flate2::Compression::new(LEVEL));
        Ok(LayerWriter(Hashing::new(encoder)))
    }

    /// The blob, and the digest of the plain layer.
    pub(crate) fn finish_layer(&self, layer: LayerWriter) -> Result<(Blob, Digest), StoreError> {
        let (encoder, diff_id, _) = layer.0.finish();
        let path = encoder.get_ref().path().to_owned();
        let blob = encoder.finish().map_err(StoreError::io("writing", &path))?;
        Ok((self.finish_blob(blob, None)?, diff_id))
    }

    /// Store a layer that is a file: as it is if it is compressed, compressed if it is plain.
    pub(crate) fn add_layer(&self, mut file: File) -> Result<Blob, StoreError> {
        let path = std::path::Path::new("layer");
        let (compression, mut plain) = decompress(&mut file).map_err(StoreError::io("reading", path))?;
        if compression == Compression::None {
            let mut layer = self.new_layer()?;
            let limit = self.limits.unpacked_bytes;
            let copied = io::copy(&mut (&mut plain).take(limit), &mut layer);
            copied.map_err(StoreError::io("compressing", path))?;
            return Ok(self.finish_layer(layer)?.0);
        }
        drop(plain);
        io::Seek::rewind(&mut file).map_err(StoreError::io("reading", path))?;
        self.add_blob(file, None)
    }

    /// Store a configuration, and a manifest that names it with the layers. Returns both.
    pub(crate) fn add_manifest(&self, config: &[u8], layers: &[Blob]) -> Result<(Blob, Blob), StoreError> {
        let config = self.add_blob(config, None)?;
        let mut described = Vec::new();
        for layer in layers {
            described.push(serde_json::json!({
                "mediaType": self.media_type(layer)?,
                "digest": layer.digest.to_string(),
                "size": layer.size,
            }));
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.digest.to_string(),
                "size": config.size,
            },
            "layers": described,
        });
        Ok((self.add_blob(manifest.to_string().as_bytes(), None)?, config))
    }

    fn media_type(&self, layer: &Blob) -> Result<&'static str, StoreError> {
        let path = self.blob_path(&layer.digest);
        let file = File::open(&path).map_err(StoreError::io("opening", &path))?;
        let (compression, _) = decompress(file).map_err(StoreError::io("reading", &path))?;
        Ok(match compression {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        })
    }
}
