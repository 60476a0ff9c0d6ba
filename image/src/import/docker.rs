//! What `docker save` writes: `manifest.json` names a configuration and layers. It has no manifest, so one is made.

use serde::Deserialize;

use super::{Files, ImportError, names, only_one};
use crate::reference::Reference;
use crate::store::documents::{chains, diff_ids, parse_config};
use crate::store::{Image, ImageStore};
use crate::unpack::Budget;

/// Images in one archive.
const MOST_IMAGES: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(super) fn import(
    store: &ImageStore,
    files: &impl Files,
    manifest: &[u8],
    name: Option<&Reference>,
) -> Result<Vec<Image>, ImportError> {
    let saved: Vec<SavedImage> = serde_json::from_slice(manifest)
        .map_err(|source| ImportError::Document { name: "manifest.json".to_owned(), source })?;
    if saved.is_empty() {
        return Err(ImportError::NotAnImage);
    }
    let invalid = |what: &str, problem: String| ImportError::Invalid { what: what.to_owned(), problem };
    if saved.len() > MOST_IMAGES {
        return Err(invalid("manifest.json", format!("{} images (at most {MOST_IMAGES})", saved.len())));
    }
    let shown = |image: &SavedImage| match image.repo_tags.iter().flatten().next() {
        Some(tag) => tag.clone(),
        None => "without a name".to_owned(),
    };
    only_one(name, &saved.iter().map(shown).collect::<Vec<_>>())?;
    let mut images = Vec::new();
    for image in saved {
        let names = names(name, &image.repo_tags.unwrap_or_default())?;
        let layers = image.layers.unwrap_or_default();
        if layers.len() > store.limits.layers {
            return Err(invalid(
                &image.config,
                format!("{} layers (at most {})", layers.len(), store.limits.layers),
            ));
        }
        let config_bytes = files
            .document(&image.config, store.limits.manifest_bytes)?
            .ok_or_else(|| ImportError::Missing { name: image.config.clone() })?;
        let config = parse_config(&config_bytes, &image.config)?;
        let host = store.host.architecture;
        if config.architecture().to_string() != host {
            let found = format!("{}/{}", config.os(), config.architecture());
            return Err(ImportError::Platform { wanted: store.host.to_string(), found });
        }
        let diff_ids = diff_ids(&config)?;
        if diff_ids.len() != layers.len() {
            let problem = format!("it has {} layers, manifest.json names {}", diff_ids.len(), layers.len());
            return Err(invalid(&image.config, problem));
        }
        let chains = chains(&diff_ids);
        let mut budget = Budget::new(&store.limits);
        let (mut blobs, mut size) = (Vec::new(), 0);
        for (i, (layer, diff_id)) in layers.iter().zip(&diff_ids).enumerate() {
            let blob = files.layer(store, layer)?;
            size += store.unpack_layer(&chains[..=i], &blob, diff_id, &mut budget)?;
            blobs.push(blob);
        }
        let (manifest, _) = store.add_manifest(&config_bytes, &blobs)?;
        images.push(store.record(manifest.digest, manifest.size, &names, Vec::new(), size)?);
    }
    Ok(images)
}
