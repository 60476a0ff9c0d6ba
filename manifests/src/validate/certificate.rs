//! Requests for certificates.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{immutable, named, object_meta, object_meta_update, one_of};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

/// What a certificate can be used for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Certificates live at least this long.
const SHORTEST: i32 = 600;
const HEAD: &str = "-----BEGIN CERTIFICATE REQUEST-----";

/// A new request.
pub fn certificate_signing_request(request: &CertificateSigningRequest) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&request.metadata, false, names::path_segment, &mut errors);
    let (path, spec) = (Path::new("spec"), &request.spec);
    let pem = String::from_utf8_lossy(&spec.request.0);
    if !pem.trim_start().starts_with(HEAD) {
        let why = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(FieldError::invalid(&path.child("request"), &*pem, why));
    }
    let usages = spec.usages.as_deref().unwrap_or_default();
    if usages.is_empty() {
        errors.push(FieldError::required(&path.child("usages"), ""));
    }
    for (index, usage) in usages.iter().enumerate() {
        let path = path.child("usages").index(index);
        one_of(usage, &USAGES, &path, &mut errors);
        if usages[..index].contains(usage) {
            errors.push(FieldError::duplicate(&path, usage));
        }
    }
    signer_name(&spec.signer_name, &path.child("signerName"), &mut errors);
    if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < SHORTEST) {
        let path = path.child("expirationSeconds");
        errors.push(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    errors
}

/// `domain/path`.
fn signer_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, rest)) = name.split_once('/') else {
        errors.push(FieldError::invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
        return;
    };
    named(domain, names::dns1123_subdomain, path, errors);
    if !domain.contains('.') {
        errors.push(FieldError::invalid(
            path,
            name,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    for segment in rest.split('.') {
        named(segment, names::dns1123_label, path, errors);
    }
}

/// An update of a request, through the door of approvals or another.
pub fn certificate_signing_request_update(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    approves: bool,
) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let path = Path::new("status").child("conditions");
    let conditions = |of: &CertificateSigningRequest| {
        of.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
    };
    let (now, before) = (conditions(new), conditions(old));
    for (index, condition) in now.iter().enumerate() {
        let path = path.index(index);
        if condition.type_.is_empty() {
            errors.push(FieldError::required(&path.child("type"), ""));
        }
        let decided = matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed");
        let allowed: &[&str] = if decided { &["True"] } else { &["False", "True", "Unknown"] };
        one_of(&condition.status, allowed, &path.child("status"), &mut errors);
        if now[..index].iter().any(|other| other.type_ == condition.type_) {
            errors.push(FieldError::duplicate(&path.child("type"), &condition.type_));
        }
        let other = match condition.type_.as_str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => continue,
        };
        if now[..index].iter().any(|before| before.type_ == other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&path.child("type"), &condition.type_, why));
        }
    }
    for kept in before.iter().filter(|kept| matches!(kept.type_.as_str(), "Approved" | "Denied" | "Failed")) {
        if !now.iter().any(|condition| condition.type_ == kept.type_) {
            let why = format!("updates may not remove a condition of type {}", crate::go::quote(&kept.type_));
            errors.push(FieldError::forbidden(&path, why));
        }
    }
    let certificate =
        |of: &CertificateSigningRequest| of.status.as_ref().and_then(|status| status.certificate.clone());
    if certificate(old).is_some() || approves {
        immutable(
            &certificate(new),
            &certificate(old),
            &Path::new("status").child("certificate"),
            &mut errors,
        );
    }
    errors
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn request(signer: &str, usages: &[&str], pem: &str) -> CertificateSigningRequest {
        let mut made: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r"}, "spec": {"request": "", "signerName": signer, "usages": usages},
        }))
        .unwrap();
        made.spec.request = ByteString(pem.as_bytes().to_vec());
        made
    }

    #[test]
    fn requests() {
        let check = |signer: &str, usages: &[&str], pem: &str, expected: &str| {
            assert_eq!(certificate_signing_request(&request(signer, usages, pem)).to_string(), expected);
        };
        check("kubernetes.io/kube-apiserver-client", &["client auth"], HEAD, "");
        check(
            "kubernetes.io/x",
            &["client auth"],
            "no",
            "spec.request: Invalid value: \"no\": PEM block type must be CERTIFICATE REQUEST",
        );
        check("", &["client auth"], HEAD, "spec.signerName: Required value");
        assert_eq!(certificate_signing_request(&request("a.b/c", &["fun"], HEAD)).len(), 1);
        assert_eq!(certificate_signing_request(&request("a/c", &["any", "any"], HEAD)).len(), 2);
    }

    #[test]
    fn a_request_is_approved_or_denied() {
        let with = |conditions: serde_json::Value| {
            let mut made = request("a.b/c", &["any"], HEAD);
            made.metadata.resource_version = Some("1".to_owned());
            made.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
            made
        };
        let none = with(json!([]));
        let approved = with(json!([{"type": "Approved", "status": "True"}]));
        let both =
            with(json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]));
        assert!(certificate_signing_request_update(&approved, &none, true).is_empty());
        assert_eq!(
            certificate_signing_request_update(&both, &approved, true).to_string(),
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"
        );
        assert_eq!(
            certificate_signing_request_update(&none, &approved, true).to_string(),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
        );
    }
}
