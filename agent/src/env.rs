//! A container's environment: a pure function of the pod, the objects it refers to and the services it may see.
//!
//! Later sources win over earlier ones: service variables, then `envFrom` in order, then `env` in order.
//! `$(VAR)` in a value refers to what was defined before it.

use std::collections::BTreeMap;

use manifests::expand::expand;
use manifests::k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use crate::downward::{self, DownwardError, Facts};
use crate::objects::{LookupError, Snapshot};

/// Everything that a container's environment is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container, with `env` and `envFrom`.
    pub container: &'a Container,
    /// ConfigMaps and Secrets.
    pub objects: &'a Snapshot,
    /// What the downward API knows.
    pub facts: &'a Facts,
    /// Service variables.
    pub services: &'a BTreeMap<String, String>,
}

/// Why there is no environment; the container waits with reason CreateContainerConfigError.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap or Secret is not there.
    #[error(transparent)]
    Object(#[from] LookupError),
    /// It is there, without the key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Of the object.
        namespace: String,
        /// Of the object.
        name: String,
        /// What was looked for.
        key: String,
    },
    /// A downward API field.
    #[error(transparent)]
    Downward(#[from] DownwardError),
}

/// Resolves the environment of a container, without what its image adds.
pub fn resolve(input: Input<'_>) -> Result<BTreeMap<String, String>, EnvError> {
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    for source in input.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            let found = input.objects.config_map(&reference.name, optional)?;
            let data = found.and_then(|object| object.data.as_ref());
            own.extend(
                data.into_iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.clone())),
            );
        }
        if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            let found = input.objects.secret(&reference.name, optional)?;
            let data = found.and_then(|object| object.data.as_ref());
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            own.extend(
                data.into_iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), text(&value.0))),
            );
        }
    }
    for variable in input.container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(literal), _) if !literal.is_empty() => {
                expand(literal, |name| own.get(name).or_else(|| input.services.get(name)).map(String::as_str))
            }
            (_, Some(source)) => match from_source(source, input)? {
                Some(value) => value,
                None => continue,
            },
            (_, None) => String::new(),
        };
        own.insert(variable.name.clone(), value);
    }
    for (name, value) in input.services {
        own.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(own)
}

/// The value of one reference; `None` if it is optional and not there.
fn from_source(source: &EnvVarSource, input: Input<'_>) -> Result<Option<String>, EnvError> {
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or_default();
    let missing = |kind, name: &str, key: &str| EnvError::Key {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    if let Some(field) = &source.field_ref {
        return Ok(Some(downward::field(&field.field_path, input.pod, input.facts)?));
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = downward::resource(selector, Some(input.container), input.pod, input.facts)?;
        return Ok(Some(value));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(object) = input.objects.config_map(&reference.name, optional)? else { return Ok(None) };
        let value = object.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        return match value {
            None if !optional => Err(missing("ConfigMap", &reference.name, &reference.key)),
            value => Ok(value),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(object) = input.objects.secret(&reference.name, optional)? else { return Ok(None) };
        let value = object.data.as_ref().and_then(|data| data.get(&reference.key));
        return match value {
            None if !optional => Err(missing("Secret", &reference.name, &reference.key)),
            value => Ok(value.map(|value| String::from_utf8_lossy(&value.0).into_owned())),
        };
    }
    Ok(Some(String::new()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use manifests::k8s_openapi::ByteString;
    use manifests::k8s_openapi::api::core::v1::{ConfigMap, Secret};

    use super::*;
    use crate::fixture;
    use crate::objects::Seen;

    fn objects() -> Snapshot {
        let config_map = ConfigMap {
            data: Some(BTreeMap::from([("k".to_owned(), "v".to_owned()), ("n".to_owned(), "1".to_owned())])),
            ..ConfigMap::default()
        };
        let secret = Secret {
            data: Some(BTreeMap::from([("password".to_owned(), ByteString(b"s3cret".to_vec()))])),
            ..Secret::default()
        };
        Snapshot {
            config_maps: BTreeMap::from([
                ("cm".to_owned(), Seen::Present(Arc::new(config_map))),
                ("gone".to_owned(), Seen::Missing),
                ("away".to_owned(), Seen::Unknown("the server is away".into())),
            ]),
            secrets: BTreeMap::from([("s".to_owned(), Seen::Present(Arc::new(secret)))]),
            ..Snapshot::default()
        }
    }

    fn check(container: &str, expected: Result<&str, &str>) {
        let pod = fixture::pod(&format!("containers: [{{name: c, image: i, {container}}}]"));
        let facts = Facts { pod_ips: vec!["10.42.0.5".into()], ..Facts::default() };
        let services = BTreeMap::from([("DB_SERVICE_HOST".to_owned(), "10.43.0.9".to_owned())]);
        let found = resolve(Input {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            objects: &objects(),
            facts: &facts,
            services: &services,
        });
        let found = found.map(|env| {
            env.iter()
                .filter(|(name, value)| !(*name == "DB_SERVICE_HOST" && *value == "10.43.0.9"))
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        });
        assert_eq!(
            found.as_deref().map_err(ToString::to_string),
            expected.map_err(str::to_owned),
            "{container}"
        );
    }

    #[test]
    fn environments() {
        for (container, expected) in [
            ("env: [{name: A, value: x}]", Ok("A=x")),
            ("env: [{name: A}]", Ok("A=")),
            ("env: [{name: A, value: x}, {name: B, value: $(A)-$$(A)-$(NONE)}]", Ok("A=x B=x-$(A)-$(NONE)")),
            ("env: [{name: B, value: $(A)}, {name: A, value: x}]", Ok("A=x B=$(A)")),
            ("env: [{name: H, value: 'http://$(DB_SERVICE_HOST)'}]", Ok("H=http://10.43.0.9")),
            ("env: [{name: DB_SERVICE_HOST, value: mine}]", Ok("DB_SERVICE_HOST=mine")),
            ("env: [{name: N, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]", Ok("N=web")),
            ("env: [{name: N, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]", Ok("N=10.42.0.5")),
            (
                "resources: {limits: {cpu: 500m}}, env: [{name: N, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}]",
                Ok("N=500"),
            ),
            ("envFrom: [{configMapRef: {name: cm}}]", Ok("k=v n=1")),
            (
                "envFrom: [{prefix: P_, configMapRef: {name: cm}}, {secretRef: {name: s}}]",
                Ok("P_k=v P_n=1 password=s3cret"),
            ),
            (
                "envFrom: [{configMapRef: {name: cm}}], env: [{name: k, value: own}, {name: z, value: $(n)}]",
                Ok("k=own n=1 z=1"),
            ),
            ("envFrom: [{configMapRef: {name: none, optional: true}}]", Ok("")),
            ("envFrom: [{configMapRef: {name: none}}]", Err("configmap \"none\" not found")),
            ("envFrom: [{secretRef: {name: none}}]", Err("secret \"none\" not found")),
            ("envFrom: [{configMapRef: {name: away, optional: true}}]", Err("the server is away")),
            ("env: [{name: A, valueFrom: {configMapKeyRef: {name: cm, key: k}}}]", Ok("A=v")),
            ("env: [{name: A, valueFrom: {configMapKeyRef: {name: cm, key: x, optional: true}}}]", Ok("")),
            ("env: [{name: A, valueFrom: {configMapKeyRef: {name: gone, key: x, optional: true}}}]", Ok("")),
            (
                "env: [{name: A, valueFrom: {configMapKeyRef: {name: cm, key: x}}}]",
                Err("couldn't find key x in ConfigMap default/cm"),
            ),
            ("env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: password}}}]", Ok("A=s3cret")),
            (
                "env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: x}}}]",
                Err("couldn't find key x in Secret default/s"),
            ),
        ] {
            check(container, expected);
        }
    }
}
