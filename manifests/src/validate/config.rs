//! ConfigMaps, Secrets and ServiceAccounts.

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use serde_json::Value;

use super::{immutable, object_meta, object_meta_update, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

/// What all values of a Secret or ConfigMap may take together.
const MAX_SIZE: usize = 1 << 20;
const FROZEN: &str = "field is immutable when `immutable` is set";

/// A new ConfigMap.
pub fn config_map(map: &ConfigMap) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&map.metadata, true, names::dns1123_subdomain, &mut errors);
    let mut size = 0;
    for (key, value) in map.data.iter().flatten() {
        let path = Path::new("data").key(key);
        errors.push_invalid(&path, key, names::config_map_key(key));
        if map.binary_data.as_ref().is_some_and(|data| data.contains_key(key)) {
            errors.push(FieldError::invalid(&path, key, "duplicate of key present in binaryData"));
        }
        size += value.len();
    }
    for (key, value) in map.binary_data.iter().flatten() {
        errors.push_invalid(&Path::new("binaryData").key(key), key, names::config_map_key(key));
        size += value.0.len();
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long(&Path::new(""), MAX_SIZE));
    }
    errors
}

/// An update of a ConfigMap.
pub fn config_map_update(new: &ConfigMap, old: &ConfigMap) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    if old.immutable == Some(true) {
        for (field, same) in [
            ("immutable", new.immutable == Some(true)),
            ("data", new.data.iter().flatten().eq(old.data.iter().flatten())),
            ("binaryData", new.binary_data.iter().flatten().eq(old.binary_data.iter().flatten())),
        ] {
            if !same {
                errors.push(FieldError::forbidden(&Path::new(field), FROZEN));
            }
        }
    }
    errors.extend(config_map(new));
    errors
}

/// A new Secret.
pub fn secret(secret: &Secret) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&secret.metadata, true, names::dns1123_subdomain, &mut errors);
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in secret.data.iter().flatten() {
        errors.push_invalid(&path.key(key), key, names::config_map_key(key));
        size += value.0.len();
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long(&path, MAX_SIZE));
    }
    let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let mut required = |keys: &[&str]| {
        for key in keys {
            errors.push(FieldError::required(&path.key(key), ""));
        }
    };
    match text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            let annotations = secret.metadata.annotations.as_ref();
            if annotations.and_then(|annotations| annotations.get(NAME)).is_none_or(String::is_empty) {
                let path = Path::new("metadata").child("annotations").key(NAME);
                errors.push(FieldError::required(&path, ""));
            }
        }
        "kubernetes.io/dockercfg" => json_value(value(".dockercfg"), &path.key(".dockercfg"), &mut errors),
        "kubernetes.io/dockerconfigjson" => {
            json_value(value(".dockerconfigjson"), &path.key(".dockerconfigjson"), &mut errors);
        }
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            required(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            required(&["ssh-privatekey"]);
        }
        "kubernetes.io/tls" => {
            let missing: Vec<&str> =
                ["tls.crt", "tls.key"].into_iter().filter(|key| value(key).is_none()).collect();
            required(&missing);
        }
        _ => {}
    }
    errors
}

fn json_value(value: Option<&k8s_openapi::ByteString>, path: &Path, errors: &mut ErrorList) {
    match value.map(|value| serde_json::from_slice::<Value>(&value.0)) {
        None => errors.push(FieldError::required(path, "")),
        Some(Ok(Value::Object(_) | Value::Null)) => {}
        Some(Ok(_)) => {
            errors.push(FieldError::invalid(path, "<secret contents redacted>", "must be a JSON object"));
        }
        Some(Err(error)) => {
            errors.push(FieldError::invalid(path, "<secret contents redacted>", error.to_string()));
        }
    }
}

/// An update of a Secret.
pub fn secret_update(new: &Secret, old: &Secret) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    immutable(text(&new.type_), text(&old.type_), &Path::new("type"), &mut errors);
    if old.immutable == Some(true) {
        for (field, same) in [
            ("immutable", new.immutable == Some(true)),
            ("data", new.data.iter().flatten().eq(old.data.iter().flatten())),
        ] {
            if !same {
                errors.push(FieldError::forbidden(&Path::new(field), FROZEN));
            }
        }
    }
    errors.extend(secret(new));
    errors
}

/// A new ServiceAccount.
pub fn service_account(account: &ServiceAccount) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&account.metadata, true, names::dns1123_subdomain, &mut errors);
    errors
}

/// An update of a ServiceAccount.
pub fn service_account_update(new: &ServiceAccount, old: &ServiceAccount) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    errors.extend(service_account(new));
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, check_update, namespaced};
    use super::*;

    #[test]
    fn config_maps() {
        check(config_map, namespaced(json!({"data": {"a": "b"}, "binaryData": {"c": "YQ=="}})), &[]);
        check(
            config_map,
            namespaced(json!({"data": {"a/b": "", "c": ""}, "binaryData": {"c": ""}})),
            &[
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                "data[c]: Invalid value: \"c\": duplicate of key present in binaryData",
            ],
        );
        check(
            config_map,
            namespaced(json!({"data": {"a": "x".repeat(MAX_SIZE + 1)}})),
            &[": Too long: may not be more than 1048576 bytes"],
        );
        check_update(
            config_map_update,
            namespaced(json!({"data": {"a": "c"}})),
            namespaced(json!({"data": {"a": "b"}, "immutable": true})),
            &[
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
        );
        check_update(
            config_map_update,
            namespaced(json!({"data": {}, "immutable": true})),
            namespaced(json!({"immutable": true})),
            &[],
        );
    }

    #[test]
    fn secrets() {
        check(secret, namespaced(json!({"type": "Opaque", "data": {"a": "YQ=="}})), &[]);
        check(
            secret,
            namespaced(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
            &["data[tls.key]: Required value"],
        );
        check(
            secret,
            namespaced(json!({"type": "kubernetes.io/basic-auth"})),
            &["data[username]: Required value", "data[password]: Required value"],
        );
        check(
            secret,
            namespaced(
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}),
            ),
            &[],
        );
        check(
            secret,
            namespaced(json!({"type": "kubernetes.io/service-account-token"})),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        );
        check_update(
            secret_update,
            namespaced(json!({"type": "a"})),
            namespaced(json!({"type": "Opaque"})),
            &["type: Invalid value: \"a\": field is immutable"],
        );
    }
}
