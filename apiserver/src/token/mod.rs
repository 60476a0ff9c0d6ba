//! Tokens of service accounts: made by `serviceaccounts/NAME/token`, believed while what they are bound to is there.
//!
//! A token names its account, and possibly a pod, a secret or a node, each with its uid. It is good for the audiences that
//! it was made for, until it expires or one of these is gone. Follows `k8s.io/kubernetes/pkg/serviceaccount`.

pub(crate) mod bootstrap;
mod key;

use manifests::k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest};
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::status::ApiError;
use serde_json::{Value, json};

pub use key::{TokenKey, TokenKeyError};

use crate::identity::Identity;
use crate::registry::Env;

/// The claims of Kubernetes itself.
const PRIVATE: &str = "kubernetes.io";
const USER: &str = "system:serviceaccount:";
/// Accounts, pods and secrets that are on their way out may still act for so long.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// What a request without an expiry gets.
const LIFETIME: i64 = 3600;

/// The user name of an account.
pub(crate) fn user_name(namespace: &str, name: &str) -> String {
    format!("{USER}{namespace}:{name}")
}

/// The groups of all accounts of a namespace.
pub(crate) fn groups(namespace: &str) -> [String; 2] {
    ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// Namespace and name of the account that a user is.
pub(crate) fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(USER)?.split_once(':')
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// An object that is there, as a value.
fn find(env: &Env<'_>, resource: &str, key: &str) -> Option<Value> {
    serde_json::from_slice(env.get("", resource, key)?.json_bytes()).ok()
}

/// Whether an object is that very one, and not long on its way out.
fn lives(object: Option<&Value>, uid: &str, now: Timestamp) -> bool {
    object.is_some_and(|object| {
        let deleted = object.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
        let gone = deleted
            .and_then(|at| at.parse::<Timestamp>().ok())
            .is_some_and(|at| at.saturating_add(LEEWAY).unwrap_or(at) < now);
        text(object, "/metadata/uid") == uid && !gone
    })
}

/// The account that a token is of, if it is good for one of the audiences.
pub(crate) fn authenticate(
    env: &Env<'_>,
    key: &TokenKey,
    token: &str,
    audiences: &[String],
) -> Option<(Identity, Vec<String>)> {
    let claims = key.verify(token)?;
    let second = |name: &str| claims[name].as_i64().and_then(|second| Timestamp::from_second(second).ok());
    let (from, until) = (second("nbf")?, second("exp")?);
    if env.now < from || env.now >= until || text(&claims, "/iss") != env.config.issuer {
        return None;
    }
    let good: Vec<String> = claims["aud"]
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .filter(|audience| audiences.iter().any(|wanted| wanted == audience))
        .map(str::to_owned)
        .collect();
    if good.is_empty() {
        return None;
    }
    let own = &claims[PRIVATE];
    let namespace = text(own, "/namespace");
    let (name, uid) = (text(own, "/serviceaccount/name"), text(own, "/serviceaccount/uid"));
    if text(&claims, "/sub") != user_name(namespace, name) {
        return None;
    }
    let account = find(env, "serviceaccounts", &format!("{namespace}/{name}"));
    if !lives(account.as_ref(), uid, env.now) {
        return None;
    }
    let mut identity = Identity::user(user_name(namespace, name), groups(namespace));
    identity.uid = uid.to_owned();
    let id = text(&claims, "/jti");
    if !id.is_empty() {
        identity
            .extra
            .insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
    }
    for (kind, resource) in [("pod", "pods"), ("secret", "secrets"), ("node", "nodes")] {
        let bound = &own[kind];
        if bound.is_null() {
            continue;
        }
        let (name, uid) = (text(bound, "/name"), text(bound, "/uid"));
        let key = if kind == "node" { name.to_owned() } else { format!("{namespace}/{name}") };
        // A pod's token knows its node, but does not depend on it.
        let binds = kind != "node" || own["pod"].is_null();
        if binds && !lives(find(env, resource, &key).as_ref(), uid, env.now) {
            return None;
        }
        if kind != "secret" {
            for (what, value) in [("name", name), ("uid", uid)] {
                let key = format!("authentication.kubernetes.io/{kind}-{what}");
                identity.extra.insert(key, vec![value.to_owned()]);
            }
        }
    }
    Some((identity, good))
}

/// Answers a request for a token of an account.
pub(crate) fn issue(
    env: &Env<'_>,
    key: &TokenKey,
    namespace: &str,
    name: &str,
    mut request: TokenRequest,
) -> Result<TokenRequest, ApiError> {
    let account = find(env, "serviceaccounts", &format!("{namespace}/{name}"))
        .ok_or_else(|| ApiError::not_found("serviceaccounts", "", name))?;
    let mut spec = request.spec.take().unwrap_or_default();
    let lifetime = spec.expiration_seconds.unwrap_or(LIFETIME);
    if spec.audiences.as_ref().is_none_or(Vec::is_empty) {
        spec.audiences = Some(vec![env.config.issuer.clone()]);
    }
    spec.expiration_seconds = Some(lifetime);
    let mut own = json!({
        "namespace": namespace,
        "serviceaccount": {"name": name, "uid": text(&account, "/metadata/uid")},
    });
    if let Some(bound) = &spec.bound_object_ref {
        bind(env, namespace, name, bound, &mut own)?;
    }
    let expires = env.now.saturating_add(SignedDuration::from_secs(lifetime)).map_err(ApiError::internal)?;
    let claims = json!({
        "iss": env.config.issuer, "sub": user_name(namespace, name), "aud": spec.audiences,
        "iat": env.now.as_second(), "nbf": env.now.as_second(), "exp": expires.as_second(),
        "jti": uuid::Uuid::new_v4().to_string(), PRIVATE: own,
    });
    let token = key.sign(&claims).ok_or_else(|| ApiError::internal("failed to generate token"))?;
    request.metadata.name = Some(name.to_owned());
    request.metadata.namespace = Some(namespace.to_owned());
    request.metadata.creation_timestamp = Some(manifests::time::time(env.now));
    request.status = Some(manifests::k8s_openapi::api::authentication::v1::TokenRequestStatus {
        token: Some(token),
        expiration_timestamp: Some(manifests::time::time(expires)),
    });
    request.spec = Some(spec);
    Ok(request)
}

/// Adds what a token is bound to.
fn bind(
    env: &Env<'_>,
    namespace: &str,
    account: &str,
    bound: &BoundObjectReference,
    own: &mut Value,
) -> Result<(), ApiError> {
    let name = bound.name.as_deref().unwrap_or_default();
    let wanted_uid = bound.uid.as_deref().unwrap_or_default();
    let (kind, resource, object_key) = match (bound.kind.as_deref(), bound.api_version.as_deref()) {
        (Some("Pod"), Some("v1")) => ("pod", "pods", format!("{namespace}/{name}")),
        (Some("Secret"), Some("v1")) => ("secret", "secrets", format!("{namespace}/{name}")),
        (Some("Node"), Some("v1")) => ("node", "nodes", name.to_owned()),
        (kind, version) => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {}, Kind={}",
                version.unwrap_or_default(),
                kind.unwrap_or_default()
            )));
        }
    };
    let object = find(env, resource, &object_key).ok_or_else(|| ApiError::not_found(resource, "", name))?;
    let uid = text(&object, "/metadata/uid");
    if !wanted_uid.is_empty() && wanted_uid != uid {
        let why = format!(
            "the UID in the bound object reference ({wanted_uid}) does not match the UID in record. The object might \
             have been deleted and then recreated"
        );
        return Err(ApiError::conflict(resource, "", name, &why));
    }
    if kind == "pod" {
        if text(&object, "/spec/serviceAccountName") != account {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                manifests::go::quote(account)
            )));
        }
        let node = text(&object, "/spec/nodeName");
        if !node.is_empty() {
            let uid = find(env, "nodes", node).map(|node| text(&node, "/metadata/uid").to_owned());
            own["node"] = json!({"name": node, "uid": uid});
        }
    }
    own[kind] = json!({"name": name, "uid": uid});
    Ok(())
}

/// What `/.well-known/openid-configuration` says.
pub(crate) fn discovery(issuer: &str, address: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("https://{address}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
