//! A node of a cluster whose server is elsewhere: how it becomes one, and stays one.
//!
//! ```text
//!   token ─▶ authority (by its fingerprint) ─▶ ranges of the cluster ─▶ key, request ─▶ certificate ─▶ node
//!                                                                          ▲                 │
//!                                                                          └─── long before it expires
//!   <data>/pki/ca.crt               the authority
//!   <data>/pki/agent-client.pem     the node's certificate and key: who it is, wherever it is
//!   <data>/pki/agent-serving.pem    the same for its own API
//!   <data>/agent.kubeconfig         where the server is
//!   <data>/cluster.json             what all nodes of the cluster must agree on
//! ```
//!
//! Certificates are replaced while everything runs: connections that are there stay, new ones have the new certificate.

mod pin;
mod request;
pub(crate) mod token;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use apiserver::pki::{self, Pair, Serving, write_private};
use client::kubeconfig::{Credentials, Resolved};
use client::{Backoff, Client, HttpsTransport, jittered};
use manifests::k8s_openapi::api::core::v1::ConfigMap;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::instance::{Instance, create_private_directory};
use request::Purpose;
use token::JoinToken;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// The wall clock may be set meanwhile, and the machine may sleep: nobody waits longer for a point in time.
const LOOK: Duration = Duration::from_secs(3600);

/// A node's place in a cluster.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) client: Client,
    pub(crate) authority: String,
    pub(crate) serving: Arc<Serving>,
    files: Files,
    node: String,
}

/// Where a node keeps who it is.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    authority: PathBuf,
    client: PathBuf,
    serving: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    proxy_kubeconfig: PathBuf,
    cluster: PathBuf,
}

impl Files {
    pub(crate) fn of(instance: &Instance) -> Self {
        let pki = instance.pki_dir();
        Self {
            authority: pki.join("ca.crt"),
            client: pki.join("agent-client.pem"),
            serving: pki.join("agent-serving.pem"),
            kubeconfig: instance.data_dir.join("agent.kubeconfig"),
            proxy_kubeconfig: instance.proxy_kubeconfig(),
            cluster: instance.cluster_file(),
        }
    }

    fn of_purpose(&self, purpose: Purpose) -> &PathBuf {
        match purpose {
            Purpose::Client => &self.client,
            Purpose::Serving => &self.serving,
        }
    }

    /// The certificate and key that are kept, if they are this node's, and from when until when they are good.
    fn read(&self, purpose: Purpose, node: &str) -> Option<(Pair, SystemTime, SystemTime)> {
        let text = std::fs::read_to_string(self.of_purpose(purpose)).ok()?;
        let (subject, from, until) = pki::read_certificate(&text)?;
        let key = &text[text.find("-----BEGIN PRIVATE KEY-----")?..];
        let certificate = &text[..text.len() - key.len()];
        let pair = Pair { certificate: certificate.to_owned(), key: key.to_owned() };
        (subject == purpose.subject(node)).then_some((pair, from, until))
    }

    fn write(&self, purpose: Purpose, pair: &Pair) -> anyhow::Result<()> {
        // One file, so that key and certificate change at the same instant.
        let text = format!("{}{}", pair.certificate, pair.key);
        Ok(write_private(self.of_purpose(purpose), text.as_bytes())?)
    }
}

/// What a node is told about its cluster, as it was written down when the node joined.
pub(crate) fn cluster_facts(instance: &Instance) -> BTreeMap<String, String> {
    let text = std::fs::read(instance.cluster_file()).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Makes this machine a node of the server's cluster. One that is a node of it already needs neither token nor server.
pub(crate) async fn join(
    instance: &Instance,
    server: &str,
    token: Option<&str>,
    node: &str,
) -> anyhow::Result<()> {
    let files = Files::of(instance);
    let have = files.read(Purpose::Client, node);
    let authority = std::fs::read_to_string(&files.authority).ok();
    let (authority, have) = match (authority, have) {
        (Some(authority), Some((pair, _, until))) if until > SystemTime::now() || token.is_none() => {
            if until <= SystemTime::now() {
                warn!(
                    "this node's certificate has expired, and the server will not know it: give a new --token"
                );
            }
            (authority, Some(pair))
        }
        _ => {
            let Some(token) = token else {
                bail!(
                    "{node} is no node of a cluster yet: give the --token that `coracle token create` prints on the server"
                );
            };
            (enter(&files, server, &token.parse()?, node).await?, None)
        }
    };
    let user = format!("system:node:{node}");
    let text = pki::kubeconfig_of_file(server, &authority, &user, &files.client);
    for path in [&files.kubeconfig, &files.proxy_kubeconfig] {
        if std::fs::read_to_string(path).ok().as_deref() != Some(&text) {
            write_private(path, text.as_bytes())?;
        }
    }
    if have.is_none() {
        info!(node, server, "this machine is a node of the cluster");
    }
    Ok(())
}

/// By the token, for the first time: everything but the kubeconfig. Answers the authority.
async fn enter(files: &Files, server: &str, token: &JoinToken, node: &str) -> anyhow::Result<String> {
    let authority =
        patiently(server, async || pin::fetch_authority(server, &token.fingerprint).await).await?;
    let resolved = Resolved {
        server: server.to_owned(),
        certificate_authority: Some(authority.clone().into_bytes()),
        credentials: Credentials::Token(token.bearer.clone()),
        ..Resolved::default()
    };
    let client = Client::new(Arc::new(HttpsTransport::new(&resolved)?));
    let facts = patiently(server, async || {
        let api = client.namespaced::<ConfigMap>("kube-system");
        Ok(api.get("coracle-cluster").await?.data.unwrap_or_default())
    })
    .await
    .context("learning the cluster's ranges")?;
    let pair = patiently(server, async || request::certificate(&client, Purpose::Client, node).await).await?;
    if let Some(directory) = files.authority.parent() {
        create_private_directory(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    write_private(&files.authority, authority.as_bytes())?;
    write_private(&files.cluster, serde_json::to_string_pretty(&facts)?.as_bytes())?;
    // Last of all: where this file is, everything is.
    files.write(Purpose::Client, &pair)?;
    Ok(authority)
}

/// Tries again for as long as the server is away or busy. What it refuses is an answer.
async fn patiently<T>(
    server: &str,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut failures = 0;
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let final_answer = match error.downcast_ref::<client::Error>() {
            // Who is not known now will not be known later.
            Some(error) if error.status().is_some_and(|status| status.code == Some(401)) => true,
            Some(error) => error.class() != client::ErrorClass::Retry,
            None => !error
                .chain()
                .any(|cause| cause.is::<std::io::Error>() || cause.is::<tokio::time::error::Elapsed>()),
        };
        if final_answer || error.is::<pin::WrongServer>() {
            return Err(error);
        }
        failures += 1;
        if failures == 1 {
            warn!(server, error = format!("{error:#}"), "the server cannot be reached yet; trying again");
        }
        tokio::time::sleep(BACKOFF.delay(failures)).await;
    }
}

impl Membership {
    /// What [`join`] has made, or somebody who prepared this node's disk. Asks for a certificate for the node's own API if there
    /// is none yet.
    pub(crate) async fn open(instance: &Instance, node: &str) -> anyhow::Result<Self> {
        let files = Files::of(instance);
        let authority = std::fs::read_to_string(&files.authority)
            .with_context(|| format!("reading {}", files.authority.display()))?;
        let client = Client::from_kubeconfig(&files.kubeconfig)?;
        let pair = match files.read(Purpose::Serving, node) {
            Some((pair, ..)) => pair,
            None => {
                let pair =
                    patiently("", async || request::certificate(&client, Purpose::Serving, node).await)
                        .await?;
                files.write(Purpose::Serving, &pair)?;
                pair
            }
        };
        let serving = Serving::new(&pair, &authority).context("setting up TLS for the agent's API")?;
        Ok(Self { client, authority, serving, files, node: node.to_owned() })
    }

    /// Renews both certificates long before they expire, until told to stop.
    pub(crate) async fn renew(
        client: Client,
        serving: Arc<Serving>,
        files: Files,
        node: String,
        stop: CancellationToken,
    ) {
        let mut failures = 0;
        // Not all nodes at the same time.
        let mut share = jittered(Duration::from_millis(700), 0.25).as_secs_f64() / 1000.0;
        loop {
            let due = [Purpose::Client, Purpose::Serving].map(|purpose| {
                let due = files.read(purpose, &node).map(|(_, from, until)| due(from, until, share));
                (purpose, due.unwrap_or(SystemTime::UNIX_EPOCH))
            });
            let now = SystemTime::now();
            let pause = match due.iter().find(|(_, due)| *due <= now) {
                Some((purpose, _)) => match renew_one(&client, &serving, &files, *purpose, &node).await {
                    Ok(()) => {
                        failures = 0;
                        share = jittered(Duration::from_millis(700), 0.25).as_secs_f64() / 1000.0;
                        Duration::ZERO
                    }
                    Err(error) => {
                        failures += 1;
                        warn!(
                            error = format!("{error:#}"),
                            ?purpose,
                            "a certificate was not renewed; trying again"
                        );
                        BACKOFF.delay(failures)
                    }
                },
                None => {
                    let next = due.iter().map(|(_, due)| *due).min().unwrap_or(now);
                    next.duration_since(now).unwrap_or_default().min(LOOK)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The task that renews.
    pub(crate) fn renewal(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        Self::renew(
            self.client.clone(),
            Arc::clone(&self.serving),
            self.files.clone(),
            self.node.clone(),
            stop,
        )
    }
}

async fn renew_one(
    client: &Client,
    serving: &Serving,
    files: &Files,
    purpose: Purpose,
    node: &str,
) -> anyhow::Result<()> {
    let pair = request::certificate(client, purpose, node).await?;
    files.write(purpose, &pair)?;
    if purpose == Purpose::Serving {
        serving.replace(&pair).context("using the new certificate")?;
    }
    info!(?purpose, "a certificate was renewed");
    Ok(())
}

/// When a certificate is to be renewed: upstream takes a point between 70 and 90 percent of its life.
fn due(from: SystemTime, until: SystemTime, share: f64) -> SystemTime {
    let life = until.duration_since(from).unwrap_or_default();
    from + life.mul_f64(share.clamp(0.5, 0.9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_well_before_the_end() {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let until = from + Duration::from_secs(100);
        assert_eq!(due(from, until, 0.7), from + Duration::from_secs(70));
        assert_eq!(due(from, until, 7.0), from + Duration::from_secs(90));
        assert_eq!(due(until, from, 0.7), until);
    }

    #[test]
    fn a_certificate_of_another_name_is_not_ones_own() {
        let directory = tempfile::tempdir().unwrap();
        let instance =
            Instance { data_dir: directory.path().to_owned(), run_dir: directory.path().join("run") };
        let pki = pki::Pki::open(instance.pki_dir()).unwrap();
        let files = Files::of(&instance);
        let pair = pki.issue("a", &Purpose::Client.subject("a")).unwrap();
        files.write(Purpose::Client, &pair).unwrap();
        assert_eq!(files.read(Purpose::Client, "a").unwrap().0, pair);
        assert!(files.read(Purpose::Client, "b").is_none());
        assert!(files.read(Purpose::Serving, "a").is_none());
    }
}
