//! Acting as somebody else, for those who may: the `Impersonate-…` headers.
//!
//! Follows `k8s.io/apiserver/pkg/endpoints/filters/impersonation`.

use http::HeaderMap;
use manifests::status::ApiError;

use crate::authorize::{Action, refusal};
use crate::identity::{AUTHENTICATED, Identity};
use crate::server::ApiServer;
use crate::token;

const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// All values of a header.
fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
}

impl ApiServer {
    /// Who the request is to be taken for.
    pub(crate) fn impersonate(&self, identity: Identity, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let user = values(headers, "impersonate-user").into_iter().next().unwrap_or_default();
        let mut groups = values(headers, "impersonate-group");
        let uid = values(headers, "impersonate-uid").into_iter().next().unwrap_or_default();
        let keys: Vec<&str> = headers.keys().filter_map(|name| name.as_str().strip_prefix(EXTRA)).collect();
        if user.is_empty() {
            if groups.is_empty() && uid.is_empty() && keys.is_empty() {
                return Ok(identity);
            }
            return Err(ApiError::internal("requested impersonation without impersonating a user"));
        }
        let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
            let action = Action { verb: "impersonate", group, resource, subresource, namespace, name };
            if self.may(&identity, &action) {
                Ok(())
            } else {
                Err(refusal(&identity, &action, !namespace.is_empty()))
            }
        };
        match token::account_of(&user) {
            Some((namespace, name)) => {
                check("", "serviceaccounts", "", namespace, name)?;
                if groups.is_empty() {
                    groups.extend(token::groups(namespace));
                }
            }
            None => check("", "users", "", "", &user)?,
        }
        for group in values(headers, "impersonate-group") {
            check("", "groups", "", "", &group)?;
        }
        if !uid.is_empty() {
            check(AUTHENTICATION, "uids", "", "", &uid)?;
        }
        let mut taken = Identity { user, groups, uid, extra: Default::default() };
        for key in keys {
            let decoded = decode(key);
            for value in values(headers, &format!("{EXTRA}{key}")) {
                check(AUTHENTICATION, "userextras", &decoded, "", &value)?;
                taken.extra.entry(decoded.clone()).or_default().push(value);
            }
        }
        let named = |group: &str| taken.groups.iter().any(|have| have == group);
        if !taken.is_anonymous() && !named(AUTHENTICATED) {
            taken.groups.push(AUTHENTICATED.to_owned());
        } else if taken.is_anonymous() && !named("system:unauthenticated") {
            taken.groups.push("system:unauthenticated".to_owned());
        }
        Ok(taken)
    }
}

/// Keys are percent-encoded, since headers do not take every character.
fn decode(key: &str) -> String {
    let pair = format!("{}=", key.replace('+', "%2B"));
    form_urlencoded::parse(pair.as_bytes()).next().map_or_else(|| key.to_owned(), |(key, _)| key.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_extras() {
        assert_eq!(decode("scopes"), "scopes");
        assert_eq!(decode("acme.com%2fproject+x"), "acme.com/project+x");
    }
}
