//! Requests for certificates: who asked is written down by the server, approval and the certificate come through doors of
//! their own.

use manifests::encode::same;
use manifests::field::ErrorList;
use manifests::k8s_openapi::api::certificates::v1 as certificates;
use manifests::k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition as Condition;
use manifests::status::ApiError;
use manifests::time::time;
use manifests::validate;

use super::env::Env;
use super::kind::{Kind, Part};
use crate::authorize::Action;
use crate::fields::SelectableField;
use crate::rbac::MASTERS;

pub(super) struct Request;

const GROUP: &str = "certificates.k8s.io";

impl Kind for Request {
    type Object = certificates::CertificateSigningRequest;

    const FIELDS: &'static [SelectableField] =
        &[SelectableField::plain("spec.signerName", &["spec.signerName"])];

    fn default(object: &mut Self::Object) {
        if object.spec.usages.as_ref().is_none_or(Vec::is_empty) {
            object.spec.usages = Some(vec!["digital signature".to_owned(), "key encipherment".to_owned()]);
        }
    }

    fn prepare_create(object: &mut Self::Object, env: &Env<'_>) -> Result<(), ApiError> {
        object.status = None;
        // Nobody asks in somebody else's name.
        let identity = env.caller.map(|caller| caller.identity);
        object.spec.username = identity.map(|identity| identity.user.clone());
        object.spec.uid = identity.map(|identity| identity.uid.clone()).filter(|uid| !uid.is_empty());
        object.spec.groups = identity.map(|identity| identity.groups.clone());
        object.spec.extra = identity.map(|identity| identity.extra.clone()).filter(|extra| !extra.is_empty());
        Ok(())
    }

    fn prepare_update(
        new: &mut Self::Object,
        old: &Self::Object,
        part: Part,
        env: &Env<'_>,
    ) -> Result<(), ApiError> {
        new.spec = old.spec.clone();
        let before = old.status.clone().unwrap_or_default();
        match part {
            Part::Status => {
                // Approval is decided through the other door.
                let mut conditions =
                    new.status.clone().and_then(|status| status.conditions).unwrap_or_default();
                conditions.retain(|condition| !is_decision(condition));
                let kept =
                    before.conditions.iter().flatten().filter(|condition| is_decision(condition)).cloned();
                conditions.extend(kept);
                let status = new.status.get_or_insert_default();
                status.conditions = (!conditions.is_empty()).then_some(conditions);
                if status.certificate.is_some() && !same(&status.certificate, &before.certificate) {
                    may(env, "sign", new)?;
                }
            }
            Part::Approval => {
                let conditions = new.status.take().and_then(|status| status.conditions);
                new.status = Some(certificates::CertificateSigningRequestStatus { conditions, ..before });
                may(env, "approve", new)?;
            }
            _ => {
                new.status.clone_from(&old.status);
                return Ok(());
            }
        }
        for condition in new.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
            condition.last_update_time.get_or_insert(time(env.now));
            condition.last_transition_time.get_or_insert(time(env.now));
        }
        Ok(())
    }

    fn validate(object: &Self::Object) -> ErrorList {
        validate::certificate_signing_request(object)
    }

    fn validate_update(new: &Self::Object, old: &Self::Object, part: Part) -> ErrorList {
        validate::certificate_signing_request_update(new, old, part == Part::Approval)
    }
}

fn is_decision(condition: &Condition) -> bool {
    matches!(condition.type_.as_str(), "Approved" | "Denied")
}

/// Whether the caller may approve or sign for a request's signer: this very one, or all of its domain.
fn may(env: &Env<'_>, verb: &str, request: &certificates::CertificateSigningRequest) -> Result<(), ApiError> {
    let Some(caller) = env.caller else { return Ok(()) };
    let signer = request.spec.signer_name.as_str();
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let allowed = caller.identity.is_in(MASTERS)
        || [signer, &domain].iter().any(|name| {
            let action =
                Action { verb, group: GROUP, resource: "signers", subresource: "", namespace: "", name };
            caller.policy.allows(caller.identity, &action)
        });
    if allowed {
        return Ok(());
    }
    let name = request.metadata.name.as_deref().unwrap_or_default();
    let why =
        format!("user not permitted to {verb} requests with signerName {}", manifests::go::quote(signer));
    Err(ApiError::forbidden("certificatesigningrequests", GROUP, name, &why))
}
