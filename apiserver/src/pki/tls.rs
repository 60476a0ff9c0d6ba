//! What rustls needs to serve with a pair of ours and to know clients by theirs.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Pair;

/// A pair that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM.
    #[error("reading PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// Not a usable certificate or key.
    #[error("setting up TLS")]
    Tls(#[source] rustls::Error),
    /// The CA cannot verify clients.
    #[error("setting up the verification of clients")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(TlsError::Pem)
}

fn roots(ca: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(TlsError::Tls)?;
    }
    Ok(Arc::new(roots))
}

fn key(pair: &Pair) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(TlsError::Pem)
}

/// The certificate that a server shows from now on. It can be replaced while the server runs; connections that are there stay.
#[derive(Debug)]
pub struct Serving {
    /// Sent along: whoever knows its fingerprint can trust this server without having seen the authority before.
    authority: Vec<CertificateDer<'static>>,
    current: Mutex<Arc<CertifiedKey>>,
}

impl Serving {
    /// Shows this pair, with the authority's certificate after its own.
    pub fn new(pair: &Pair, ca: &str) -> Result<Arc<Self>, TlsError> {
        let authority = certificates(ca)?;
        let current = Mutex::new(certified(pair, &authority)?);
        Ok(Arc::new(Self { authority, current }))
    }

    /// Shows another from now on.
    pub fn replace(&self, pair: &Pair) -> Result<(), TlsError> {
        let next = certified(pair, &self.authority)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Serves with it, HTTP/2 and HTTP/1.1. Clients of the CA are known by their certificate; others may speak, and are nobody
    /// (`required` refuses them).
    pub fn server_config(self: &Arc<Self>, ca: &str, required: bool) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(default_provider());
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, Arc::clone(&provider));
        if !required {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build().map_err(TlsError::Verifier)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn certified(pair: &Pair, authority: &[CertificateDer<'static>]) -> Result<Arc<CertifiedKey>, TlsError> {
    let mut chain = certificates(&pair.certificate)?;
    chain.extend_from_slice(authority);
    let provider: CryptoProvider = default_provider();
    let key = provider.key_provider.load_private_key(key(pair)?).map_err(TlsError::Tls)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(TlsError::Tls)?;
    Ok(Arc::new(certified))
}

impl Pair {
    /// Serves with this pair for as long as the server runs; see [`Serving::server_config`].
    pub fn server_config(&self, ca: &str, required: bool) -> Result<ServerConfig, TlsError> {
        Serving::new(self, ca)?.server_config(ca, required)
    }

    /// Speaks to servers of the CA with this pair, HTTP/1.1 only, as upgrades need it.
    pub fn client_config(&self, ca: &str) -> Result<ClientConfig, TlsError> {
        ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Tls)?
            .with_root_certificates(roots(ca)?)
            .with_client_auth_cert(certificates(&self.certificate)?, key(self)?)
            .map_err(TlsError::Tls)
    }
}
