//! Questions about who somebody is and what somebody may do: kinds that are only answered, never stored.

use bytes::Bytes;
use http::StatusCode;
use manifests::decode::decode_document;
use manifests::field::{ErrorList, FieldError, Path};
use manifests::k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, SelfSubjectReviewStatus, TokenRequest, TokenReview, TokenReviewStatus, UserInfo,
};
use manifests::k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule,
    SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use manifests::status::ApiError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Call, Reply};
use crate::authorize::Action;
use crate::error::Error;
use crate::identity::Identity;
use crate::request::content;
use crate::request::params::WriteParams;
use crate::server::ApiServer;
use crate::token;
use crate::write::decode::check_type;

/// Tokens that expire sooner are refused.
const SHORTEST: i64 = 600;

impl ApiServer {
    /// Answers a question of some kind.
    pub(crate) async fn review(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let kind = call.row.kind;
        // The answer is about now.
        self.refresh().await?;
        match kind.kind {
            "TokenReview" => self.reviewed(call, &body, |review: &mut TokenReview| {
                let token = std::mem::take(&mut review.spec.token);
                review.status = Some(self.review_token(&token, review));
                Ok(())
            }),
            "SelfSubjectReview" => self.reviewed(call, &body, |review: &mut SelfSubjectReview| {
                review.status = Some(SelfSubjectReviewStatus { user_info: Some(user_info(&call.identity)) });
                Ok(())
            }),
            "SubjectAccessReview" => self.reviewed(call, &body, |review: &mut SubjectAccessReview| {
                check(kind.kind, &review.spec)?;
                review.status = Some(self.review_access(&subject(&review.spec), &review.spec));
                Ok(())
            }),
            "LocalSubjectAccessReview" => {
                self.reviewed(call, &body, |review: &mut LocalSubjectAccessReview| {
                    check(kind.kind, &review.spec)?;
                    let asked =
                        review.spec.resource_attributes.as_ref().and_then(|of| of.namespace.as_deref());
                    if asked != Some(&call.path.namespace) {
                        let path = Path::new("spec").child("resourceAttributes").child("namespace");
                        let why = "must match metadata.namespace";
                        let errors = [FieldError::invalid(&path, asked, why)].into_iter().collect();
                        return Err(ApiError::invalid(kind.kind, kind.group, "", &errors));
                    }
                    review.status = Some(self.review_access(&subject(&review.spec), &review.spec));
                    Ok(())
                })
            }
            "SelfSubjectAccessReview" => {
                self.reviewed(call, &body, |review: &mut SelfSubjectAccessReview| {
                    let spec = SubjectAccessReviewSpec {
                        resource_attributes: review.spec.resource_attributes.clone(),
                        non_resource_attributes: review.spec.non_resource_attributes.clone(),
                        user: Some(call.identity.user.clone()),
                        ..SubjectAccessReviewSpec::default()
                    };
                    check(kind.kind, &spec)?;
                    review.status = Some(self.review_access(&call.identity, &spec));
                    Ok(())
                })
            }
            "SelfSubjectRulesReview" => self.reviewed(call, &body, |review: &mut SelfSubjectRulesReview| {
                let namespace = review.spec.namespace.clone().unwrap_or_default();
                if namespace.is_empty() {
                    return Err(ApiError::bad_request("no namespace on request"));
                }
                review.status = Some(self.review_rules(&call.identity, &namespace));
                Ok(())
            }),
            _ => Err(ApiError::unknown_path().into()),
        }
    }

    fn reviewed<T: DeserializeOwned + Serialize>(
        &self,
        call: &Call,
        body: &[u8],
        answer: impl FnOnce(&mut T) -> Result<(), ApiError>,
    ) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "CreateOptions")?;
        let (api_version, kind) = (call.row.kind.api_version(), call.row.kind.kind);
        let mut document = content::document(&call.headers, body, (&api_version, kind))?;
        check_type(&mut document.value, &api_version, kind)?;
        let (mut review, warnings) = decode_document::<T>(&document, write.field_validation)
            .map_err(|error| ApiError::bad_request(error.for_kind(&api_version, kind)))?;
        answer(&mut review)?;
        let json = manifests::encode::to_vec(&review)
            .map_err(|source| Error::Encode { key: kind.to_owned(), source })?;
        let warnings = warnings.into_iter().map(|warning| warning.message).collect();
        Ok(Reply::Object { code: StatusCode::CREATED, json: json.into(), warnings })
    }

    fn review_token(&self, token: &str, review: &TokenReview) -> TokenReviewStatus {
        let wanted = review.spec.audiences.clone().unwrap_or_default();
        let audiences = if wanted.is_empty() { vec![self.config.issuer.clone()] } else { wanted };
        let account = token::authenticate(&self.env(), &self.token_key, token, &audiences);
        // A bootstrap token is for the API server, and for nobody else.
        let bootstrap = || {
            let own = audiences.contains(&self.config.issuer);
            let identity = own.then(|| token::bootstrap::authenticate(&self.env(), token)).flatten()?;
            Some((identity, vec![self.config.issuer.clone()]))
        };
        match account.or_else(bootstrap) {
            Some((identity, audiences)) => TokenReviewStatus {
                authenticated: Some(true),
                user: Some(user_info(&identity)),
                audiences: Some(audiences),
                error: None,
            },
            None => TokenReviewStatus {
                error: Some("token lookup failed".to_owned()).filter(|_| !token.is_empty()),
                ..TokenReviewStatus::default()
            },
        }
    }

    fn review_access(
        &self,
        identity: &Identity,
        spec: &SubjectAccessReviewSpec,
    ) -> SubjectAccessReviewStatus {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let allowed = match (&spec.resource_attributes, &spec.non_resource_attributes) {
            (Some(ResourceAttributes { verb, group, resource, subresource, namespace, name, .. }), _) => {
                let action = Action {
                    verb: &text(verb),
                    group: &text(group),
                    resource: &text(resource),
                    subresource: &text(subresource),
                    namespace: &text(namespace),
                    name: &text(name),
                };
                self.may(identity, &action)
            }
            (None, Some(NonResourceAttributes { path, verb })) => {
                self.may_path(identity, &text(verb), &text(path))
            }
            (None, None) => false,
        };
        SubjectAccessReviewStatus { allowed, ..SubjectAccessReviewStatus::default() }
    }

    fn review_rules(&self, identity: &Identity, namespace: &str) -> SubjectRulesReviewStatus {
        let mut status = SubjectRulesReviewStatus::default();
        for rule in self.policy().rules(identity, namespace) {
            if rule.resources.as_ref().is_some_and(|resources| !resources.is_empty()) {
                status.resource_rules.push(ResourceRule {
                    verbs: rule.verbs.clone(),
                    api_groups: rule.api_groups.clone(),
                    resources: rule.resources.clone(),
                    resource_names: rule.resource_names.clone(),
                });
            }
            if rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                status.non_resource_rules.push(NonResourceRule {
                    verbs: rule.verbs.clone(),
                    non_resource_urls: rule.non_resource_urls.clone(),
                });
            }
        }
        status
    }

    /// POST to `serviceaccounts/NAME/token`.
    pub(crate) async fn issue_token(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "CreateOptions")?;
        let (version, kind) = ("authentication.k8s.io/v1", "TokenRequest");
        let mut document = content::document(&call.headers, &body, (version, kind))?;
        check_type(&mut document.value, version, kind)?;
        let (request, _) = decode_document::<TokenRequest>(&document, write.field_validation)
            .map_err(|error| ApiError::bad_request(error.for_kind(version, kind)))?;
        let path = Path::new("spec").child("expirationSeconds");
        let mut errors = ErrorList::new();
        match request.spec.as_ref().and_then(|spec| spec.expiration_seconds) {
            Some(seconds) if seconds < SHORTEST => {
                let why = "may not specify a duration less than 10 minutes";
                errors.push(FieldError::invalid(&path, seconds, why));
            }
            Some(seconds) if seconds > 1 << 32 => {
                let why = "may not specify a duration larger than 2^32 seconds";
                errors.push(FieldError::invalid(&path, seconds, why));
            }
            _ => {}
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(kind, "authentication.k8s.io", "", &errors).into());
        }
        self.refresh().await?;
        if let Some(node) = crate::rbac::node::name(&call.identity) {
            let bound = request.spec.as_ref().and_then(|spec| spec.bound_object_ref.as_ref());
            let pod_name = bound.and_then(|bound| bound.name.clone());
            let key = format!("{}/{}", call.path.namespace, pod_name.unwrap_or_default());
            let pod = self.env().decode("", "pods", &key);
            crate::admission::node_restriction::admit_token(node, &request, pod.as_ref())
                .map_err(|why| call.row.forbidden(&call.path.name, &why))?;
        }
        let (namespace, name) = (&call.path.namespace, &call.path.name);
        let issued = token::issue(&self.env(), &self.token_key, namespace, name, request)?;
        let json = manifests::encode::to_vec(&issued)
            .map_err(|source| Error::Encode { key: kind.to_owned(), source })?;
        Ok(Reply::Object { code: StatusCode::CREATED, json: json.into(), warnings: Vec::new() })
    }
}

fn user_info(identity: &Identity) -> UserInfo {
    UserInfo {
        username: Some(identity.user.clone()),
        uid: Some(identity.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(identity.groups.clone()).filter(|groups| !groups.is_empty()),
        extra: Some(identity.extra.clone()).filter(|extra| !extra.is_empty()),
    }
}

/// Who a review is about.
fn subject(spec: &SubjectAccessReviewSpec) -> Identity {
    Identity {
        user: spec.user.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    }
}

fn check(kind: &str, spec: &SubjectAccessReviewSpec) -> Result<(), ApiError> {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), Some(_)) => errors.push(FieldError::invalid(
            &path.child("nonResourceAttributes"),
            &spec.non_resource_attributes,
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            &path.child("resourceAttributes"),
            &spec.non_resource_attributes,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if spec.user.as_deref().unwrap_or_default().is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        errors.push(FieldError::invalid(
            &path.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, "authorization.k8s.io", "", &errors)) }
}
