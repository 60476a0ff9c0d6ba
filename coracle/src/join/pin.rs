//! Fetches the cluster's authority from a server that nobody here has met before. The server sends it with its own certificate;
//! it is believed when its fingerprint is the one that the token names, and the server's certificate is signed by it.
//! Whoever sits in between can neither present that authority's signature nor learn the token, which is sent only afterwards.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::pki;
use http::Uri;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(10);

/// The server is another one than the token's, which no second try changes.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server does not show the authority that the token names (fingerprint {fingerprint}): wrong server, or a token of another cluster"
)]
pub(crate) struct WrongServer {
    fingerprint: String,
}

/// The authority's certificate in PEM.
pub(crate) async fn fetch_authority(server: &str, fingerprint: &str) -> anyhow::Result<String> {
    let uri: Uri = server.parse().with_context(|| format!("--server {server:?} is not a URL"))?;
    let host = uri.host().with_context(|| format!("--server {server:?} names no host"))?;
    if uri.scheme_str().is_some_and(|scheme| scheme != "https") {
        bail!("--server {server:?} must begin with https://");
    }
    let port = uri.port_u16().unwrap_or(443);
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(plain.to_owned()).with_context(|| format!("--server {server:?}"))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Pinned {
        fingerprint: fingerprint.to_owned(),
        provider: Arc::clone(&provider),
        found: OnceLock::new(),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("setting up TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let shake = async {
        let stream = TcpStream::connect((plain, port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let shaken =
        tokio::time::timeout(PATIENCE, shake).await.with_context(|| format!("{server}: no answer"))?;
    match (shaken, verifier.found.get()) {
        (Ok(_), Some(authority)) => Ok(pki::to_pem(authority)),
        (Err(error), _) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            Err(WrongServer { fingerprint: fingerprint.to_owned() }).context(error)
        }
        (Err(error), _) => Err(error).with_context(|| format!("connecting to {server}")),
        (Ok(_), None) => Err(WrongServer { fingerprint: fingerprint.to_owned() }.into()),
    }
}

/// Believes the one authority of that fingerprint.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
    found: OnceLock<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_it = |der: &&CertificateDer<'_>| {
            pki::fingerprint(&pki::to_pem(der)).is_some_and(|found| found == self.fingerprint)
        };
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let authority = intermediates.iter().find(is_it).ok_or(unknown.clone())?.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider));
        let verifier = verifier.build().map_err(|_| unknown)?;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        // The first handshake is the only one.
        _ = self.found.set(authority);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use apiserver::pki::{Pki, Subject};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server with a certificate for `names`, and what comes of asking it.
    async fn ask(names: &[&str], fingerprint: impl Fn(&Pki) -> String) -> (String, anyhow::Result<String>) {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let subject = Subject {
            common_name: "server".to_owned(),
            addresses: names.iter().map(|name| name.parse().unwrap()).collect(),
            ..Subject::default()
        };
        let pair = pki.pair("server", &subject).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(pair.server_config(pki.ca(), false).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            _ = acceptor.accept(stream).await;
            std::future::pending::<()>().await;
        };
        let fingerprint = fingerprint(&pki);
        let asked = fetch_authority(&url, &fingerprint);
        let found = tokio::select! {
            found = asked => found,
            () = serve => unreachable!("it serves for ever"),
        };
        (pki.ca().to_owned(), found)
    }

    #[tokio::test]
    async fn the_authority_with_the_fingerprint_is_fetched() {
        let (ca, found) = ask(&["127.0.0.1"], |pki| pki::fingerprint(pki.ca()).unwrap()).await;
        assert_eq!(found.unwrap().replace(['\r', '\n'], ""), ca.replace(['\r', '\n'], ""));
    }

    #[tokio::test]
    async fn another_authority_is_not_believed() {
        let (_, found) = ask(&["127.0.0.1"], |_| "00".repeat(32)).await;
        assert!(found.unwrap_err().is::<WrongServer>());
    }

    #[tokio::test]
    async fn a_server_of_another_name_is_not_believed() {
        // Any node could show the authority; only the server has a certificate for the server's address.
        let (_, found) = ask(&["192.0.2.1"], |pki| pki::fingerprint(pki.ca()).unwrap()).await;
        assert!(found.unwrap_err().is::<WrongServer>());
    }
}
