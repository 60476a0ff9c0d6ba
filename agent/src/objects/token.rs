//! Tokens of service accounts, asked for on behalf of a pod and renewed before they end.
//!
//! ```text
//!   copy on disk, still good ──▶ known ──(a fifth of its life left, or a day old)──▶ asked for anew
//!   nothing good ─▶ asked for ─┬─▶ known                                              │
//!                              └─▶ unknown, and asked for again, later and later ◀────┘ (the old one while it is good)
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, ErrorChain};
use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use manifests::k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Seen;
use crate::disk::{self, Durability};
use crate::names;

/// A token older than this is renewed however long it would last.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey {
    /// Whose it is.
    pub service_account: String,
    /// Who is to accept it; empty for the API server.
    pub audience: String,
    /// How long it is to last, in seconds.
    pub expiration: i64,
}

impl TokenKey {
    /// What a projection of a pod asks for.
    pub fn of(pod: &Pod, projection: &ServiceAccountTokenProjection) -> Self {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        Self {
            service_account: account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
            audience: projection.audience.clone().unwrap_or_default(),
            expiration: projection.expiration_seconds.unwrap_or(3600),
        }
    }
}

/// A token with its times, as the copy on disk has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    token: String,
    asked_at: Timestamp,
    expires_at: Timestamp,
}

impl Issued {
    /// When the next one is to be asked for.
    fn renew_at(&self) -> Timestamp {
        let life = self.expires_at.duration_since(self.asked_at);
        // Four fifths of its life, or a day.
        let after =
            SignedDuration::from_millis(i64::try_from(life.as_millis() * 4 / 5).unwrap_or(0)).min(MAX_AGE);
        self.asked_at.saturating_add(after).unwrap_or(self.expires_at)
    }
}

/// What a token is asked for with.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) client: Option<Client>,
    pub(super) pod: Arc<Pod>,
    pub(super) key: TokenKey,
    /// Where the copy is.
    pub(super) file: PathBuf,
}

/// The file of a token below a pod's directory: as many as a pod has, and no two the same.
pub(super) fn file_name(key: &TokenKey) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(format!("{}\0{}\0{}", key.service_account, key.audience, key.expiration));
    let short = digest.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("token-{short}.json")
}

/// Keeps `seen` at a good token until the task is aborted.
/// `clock_set`: a token of another time is not good in this one, however long it has.
pub(super) async fn follow(
    asked: Asked,
    seen: watch::Sender<Option<Seen<String>>>,
    mut clock_set: watch::Receiver<()>,
) {
    let mut known: Option<Issued> = read(&asked.file).await;
    let mut failures = 0;
    loop {
        let now = Timestamp::now();
        let good = known.as_ref().filter(|issued| issued.expires_at > now);
        if let Some(issued) = good {
            show(&seen, Seen::Present(Arc::new(issued.token.clone())));
            if now < issued.renew_at() {
                let wait = Duration::try_from(issued.renew_at().duration_since(now)).unwrap_or_default();
                // Not all at once, when many pods started together.
                tokio::select! {
                    () = tokio::time::sleep(client::jittered(wait, 0.02)) => {}
                    Ok(()) = clock_set.changed() => {}
                }
                failures = 0;
            }
        }
        match ask(&asked).await {
            Ok(issued) => {
                failures = 0;
                keep(&asked.file, &issued).await;
                known = Some(issued);
            }
            Err(message) => {
                let still_good = known.as_ref().is_some_and(|issued| issued.expires_at > Timestamp::now());
                if !still_good {
                    show(&seen, Seen::Unknown(format!("failed to fetch token: {message}")));
                }
                tracing::debug!(pod = %names::pod_id(&asked.pod), message, "asking for a token");
                tokio::time::sleep(BACKOFF.delay(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// What did not change wakes nobody.
fn show(seen: &watch::Sender<Option<Seen<String>>>, state: Seen<String>) {
    seen.send_if_modified(|old| {
        let changed = old.as_ref() != Some(&state);
        if changed {
            *old = Some(state);
        }
        changed
    });
}

async fn ask(asked: &Asked) -> Result<Issued, String> {
    let Asked { client, pod, key, .. } = asked;
    let client = client.as_ref().ok_or("this node has no API server")?;
    if names::is_static(pod) {
        return Err("a static pod has no service account".to_owned());
    }
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(key.audience.clone())
                .filter(|audience| !audience.is_empty())
                .map(|audience| vec![audience]),
            expiration_seconds: Some(key.expiration),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let asked_at = Timestamp::now();
    let api = client.namespaced::<ServiceAccount>(names::namespace(pod));
    let answer: TokenRequest = api
        .create_subresource(&key.service_account, "token", &request)
        .await
        .map_err(|error| ErrorChain(&error).to_string())?;
    let issued = answer.status.and_then(|status| {
        Some(Issued { token: status.token?, asked_at, expires_at: status.expiration_timestamp?.0 })
    });
    issued.ok_or_else(|| "the server gave no token".to_owned())
}

async fn read(file: &Path) -> Option<Issued> {
    serde_json::from_slice(&tokio::fs::read(file).await.ok()?).ok()
}

/// For a restart of the agent while the server is away.
async fn keep(file: &Path, issued: &Issued) {
    let (file, bytes) = (file.to_owned(), serde_json::to_vec(issued).unwrap_or_default());
    let written = tokio::task::spawn_blocking(move || disk::write(&file, &bytes, Durability::Process)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(error = %ErrorChain(&error), "cannot keep a copy of a token");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use client::{Body, Transport, TransportError};
    use futures_util::future::BoxFuture;
    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http::{Request, Response};
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture;

    /// Gives out numbered tokens that last as long as was asked for; refuses while told to.
    #[derive(Debug, Default)]
    struct Tokens(Mutex<(u32, bool, Vec<Value>)>);

    impl Transport for Tokens {
        fn send(
            &self,
            request: Request<Bytes>,
        ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
            let mut state = self.0.lock().unwrap();
            assert_eq!(request.uri().path(), "/api/v1/namespaces/default/serviceaccounts/sa/token");
            let mut body: Value = serde_json::from_slice(request.body()).unwrap();
            let code = if state.1 { 503 } else { 201 };
            state.0 += u32::from(!state.1);
            let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap();
            let expires = Timestamp::now() + SignedDuration::from_secs(seconds);
            state.2.push(body["spec"].clone());
            body["status"] =
                json!({"token": format!("t{}", state.0), "expirationTimestamp": expires.to_string()});
            let chunks = stream::iter([Ok(Bytes::from(body.to_string()))]).boxed();
            let response = Response::builder().status(code).body(chunks).unwrap();
            async move { Ok(response) }.boxed()
        }
    }

    fn asked(tokens: &Arc<Tokens>, dir: &Path) -> Asked {
        let key = TokenKey { service_account: "sa".into(), audience: String::new(), expiration: 3600 };
        let file = dir.join(file_name(&key));
        let pod = Arc::new(fixture::pod("containers: [{name: a, image: i}]"));
        Asked { client: Some(Client::new(tokens.clone())), pod, key, file }
    }

    async fn shown(seen: &mut watch::Receiver<Option<Seen<String>>>, wanted: &str) {
        let fits = |seen: &Option<Seen<String>>| match seen {
            Some(Seen::Present(token)) => token.as_str() == wanted,
            Some(Seen::Unknown(message)) => message.starts_with(wanted),
            _ => false,
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), seen.wait_for(fits)).await.is_ok();
        assert!(waited, "{wanted} did not come: {:?}", seen.borrow());
    }

    #[tokio::test]
    async fn tokens_are_bound_to_the_pod_and_kept_for_the_next_life() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Arc::<Tokens>::default();
        let (sender, mut seen) = watch::channel(None);
        let task = tokio::spawn(follow(asked(&tokens, dir.path()), sender, watch::channel(()).1));
        shown(&mut seen, "t1").await;
        task.abort();
        let reference = tokens.0.lock().unwrap().2[0]["boundObjectRef"].clone();
        assert_eq!(reference, json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u1"}));

        // The server is away: the copy is still good.
        tokens.0.lock().unwrap().1 = true;
        let (sender, mut seen) = watch::channel(None);
        let task = tokio::spawn(follow(asked(&tokens, dir.path()), sender, watch::channel(()).1));
        shown(&mut seen, "t1").await;
        task.abort();

        // A copy that has come near its end is renewed as soon as somebody answers.
        let old = Timestamp::now() - SignedDuration::from_mins(55);
        let issued =
            Issued { token: "old".into(), asked_at: old, expires_at: old + SignedDuration::from_hours(1) };
        keep(&asked(&tokens, dir.path()).file, &issued).await;
        let (sender, mut seen) = watch::channel(None);
        let task = tokio::spawn(follow(asked(&tokens, dir.path()), sender, watch::channel(()).1));
        shown(&mut seen, "old").await;
        tokens.0.lock().unwrap().1 = false;
        shown(&mut seen, "t2").await;
        task.abort();

        // One that has ended is none.
        tokens.0.lock().unwrap().1 = true;
        let issued = Issued { token: "old".into(), asked_at: old, expires_at: old };
        keep(&asked(&tokens, dir.path()).file, &issued).await;
        let (sender, mut seen) = watch::channel(None);
        let task = tokio::spawn(follow(asked(&tokens, dir.path()), sender, watch::channel(()).1));
        shown(&mut seen, "failed to fetch token: ").await;
        task.abort();
    }

    #[test]
    fn a_fifth_of_a_life_is_left_for_renewing() {
        let asked_at = Timestamp::UNIX_EPOCH;
        for (seconds, renewed) in [(600, 480), (3600, 2880), (1_000_000, 86_400)] {
            let expires_at = asked_at + SignedDuration::from_secs(seconds);
            let issued = Issued { token: String::new(), asked_at, expires_at };
            assert_eq!(issued.renew_at().as_second(), renewed);
        }
    }

    #[tokio::test]
    async fn a_clock_that_was_set_makes_another_token_necessary() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Arc::new(Tokens::default());
        let (sender, mut seen) = watch::channel(None);
        let clock_set = watch::Sender::new(());
        let task = tokio::spawn(follow(asked(&tokens, dir.path()), sender, clock_set.subscribe()));
        shown(&mut seen, "t1").await;
        clock_set.send_replace(());
        shown(&mut seen, "t2").await;
        task.abort();
    }
}
