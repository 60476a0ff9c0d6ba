//! From a value to a typed object, saying what does not fit and where, in upstream's words.
//!
//! One deserializer of our own walks the value, because three things are wanted at once that no stack of adapters gives:
//! the path of an error, the paths of all unknown fields, and Go's reading of `null` (the zero value) and of wrong types
//! (`json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`). It also brings
//! quantities into canonical form, as upstream does when it decodes them.

mod go_type;
mod node;

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::json;

/// What to do about fields that do not exist and keys that stand twice: the query parameter `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so: the server's default.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; empty is the default.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "Ignore" => Some(FieldValidation::Ignore),
            "" | "Warn" => Some(FieldValidation::Warn),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

/// A field that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where: `spec.containers[0].foo`.
    pub path: String,
    /// What: `unknown field "spec.containers[0].foo"`.
    pub message: String,
}

impl Warning {
    fn new(what: &str, path: String) -> Warning {
        Warning { message: format!("{what} field {}", crate::go::quote(&path)), path }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Why a value is not an object of the type.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The text is not JSON.
    #[error(transparent)]
    Syntax(#[from] json::SyntaxError),
    /// A field has the wrong type or a value that cannot be read.
    #[error("{message}")]
    Type {
        /// Where: `spec.containers[0].ports`; empty for the object itself.
        path: String,
        /// What is wrong; names the field.
        message: String,
    },
    /// Fields that do not exist, or stand twice, where that is refused.
    #[error("strict decoding error: {}", join(.0))]
    Strict(Vec<Warning>),
}

impl DecodeError {
    /// The fields that are wrong, to look up their lines in a file.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            DecodeError::Syntax(_) => Vec::new(),
            DecodeError::Type { path, .. } => vec![path],
            DecodeError::Strict(warnings) => warnings.iter().map(|warning| warning.path.as_str()).collect(),
        }
    }

    /// The text that upstream's server answers with: `Pod in version "v1" cannot be handled as a Pod: …`.
    pub fn for_kind(&self, api_version: &str, kind: &str) -> String {
        format!("{kind} in version {} cannot be handled as a {kind}: {self}", crate::go::quote(api_version))
    }
}

fn join(warnings: &[Warning]) -> String {
    warnings.iter().map(|warning| warning.message.as_str()).collect::<Vec<_>>().join(", ")
}

/// Decodes a value.
pub fn decode<T: DeserializeOwned>(
    value: &Value,
    validation: FieldValidation,
) -> Result<(T, Vec<Warning>), DecodeError> {
    decode_with(value, validation, Vec::new())
}

/// Decodes JSON text, such as the body of a request.
pub fn decode_json<T: DeserializeOwned>(
    bytes: &[u8],
    validation: FieldValidation,
) -> Result<(T, Vec<Warning>), DecodeError> {
    let document = json::read(bytes)?;
    decode_with(&document.value, validation, document.duplicates)
}

/// Decodes a value that was read from text with these duplicate keys.
pub fn decode_document<T: DeserializeOwned>(
    document: &json::Document,
    validation: FieldValidation,
) -> Result<(T, Vec<Warning>), DecodeError> {
    decode_with(&document.value, validation, document.duplicates.clone())
}

fn decode_with<T: DeserializeOwned>(
    value: &Value,
    validation: FieldValidation,
    duplicates: Vec<String>,
) -> Result<(T, Vec<Warning>), DecodeError> {
    let (object, unknown) = node::decode(value)?;
    let mut warnings: Vec<Warning> =
        duplicates.into_iter().map(|path| Warning::new("duplicate", path)).collect();
    warnings.extend(unknown.into_iter().map(|path| Warning::new("unknown", path)));
    match validation {
        FieldValidation::Ignore => Ok((object, Vec::new())),
        FieldValidation::Strict if !warnings.is_empty() => Err(DecodeError::Strict(warnings)),
        _ => Ok((object, warnings)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check<T: DeserializeOwned + fmt::Debug>(value: Value, path: &str, message: &str) {
        match decode::<T>(&value, FieldValidation::Strict) {
            Err(error) => assert_eq!((error.paths(), error.to_string().as_str()), (vec![path], message)),
            Ok(_) => panic!("{value} was decoded"),
        }
    }

    #[test]
    fn wrong_types() {
        check::<Deployment>(
            json!({"spec": {"replicas": "three"}}),
            "spec.replicas",
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        );
        check::<Deployment>(
            json!({"spec": {"template": {"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}}}}),
            "spec.template.spec.containers[0].env[0].value",
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        );
        check::<Pod>(
            json!({"spec": {"containers": {"name": "a"}}}),
            "spec.containers",
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        );
        check::<Pod>(
            json!({"spec": []}),
            "spec",
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        );
        check::<Pod>(
            json!({"spec": {"hostNetwork": "yes"}}),
            "spec.hostNetwork",
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        );
        check::<Pod>(
            json!({"spec": {"containers": [{"ports": [{"containerPort": 99_999_999_999i64}]}]}}),
            "spec.containers[0].ports[0].containerPort",
            "json: cannot unmarshal number 99999999999 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        );
        check::<Pod>(
            json!({"metadata": {"labels": {"a": true}}}),
            "metadata.labels.a",
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        );
        check::<Pod>(json!([]), "", "json: cannot unmarshal array into Go value of type v1.Pod");
        check::<Service>(
            json!({"spec": {"ports": [{"targetPort": true}]}}),
            "spec.ports[0].targetPort",
            "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
        );
    }

    #[test]
    fn unreadable_values() {
        check::<Pod>(
            json!({"spec": {"containers": [{"resources": {"limits": {"memory": "lots"}}}]}}),
            "spec.containers[0].resources.limits.memory",
            "spec.containers[0].resources.limits.memory: Invalid value: \"lots\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
        check::<Secret>(
            json!({"data": {"a": "!"}}),
            "data.a",
            "data.a: Invalid value: illegal base64 data at input byte 0",
        );
        check::<Pod>(
            json!({"apiVersion": "v2", "kind": "Pod"}),
            "apiVersion",
            r#"apiVersion: Invalid value: "v2": expected v1"#,
        );
        let error = decode::<Pod>(&json!({"metadata": {"creationTimestamp": "now"}}), FieldValidation::Warn);
        let text = error.unwrap_err().to_string();
        let start = r#"metadata.creationTimestamp: Invalid value: parsing time "now" as "2006-01-02T15:04:05Z07:00": "#;
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn unknown_and_duplicate_fields() {
        let text = br#"{"kind": "Pod", "apiVersion": "v1", "spec": {"foo": 1, "containers": [{"image": "a", "image": "b", "imag": {}}]}}"#;
        let error = decode_json::<Pod>(text, FieldValidation::Strict).unwrap_err();
        let message = r#"strict decoding error: duplicate field "spec.containers[0].image", unknown field "spec.containers[0].imag", unknown field "spec.foo""#;
        assert_eq!(error.to_string(), message);
        assert_eq!(
            error.for_kind("v1", "Pod"),
            format!(r#"Pod in version "v1" cannot be handled as a Pod: {message}"#)
        );
        let (pod, warnings) = decode_json::<Pod>(text, FieldValidation::Warn).unwrap();
        assert_eq!(pod.spec.unwrap().containers[0].image.as_deref(), Some("b"));
        assert_eq!(warnings[2].to_string(), r#"unknown field "spec.foo""#);
        assert_eq!(decode_json::<Pod>(text, FieldValidation::Ignore).unwrap().1, []);
    }

    #[test]
    fn null_is_the_zero_value() {
        let value = json!({"metadata": null, "data": {"a": null}});
        let (map, _) = decode::<ConfigMap>(&value, FieldValidation::Strict).unwrap();
        assert_eq!(map.data.unwrap()["a"], "");
        let value = json!({"spec": {"containers": [null], "terminationGracePeriodSeconds": null}});
        let (pod, _) = decode::<Pod>(&value, FieldValidation::Strict).unwrap();
        assert_eq!(pod.spec.unwrap().containers.len(), 1);
    }

    #[test]
    fn quantities_become_canonical() {
        let value =
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}});
        let (pod, _) = decode::<Pod>(&value, FieldValidation::Strict).unwrap();
        let limits = pod.spec.unwrap().containers[0].resources.clone().unwrap().limits.unwrap();
        assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("500m", "1Gi"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_json::<Pod>(&bytes, FieldValidation::Strict);
        }
    }
}
