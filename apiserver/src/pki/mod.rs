//! The cluster's certificate authority and the certificates of its parts.
//!
//! The first start makes a CA; every later start finds it. A certificate is made again when it is about to expire,
//! when the names that it must carry change, or when it does not fit its key or CA any more; otherwise its file stays
//! as it is. Keys never leave the directory, whose files are readable by their owner only and are written beside,
//! synced and renamed.
//!
//! ```text
//!   <dir>/ca.crt, ca.key            the authority, for ten years
//!   <dir>/NAME.crt, NAME.key        one pair per part, for one year, made again in its last quarter
//! ```

mod files;
mod kubeconfig;
mod tls;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

pub use files::{FileError, write_private};
pub use kubeconfig::{kubeconfig, kubeconfig_of_file};
pub use tls::{Serving, TlsError};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The CA with its directory.
#[derive(Debug, Clone)]
pub struct Pki {
    directory: PathBuf,
    ca_pem: String,
    /// None where certificates are only used: a node that got its own from elsewhere.
    ca_key_pem: Option<String>,
}

/// Whose certificate it is, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// Common name: the user's name.
    pub common_name: String,
    /// Organisation: the user's group. (The certificate library keeps one of each attribute.)
    pub organization: Option<String>,
    /// Host names that a server answers to.
    pub dns_names: Vec<String>,
    /// Addresses that a server answers at.
    pub addresses: Vec<IpAddr>,
}

/// A certificate with its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Reading or writing a file of the directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key or certificate of the CA is there without the other.
    #[error("{} exists but {} does not: put it back, or remove both to start a new cluster", present.display(), absent.display())]
    HalfCa {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        absent: PathBuf,
    },
    /// The files of the CA are not what they should be.
    #[error("{} does not hold a certificate authority", path.display())]
    BrokenCa {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: rcgen::Error,
    },
    /// A node's directory without the cluster's authority.
    #[error("{} does not exist: it is the certificate of the cluster's authority, and comes from the cluster's server", path.display())]
    NoCa {
        /// The file.
        path: PathBuf,
    },
    /// The certificate that was given to a node does not fit it, and only the authority can make another.
    #[error("the certificate {} is missing, about to expire, or not made for this node (name, address): get a new one from the cluster's server", path.display())]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
    },
    /// Making a key or a certificate.
    #[error("making a certificate for {name}")]
    Issue {
        /// The part that it is for.
        name: String,
        /// What went wrong.
        #[source]
        source: rcgen::Error,
    },
}

impl Pki {
    /// Finds the CA in the directory, or makes one.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, PkiError> {
        let directory = directory.into();
        files::create_private_directory(&directory)?;
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        let (ca_pem, ca_key_pem) = match (files::read(&certificate)?, files::read(&key)?) {
            (Some(ca_pem), Some(ca_key_pem)) => (ca_pem, ca_key_pem),
            (Some(_), None) => return Err(PkiError::HalfCa { present: certificate, absent: key }),
            // A key without a certificate is what a crash between the two writes below leaves: nothing was signed yet.
            (None, _) => {
                let pair =
                    new_ca().map_err(|source| PkiError::Issue { name: "the CA".to_owned(), source })?;
                files::write_private(&key, pair.key.as_bytes())?;
                files::write_private(&certificate, pair.certificate.as_bytes())?;
                (pair.certificate, pair.key)
            }
        };
        let pki = Self { directory, ca_pem, ca_key_pem: Some(ca_key_pem) };
        pki.issuer().map_err(|source| PkiError::BrokenCa { path: certificate, source })?;
        Ok(pki)
    }

    /// The directory of a node: the authority's certificate, and certificates that it made; the authority's key if the server
    /// lives here too.
    pub fn open_node(directory: impl Into<PathBuf>) -> Result<Self, PkiError> {
        let directory = directory.into();
        let certificate = directory.join("ca.crt");
        let ca_pem = files::read(&certificate)?.ok_or(PkiError::NoCa { path: certificate })?;
        let ca_key_pem = files::read(&directory.join("ca.key"))?;
        Ok(Self { directory, ca_pem, ca_key_pem })
    }

    /// The CA's certificate in PEM.
    pub fn ca(&self) -> &str {
        &self.ca_pem
    }

    /// The CA's certificate file.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Paths of the certificate and key of a part.
    pub fn pair_files(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.directory.join(format!("{name}.crt")), self.directory.join(format!("{name}.key")))
    }

    /// The certificate of a part: the one on disk while it fits, a new one otherwise.
    pub fn pair(&self, name: &str, subject: &Subject) -> Result<Pair, PkiError> {
        let (certificate_file, key_file) = self.pair_files(name);
        if let (Some(certificate), Some(key)) = (files::read(&certificate_file)?, files::read(&key_file)?)
            && self.fits(&certificate, &key, subject, SystemTime::now())
        {
            return Ok(Pair { certificate, key });
        }
        if self.ca_key_pem.is_none() {
            return Err(PkiError::Unfit { path: certificate_file });
        }
        let pair = self.issue(name, subject)?;
        // A crash in between leaves a pair that does not fit, which is then made again.
        files::write_private(&key_file, pair.key.as_bytes())?;
        files::write_private(&certificate_file, pair.certificate.as_bytes())?;
        Ok(pair)
    }

    /// A new certificate that is not kept.
    pub fn issue(&self, name: &str, subject: &Subject) -> Result<Pair, PkiError> {
        let make = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name = distinguished_name(subject);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            if !subject.dns_names.is_empty() || !subject.addresses.is_empty() {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            }
            for name in &subject.dns_names {
                params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
            }
            params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
            (params.not_before, params.not_after) = validity(LIFETIME);
            let certificate = params.signed_by(&key, &self.issuer()?)?;
            Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
        };
        make().map_err(|source| PkiError::Issue { name: name.to_owned(), source })
    }

    /// The file and text of the key that signs tokens; the first to ask makes it.
    pub(crate) fn token_key(&self) -> Result<(PathBuf, String), PkiError> {
        let path = self.directory.join("sa.key");
        if let Some(key) = files::read(&path)? {
            return Ok((path, key));
        }
        let make = |source| PkiError::Issue { name: "signing tokens".to_owned(), source };
        let key = KeyPair::generate().map_err(make)?.serialize_pem();
        files::write_private(&path, key.as_bytes())?;
        Ok((path, key))
    }

    pub(crate) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
        // Who has no key gets what an empty file gets.
        Issuer::from_ca_cert_pem(
            &self.ca_pem,
            KeyPair::from_pem(self.ca_key_pem.as_deref().unwrap_or_default())?,
        )
    }

    /// Whether a pair can serve on: right names, our signature, its own key, and a quarter of its life left.
    fn fits(&self, certificate: &str, key: &str, subject: &Subject, now: SystemTime) -> bool {
        let Ok(key) = KeyPair::from_pem(key) else { return false };
        let (Some(der), Some(ca_der)) = (der(certificate), der(&self.ca_pem)) else { return false };
        let (Ok((_, parsed)), Ok((_, ca))) =
            (X509Certificate::from_der(&der), X509Certificate::from_der(&ca_der))
        else {
            return false;
        };
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let renew_from = u64::try_from(parsed.validity().not_after.timestamp())
            .unwrap_or(0)
            .saturating_sub(LIFETIME.as_secs() / 4);
        parsed.verify_signature(Some(ca.public_key())).is_ok()
            && parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
            && now < renew_from
            && subject_of(&parsed) == normal(subject)
    }
}

/// A new key, and the request for a certificate of it, both in PEM: for an authority that is elsewhere.
pub fn request(subject: &Subject) -> Result<(String, String), PkiError> {
    let make = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(subject);
        for name in &subject.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
        Ok((key.serialize_pem(), params.serialize_request(&key)?.pem()?))
    };
    make().map_err(|source| PkiError::Issue { name: subject.common_name.clone(), source })
}

/// Whose a certificate is, and from when until when it is good; None for what is no certificate.
pub fn read_certificate(pem: &str) -> Option<(Subject, SystemTime, SystemTime)> {
    let der = der(pem)?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let time = |seconds: i64| Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some((
        subject_of(&certificate),
        time(validity.not_before.timestamp())?,
        time(validity.not_after.timestamp())?,
    ))
}

/// Bytes of a certificate as PEM.
pub fn to_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// The fingerprint by which an authority is known before it has been seen: SHA-256 of its certificate, in hexadecimal digits.
pub fn fingerprint(pem: &str) -> Option<String> {
    use sha2::Digest as _;
    use std::fmt::Write as _;
    let digest = sha2::Sha256::digest(der(pem)?);
    Some(digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        _ = write!(text, "{byte:02x}");
        text
    }))
}

fn new_ca() -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "coracle-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    (params.not_before, params.not_after) = validity(CA_LIFETIME);
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn distinguished_name(subject: &Subject) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = &subject.organization {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    name.push(DnType::CommonName, subject.common_name.as_str());
    name
}

/// From a day ago, since clocks of small machines disagree, until `lifetime` from now.
fn validity(lifetime: Duration) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::now_utc();
    (now - DAY, now + lifetime)
}

fn der(pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(pem.contents)
}

/// Reads the subject back from a certificate.
fn subject_of(certificate: &X509Certificate<'_>) -> Subject {
    let name = certificate.subject();
    let mut subject = Subject {
        common_name: name
            .iter_common_name()
            .find_map(|attribute| attribute.as_str().ok())
            .unwrap_or_default()
            .to_owned(),
        organization: name
            .iter_organization()
            .find_map(|attribute| attribute.as_str().ok())
            .map(str::to_owned),
        ..Subject::default()
    };
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => subject.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => subject.addresses.extend(address(bytes)),
                _ => {}
            }
        }
    }
    normal(&subject)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// The order of names says nothing.
fn normal(subject: &Subject) -> Subject {
    let mut subject = subject.clone();
    subject.dns_names.sort();
    subject.addresses.sort();
    subject
}

#[cfg(test)]
mod tests;
