//! Signs approved requests for certificates, as upstream's built-in signers do.
//!
//! ```text
//! request ──▶ an agent asks for itself? ──▶ approved by the server ──┐
//!        └──▶ approved by somebody (kubectl certificate approve) ────┴──▶ fits its signer? ──▶ status.certificate
//!                                                                                     └──no──▶ condition Failed
//! ```

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use manifests::k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::authorize::Action;
use crate::identity::Identity;
use crate::pki::Pki;
use crate::server::ApiServer;

const GROUP: &str = "certificates.k8s.io";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const AGENT_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const AGENT_SERVING: &str = "kubernetes.io/kubelet-serving";
const UNKNOWN: &str = "kubernetes.io/legacy-unknown";
/// Certificates live this long unless the request wants them to live shorter.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    common_name: String,
    organizations: Vec<String>,
    hosts: usize,
    other_names: usize,
}

fn asked(pem: &[u8]) -> Option<Asked> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    request.verify_signature().ok()?;
    let subject = &request.certification_request_info.subject;
    let text = |found: Option<&str>| found.unwrap_or_default().to_owned();
    let mut asked = Asked {
        common_name: text(subject.iter_common_name().find_map(|attribute| attribute.as_str().ok())),
        organizations: subject
            .iter_organization()
            .filter_map(|name| name.as_str().ok())
            .map(str::to_owned)
            .collect(),
        ..Asked::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) | GeneralName::IPAddress(_) => asked.hosts += 1,
                _ => asked.other_names += 1,
            }
        }
    }
    Some(asked)
}

/// Whether a request fits its signer. The error says why not.
fn fits(signer: &str, asked: &Asked, usages: &[String]) -> Result<(), &'static str> {
    let only = |allowed: &[&str]| usages.iter().all(|usage| allowed.contains(&usage.as_str()));
    let has = |wanted: &str| usages.iter().any(|usage| usage == wanted);
    let agent = || {
        if asked.organizations != ["system:nodes"] {
            return Err("subject organization is not system:nodes");
        }
        if !asked.common_name.starts_with("system:node:") {
            return Err("subject common name does not begin with system:node:");
        }
        Ok(())
    };
    match signer {
        CLIENT => {
            if !only(&["digital signature", "key encipherment", "client auth"]) || !has("client auth") {
                return Err("usages did not match");
            }
            if asked.organizations.iter().any(|organization| organization == "system:masters") {
                return Err("subject organization may not be system:masters");
            }
            Ok(())
        }
        AGENT_CLIENT => {
            agent()?;
            if asked.hosts > 0 || asked.other_names > 0 {
                return Err("subjectAltNames are not allowed");
            }
            if !only(&["digital signature", "key encipherment", "client auth"])
                || !has("client auth")
                || !has("digital signature")
            {
                return Err("usages did not match");
            }
            Ok(())
        }
        AGENT_SERVING => {
            agent()?;
            if asked.hosts == 0 {
                return Err("DNS or IP subjectAltName is required");
            }
            if asked.other_names > 0 {
                return Err("email and URI subjectAltNames are not allowed");
            }
            if !only(&["digital signature", "key encipherment", "server auth"])
                || !has("server auth")
                || !has("digital signature")
            {
                return Err("usages did not match");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The certificate, in PEM.
fn sign(pki: &Pki, pem: &str, usages: &[String], lifetime: Duration) -> Result<String, rcgen::Error> {
    let mut request = CertificateSigningRequestParams::from_pem(pem)?;
    let params = &mut request.params;
    let now = time::OffsetDateTime::now_utc();
    // Clocks of small machines disagree a little.
    params.not_before = now - Duration::from_secs(300);
    params.not_after = now + lifetime;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
    params.extended_key_usages = usages.iter().filter_map(|usage| extended_usage(usage)).collect();
    Ok(request.signed_by(&pki.issuer()?)?.pem())
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    Some(match usage {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        _ => return None,
    })
}

fn extended_usage(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match usage {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

fn has_condition(request: &CertificateSigningRequest, name: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == name)
}

/// What is to be done with a request: where to write, and what to add to its status.
fn step(
    request: &CertificateSigningRequest,
    pki: &Pki,
    may_ask_for: impl Fn(&Asked) -> bool,
) -> Option<(&'static str, Value)> {
    let signer = request.spec.signer_name.as_str();
    if ![CLIENT, AGENT_CLIENT, AGENT_SERVING, UNKNOWN].contains(&signer)
        || has_condition(request, "Denied")
        || has_condition(request, "Failed")
        || request.status.as_ref().is_some_and(|status| status.certificate.is_some())
    {
        return None;
    }
    let usages = request.spec.usages.clone().unwrap_or_default();
    let mut conditions =
        serde_json::to_value(request.status.as_ref().and_then(|status| status.conditions.clone())).ok()?;
    let mut with = |condition: Value| {
        let mut list = conditions.as_array().cloned().unwrap_or_default();
        list.push(condition);
        conditions = list.into();
        conditions.clone()
    };
    let found = asked(&request.spec.request.0);
    if !has_condition(request, "Approved") {
        // An agent renews its own certificate; everything else is for people to decide.
        let found = found?;
        if signer != AGENT_CLIENT || fits(signer, &found, &usages).is_err() || !may_ask_for(&found) {
            return None;
        }
        let approved = json!({
            "type": "Approved", "status": "True", "reason": "AutoApproved",
            "message": "Auto approving kubelet client certificate after SubjectAccessReview.",
        });
        return Some(("approval", json!({"conditions": with(approved)})));
    }
    let fitting = match &found {
        None => Err("unable to parse the certificate request"),
        Some(found) => fits(signer, found, &usages),
    };
    let seconds = request.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let lifetime = seconds.map_or(LIFETIME, Duration::from_secs).clamp(Duration::from_secs(600), LIFETIME);
    let pem = String::from_utf8_lossy(&request.spec.request.0);
    let (reason, why) = match fitting {
        Err(why) => ("SignerValidationFailure", why.to_owned()),
        Ok(()) => match sign(pki, &pem, &usages, lifetime) {
            Ok(certificate) => return Some(("status", json!({"certificate": STANDARD.encode(certificate)}))),
            Err(error) => ("SigningError", error.to_string()),
        },
    };
    let failed = json!({"type": "Failed", "status": "True", "reason": reason, "message": why});
    Some(("status", json!({"conditions": with(failed)})))
}

impl ApiServer {
    /// Approves and signs until the server stops.
    pub(crate) async fn sign_certificates(self: Arc<Self>, pki: Arc<Pki>) {
        let Some(row) = self.registry.find(GROUP, "v1", "certificatesigningrequests").cloned() else {
            return;
        };
        let mut changed = row.cache.subscribe();
        loop {
            changed.mark_unchanged();
            for object in row.cache.all("") {
                let Ok(request) = serde_json::from_slice::<CertificateSigningRequest>(object.json_bytes())
                else {
                    continue;
                };
                let Some((door, status)) = step(&request, &pki, |asked| self.may_renew(&request, asked))
                else {
                    continue;
                };
                let path = format!("/apis/{GROUP}/v1/certificatesigningrequests/{}/{door}", object.name());
                let patch = json!({"metadata": {"uid": request.metadata.uid}, "status": status});
                if let Err(error) = self.ask(Method::PATCH, &path, &patch).await {
                    tracing::warn!(request = object.name(), %error, "a request for a certificate was not answered");
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = changed.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether who asks may have a node's certificate without anybody looking at it.
    fn may_renew(&self, request: &CertificateSigningRequest, asked: &Asked) -> bool {
        let spec = &request.spec;
        let identity = Identity {
            user: spec.username.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
            uid: spec.uid.clone().unwrap_or_default(),
            extra: spec.extra.clone().unwrap_or_default(),
        };
        let allowed = |subresource: &str| {
            let action = Action {
                verb: "create",
                group: GROUP,
                resource: "certificatesigningrequests",
                subresource,
                namespace: "",
                name: "",
            };
            self.may(&identity, &action)
        };
        (identity.user == asked.common_name && allowed("selfnodeclient")) || allowed("nodeclient")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn request(name: &str, organization: &str, hosts: &[&str]) -> String {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn signers_have_rules() {
        let client = usages(&["digital signature", "client auth"]);
        let server = usages(&["digital signature", "server auth"]);
        let check = |signer: &str, name: &str, group: &str, hosts: &[&str], usages: &[String], good: bool| {
            let found = asked(request(name, group, hosts).as_bytes()).unwrap();
            assert_eq!(fits(signer, &found, usages).is_ok(), good, "{signer} {found:?} {usages:?}");
        };
        check(CLIENT, "jane", "devs", &[], &client, true);
        check(CLIENT, "jane", "system:masters", &[], &client, false);
        check(CLIENT, "jane", "devs", &[], &server, false);
        check(AGENT_CLIENT, "system:node:a", "system:nodes", &[], &client, true);
        check(AGENT_CLIENT, "system:node:a", "others", &[], &client, false);
        check(AGENT_CLIENT, "a", "system:nodes", &[], &client, false);
        check(AGENT_CLIENT, "system:node:a", "system:nodes", &["a.b"], &client, false);
        check(AGENT_SERVING, "system:node:a", "system:nodes", &["a.b"], &server, true);
        check(AGENT_SERVING, "system:node:a", "system:nodes", &[], &server, false);
        assert_eq!(asked(b"no request"), None);
    }

    #[test]
    fn approved_requests_are_signed() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let mut object: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {"request": STANDARD.encode(request("jane", "devs", &[])), "signerName": CLIENT, "usages": ["client auth"]},
        }))
        .unwrap();
        assert_eq!(step(&object, &pki, |_| true), None, "nobody has approved it");
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        object.status = serde_json::from_value(approved).unwrap();
        let (door, status) = step(&object, &pki, |_| false).unwrap();
        assert_eq!(door, "status");
        let pem = STANDARD.decode(status["certificate"].as_str().unwrap()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().iter_common_name().next().unwrap().as_str().unwrap(), "jane");
        assert!(!certificate.is_ca());
        object.spec.usages = Some(usages(&["server auth"]));
        let (_, status) = step(&object, &pki, |_| false).unwrap();
        assert_eq!(status["conditions"][1]["reason"], "SignerValidationFailure");
    }

    #[test]
    fn agents_renew_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let object: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {
                "request": STANDARD.encode(request("system:node:a", "system:nodes", &[])),
                "signerName": AGENT_CLIENT, "usages": ["client auth", "digital signature"],
            },
        }))
        .unwrap();
        let (door, status) = step(&object, &pki, |asked| asked.common_name == "system:node:a").unwrap();
        assert_eq!((door, &status["conditions"][0]["reason"]), ("approval", &json!("AutoApproved")));
        assert_eq!(step(&object, &pki, |_| false), None);
    }
}
