//! The API server: what it is made of, and the way of a request through it.
//!
//! ```text
//! handle: route ─▶ authorise ─▶ limit ─▶ handler (get list watch create update patch delete …) ─▶ render
//! ```

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{ACCEPT, AUTHORIZATION};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::FieldSelector;
use manifests::status::ApiError;
use store::{Store, StoreError};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::authorize::{self, Action};
use crate::body::Body;
use crate::config::Config;
use crate::error::Error;
use crate::handlers::{Call, Reply};
use crate::identity::Identity;
use crate::metrics::{Metrics, Subject};
use crate::node_proxy::Stream;
use crate::random;
use crate::rbac::{Policy, Snapshot};
use crate::registry::{Caller, Env, Part, Registry, Row};
use crate::render;
use crate::request::accept;
use crate::request::params::{ListParams, Params};
use crate::request::path::{self, ResourcePath, Target};
use crate::table::IncludeObject;
use crate::token::{self, TokenKey};
use crate::usage;
use crate::watch_cache::Caches;

/// How long requests wait for a server that is starting.
const FILL: Duration = Duration::from_secs(10);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state of the cluster could not be read.
    #[error("filling the watch caches")]
    Fill(#[source] StoreError),
    /// What every cluster has could not be made.
    #[error("making what every cluster has")]
    Bootstrap(#[source] ApiError),
}

/// The API over one store.
#[derive(Debug)]
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) caches: Arc<Caches>,
    pub(crate) metrics: Metrics,
    /// Ends watches and the server's own tasks.
    pub(crate) stop: CancellationToken,
    /// A place for each request that is neither a watch nor a stream.
    places: Semaphore,
    started: AtomicBool,
    /// Signs tokens of service accounts.
    pub(crate) token_key: Arc<TokenKey>,
    /// Who may do what, as of some time.
    pub(crate) policy: Mutex<Snapshot>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl ApiServer {
    /// A server that has not started.
    pub fn new(store: Arc<dyn Store>, config: Config) -> Arc<ApiServer> {
        let registry = Registry::built_in();
        let caches = Caches::new(store, registry.rows().iter().map(|row| row.cache.clone()));
        let places = Semaphore::new(config.max_in_flight);
        let own = || {
            TokenKey::ephemeral()
                .map(Arc::new)
                .expect("a key can be generated from the system's random numbers")
        };
        let token_key = config.token_key.clone().unwrap_or_else(own);
        Arc::new(ApiServer {
            config,
            registry,
            caches: Arc::new(caches),
            metrics: Metrics::new(),
            stop: CancellationToken::new(),
            places,
            started: AtomicBool::new(false),
            token_key,
            policy: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    /// Reads the state of the cluster, follows it from then on, and makes what every cluster has.
    pub async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        let revision = self.caches.fill().await.map_err(StartError::Fill)?;
        let (caches, stop) = (self.caches.clone(), self.stop.clone());
        self.spawn(async move { caches.follow(revision, &stop).await });
        self.bootstrap().await.map_err(StartError::Bootstrap)?;
        self.spawn(self.clone().advertise());
        self.spawn(self.clone().expire_events());
        self.spawn(self.clone().compact_history());
        self.spawn(self.clone().aggregate_roles());
        self.spawn(self.clone().recount_quotas());
        if let Some(pki) = self.config.signer.clone() {
            self.spawn(self.clone().sign_certificates(pki));
        }
        self.started.store(true, Ordering::Release);
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(tokio::spawn(task));
    }

    /// Whether [`start`](ApiServer::start) has come to its end.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Ends all watches and the server's own tasks.
    pub async fn stop(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // A task only fails by a panic, which has been reported.
            let _ = task.await;
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    pub(crate) fn env(&self) -> Env<'_> {
        Env {
            registry: &self.registry,
            caches: &self.caches,
            config: &self.config,
            now: self.now(),
            caller: None,
        }
    }

    /// The same on behalf of somebody.
    pub(crate) fn env_of<'a>(&'a self, identity: &'a Identity, policy: &'a Policy) -> Env<'a> {
        Env { caller: Some(Caller { identity, policy }), ..self.env() }
    }

    /// How long a watch without a timeout of its own lasts: spread, so that not all clients come back at once.
    pub(crate) fn watch_timeout(&self) -> Duration {
        let spread = u32::try_from(random::below(1000)).unwrap_or(0);
        self.config.min_watch + self.config.min_watch * spread / 1000
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Body>, identity: Identity) -> Response<Body> {
        let began = Instant::now();
        let _counted = self.metrics.in_flight.enter();
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        // A panic is a bug in one handler. It must not take its caller down, which may be another part of the
        // control plane. Shared state is behind locks that do not mind.
        let answered = AssertUnwindSafe(self.route(parts, body, identity)).catch_unwind().await;
        let (subject, response) = answered.unwrap_or_else(|_| {
            tracing::error!(path, "a handler has panicked");
            let message = "this request caused apiserver to panic. Look in the logs for details.";
            (Subject::default(), render::refusal(ApiError::internal(message)))
        });
        self.metrics.ended(subject, response.status().as_u16(), began.elapsed());
        response
    }

    async fn route(&self, parts: Parts, body: Body, identity: Identity) -> (Subject, Response<Body>) {
        let identity = match self.identify(identity, &parts.headers).await {
            Ok(identity) => identity,
            Err(refused) => return (Subject::default(), render::refusal(refused)),
        };
        match path::parse(parts.uri.path()) {
            Target::Resource(path) => self.resource(path, parts, body, identity).await,
            Target::Other => {
                let allowed = self.authorize_path(&identity, &parts.method, parts.uri.path());
                let response = match allowed {
                    Ok(()) => self.other(&parts).await.unwrap_or_else(render::failure),
                    Err(refused) => render::refusal(refused),
                };
                (Subject { verb: "get", ..Subject::default() }, response)
            }
        }
    }

    /// Who asks: by certificate, or by token; and whom the request is to be taken for.
    async fn identify(&self, identity: Identity, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let mut identity = identity;
        if identity.is_anonymous()
            && let Some(header) = headers.get(AUTHORIZATION)
        {
            // Taking somebody whose credentials cannot be checked for nobody would only confuse.
            let token = bearer_token(header.to_str().unwrap_or_default());
            identity = match self.bearer(token) {
                Some(identity) => identity,
                None => {
                    // What a fresh token is bound to may not have come here yet.
                    self.refresh().await.map_err(Error::into_api)?;
                    self.bearer(token).ok_or_else(ApiError::unauthorized)?
                }
            };
        }
        self.impersonate(identity, headers)
    }

    fn bearer(&self, token: &str) -> Option<Identity> {
        let audiences = [self.config.issuer.clone()];
        let account = token::authenticate(&self.env(), &self.token_key, token, &audiences);
        account.map(|(identity, _)| identity).or_else(|| token::bootstrap::authenticate(&self.env(), token))
    }

    async fn resource(
        &self,
        path: ResourcePath,
        parts: Parts,
        body: Body,
        identity: Identity,
    ) -> (Subject, Response<Body>) {
        let params = Params::parse(parts.uri.query());
        // The parameters of a proxied request are for somebody else.
        let watch = path.watch_prefix
            || (path.subresource != "proxy" && params.flag("watch").ok().flatten() == Some(true));
        let verb = authorize::verb(&parts.method, &path, watch);
        let row = self.registry.find(&path.group, &path.version, &path.resource).cloned();
        let subject = row.as_ref().map_or(Subject { verb, ..Subject::default() }, |row| Subject {
            verb,
            group: row.kind.group,
            resource: row.kind.plural,
            subresource: row.kind.subresource(&path.subresource).map_or("", |found| found.name),
        });
        let accept = parts.headers.get(ACCEPT).cloned();
        let answer = self.answer(row, path, params, parts, body, identity, verb).await;
        let accept = accept.as_ref().and_then(|value| value.to_str().ok());
        (subject, answer.unwrap_or_else(|error| render::failure_as(error, accept)))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request, taken apart once")]
    async fn answer(
        &self,
        row: Option<Arc<Row>>,
        path: ResourcePath,
        params: Params,
        parts: Parts,
        body: Body,
        identity: Identity,
        verb: &str,
    ) -> Result<Response<Body>, Error> {
        let selected = selected_name(&path, &params);
        let action = Action {
            verb,
            group: &path.group,
            resource: &path.resource,
            subresource: &path.subresource,
            // A namespace is in itself, as far as permissions go.
            namespace: if path.resource == "namespaces" { "" } else { &path.namespace },
            name: selected.as_deref().unwrap_or(&path.name),
        };
        if self.authorize(&identity, &action, row.as_deref()).is_err() {
            // A refusal only counts on a state that is known not to be older than the request.
            self.refresh().await?;
            self.authorize(&identity, &action, row.as_deref())?;
        }
        if path.group == usage::GROUP {
            self.filled().await?;
            return self.usage(&path, &params, &parts.method).await;
        }
        let Some(row) = row else { return Err(ApiError::unknown_path().into()) };
        self.filled().await?;
        if path.subresource == "proxy" && row.kind.subresource("proxy").is_some() {
            return self.proxy(&path, parts, body).await;
        }
        let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        let negotiate = if row.kind.is_stored() { accept::negotiate } else { accept::negotiate_whole };
        let mut output = negotiate(accept)?;
        output.pretty |= params.flag("pretty")? == Some(true);
        IncludeObject::parse(params.get("includeObject").unwrap_or_default())
            .map_err(ApiError::bad_request)?;
        let stream = (row.kind.kind == "Pod").then(|| Stream::of(&path.subresource)).flatten();
        let mut parts = parts;
        let headers = std::mem::take(&mut parts.headers);
        let call = Call { row, path, params, headers, output, identity };
        if let Some(stream) = stream {
            if stream != Stream::Log && verb == "get" {
                // A WebSocket begins with a GET, which must not let readers run commands.
                let path = &call.path;
                let action = Action {
                    verb: "create",
                    group: &path.group,
                    resource: &path.resource,
                    subresource: &path.subresource,
                    namespace: &path.namespace,
                    name: &path.name,
                };
                self.authorize(&call.identity, &action, Some(&call.row))?;
            }
            let reply = self.stream(&call, stream, parts, body).await?;
            return Ok(render::reply(&call, reply));
        }
        if verb == "watch" {
            let reply = self.dispatch(&call, &parts.method, body).await?;
            return Ok(render::reply(&call, reply));
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Err(ApiError::too_many_requests("Too many requests, please try again later.", 1).into());
        };
        let answer = self.dispatch(&call, &parts.method, body);
        let reply = tokio::time::timeout(self.config.request_timeout, answer)
            .await
            .map_err(|_| Error::Deadline)??;
        if let Reply::List(list) = &reply {
            render::prepare(&call, list).await;
        }
        Ok(render::reply(&call, reply))
    }

    /// Waits until the caches have been filled for the first time. Until then even a read that takes any state would see
    /// an empty cluster, and whoever acts on that would tear everything down.
    async fn filled(&self) -> Result<(), Error> {
        // The empty store has revision 1.
        if self.caches.fresh.applied() > 0 {
            return Ok(());
        }
        tokio::time::timeout(FILL, self.caches.fresh.reached(1)).await.map_err(|_| {
            ApiError::service_unavailable("the server is starting: its caches are being filled")
                .retry_after(1)
                .into()
        })
    }

    async fn dispatch(&self, call: &Call, method: &Method, body: Body) -> Result<Reply, Error> {
        let kind = call.row.kind;
        let named = !call.path.name.is_empty();
        let subresource = call.path.subresource.as_str();
        if !call.path.rest.is_empty() || (!subresource.is_empty() && kind.subresource(subresource).is_none())
        {
            return Err(ApiError::unknown_path().into());
        }
        if kind.namespaced && call.path.namespace.is_empty() && (named || *method == Method::POST) {
            return Err(ApiError::unknown_path().into());
        }
        let limit = self.config.max_body;
        if !kind.is_stored() {
            return match (method, named) {
                (&Method::POST, false) => self.review(call, body.read(limit).await?).await,
                _ => Err(call.row.method_not_allowed(method.as_str()).into()),
            };
        }
        let part = match subresource {
            "" => Part::Main,
            "status" => Part::Status,
            "finalize" => Part::Finalize,
            "ephemeralcontainers" => Part::EphemeralContainers,
            "resize" => Part::Resize,
            "approval" => Part::Approval,
            "token" if *method == Method::POST => {
                return self.issue_token(call, body.read(limit).await?).await;
            }
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

/// The token in an `Authorization` header. Schemes have no case: older Python clients write `bearer`.
fn bearer_token(header: &str) -> &str {
    match header.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => "",
    }
}

/// The one object that a list or watch is restricted to by a field selector.
fn selected_name(path: &ResourcePath, params: &Params) -> Option<String> {
    if !path.name.is_empty() {
        return None;
    }
    let selector = FieldSelector::parse(params.get("fieldSelector")?).ok()?;
    let mut names = selector
        .requirements()
        .iter()
        .filter(|requirement| requirement.field == "metadata.name" && !requirement.negated);
    names.next().map(|requirement| requirement.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_headers() {
        for (header, token) in
            [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", ""), ("Bearer", ""), ("abc", "")]
        {
            assert_eq!(bearer_token(header), token, "{header}");
        }
    }
}
