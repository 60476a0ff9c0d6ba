//! HTTP to one repository of one registry: addresses, tokens, repetitions, bounds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::{Auth, Challenge};
use super::{PullError, PullOptions};
use crate::Limits;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::blobs::mismatch;

/// All forms of manifests and indexes that are understood.
pub(super) const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Attempts in a row that get no further.
pub(super) const ATTEMPTS: u32 = 5;
/// Without even a connection. Whoever wants the image will ask again.
const CONNECT_ATTEMPTS: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A registry that wants more patience gets an error instead.
const MOST_PATIENCE: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(30);
/// Of an answer that explains an error, or holds a token.
const SMALL_ANSWER: u64 = 64 << 10;

/// One pull.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    reference: String,
    registry: String,
    repository: String,
    auth: Auth,
    plain: AtomicBool,
    loopback: bool,
    manifest_bytes: u64,
    /// What the last challenge was answered with.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// How registries explain errors.
#[derive(Deserialize)]
struct Explanation {
    errors: Vec<Explained>,
}

#[derive(Deserialize)]
struct Explained {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Session {
    pub(super) fn new(
        reference: &Reference,
        options: &PullOptions,
        limits: &Limits,
    ) -> Result<Session, PullError> {
        let registry = reference.registry().to_owned();
        let loopback = is_loopback(&registry);
        let failed = |source| PullError::Options { registry: registry.clone(), source };
        let mut builder = Client::builder()
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE)
            .redirect(reqwest::redirect::Policy::custom(|attempt| {
                let from_tls = attempt.previous().iter().any(|url| url.scheme() == "https");
                if from_tls && attempt.url().scheme() != "https" {
                    // Nobody on the way may read or change what was asked for with TLS.
                    return attempt.error("redirected from https to http");
                }
                if attempt.previous().len() > 10 {
                    attempt.error("too many redirects")
                } else {
                    attempt.follow()
                }
            }));
        if loopback {
            // A proxy has another idea of what is local.
            builder = builder.no_proxy();
        }
        for authority in &options.certificate_authorities {
            let certificates = reqwest::Certificate::from_pem_bundle(authority).map_err(failed)?;
            builder = builder.tls_certs_merge(certificates);
        }
        Ok(Session {
            client: builder.build().map_err(failed)?,
            reference: reference.to_string(),
            plain: AtomicBool::new(loopback || options.plain_http.contains(&registry)),
            loopback,
            repository: reference.repository().to_owned(),
            auth: options.auth.clone(),
            manifest_bytes: limits.manifest_bytes,
            authorization: Mutex::new(None),
            registry,
        })
    }

    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    fn url(&self, path: &str) -> String {
        let scheme = if self.plain.load(Ordering::Relaxed) { "http" } else { "https" };
        let host = if self.registry == "docker.io" { "registry-1.docker.io" } else { &self.registry };
        format!("{scheme}://{host}/v2/{}/{path}", self.repository)
    }

    /// A small document, as a whole. Its digest is checked if one is given.
    pub(super) async fn document(
        &self,
        path: &str,
        accept: &'static str,
        digest: Option<&Digest>,
    ) -> Result<Vec<u8>, PullError> {
        let mut attempts = 0;
        loop {
            let response = self.get(path, accept, 0).await?;
            if response.status() != StatusCode::OK {
                return Err(self.unwelcome(response).await);
            }
            match bounded(response, self.manifest_bytes).await {
                Ok(Some(bytes)) => {
                    let found = Digest::of(&bytes);
                    return match digest.filter(|digest| **digest != found) {
                        Some(digest) => {
                            Err(mismatch(path.split('/').next().unwrap_or(path), digest, &found).into())
                        }
                        None => Ok(bytes),
                    };
                }
                Ok(None) => {
                    return Err(self.protocol(format!("{path} is larger than {} bytes", self.manifest_bytes)));
                }
                Err(error) => {
                    attempts += 1;
                    if attempts == ATTEMPTS {
                        return Err(self.broken(path, attempts, error));
                    }
                    tokio::time::sleep(pause(attempts)).await;
                }
            }
        }
    }

    /// Ask for something, from a position on. Answers challenges, waits when it is asked to, and tries again when there is no
    /// answer; any other answer is returned.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: &'static str,
        from: u64,
    ) -> Result<Response, PullError> {
        let mut attempts = 0;
        let mut challenged = false;
        loop {
            let url = self.url(path);
            let mut request = self.client.get(&url);
            if !accept.is_empty() {
                request = request.header(ACCEPT, accept);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = self.authorization() {
                request = request.header(AUTHORIZATION, authorization);
            }
            let patience = match request.send().await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !challenged => {
                    challenged = true;
                    match self.answer_challenge(&response).await? {
                        true => continue,
                        false => return Err(self.unwelcome(response).await),
                    }
                }
                Ok(response)
                    if response.status() == StatusCode::BAD_REQUEST && self.speaks_tls(&response) =>
                {
                    self.plain.store(false, Ordering::Relaxed);
                    continue;
                }
                Ok(response) => match patience(&response) {
                    Some(patience) if attempts + 1 < ATTEMPTS && patience <= MOST_PATIENCE => {
                        patience.max(pause(attempts + 1))
                    }
                    Some(_) => return Err(self.unwelcome(response).await),
                    None => return Ok(response),
                },
                Err(error) => {
                    // A name that does not exist will not come to exist; a registry that restarts may be back soon.
                    let most = if error.is_connect() { CONNECT_ATTEMPTS } else { ATTEMPTS };
                    if attempts + 1 >= most || error.is_builder() || error.is_redirect() || error.is_dns() {
                        return Err(PullError::Unreachable {
                            reference: self.reference.clone(),
                            registry: self.registry.clone(),
                            source: error.into(),
                        });
                    }
                    pause(attempts + 1)
                }
            };
            attempts += 1;
            tokio::time::sleep(patience).await;
        }
    }

    /// Go servers say so when they are spoken to without the TLS that they expect.
    fn speaks_tls(&self, response: &Response) -> bool {
        let from_registry = response.headers().contains_key("docker-distribution-api-version");
        self.loopback && !from_registry && self.plain.load(Ordering::Relaxed)
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn authorize(&self, text: &str) -> Result<(), PullError> {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| self.protocol("a token with characters that no header can have".to_owned()))?;
        value.set_sensitive(true);
        *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// Get what the registry wants to see; `false` if we have nothing to show.
    async fn answer_challenge(&self, response: &Response) -> Result<bool, PullError> {
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let mut challenges: Vec<Challenge> =
            challenges.filter_map(|header| Challenge::parse(header.to_str().ok()?)).collect();
        challenges.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
        match (challenges.into_iter().next(), &self.auth) {
            (Some(Challenge::Bearer { .. }), Auth::RegistryToken(token)) => {
                self.authorize(&format!("Bearer {token}"))?;
                Ok(true)
            }
            (Some(Challenge::Bearer { realm, service, scope }), auth) => {
                let token = self.fetch_token(auth, &realm, service, scope).await?;
                self.authorize(&format!("Bearer {token}"))?;
                Ok(true)
            }
            (Some(Challenge::Basic), Auth::Basic { user, password }) => {
                use base64::Engine;
                let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                self.authorize(&format!("Basic {encoded}"))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn fetch_token(
        &self,
        auth: &Auth,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<String, PullError> {
        let mut url = Url::parse(realm).map_err(|error| {
            self.protocol(format!("it sends us for a token to {realm:?}, which is no URL ({error})"))
        })?;
        if url.scheme() != "https" && !(url.scheme() == "http" && self.plain.load(Ordering::Relaxed)) {
            // Credentials go nowhere without TLS, unless the registry itself is spoken to so.
            return Err(self.protocol(format!("it sends us for a token to {url}, without TLS")));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let mut parameters = vec![("scope", scope.as_str())];
        if let Some(service) = &service {
            parameters.push(("service", service));
        }
        let request = match auth {
            Auth::IdentityToken(token) => {
                let form =
                    [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "coracle")];
                let mut body = url.clone();
                body.query_pairs_mut().clear().extend_pairs(form).extend_pairs(&parameters);
                let body = body.query().unwrap_or_default().to_owned();
                self.client.post(url).header("content-type", "application/x-www-form-urlencoded").body(body)
            }
            auth => {
                url.query_pairs_mut().extend_pairs(&parameters);
                let request = self.client.get(url);
                match auth {
                    Auth::Basic { user, password } => request.basic_auth(user, Some(password)),
                    _ => request,
                }
            }
        };
        let response = request.send().await.map_err(|error| PullError::Unreachable {
            reference: self.reference.clone(),
            registry: self.registry.clone(),
            source: error.into(),
        })?;
        if response.status() != StatusCode::OK {
            return Err(self.unwelcome(response).await);
        }
        let body = bounded(response, SMALL_ANSWER).await.ok().flatten().unwrap_or_default();
        let token: Option<Token> = serde_json::from_slice(&body).ok();
        token
            .and_then(|token| token.token.or(token.access_token))
            .ok_or_else(|| self.protocol("its token server sends no token".to_owned()))
    }

    /// The error for an answer that is not what was asked for.
    pub(super) async fn unwelcome(&self, response: Response) -> PullError {
        let (status, url) = (response.status(), response.url().to_string());
        let body = bounded(response, SMALL_ANSWER).await.ok().flatten().unwrap_or_default();
        let message = explain(&body);
        let (reference, registry) = (self.reference.clone(), self.registry.clone());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                PullError::Refused { reference, registry, status: status.as_u16(), message }
            }
            StatusCode::NOT_FOUND => PullError::NotFound { reference, registry, message },
            StatusCode::TOO_MANY_REQUESTS => PullError::TooManyRequests { reference, registry, message },
            _ => PullError::Status { reference, registry, url, status: status.as_u16(), message },
        }
    }

    pub(super) fn protocol(&self, problem: String) -> PullError {
        PullError::Protocol { reference: self.reference.clone(), registry: self.registry.clone(), problem }
    }

    pub(super) fn broken(&self, what: &str, attempts: u32, source: reqwest::Error) -> PullError {
        PullError::Broken {
            reference: self.reference.clone(),
            registry: self.registry.clone(),
            what: what.to_owned(),
            attempts,
            source: source.into(),
        }
    }
}

/// The first pauses are short: most broken links are back at once.
pub(super) fn pause(attempt: u32) -> Duration {
    LONGEST_PAUSE.min(Duration::from_millis(100) * 3_u32.saturating_pow(attempt.saturating_sub(1)))
}

/// How long to wait before asking again; `None` if the answer is an answer.
fn patience(response: &Response) -> Option<Duration> {
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let asked =
                response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            Some(Duration::from_secs(asked.unwrap_or(0)))
        }
        _ => None,
    }
}

/// A whole answer; `None` if it is larger than it may be.
async fn bounded(mut response: Response, limit: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// What the registry said, ready to follow the status.
fn explain(body: &[u8]) -> String {
    let explained: Option<Explanation> = serde_json::from_slice(body).ok();
    let first = explained.and_then(|explanation| explanation.errors.into_iter().next());
    let text = match first {
        Some(Explained { code, message }) if message.is_empty() => code,
        Some(Explained { message, .. }) => message,
        None => String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned(),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if text.trim().is_empty() || text.trim_start().starts_with('<') {
        String::new()
    } else {
        format!(": {}", text.trim())
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => registry,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_on_this_machine() {
        for (registry, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.8.8", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("docker.io", false),
        ] {
            assert_eq!(is_loopback(registry), expected, "{registry}");
        }
    }

    #[test]
    fn what_registries_say() {
        let said = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        assert_eq!(explain(said), ": manifest unknown");
        assert_eq!(explain(br#"{"errors":[{"code":"DENIED"}]}"#), ": DENIED");
        assert_eq!(explain(b"plain words\nand more"), ": plain words");
        assert_eq!(explain(b"<html>"), "");
        assert_eq!(explain(b""), "");
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let pauses: Vec<u128> = (1..8).map(|attempt| pause(attempt).as_millis()).collect();
        assert_eq!(pauses, [100, 300, 900, 2700, 5000, 5000, 5000]);
    }
}
