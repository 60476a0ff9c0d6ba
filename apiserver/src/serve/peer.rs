//! Who a client certificate says that its bearer is.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::Identity;

/// The user is the common name, the groups are the organisations, as Kubernetes reads them. The handshake has verified the
/// certificate already; a bearer without one, or without a name, is nobody.
pub(super) fn identity(certificates: Option<&[CertificateDer<'_>]>) -> Identity {
    let Some(certificate) = certificates.and_then(<[_]>::first) else { return Identity::anonymous() };
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Identity::anonymous() };
    let subject = parsed.subject();
    let name = subject.iter_common_name().find_map(|attribute| attribute.as_str().ok());
    match name {
        Some(name) if !name.is_empty() => {
            let groups = subject.iter_organization().filter_map(|attribute| attribute.as_str().ok());
            Identity::user(name, groups)
        }
        _ => Identity::anonymous(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Pki, Subject};
    use rustls_pki_types::pem::PemObject as _;

    #[test]
    fn the_name_is_the_user_and_the_organisation_a_group() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let subject = Subject {
            common_name: "admin".to_owned(),
            organization: Some("system:masters".to_owned()),
            ..Subject::default()
        };
        let pair = pki.issue("admin", &subject).unwrap();
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
        let identity = identity(Some(&[der]));
        assert_eq!(identity.user, "admin");
        assert!(identity.is_in("system:masters") && identity.is_in("system:authenticated"));
    }

    #[test]
    fn without_a_certificate_one_is_nobody() {
        assert!(identity(None).is_anonymous());
        assert!(identity(Some(&[CertificateDer::from(vec![1, 2, 3])])).is_anonymous());
    }
}
