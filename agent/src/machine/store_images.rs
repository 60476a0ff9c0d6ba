//! The images of the machine, from its image store.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use image::{Auth, ImageStore, Progress, PullError, PullOptions, Reference};
use runtime::Rootfs;

use super::{Credentials, Image, ImageError, ImageSummary, Images};
use crate::spec::{Account, ImageConfig};

/// The image store of this node, and how its registries are spoken to.
#[derive(Debug)]
pub struct StoreImages {
    store: Arc<ImageStore>,
    options: PullOptions,
    /// Others use the store too: nothing here is ever in nobody's use.
    shared: bool,
    /// Pulls under way: pods that want the same image wait for the first one's pull.
    pulling: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl StoreImages {
    /// Images of this store.
    pub fn new(store: Arc<ImageStore>) -> Self {
        Self::with_options(store, PullOptions::default())
    }

    /// The same, with other than the usual ways to reach registries. Credentials come with each pull.
    pub fn with_options(store: Arc<ImageStore>, options: PullOptions) -> Self {
        Self { store, options, shared: false, pulling: Mutex::default() }
    }

    /// Images of a store that other nodes of this machine use too: none is ever taken for unused.
    pub fn shared(store: Arc<ImageStore>) -> Self {
        Self { shared: true, ..Self::new(store) }
    }

    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        // A panic elsewhere does not make a map of locks wrong.
        let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        pulling.retain(|_, turn| turn.strong_count() > 0);
        match pulling.get(name).and_then(Weak::upgrade) {
            Some(turn) => turn,
            None => {
                let turn = Arc::default();
                pulling.insert(name.to_owned(), Arc::downgrade(&turn));
                turn
            }
        }
    }
}

fn parse(name: &str) -> Result<Reference, ImageError> {
    Reference::parse(name).map_err(|error| ImageError::Name { name: name.to_owned(), reason: error.problem })
}

/// What it was pulled by says more than what it is.
fn id(image: &image::Image) -> String {
    image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string())
}

fn described(image: image::Image) -> Image {
    let config = image.config.config();
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let config = config.as_ref().map_or_else(ImageConfig::default, |config| ImageConfig {
        env: list(config.env()),
        entrypoint: list(config.entrypoint()),
        cmd: list(config.cmd()),
        working_dir: config.working_dir().clone(),
        user: config.user().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone(),
    });
    Image { id: id(&image), config, layers: image.layers, size: image.size }
}

#[async_trait]
impl Images for StoreImages {
    async fn find(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let reference = parse(name)?;
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.get(&reference.to_string())).await;
        match found {
            Ok(Ok(image)) => Ok(image.map(described)),
            Ok(Err(error)) => Err(ImageError::Inspect(client::ErrorChain(&error).to_string())),
            Err(error) => Err(ImageError::Inspect(error.to_string())),
        }
    }

    async fn pull(&self, name: &str, credentials: &[Credentials]) -> Result<Image, ImageError> {
        let reference = parse(name)?;
        let turn = self.turn(name);
        let _turn = turn.lock().await;
        let with = credentials.iter().map(|credentials| Auth::Basic {
            user: credentials.username.clone(),
            password: credentials.password.clone(),
        });
        let mut refused: Option<PullError> = None;
        // Without credentials last: what they open, everybody may have only if the registry says so.
        for auth in with.chain([Auth::Anonymous]) {
            let options = PullOptions { auth, ..self.options.clone() };
            match self.store.pull(&reference, &options, &Progress::default()).await {
                Ok(image) => return Ok(described(image)),
                Err(error) => {
                    let next = error.may_pass();
                    refused.get_or_insert(error);
                    if next {
                        break;
                    }
                }
            }
        }
        let message = refused.map(|error| client::ErrorChain(&error).to_string());
        Err(ImageError::Pull(message.unwrap_or_default()))
    }

    fn registry(&self, name: &str) -> Option<String> {
        Reference::parse(name).ok().map(|reference| reference.registry().to_owned())
    }

    async fn list(&self) -> Vec<ImageSummary> {
        let store = self.store.clone();
        let listed = tokio::task::spawn_blocking(move || store.list()).await;
        let images = match listed {
            Ok(Ok(images)) => images,
            Ok(Err(error)) => {
                tracing::warn!(error = %client::ErrorChain(&error), "listing images");
                Vec::new()
            }
            // Only fails when the process is stopping.
            Err(_) => Vec::new(),
        };
        let summary = |image: image::Image| ImageSummary {
            id: id(&image),
            pulled: !self.shared && !image.repo_digests.is_empty(),
            names: image.repo_digests.into_iter().chain(image.names).collect(),
            size: image.size,
        };
        images.into_iter().map(summary).collect()
    }

    async fn remove(&self, ids: &[String], in_use: &BTreeSet<String>) -> Result<(), ImageError> {
        let (store, ids, in_use) = (self.store.clone(), ids.to_vec(), in_use.clone());
        let removed = tokio::task::spawn_blocking(move || {
            let list = store.list()?;
            let used =
                list.iter().filter(|image| in_use.contains(&id(image))).map(|image| image.id).collect();
            for image in list.iter().filter(|image| ids.contains(&id(image)) && !in_use.contains(&id(image)))
            {
                store.remove(&image.id.to_string())?;
            }
            // Somebody who adds an image at this moment makes it nothing; the next collection takes it then.
            store.collect(&used).map(drop)
        });
        match removed.await {
            Ok(result) => result.map_err(|error| ImageError::Inspect(client::ErrorChain(&error).to_string())),
            Err(error) => Err(ImageError::Inspect(error.to_string())),
        }
    }

    async fn account(&self, rootfs: Rootfs, user: String) -> Result<Account, runtime::user::UserError> {
        let stopping = || runtime::user::UserError::Read {
            file: "/etc/passwd",
            source: io::Error::other("the agent is stopping"),
        };
        let found = tokio::task::spawn_blocking(move || runtime::user::lookup(&rootfs, &user)).await;
        let account = found.map_err(|_| stopping())??;
        Ok(Account {
            uid: account.uid,
            gid: account.gid,
            image_groups: account.additional_gids,
            home: account.home,
        })
    }
}
