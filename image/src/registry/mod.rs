//! Pulling an image from a registry.
//!
//! Follows the OCI distribution specification, with the token authentication of the distribution project. Layers are fetched
//! a few at a time, straight to disk, and go on where they were when a link breaks. An image appears in the store when all of it
//! is verified and unpacked.

pub mod auth;
mod client;
mod download;
mod error;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_spec::image::Descriptor;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::documents::{Blob, Document, Manifest, chains, diff_ids, parse, parse_config};
use crate::store::{Image, ImageStore, StoreError};
use crate::unpack::Budget;
use auth::Auth;
use client::Session;

pub use error::PullError;

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Who we are.
    pub auth: Auth,
    /// Registries (as they are written in references) that are spoken to without TLS. Those on this machine
    /// (`localhost`, `127.…`, `[::1]`) need not be named.
    pub plain_http: Vec<String>,
    /// Further certificate authorities to trust, as PEM.
    pub certificate_authorities: Vec<Vec<u8>>,
    /// Layers at a time; 0 means three.
    pub parallel: usize,
}

/// How far a pull is. Cheap to clone; the clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    total: AtomicU64,
    unpacked: AtomicU64,
    layers: AtomicU64,
}

/// See [`Progress::now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressNow {
    /// Bytes of layers that are here.
    pub bytes: u64,
    /// Bytes of all layers; 0 until it is known.
    pub total_bytes: u64,
    /// Layers that are unpacked.
    pub layers: u64,
    /// All layers.
    pub total_layers: u64,
}

impl Progress {
    /// How far it is at this moment.
    pub fn now(&self) -> ProgressNow {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProgressNow {
            bytes: read(&self.0.done),
            total_bytes: read(&self.0.total),
            layers: read(&self.0.unpacked),
            total_layers: read(&self.0.layers),
        }
    }

    fn begin(&self, layers: &[Blob]) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.unpacked.store(0, Ordering::Relaxed);
        self.0.total.store(layers.iter().map(|layer| layer.size).sum(), Ordering::Relaxed);
        self.0.layers.store(layers.len() as u64, Ordering::Relaxed);
    }

    fn forward(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn back(&self, bytes: u64) {
        self.0.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Indexes within indexes.
const DEEPEST: usize = 4;

impl ImageStore {
    /// Pull an image and unpack it. What is here already is not fetched again. Dropping the future stops the pull and
    /// leaves nothing half-done behind.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &Reference,
        options: &PullOptions,
        progress: &Progress,
    ) -> Result<Image, PullError> {
        let store = Arc::clone(self);
        let _adding = blocking(move || store.adding()).await?;
        let session = Arc::new(Session::new(reference, options, &self.limits)?);
        let (top, manifest_blob, bytes, manifest) = self.resolve(&session, reference).await?;
        let config = session.document(&blob_path(&manifest.config), "", Some(&manifest.config)).await?;
        let diff_ids = {
            let config = parse_config(&config, &format!("the configuration of {reference}"))?;
            diff_ids(&config)?
        };
        if diff_ids.len() != manifest.layers.len() {
            let problem = format!(
                "the manifest has {} layers and the configuration {}",
                manifest.layers.len(),
                diff_ids.len()
            );
            return Err(StoreError::Invalid { what: reference.to_string(), problem }.into());
        }
        let size = self.fetch_and_unpack(&session, &manifest, diff_ids, options, progress).await?;
        let (store, reference) = (Arc::clone(self), reference.clone());
        let recorded = blocking(move || {
            store.add_blob(
                config.as_slice(),
                Some(&Blob { digest: manifest.config, size: manifest.config_size }),
            )?;
            store.add_blob(bytes.as_slice(), Some(&manifest_blob))?;
            let repo_digest = format!("{}@{top}", reference.name());
            store.record(
                manifest_blob.digest,
                manifest_blob.size,
                &[reference.to_string()],
                vec![repo_digest],
                size,
            )
        });
        Ok(recorded.await?)
    }

    /// From the name to the manifest for this machine. Also returns the digest of what the name itself stands for.
    async fn resolve(
        &self,
        session: &Session,
        reference: &Reference,
    ) -> Result<(Digest, Blob, Vec<u8>, Manifest), PullError> {
        let target = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let mut wanted = reference.digest().copied();
        let mut bytes =
            session.document(&format!("manifests/{target}"), client::MANIFESTS, wanted.as_ref()).await?;
        let top = Digest::of(&bytes);
        for _ in 0..DEEPEST {
            let digest = Digest::of(&bytes);
            match parse(&bytes, &format!("the manifest of {reference}"), &self.limits)? {
                Document::Manifest(manifest) => {
                    let blob = Blob { digest, size: bytes.len() as u64 };
                    return Ok((top, blob, bytes, manifest));
                }
                Document::Index(entries) => {
                    let chosen = self.choose(&entries, reference)?;
                    wanted = Some(Blob::of(chosen)?.digest);
                    let path = format!("manifests/{}", chosen.digest());
                    bytes = session.document(&path, client::MANIFESTS, wanted.as_ref()).await?;
                }
            }
        }
        let problem = "indexes within indexes within …".to_owned();
        Err(StoreError::Invalid { what: reference.to_string(), problem }.into())
    }

    fn choose<'a>(
        &self,
        entries: &'a [Descriptor],
        reference: &Reference,
    ) -> Result<&'a Descriptor, PullError> {
        self.host.choose(entries).map_err(|found| PullError::Platform {
            reference: reference.to_string(),
            wanted: self.host.to_string(),
            found,
        })
    }

    /// Fetch several layers at a time; unpack them from the bottom up as they come. Returns the bytes of all files.
    async fn fetch_and_unpack(
        self: &Arc<Self>,
        session: &Arc<Session>,
        manifest: &Manifest,
        diff_ids: Vec<Digest>,
        options: &PullOptions,
        progress: &Progress,
    ) -> Result<u64, PullError> {
        progress.begin(&manifest.layers);
        let parallel = if options.parallel == 0 { 3 } else { options.parallel };
        let places = Arc::new(Semaphore::new(parallel));
        // Aborted when it is dropped, so that an error or a dropped pull ends the others.
        let mut tasks = JoinSet::new();
        let mut arrivals = Vec::new();
        for layer in manifest.layers.clone() {
            let (store, session) = (Arc::clone(self), Arc::clone(session));
            let (places, progress) = (Arc::clone(&places), progress.clone());
            let (arrived, arrival) = tokio::sync::oneshot::channel();
            arrivals.push(arrival);
            tasks.spawn(async move {
                // Places are given in the order of asking: the lowest layers come first.
                let _place = places.acquire_owned().await;
                let outcome = download::layer(&store, &session, &layer, &progress).await;
                // Nobody waits any more when another layer has failed.
                let _ = arrived.send(outcome);
            });
        }
        let chains = chains(&diff_ids);
        let mut budget = Budget::new(&self.limits);
        let mut size = 0;
        for (i, arrival) in arrivals.into_iter().enumerate() {
            let stopped = || PullError::Stopped { reference: session.reference().to_owned() };
            arrival.await.map_err(|_| stopped())??;
            let (store, layer, diff_id) = (Arc::clone(self), manifest.layers[i], diff_ids[i]);
            let chain = chains[..=i].to_vec();
            let mut layer_budget = budget.clone();
            let (layer_size, left) = blocking(move || {
                let size = store.unpack_layer(&chain, &layer, &diff_id, &mut layer_budget)?;
                Ok((size, layer_budget))
            })
            .await?;
            size += layer_size;
            budget = left;
            progress.0.unpacked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(size)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

/// Disk work goes to the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(StoreError::Invalid {
            what: "a task of the image store".to_owned(),
            problem: error.to_string(),
        }),
    }
}
