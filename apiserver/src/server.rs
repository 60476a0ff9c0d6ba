//! The API server: what it is made of, and the way of a request through it.
//!
//! ```text
//! handle: authorise ─▶ limit ─▶ route ─▶ handler (get list watch create update patch delete) ─▶ render
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::ACCEPT;
use http::{Method, Request, Response};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::status::ApiError;
use store::{Store, StoreError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::config::Config;
use crate::error::Error;
use crate::handlers::{Call, Reply};
use crate::identity::Identity;
use crate::random;
use crate::registry::{Env, Part, Registry};
use crate::render;
use crate::request::accept;
use crate::request::params::{ListParams, Params};
use crate::request::path::{self, ResourcePath, Target};
use crate::watch_cache::Caches;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state of the cluster could not be read.
    #[error("filling the watch caches")]
    Fill(#[source] StoreError),
}

/// The API over one store.
#[derive(Debug)]
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) caches: Arc<Caches>,
    /// Ends watches and the task that feeds the caches.
    pub(crate) stop: CancellationToken,
    follower: Mutex<Option<JoinHandle<()>>>,
}

impl ApiServer {
    /// A server that has not started: it answers nothing yet.
    pub fn new(store: Arc<dyn Store>, config: Config) -> Arc<ApiServer> {
        let registry = Registry::built_in();
        let caches = Caches::new(store, registry.rows().iter().map(|row| row.cache.clone()));
        Arc::new(ApiServer {
            config,
            registry,
            caches: Arc::new(caches),
            stop: CancellationToken::new(),
            follower: Mutex::new(None),
        })
    }

    /// Reads the state of the cluster and follows it from then on.
    pub async fn start(&self) -> Result<(), StartError> {
        let revision = self.caches.fill().await.map_err(StartError::Fill)?;
        let (caches, stop) = (self.caches.clone(), self.stop.clone());
        let task = tokio::spawn(async move { caches.follow(revision, &stop).await });
        *self.follower.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }

    /// Ends all watches and stops following the store.
    pub async fn stop(&self) {
        self.stop.cancel();
        let task = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // The task only ends early by a panic, which has been reported.
            let _ = task.await;
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    pub(crate) fn env(&self) -> Env<'_> {
        Env { registry: &self.registry, caches: &self.caches, config: &self.config, now: self.now() }
    }

    /// How long a watch without a timeout of its own lasts: spread, so that not all clients come back at once.
    pub(crate) fn watch_timeout(&self) -> Duration {
        let spread = random::below(1000);
        self.config.min_watch.mul_f64(1.0 + spread as f64 / 1000.0)
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Body>, identity: Identity) -> Response<Body> {
        match path::parse(request.uri().path()) {
            Target::Resource(path) => {
                self.resource(path, request, identity).await.unwrap_or_else(render::failure)
            }
            Target::Other => render::refusal(ApiError::unknown_path()),
        }
    }

    async fn resource(
        &self,
        path: ResourcePath,
        request: Request<Body>,
        identity: Identity,
    ) -> Result<Response<Body>, Error> {
        let Some(row) = self.registry.find(&path.group, &path.version, &path.resource) else {
            return Err(ApiError::unknown_path().into());
        };
        let (parts, body) = request.into_parts();
        let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        let output = accept::negotiate(accept)?;
        let params = Params::parse(parts.uri.query());
        let call = Call { row: row.clone(), path, params, headers: parts.headers, identity, output };
        let reply = self.dispatch(&call, &parts.method, body).await?;
        Ok(render::reply(&call, reply))
    }

    async fn dispatch(&self, call: &Call, method: &Method, body: Body) -> Result<Reply, Error> {
        let kind = call.row.kind;
        let named = !call.path.name.is_empty();
        let subresource = call.path.subresource.as_str();
        if !call.path.rest.is_empty() || (!subresource.is_empty() && kind.subresource(subresource).is_none()) {
            return Err(ApiError::unknown_path().into());
        }
        if kind.namespaced && call.path.namespace.is_empty() && (named || *method == Method::POST) {
            return Err(ApiError::unknown_path().into());
        }
        let limit = self.config.max_body;
        let part = match subresource {
            "" => Part::Main,
            "status" => Part::Status,
            "finalize" => Part::Finalize,
            "ephemeralcontainers" => Part::EphemeralContainers,
            "scale" => {
                return match *method {
                    Method::GET => self.get_scale(call).await,
                    Method::PUT => self.update_scale(call, body.read(limit).await?).await,
                    Method::PATCH => self.patch_scale(call, body.read(limit).await?).await,
                    _ => Err(call.row.method_not_allowed(method.as_str()).into()),
                };
            }
            "binding" if *method == Method::POST => return self.bind(call, body.read(limit).await?).await,
            "eviction" if *method == Method::POST => return self.evict(call, body.read(limit).await?).await,
            _ => return Err(call.row.method_not_allowed(method.as_str()).into()),
        };
        match (method, named) {
            (&Method::GET, _) => {
                let params = ListParams::parse(&call.params, call.path.watch_prefix)?;
                match (params.watch, named) {
                    (true, _) => self.watch(call, &params).await,
                    (false, true) => self.get(call).await,
                    (false, false) => self.list(call, &params).await,
                }
            }
            (&Method::POST, false) => self.create(call, body.read(limit).await?).await,
            (&Method::PUT, true) => self.update(call, part, body.read(limit).await?).await,
            (&Method::PATCH, true) => self.patch(call, part, body.read(limit).await?).await,
            (&Method::DELETE, true) if part == Part::Main => self.delete(call, body.read(limit).await?).await,
            (&Method::DELETE, false) => self.delete_collection(call, body.read(limit).await?).await,
            _ => Err(call.row.method_not_allowed(method.as_str()).into()),
        }
    }
}
