//! Asks the cluster for a certificate, and waits until there is one.

use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::pki::{self, Pair, Subject};
use client::{Client, Informer, Object as _, ObjectKey};
use manifests::k8s_openapi::ByteString;
use manifests::k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// What the server decides by itself, it decides sooner.
const SOON: Duration = Duration::from_secs(5);

/// For what the certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The node speaks to the API server with it.
    Client,
    /// The node's own API is served with it.
    Serving,
}

impl Purpose {
    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(self) -> [&'static str; 2] {
        match self {
            Self::Client => ["client auth", "digital signature"],
            Self::Serving => ["digital signature", "server auth"],
        }
    }

    /// Whose certificate it is. Nothing in it is an address: a node is its key, wherever it is.
    pub(super) fn subject(self, node: &str) -> Subject {
        Subject {
            common_name: format!("system:node:{node}"),
            organization: Some("system:nodes".to_owned()),
            dns_names: match self {
                Self::Client => Vec::new(),
                Self::Serving => vec![node.to_owned()],
            },
            addresses: Vec::new(),
        }
    }
}

/// A new key, and a certificate of it from the cluster.
pub(super) async fn certificate(client: &Client, purpose: Purpose, node: &str) -> anyhow::Result<Pair> {
    let (key, request) = pki::request(&purpose.subject(node))?;
    let api = client.all::<CertificateSigningRequest>();
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: purpose.signer().to_owned(),
            usages: Some(purpose.usages().map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let request = api.create(&request).await.context("asking for a certificate")?;
    let name = request.name().to_owned();
    // From the cluster's answers alone: approval may be somebody's decision, and take as long as that.
    let informer = Informer::new(api).fields(format!("metadata.name={name}"));
    let requests = informer.cache();
    let key_of = ObjectKey::cluster(name.clone());
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    let decided = async {
        requests.wait_synced().await;
        let mut decided =
            std::pin::pin!(requests.wait_until(&key_of, |request| request.is_none_or(is_decided)));
        if tokio::time::timeout(SOON, &mut decided).await.is_err() {
            info!("no certificate yet; somebody has to decide: kubectl certificate approve {name}");
            decided.await;
        }
        requests.get(&key_of)
    };
    let decided = tokio::select! {
        decided = decided => decided,
        () = informer.run(stop) => None,
    };
    let status = decided.and_then(|request| request.status.clone());
    let Some(status) = status else { bail!("the request {name} for a certificate was deleted") };
    match status.certificate {
        Some(certificate) => {
            let certificate = String::from_utf8(certificate.0)
                .with_context(|| format!("the certificate of {name} is not PEM"))?;
            Ok(Pair { certificate, key })
        }
        None => {
            let why = status.conditions.iter().flatten().find(|condition| condition.type_ != "Approved");
            let words = why.map(|condition| {
                format!("{}: {}", condition.type_, condition.message.as_deref().unwrap_or_default())
            });
            bail!("the request {name} for a certificate was refused ({})", words.unwrap_or_default())
        }
    }
}

fn is_decided(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().is_some_and(|status| {
        let mut conditions = status.conditions.iter().flatten();
        status.certificate.is_some()
            || conditions.any(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"))
    })
}
