//! Bootstrap tokens: by one of them a machine may ask for its first certificate. Each is a Secret of kube-system.
//!
//! Follows `plugin/pkg/auth/authenticator/token/bootstrap`.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::text;
use crate::identity::Identity;
use crate::registry::Env;

const GROUP: &str = "system:bootstrappers";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Whom a bootstrap token makes its bearer, if there is such a token and it is good now.
pub(crate) fn authenticate(env: &Env<'_>, token: &str) -> Option<Identity> {
    let (id, secret) = parse(token)?;
    let object = super::find(env, "secrets", &format!("kube-system/bootstrap-token-{id}"))?;
    identity(&object, id, secret, env.now)
}

/// Id and secret of what looks like a bootstrap token.
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
    };
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

fn identity(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<Identity> {
    let field = |name: &str| {
        let bytes = STANDARD.decode(object["data"][name].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    if text(object, "/type") != TYPE || !object["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    // How long it takes tells nothing about the secret.
    verify_slices_are_equal(field("token-secret")?.as_bytes(), secret.as_bytes()).ok()?;
    if field("token-id")? != id || field("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    if let Some(expires) = field("expiration").filter(|text| !text.is_empty())
        && expires.parse::<Timestamp>().ok().is_none_or(|expires| expires <= now)
    {
        return None;
    }
    let extra = field("auth-extra-groups").unwrap_or_default();
    let extra: Vec<&str> = extra.split(',').filter(|group| !group.is_empty()).collect();
    if !extra.iter().all(|group| is_group(group)) {
        return None;
    }
    let groups = [GROUP].into_iter().chain(extra).map(str::to_owned);
    Some(Identity::user(format!("system:bootstrap:{id}"), groups))
}

/// Groups that a token may add: `system:bootstrappers:` and a name.
fn is_group(group: &str) -> bool {
    let Some(name) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    (1..=256).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || byte == b':' || byte == b'-')
        && name.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_token_by_the_book_is_believed() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |change: &[(&str, &str)], secret: &str, groups: Option<&[&str]>| {
            let mut data = json!({});
            let plain = [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
            ];
            for (key, value) in plain.iter().chain(change) {
                data[*key] = STANDARD.encode(value).into();
            }
            let object = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": TYPE, "data": data});
            let found = identity(&object, "abcdef", secret, now);
            assert_eq!(
                found.as_ref().map(|found| found.user.as_str()),
                groups.map(|_| "system:bootstrap:abcdef")
            );
            for group in groups.into_iter().flatten() {
                assert!(found.as_ref().is_some_and(|found| found.is_in(group)), "{found:?}");
            }
        };
        let good = "0123456789abcdef";
        check(&[], good, Some(&["system:bootstrappers", "system:authenticated"]));
        check(&[], "0123456789abcdee", None);
        check(&[("token-id", "abcdee")], good, None);
        check(&[("usage-bootstrap-authentication", "false")], good, None);
        check(&[("expiration", "2026-01-01T00:00:01Z")], good, Some(&[]));
        check(&[("expiration", "2026-01-01T00:00:00Z")], good, None);
        check(&[("expiration", "soon")], good, None);
        check(
            &[("auth-extra-groups", "system:bootstrappers:a,system:bootstrappers:b:c")],
            good,
            Some(&["system:bootstrappers:b:c"]),
        );
        check(&[("auth-extra-groups", "system:masters")], good, None);
        check(&[("auth-extra-groups", "system:bootstrappers:")], good, None);
    }

    #[test]
    fn other_tokens_are_not_looked_up() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for other in
            ["", "abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123", "../..a.0123456789abcdef", "a.b.c"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
