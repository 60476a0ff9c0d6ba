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
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
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
/// No request can have a shorter life than this for its certificate.
const SHORTEST: Duration = Duration::from_secs(600);
/// Clocks of small machines disagree a little.
const BACKDATE: Duration = Duration::from_secs(300);

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    addresses: usize,
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
                GeneralName::DNSName(name) => asked.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(_) => asked.addresses += 1,
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
            if !asked.dns_names.is_empty() || asked.addresses > 0 || asked.other_names > 0 {
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
            if asked.dns_names.is_empty() && asked.addresses == 0 {
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
    // A short life is not to seem half over when it begins.
    params.not_before = now - BACKDATE.min(lifetime / 10);
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

/// Who signs, and by which rules.
#[derive(Debug, Clone, Copy)]
struct Signer<'a> {
    pki: &'a Pki,
    /// Certificates live this long unless the request wants them to live shorter.
    lifetime: Duration,
    /// What the API server is called. Its certificate is made by the same authority.
    server_names: &'a [String],
}

/// Whether a node asks for a serving certificate in its own name and in no other. Upstream leaves all of these to people, for a
/// certificate with any address in it could be used to pose as whoever has that address, the API server among them. A node's
/// name is another thing: it is who the node has proved to be, and the API server asks for the name when it dials an agent.
fn is_own_name(request: &CertificateSigningRequest, asked: &Asked, server_names: &[String]) -> bool {
    let Some(node) = asked.common_name.strip_prefix("system:node:") else { return false };
    request.spec.username.as_deref() == Some(asked.common_name.as_str())
        && request.spec.groups.iter().flatten().any(|group| group == "system:nodes")
        && asked.dns_names == [node]
        && asked.addresses == 0
        && !server_names.iter().any(|name| name.eq_ignore_ascii_case(node))
}

/// Whether a request has been dealt with for so long, or has waited so long, that nobody will come for it. Upstream's times.
fn is_stale(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let older = |since: Option<Timestamp>, hours: i64| {
        since.is_some_and(|since| now.duration_since(since) >= SignedDuration::from_hours(hours))
    };
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let issued = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
    let decided = |kinds: &[&str]| {
        let mut found = conditions.clone().filter(|condition| kinds.contains(&condition.type_.as_str()));
        found.any(|condition| older(condition.last_update_time.as_ref().map(|time| time.0), 1))
    };
    let created = request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    decided(&["Denied", "Failed"])
        || (issued && decided(&["Approved"]))
        || (!has_condition(request, "Approved") && !has_condition(request, "Denied") && older(created, 24))
}

/// What is to be done with a request: where to write, and what to add to its status.
fn step(
    request: &CertificateSigningRequest,
    signer_of: &Signer<'_>,
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
        // An agent gets its own certificates; everything else is for people to decide.
        let found = found.filter(|found| fits(signer, found, &usages).is_ok())?;
        let message = match signer {
            AGENT_CLIENT
                if may_ask_for(&found) && request.spec.username.as_ref() == Some(&found.common_name) =>
            {
                "Auto approving self kubelet client certificate after SubjectAccessReview."
            }
            AGENT_CLIENT if may_ask_for(&found) => {
                "Auto approving kubelet client certificate after SubjectAccessReview."
            }
            AGENT_SERVING if is_own_name(request, &found, signer_of.server_names) => {
                "Auto approving kubelet serving certificate for the node's own name."
            }
            _ => return None,
        };
        let approved = json!({
            "type": "Approved", "status": "True", "reason": "AutoApproved", "message": message,
        });
        return Some(("approval", json!({"conditions": with(approved)})));
    }
    let fitting = match &found {
        None => Err("unable to parse the certificate request"),
        Some(found) => fits(signer, found, &usages),
    };
    let seconds = request.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let longest = signer_of.lifetime;
    let lifetime = seconds.map_or(longest, |asked| Duration::from_secs(asked).max(SHORTEST)).min(longest);
    let pem = String::from_utf8_lossy(&request.spec.request.0);
    let (reason, why) = match fitting {
        Err(why) => ("SignerValidationFailure", why.to_owned()),
        Ok(()) => match sign(signer_of.pki, &pem, &usages, lifetime) {
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
            let signer = Signer {
                pki: &pki,
                lifetime: self.config.signing_duration,
                server_names: &self.config.server_names,
            };
            for object in row.cache.all("") {
                let Ok(request) = serde_json::from_slice::<CertificateSigningRequest>(object.json_bytes())
                else {
                    continue;
                };
                let path = format!("/apis/{GROUP}/v1/certificatesigningrequests/{}", object.name());
                if is_stale(&request, self.now()) {
                    if let Err(error) = self.ask(Method::DELETE, &path, &json!({})).await {
                        tracing::debug!(request = object.name(), %error, "an old request for a certificate stays");
                    }
                    continue;
                }
                let Some((door, status)) = step(&request, &signer, |asked| self.may_renew(&request, asked))
                else {
                    continue;
                };
                let path = format!("{path}/{door}");
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
        let signer = Signer {
            pki: &pki,
            lifetime: Duration::from_secs(86400),
            server_names: &["localhost".to_owned()],
        };
        let mut object: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {"request": STANDARD.encode(request("jane", "devs", &[])), "signerName": CLIENT, "usages": ["client auth"]},
        }))
        .unwrap();
        assert_eq!(step(&object, &signer, |_| true), None, "nobody has approved it");
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        object.status = serde_json::from_value(approved).unwrap();
        let (door, status) = step(&object, &signer, |_| false).unwrap();
        assert_eq!(door, "status");
        let pem = STANDARD.decode(status["certificate"].as_str().unwrap()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().iter_common_name().next().unwrap().as_str().unwrap(), "jane");
        assert!(!certificate.is_ca());
        object.spec.usages = Some(usages(&["server auth"]));
        let (_, status) = step(&object, &signer, |_| false).unwrap();
        assert_eq!(status["conditions"][1]["reason"], "SignerValidationFailure");
    }

    #[test]
    fn agents_renew_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let signer = Signer {
            pki: &pki,
            lifetime: Duration::from_secs(86400),
            server_names: &["localhost".to_owned()],
        };
        let object: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {
                "request": STANDARD.encode(request("system:node:a", "system:nodes", &[])),
                "signerName": AGENT_CLIENT, "usages": ["client auth", "digital signature"],
            },
        }))
        .unwrap();
        let (door, status) = step(&object, &signer, |asked| asked.common_name == "system:node:a").unwrap();
        assert_eq!((door, &status["conditions"][0]["reason"]), ("approval", &json!("AutoApproved")));
        assert_eq!(step(&object, &signer, |_| false), None);
    }

    #[test]
    fn nodes_serve_under_their_own_name_alone() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let signer = Signer {
            pki: &pki,
            lifetime: Duration::from_secs(86400),
            server_names: &["localhost".to_owned()],
        };
        let check = |user: &str, name: &str, hosts: &[&str], approved: bool| {
            let object: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "r"},
                "spec": {
                    "request": STANDARD.encode(request(&format!("system:node:{name}"), "system:nodes", hosts)),
                    "signerName": AGENT_SERVING, "usages": ["server auth", "digital signature"],
                    "username": user, "groups": ["system:nodes"],
                },
            }))
            .unwrap();
            assert_eq!(step(&object, &signer, |_| true).is_some(), approved, "{user} {name} {hosts:?}");
        };
        check("system:node:a", "a", &["a"], true);
        check("system:node:b", "a", &["a"], false);
        check("system:node:a", "a", &["b"], false);
        check("system:node:a", "a", &["a", "kubernetes"], false);
        // An address could be anybody's.
        check("system:node:a", "a", &["a", "10.43.0.1"], false);
        check("system:node:localhost", "localhost", &["localhost"], false);
    }

    #[test]
    fn requests_do_not_stay_for_ever() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let check = |status: Value, stale: bool| {
            let object: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "r", "creationTimestamp": "2026-01-01T12:00:00Z"},
                "spec": {"request": "", "signerName": CLIENT}, "status": status,
            }))
            .unwrap();
            assert_eq!(is_stale(&object, now), stale, "{status}");
        };
        let condition =
            |kind: &str, at: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": at}]);
        check(json!({}), false);
        check(json!({"conditions": condition("Denied", "2026-01-01T22:59:00Z")}), true);
        check(json!({"conditions": condition("Denied", "2026-01-01T23:30:00Z")}), false);
        check(json!({"conditions": condition("Approved", "2026-01-01T20:00:00Z")}), false);
        check(
            json!({"conditions": condition("Approved", "2026-01-01T20:00:00Z"), "certificate": "eA=="}),
            true,
        );
    }
}
