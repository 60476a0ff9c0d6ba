//! The images of the machine, from its image store.

use std::sync::Arc;

use async_trait::async_trait;
use client::ErrorChain;
use image::{Auth, ImageStore, Progress, PullOptions, Reference};
use runtime::Rootfs;

use super::{Credentials, Image, ImageError, ImageSummary, Images};
use crate::spec::{Account, ImageConfig};

/// Looks into a store; what is not there is pulled into it.
#[derive(Debug, Clone)]
pub struct StoreImages {
    store: Arc<ImageStore>,
}

impl StoreImages {
    /// Of this store.
    pub fn new(store: Arc<ImageStore>) -> Self {
        Self { store }
    }

    /// Runs work on files away from the tasks that must not wait.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&ImageStore) -> T + Send + 'static) -> Option<T> {
        let store = Arc::clone(&self.store);
        // None only while the process is stopping.
        tokio::task::spawn_blocking(move || work(&store)).await.ok()
    }
}

fn parse(name: &str) -> Result<Reference, ImageError> {
    Reference::parse(name).map_err(|error| ImageError::Name { name: name.to_owned(), reason: ErrorChain(&error).to_string() })
}

fn convert(image: image::Image) -> Image {
    let config = image.config.config().as_ref();
    let texts = |texts: Option<&Vec<String>>| texts.cloned().unwrap_or_default();
    Image {
        id: image.id.to_string(),
        config: ImageConfig {
            env: texts(config.and_then(|config| config.env().as_ref())),
            entrypoint: texts(config.and_then(|config| config.entrypoint().as_ref())),
            cmd: texts(config.and_then(|config| config.cmd().as_ref())),
            working_dir: config.and_then(|config| config.working_dir().clone()).filter(|directory| !directory.is_empty()),
            user: config.and_then(|config| config.user().clone()).unwrap_or_default(),
            stop_signal: config.and_then(|config| config.stop_signal().clone()),
        },
        layers: image.layers,
        size: image.size,
    }
}

#[async_trait]
impl Images for StoreImages {
    async fn find(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let reference = parse(name)?.to_string();
        let found = self.blocking(move |store| store.get(&reference)).await;
        match found {
            Some(Ok(found)) => Ok(found.map(convert)),
            Some(Err(error)) => Err(ImageError::Inspect(ErrorChain(&error).to_string())),
            None => Ok(None),
        }
    }

    async fn pull(&self, name: &str, credentials: &[Credentials]) -> Result<Image, ImageError> {
        let reference = parse(name)?;
        let mut attempts: Vec<Auth> = credentials
            .iter()
            .map(|known| Auth::Basic { user: known.username.clone(), password: known.password.clone() })
            .collect();
        if attempts.is_empty() {
            attempts.push(Auth::Anonymous);
        }
        let mut refusal = String::new();
        for auth in attempts {
            let options = PullOptions { auth, ..PullOptions::default() };
            match self.store.pull(&reference, &options, &Progress::default()).await {
                Ok(image) => return Ok(convert(image)),
                Err(error) => refusal = ErrorChain(&error).to_string(),
            }
        }
        Err(ImageError::Pull(refusal))
    }

    fn registry(&self, name: &str) -> Option<String> {
        Reference::parse(name).ok().map(|reference| reference.registry().to_owned())
    }

    async fn list(&self) -> Vec<ImageSummary> {
        let images = match self.blocking(ImageStore::list).await {
            Some(Ok(images)) => images,
            Some(Err(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "the images cannot be listed");
                Vec::new()
            }
            None => Vec::new(),
        };
        images.into_iter().map(|image| ImageSummary { names: image.names, size: image.size }).collect()
    }

    async fn account(&self, rootfs: Rootfs, user: String) -> Result<Account, runtime::user::UserError> {
        let looked_up = tokio::task::spawn_blocking(move || {
            let account = runtime::user::lookup(&rootfs, &user)?;
            Ok(Account { uid: account.uid, gid: account.gid, image_groups: account.additional_gids, home: account.home })
        });
        match looked_up.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}
