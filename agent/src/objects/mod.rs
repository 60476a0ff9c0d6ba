//! ConfigMaps and Secrets that pods refer to: what to fetch, and what was found.
//!
//! Whoever computes something from them (environment, volumes) gets a [`Snapshot`]: plain values, no waiting.

mod claim;
mod source;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use claim::BoundClaim;
use manifests::k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
pub use source::{ObjectSource, Subscription};
pub use token::TokenKey;

/// What is known of one object.
#[derive(Debug, Clone)]
pub enum Seen<T> {
    /// It exists.
    Present(Arc<T>),
    /// The server says that it does not exist.
    Missing,
    /// It could not be read, and there is no copy from before.
    Unknown(String),
}

// Derived `PartialEq` would compare through the Arc even when it is the same one; most of the time it is.
impl<T: PartialEq> PartialEq for Seen<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present(a), Self::Present(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Missing, Self::Missing) => true,
            (Self::Unknown(a), Self::Unknown(b)) => a == b,
            _ => false,
        }
    }
}

/// The objects of one namespace that one pod refers to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// By name.
    pub config_maps: BTreeMap<String, Seen<ConfigMap>>,
    /// By name.
    pub secrets: BTreeMap<String, Seen<Secret>>,
    /// Tokens of service accounts.
    pub tokens: BTreeMap<TokenKey, Seen<String>>,
    /// Claims with their volumes, by the claim's name.
    pub claims: BTreeMap<String, Seen<BoundClaim>>,
}

/// An object that should be there and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The server says so.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The object's name.
        name: String,
    },
    /// Nobody could say.
    #[error("{message}")]
    Unknown {
        /// Why not.
        message: String,
    },
}

impl Snapshot {
    /// A ConfigMap; `None` if it does not exist and need not.
    pub fn config_map(&self, name: &str, optional: bool) -> Result<Option<&ConfigMap>, LookupError> {
        find("configmap", &self.config_maps, name, optional)
    }

    /// A Secret; `None` if it does not exist and need not.
    pub fn secret(&self, name: &str, optional: bool) -> Result<Option<&Secret>, LookupError> {
        find("secret", &self.secrets, name, optional)
    }

    /// A claim and its volume.
    pub fn claim(&self, name: &str) -> Result<&BoundClaim, LookupError> {
        let claim = find("persistentvolumeclaim", &self.claims, name, false)?;
        claim.ok_or_else(|| LookupError::NotFound { kind: "persistentvolumeclaim", name: name.to_owned() })
    }

    /// A token of a service account.
    pub fn token(&self, key: &TokenKey) -> Result<&str, LookupError> {
        let message = match self.tokens.get(key) {
            Some(Seen::Present(token)) => return Ok(token),
            Some(Seen::Unknown(message)) => message.clone(),
            Some(Seen::Missing) | None => "failed to fetch token: nobody asked for it".to_owned(),
        };
        Err(LookupError::Unknown { message })
    }
}

fn find<'a, T>(
    kind: &'static str,
    objects: &'a BTreeMap<String, Seen<T>>,
    name: &str,
    optional: bool,
) -> Result<Option<&'a T>, LookupError> {
    match objects.get(name) {
        Some(Seen::Present(object)) => Ok(Some(object)),
        Some(Seen::Missing) | None if optional => Ok(None),
        Some(Seen::Missing) | None => Err(LookupError::NotFound { kind, name: name.to_owned() }),
        Some(Seen::Unknown(message)) => Err(LookupError::Unknown { message: message.clone() }),
    }
}

/// Names of the objects that a pod refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets, pull secrets included.
    pub secrets: BTreeSet<String>,
    /// Tokens of service accounts.
    pub tokens: BTreeSet<TokenKey>,
    /// PersistentVolumeClaims.
    pub claims: BTreeSet<String>,
}

impl References {
    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.config_maps.is_empty()
            && self.secrets.is_empty()
            && self.tokens.is_empty()
            && self.claims.is_empty()
    }
}

/// Collects what `pod` refers to, in environment, volumes and pull secrets.
pub fn references(pod: &Pod) -> References {
    let mut found = References::default();
    let Some(spec) = &pod.spec else { return found };
    let passing = crate::pod::observe::ephemeral(spec);
    for container in spec.init_containers.iter().flatten().chain(&spec.containers).chain(&passing) {
        for from in container.env_from.iter().flatten() {
            found.config_maps.extend(from.config_map_ref.as_ref().map(|source| source.name.clone()));
            found.secrets.extend(from.secret_ref.as_ref().map(|source| source.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            found.config_maps.extend(from.config_map_key_ref.as_ref().map(|source| source.name.clone()));
            found.secrets.extend(from.secret_key_ref.as_ref().map(|source| source.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        found.config_maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        found.secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
        let projections = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for projection in projections {
            found.config_maps.extend(projection.config_map.as_ref().map(|source| source.name.clone()));
            found.secrets.extend(projection.secret.as_ref().map(|source| source.name.clone()));
            let token = projection.service_account_token.as_ref();
            found.tokens.extend(token.map(|token| TokenKey::of(pod, token)));
        }
    }
    found.claims.extend(manifests::volumes::claims_of(pod).into_iter().map(|used| used.claim));
    found.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::pod;

    #[test]
    fn references_from_everywhere() {
        let pod = pod(r"
imagePullSecrets: [{name: pull}]
initContainers:
- {name: i, image: x, envFrom: [{configMapRef: {name: cm-init}}]}
containers:
- name: c
  image: x
  env:
  - {name: A, valueFrom: {configMapKeyRef: {name: cm-key, key: k}}}
  - {name: B, valueFrom: {secretKeyRef: {name: s-key, key: k}}}
  envFrom: [{secretRef: {name: s-from}}]
volumes:
- {name: a, configMap: {name: cm-vol}}
- {name: b, secret: {secretName: s-vol}}
- {name: d, persistentVolumeClaim: {claimName: pvc}}
- {name: c, projected: {sources: [{configMap: {name: cm-proj}}, {secret: {name: s-proj}}, {serviceAccountToken: {path: t}}]}}
");
        let found = references(&pod);
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&found.config_maps), "cm-init cm-key cm-proj cm-vol");
        assert_eq!(names(&found.claims), "pvc");
        assert_eq!(names(&found.secrets), "pull s-from s-key s-proj s-vol");
        let token = TokenKey { service_account: "default".into(), audience: String::new(), expiration: 3600 };
        assert_eq!(found.tokens, BTreeSet::from([token]));
    }
}
