//! Manifests and configurations: read with bounds, and checked against each other.

use std::io::Read;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use super::{ImageStore, StoreError};
use crate::{Digest, Limits};

/// What matters of an image's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Digest,
    pub(crate) config_size: u64,
    /// Bottom first.
    pub(crate) layers: Vec<Blob>,
}

/// Content that a document names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A document that a name or an index leads to.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    /// Several images, for different platforms.
    Index(Vec<Descriptor>),
}

impl Blob {
    pub(crate) fn of(descriptor: &Descriptor) -> Result<Blob, StoreError> {
        Ok(Blob { digest: descriptor.digest().to_string().parse()?, size: descriptor.size() })
    }
}

/// Read a manifest or an index; which of the two it is, is decided by what is in it: media types lie or are missing.
pub(crate) fn parse(bytes: &[u8], what: &str, limits: &Limits) -> Result<Document, StoreError> {
    let invalid = |problem: String| StoreError::Invalid { what: what.to_owned(), problem };
    let document = |source| StoreError::Document { what: what.to_owned(), source };
    if bytes.len() as u64 > limits.manifest_bytes {
        return Err(invalid(format!("larger than {} bytes", limits.manifest_bytes)));
    }
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(document)?;
    match value.get("schemaVersion").and_then(serde_json::Value::as_u64) {
        Some(2) => {}
        Some(1) => {
            let problem = "a manifest of Docker's schema 1, which was abandoned in 2017: build and push the image again";
            return Err(invalid(problem.to_owned()));
        }
        _ => return Err(invalid("not an image manifest (schemaVersion is not 2)".to_owned())),
    }
    if value.get("manifests").is_some() {
        if value.get("layers").is_some() {
            // The same bytes must not be two things to two readers.
            return Err(invalid("both a manifest and an index".to_owned()));
        }
        let index: ImageIndex = serde_json::from_value(value).map_err(document)?;
        return Ok(Document::Index(index.manifests().clone()));
    }
    let manifest: ImageManifest = serde_json::from_value(value).map_err(document)?;
    if manifest.layers().len() > limits.layers {
        return Err(invalid(format!("{} layers (at most {})", manifest.layers().len(), limits.layers)));
    }
    let media = manifest.config().media_type().to_string();
    if !media.contains("image.config") && !media.contains("container.image") {
        return Err(invalid(format!("no container image (its configuration has the type {media})")));
    }
    let layers = manifest.layers().iter().map(Blob::of).collect::<Result<Vec<_>, _>>()?;
    if let Some(large) = layers.iter().find(|layer| layer.size > limits.blob_bytes) {
        return Err(invalid(format!(
            "layer {} has {} bytes (at most {})",
            large.digest, large.size, limits.blob_bytes
        )));
    }
    let config = Blob::of(manifest.config())?;
    if config.size > limits.manifest_bytes {
        return Err(invalid(format!("its configuration has more than {} bytes", limits.manifest_bytes)));
    }
    Ok(Document::Manifest(Manifest { config: config.digest, config_size: config.size, layers }))
}

/// Read a configuration.
pub(crate) fn parse_config(bytes: &[u8], what: &str) -> Result<ImageConfiguration, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Document { what: what.to_owned(), source })
}

/// Digests of the plain layers, bottom first.
pub(crate) fn diff_ids(config: &ImageConfiguration) -> Result<Vec<Digest>, StoreError> {
    config.rootfs().diff_ids().iter().map(|id| Ok(id.parse::<Digest>()?)).collect()
}

/// Names of the unpacked layers, bottom first.
pub(crate) fn chains(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chains.push(Digest::chain(chains.last(), diff_id));
    }
    chains
}

/// Read at most so much; an error if there is more.
pub(crate) fn read_bounded(source: impl Read, limit: u64, what: &str) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let path = std::path::Path::new(what);
    source.take(limit + 1).read_to_end(&mut bytes).map_err(StoreError::io("reading", path))?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::Invalid {
            what: what.to_owned(),
            problem: format!("larger than {limit} bytes"),
        });
    }
    Ok(bytes)
}

impl ImageStore {
    /// A manifest that the index names.
    pub(crate) fn manifest(&self, digest: &Digest) -> Result<Manifest, StoreError> {
        let bytes = self.small_blob("manifest", digest)?;
        match parse(&bytes, &format!("manifest {digest}"), &self.limits)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(StoreError::Invalid {
                what: format!("manifest {digest}"),
                problem: "an index of several images".to_owned(),
            }),
        }
    }

    /// A configuration that a manifest names.
    pub(crate) fn config(&self, digest: &Digest) -> Result<ImageConfiguration, StoreError> {
        parse_config(&self.small_blob("configuration", digest)?, &format!("configuration {digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media: &str, size: u64) -> serde_json::Value {
        serde_json::json!({"mediaType": media, "digest": Digest::of(b"x").to_string(), "size": size})
    }

    #[test]
    fn manifests_and_indexes() {
        let config = descriptor("application/vnd.oci.image.config.v1+json", 10);
        let layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", 20);
        let manifest = |layers: usize, config: &serde_json::Value| {
            serde_json::json!({"schemaVersion": 2, "config": config, "layers": vec![layer.clone(); layers]})
                .to_string()
        };
        let limits = Limits { layers: 3, manifest_bytes: 4000, blob_bytes: 1000, ..Limits::default() };
        let read = |text: &str| parse(text.as_bytes(), "it", &limits);
        assert!(matches!(read(&manifest(3, &config)), Ok(Document::Manifest(m)) if m.layers.len() == 3));
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor("x", 1)]}).to_string();
        assert!(matches!(read(&index), Ok(Document::Index(entries)) if entries.len() == 1));
        let both = serde_json::json!({"schemaVersion": 2, "manifests": [], "layers": [], "config": config});
        let large =
            serde_json::json!({"schemaVersion": 2, "config": config, "layers": [descriptor("l", 1001)]});
        let foreign = descriptor("application/vnd.cncf.helm.config.v1+json", 10);
        let sha512 = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":"sha512:00"},"layers":[]}"#;
        for (text, expected) in [
            (manifest(4, &config), "4 layers"),
            (
                manifest(1, &descriptor("application/vnd.oci.image.config.v1+json", 5000)),
                "configuration has more",
            ),
            (manifest(1, &foreign), "no container image"),
            (both.to_string(), "both"),
            (large.to_string(), "1001 bytes"),
            (r#"{"schemaVersion":1}"#.to_owned(), "schema 1"),
            ("{}".to_owned(), "schemaVersion"),
            ("<html>".to_owned(), "cannot be understood"),
            (r#"{"schemaVersion":2}"#.to_owned(), "cannot be understood"),
            (" ".repeat(5000), "larger than"),
            (sha512.to_owned(), ""),
        ] {
            let error = read(&text).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error} / {expected}");
        }
    }
}
