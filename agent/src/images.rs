//! Which credentials go with which image.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use manifests::k8s_openapi::api::core::v1::{Pod, Secret};
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::machine::{Credentials, Images};
use crate::objects::Snapshot;

/// One registry in a Docker configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
}

/// `~/.docker/config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

/// The credentials in a pod's pull secrets that are for the registry of `image`, in order. A secret that is missing or
/// cannot be read is skipped: the image may be had without it.
pub fn credentials_for(pod: &Pod, objects: &Snapshot, images: &dyn Images, image: &str) -> Vec<Credentials> {
    let Some(registry) = images.registry(image) else { return Vec::new() };
    let secrets = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
    let found = secrets.iter().filter_map(|reference| objects.secret(&reference.name, true).ok().flatten());
    found.flat_map(entries).filter(|(name, _)| is_for(name, &registry)).map(|(_, found)| found).collect()
}

fn entries(secret: &Secret) -> Vec<(String, Credentials)> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let auths = if let Some(bytes) = data(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(&bytes.0).map(|config| config.auths)
    } else if let Some(bytes) = data(".dockercfg") {
        serde_json::from_slice(&bytes.0)
    } else {
        return Vec::new();
    };
    let auths: BTreeMap<String, Entry> = auths.unwrap_or_else(|error| {
        tracing::warn!(secret = secret.metadata.name, %error, "cannot read a pull secret");
        BTreeMap::new()
    });
    auths.into_iter().filter_map(|(name, entry)| Some((name, credentials(entry)?))).collect()
}

fn credentials(entry: Entry) -> Option<Credentials> {
    if !entry.username.is_empty() {
        return Some(Credentials { username: entry.username, password: entry.password });
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(entry.auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credentials { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// Entries are hosts, or URLs as old clients wrote them: `https://index.docker.io/v1/`.
fn is_for(entry: &str, registry: &str) -> bool {
    let entry = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://")).unwrap_or(entry);
    let host = entry.split('/').next().unwrap_or(entry);
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    host == registry
        || (hub(host) && hub(registry))
        || host.strip_prefix("*.").is_some_and(|domain| {
            registry
                .strip_suffix(domain)
                .is_some_and(|sub| sub.ends_with('.') && !sub[..sub.len() - 1].contains('.'))
        })
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn registries() {
        for (entry, registry, expected) in [
            ("example.com", "example.com", true),
            ("https://example.com/v2/", "example.com", true),
            ("example.com:5000", "example.com", false),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("*.example.com", "eu.example.com", true),
            ("*.example.com", "a.eu.example.com", false),
            ("*.example.com", "example.com", false),
        ] {
            assert_eq!(is_for(entry, registry), expected, "{entry} {registry}");
        }
    }

    #[test]
    fn both_forms_of_secrets() {
        let secret = |key: &str, text: &str| Secret {
            data: Some(BTreeMap::from([(key.to_owned(), ByteString(text.as_bytes().to_vec()))])),
            ..Secret::default()
        };
        let expected = Credentials { username: "u".into(), password: "p:w".into() };
        let auth = BASE64_STANDARD.encode("u:p:w");
        for secret in [
            secret(".dockerconfigjson", &format!(r#"{{"auths": {{"r": {{"auth": "{auth}"}}}}}}"#)),
            secret(".dockercfg", r#"{"r": {"username": "u", "password": "p:w", "email": "x"}}"#),
        ] {
            assert_eq!(entries(&secret), [("r".to_owned(), expected.clone())]);
        }
        assert!(entries(&secret(".dockerconfigjson", "{")).is_empty());
    }
}
