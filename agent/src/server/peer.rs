//! Who may use the node's own API.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The API server's name when it speaks to agents.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group of those who may do everything.
const ADMINISTRATORS: &str = "system:masters";

/// Whether a client may look into containers and enter them. The handshake has verified the certificate already.
pub(super) fn is_trusted(certificates: Option<&[CertificateDer<'_>]>) -> bool {
    let Some(certificate) = certificates.and_then(<[_]>::first) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let subject = certificate.subject();
    let mut names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    let mut groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    names.any(|name| name == API_SERVER) || groups.any(|group| group == ADMINISTRATORS)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn check(name: &str, group: &str, expected: bool) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(is_trusted(Some(&[certificate.der().clone()])), expected, "{name} {group}");
    }

    #[test]
    fn only_the_api_server_and_administrators() {
        check("kube-apiserver-kubelet-client", "system:masters", true);
        check("kube-apiserver-kubelet-client", "x", true);
        check("admin", "system:masters", true);
        check("system:kube-proxy", "", false);
        check("system:node:other", "system:nodes", false);
        assert!(!is_trusted(None));
        assert!(!is_trusted(Some(&[])));
        assert!(!is_trusted(Some(&[CertificateDer::from(vec![1, 2])])));
    }
}
