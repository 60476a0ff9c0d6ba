//! Calling etcd: which endpoint, how often, and what its errors mean.

use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, KvClient, TlsOptions, WatchClient};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::Options;
use crate::StoreError;

/// No message that we ask for is larger than this: pages and fragments keep them far smaller.
const MAX_MESSAGE: usize = 64 << 20;

/// Between two attempts when no endpoint answers.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a connection could not be made at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no endpoint to connect to.
    #[error("no etcd endpoint is given")]
    NoEndpoint,
    /// An endpoint cannot be used as it is written.
    #[error("etcd endpoint {endpoint:?} cannot be used")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong.
        #[source]
        source: etcd_client::Error,
    },
    /// None of them answers.
    #[error("etcd does not answer at {endpoints}")]
    Unreachable {
        /// As they were given.
        endpoints: String,
        /// What the last one said.
        #[source]
        source: Box<StoreError>,
    },
}

/// What etcd said no with.
#[derive(Debug)]
pub(super) enum Failed {
    Compacted,
    Future,
    /// The request breaks a rule.
    Invalid(etcd_client::Error),
    /// The answer would be too large.
    TooLarge(etcd_client::Error),
    /// Certainly nothing happened.
    NotDone(Box<dyn Error + Send + Sync>),
    /// It may have happened.
    Unknown(Box<dyn Error + Send + Sync>),
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> StoreError {
        match failed {
            // Only requests that name a revision get these two, and they look closer before they convert.
            Failed::Compacted => StoreError::Unavailable("the revision has been compacted".into()),
            Failed::Future => StoreError::Unavailable("the revision is in the future".into()),
            Failed::Invalid(error) | Failed::TooLarge(error) => StoreError::Invalid(error.to_string()),
            Failed::NotDone(error) => StoreError::Unavailable(error),
            Failed::Unknown(error) => StoreError::Unknown(error),
        }
    }
}

/// gRPC status codes, as numbers: the type is not exported by the client.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What an error means for the request that got it. Messages are those of etcd's `rpctypes`.
pub(super) fn classify(error: etcd_client::Error) -> Failed {
    let etcd_client::Error::GRpcStatus(status) = &error else {
        return if never_sent(&error) {
            Failed::NotDone(error.into())
        } else {
            Failed::Unknown(error.into())
        };
    };
    let message = status.message();
    match status.code() as i32 {
        code::OUT_OF_RANGE if message.contains("has been compacted") => Failed::Compacted,
        code::OUT_OF_RANGE if message.contains("is a future revision") => Failed::Future,
        code::OUT_OF_RANGE if message.contains("message length too large") => Failed::TooLarge(error),
        code::INVALID_ARGUMENT => Failed::Invalid(error),
        code::NOT_FOUND
        | code::PERMISSION_DENIED
        | code::RESOURCE_EXHAUSTED
        | code::FAILED_PRECONDITION
        | code::UNIMPLEMENTED
        | code::UNAUTHENTICATED => Failed::NotDone(error.into()),
        _ if never_sent(status) => Failed::NotDone(error.into()),
        _ => Failed::Unknown(error.into()),
    }
}

/// Whether the connection could not even be made.
fn never_sent(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
            if matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable) {
                return true;
            }
        }
        cause = error.source();
    }
    false
}

/// The clients of one endpoint.
#[derive(Clone)]
pub(super) struct Etcd {
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
}

/// All endpoints; one is used until it fails.
pub(super) struct Endpoints {
    endpoints: Vec<(String, OnceCell<Etcd>)>,
    options: ConnectOptions,
    preferred: AtomicUsize,
    timeout: Duration,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.endpoints.iter().map(|(name, _)| name)).finish()
    }
}

impl Endpoints {
    pub(super) fn new(options: &Options) -> Result<Endpoints, ConnectError> {
        if options.endpoints.is_empty() {
            return Err(ConnectError::NoEndpoint);
        }
        for endpoint in &options.endpoints {
            let tls_without_https = options.tls.is_some() && endpoint.starts_with("http://");
            if endpoint.is_empty() || tls_without_https {
                let reason = if tls_without_https {
                    "certificates are given, but it is no https URL"
                } else {
                    "empty"
                };
                let source = etcd_client::Error::InvalidArgs(reason.to_owned());
                return Err(ConnectError::Endpoint { endpoint: endpoint.clone(), source });
            }
        }
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(2))
            // A member without a leader answers nothing useful: its watches end, and the next endpoint is tried.
            .with_require_leader(true)
            // Finds dead links. etcd refuses more than one ping in five seconds.
            .with_keep_alive(Duration::from_secs(20), Duration::from_secs(5));
        if let Some((name, password)) = &options.user {
            connect = connect.with_user(name, password).with_auto_token_refresh(true);
        }
        if let Some(tls) = &options.tls {
            let mut with = TlsOptions::new();
            if let Some(ca) = &tls.ca {
                with = with.ca_certificate(Certificate::from_pem(ca));
            }
            if let Some((certificate, key)) = &tls.identity {
                with = with.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = &tls.server_name {
                with = with.domain_name(name);
            }
            connect = connect.with_tls(with);
        }
        Ok(Endpoints {
            endpoints: options.endpoints.iter().map(|name| (name.clone(), OnceCell::new())).collect(),
            options: connect,
            preferred: AtomicUsize::new(0),
            timeout: options.timeout,
        })
    }

    /// The clients of the endpoint in use, and its place.
    pub(super) async fn preferred(&self) -> Result<(Etcd, usize), etcd_client::Error> {
        let place = self.preferred.load(Ordering::Relaxed) % self.endpoints.len();
        let (name, cell) = &self.endpoints[place];
        let connect = || async {
            // With a user this logs in; without, it connects at the first request.
            let client = Client::connect([name], Some(self.options.clone())).await?;
            Ok(Etcd {
                kv: client.kv_client().max_decoding_message_size(MAX_MESSAGE),
                watch: client.watch_client().max_decoding_message_size(MAX_MESSAGE),
            })
        };
        match cell.get_or_try_init(connect).await {
            Ok(etcd) => Ok((etcd.clone(), place)),
            Err(error) => {
                self.avoid(place);
                Err(error)
            }
        }
    }

    /// Use the next endpoint from now on, unless somebody has changed it already.
    pub(super) fn avoid(&self, place: usize) {
        let next = (place + 1) % self.endpoints.len();
        let _ = self.preferred.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Something that may be done twice.
    pub(super) async fn read<T, F>(&self, call: impl Fn(Etcd) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        // For a read "unknown" and "not done" are the same: there is no answer.
        match self.call(call, true).await {
            Err(Failed::Unknown(error)) => Err(Failed::NotDone(error)),
            other => other,
        }
    }

    /// Something that must not be done twice.
    pub(super) async fn write<T, F>(&self, call: impl Fn(Etcd) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.call(call, false).await
    }

    async fn call<T, F>(&self, call: impl Fn(Etcd) -> F, repeatable: bool) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut failures = 0;
        loop {
            let failed = match tokio::time::timeout_at(deadline, self.once(&call)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failed)) => failed,
                Err(_) => Failed::Unknown(format!("no answer from etcd within {:?}", self.timeout).into()),
            };
            let again = match &failed {
                Failed::NotDone(error) => {
                    never_sent(error.as_ref()) || repeatable && is_passing(error.as_ref())
                }
                Failed::Unknown(_) => repeatable,
                _ => false,
            };
            failures += 1;
            // Every endpoint is tried once without waiting.
            let pause = if failures % self.endpoints.len() == 0 { PAUSE } else { Duration::ZERO };
            if !again || Instant::now() + pause >= deadline {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn once<T, F>(&self, call: &impl Fn(Etcd) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        // Logging in is no part of the request: if it fails, the request was not sent.
        let (etcd, place) = self.preferred().await.map_err(|error| match classify(error) {
            Failed::Unknown(error) => Failed::NotDone(error),
            other => other,
        })?;
        call(etcd).await.map_err(|error| {
            let failed = classify(error);
            if matches!(failed, Failed::NotDone(_) | Failed::Unknown(_)) {
                self.avoid(place);
            }
            failed
        })
    }
}

/// Whether a refusal may pass: etcd is overloaded, or elects a leader.
fn is_passing(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<etcd_client::Error>() {
        Some(etcd_client::Error::GRpcStatus(status)) => {
            status.code() as i32 == code::RESOURCE_EXHAUSTED && status.message().contains("too many requests")
        }
        _ => false,
    }
}
