//! The files of a configMap, secret, downwardAPI or projected volume: bytes and modes, computed from objects.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod};

use super::plan::FileSource;
use crate::downward::{self, DownwardError, Facts};
use crate::objects::{LookupError, Snapshot, TokenKey};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What it says.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// All files of a volume, by relative path.
pub type Payload = BTreeMap<String, File>;

/// Why a volume's files cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// An object is not there.
    #[error(transparent)]
    Object(#[from] LookupError),
    /// It is there, without a key that the volume names.
    #[error("{kind} references non-existent {kind} key: {key}")]
    Key {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// What was looked for.
        key: String,
    },
    /// A field that is none.
    #[error(transparent)]
    Downward(#[from] DownwardError),
    /// A path that leads out of the volume.
    #[error("invalid path {path:?}: must be relative, without '..'")]
    Path {
        /// As given.
        path: String,
    },
}

/// Computes the files of a volume.
pub fn payload(
    sources: &[FileSource],
    default_mode: u32,
    pod: &Pod,
    objects: &Snapshot,
    facts: &Facts,
) -> Result<Payload, PayloadError> {
    let mut files = Payload::new();
    for source in sources {
        match source {
            FileSource::ConfigMap(projection) => {
                let optional = projection.optional.unwrap_or(false);
                let Some(object) = objects.config_map(&projection.name, optional)? else { continue };
                let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
                let text = object.data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes()));
                let binary = object.binary_data.iter().flatten();
                data.extend(text);
                data.extend(binary.map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())));
                let items = projection.items.as_deref();
                add_keys(&mut files, "configmap", &data, items, default_mode, optional)?;
            }
            FileSource::Secret(projection) => {
                let optional = projection.optional.unwrap_or(false);
                let Some(object) = objects.secret(&projection.name, optional)? else { continue };
                let data = object.data.iter().flatten();
                let data = data.map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())).collect();
                let items = projection.items.as_deref();
                add_keys(&mut files, "secret", &data, items, default_mode, optional)?;
            }
            FileSource::Token(projection) => {
                let content = objects.token(&TokenKey::of(pod, projection))?.as_bytes().to_vec();
                let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
                // The pod's group gets it with the volume; nobody else needs it then.
                let mode = match context.and_then(|context| context.fs_group) {
                    Some(_) => 0o600,
                    None => default_mode,
                };
                files.insert(relative(&projection.path)?, File { content, mode });
            }
            FileSource::Downward(projection) => {
                for item in projection.items.iter().flatten() {
                    let mode = mode_of(item.mode, default_mode);
                    let content = downward_file(item, pod, facts)?.into_bytes();
                    files.insert(relative(&item.path)?, File { content, mode });
                }
            }
        }
    }
    Ok(files)
}

fn add_keys(
    files: &mut Payload,
    kind: &'static str,
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: bool,
) -> Result<(), PayloadError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, bytes) in data {
            files.insert(relative(key)?, File { content: bytes.to_vec(), mode: default_mode });
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                let mode = mode_of(item.mode, default_mode);
                files.insert(relative(&item.path)?, File { content: bytes.to_vec(), mode });
            }
            None if optional => {}
            None => return Err(PayloadError::Key { kind, key: item.key.clone() }),
        }
    }
    Ok(())
}

fn downward_file(item: &DownwardAPIVolumeFile, pod: &Pod, facts: &Facts) -> Result<String, DownwardError> {
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), _) => downward::field(&field.field_path, pod, facts),
        (None, Some(selector)) => downward::resource(selector, None, pod, facts),
        (None, None) => Ok(String::new()),
    }
}

fn mode_of(own: Option<i32>, default: u32) -> u32 {
    own.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

/// Paths come from users: one that leads out of the volume would overwrite files of the node.
fn relative(path: &str) -> Result<String, PayloadError> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.starts_with("..")
        || path.split('/').any(|part| part == ".." || part.is_empty() || part == ".");
    if bad { Err(PayloadError::Path { path: path.to_owned() }) } else { Ok(path.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use manifests::k8s_openapi::ByteString;
    use manifests::k8s_openapi::api::core::v1::{ConfigMap, Secret};

    use super::super::plan::{Kind, plan};
    use super::*;
    use crate::fixture;
    use crate::objects::Seen;

    fn check(volume: &str, expected: Result<&str, &str>) {
        let pod = fixture::pod(&format!(
            "{{nodeName: n1, containers: [{{name: a, image: i, resources: {{limits: {{cpu: 1}}}}}}], volumes: [{{name: v, {volume}}}]}}"
        ));
        let config_map = ConfigMap {
            data: Some(BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())])),
            binary_data: Some(BTreeMap::from([("z".into(), ByteString(vec![b'\xff']))])),
            ..ConfigMap::default()
        };
        let secret = Secret {
            data: Some(BTreeMap::from([("p".into(), ByteString(b"pw".to_vec()))])),
            ..Secret::default()
        };
        let objects = Snapshot {
            config_maps: BTreeMap::from([("c".into(), Seen::Present(Arc::new(config_map)))]),
            secrets: BTreeMap::from([("s".into(), Seen::Present(Arc::new(secret)))]),
            tokens: BTreeMap::from([(
                TokenKey { service_account: "default".into(), audience: "vault".into(), expiration: 600 },
                Seen::Present(Arc::new("secret-token".to_owned())),
            )]),
            claims: BTreeMap::new(),
        };
        let planned = plan(&pod, Path::new("/p")).unwrap().remove(0);
        let Kind::Files { sources, mode } = planned.kind else { panic!("{volume} has no files") };
        let found = payload(&sources, mode, &pod, &objects, &Facts::default()).map(|files| {
            files
                .iter()
                .map(|(path, file)| format!("{path}={}:{:o}", file.content.escape_ascii(), file.mode))
                .collect::<Vec<_>>()
                .join(" ")
        });
        assert_eq!(
            found.as_deref().map_err(ToString::to_string),
            expected.map_err(str::to_owned),
            "{volume}"
        );
    }

    #[test]
    fn payloads() {
        check("configMap: {name: c}", Ok("a=1:644 b=2:644 z=\\xff:644"));
        check("configMap: {name: c, items: [{key: a, path: x/y, mode: 256}]}", Ok("x/y=1:400"));
        check(
            "configMap: {name: c, items: [{key: no, path: x}]}",
            Err("configmap references non-existent configmap key: no"),
        );
        check("configMap: {name: c, optional: true, items: [{key: no, path: x}]}", Ok(""));
        check("configMap: {name: none}", Err("configmap \"none\" not found"));
        check("configMap: {name: none, optional: true}", Ok(""));
        check(
            "configMap: {name: c, items: [{key: a, path: ../x}]}",
            Err("invalid path \"../x\": must be relative, without '..'"),
        );
        check("secret: {secretName: s, defaultMode: 256}", Ok("p=pw:400"));
        check(
            "projected: {sources: [{serviceAccountToken: {path: t, audience: vault, expirationSeconds: 600}}]}",
            Ok("t=secret-token:644"),
        );
        check(
            "projected: {sources: [{serviceAccountToken: {path: t}}]}",
            Err("failed to fetch token: nobody asked for it"),
        );
        check(
            "downwardAPI: {items: [{path: n, fieldRef: {fieldPath: metadata.name}}, {path: c, resourceFieldRef: {containerName: a, resource: limits.cpu}}]}",
            Ok("c=1:644 n=web:644"),
        );
        check(
            "projected: {defaultMode: 288, sources: [{configMap: {name: c, items: [{key: a, path: a}]}}, {secret: {name: s}}, {downwardAPI: {items: [{path: d, fieldRef: {fieldPath: spec.nodeName}}]}}]}",
            Ok("a=1:440 d=n1:440 p=pw:440"),
        );
    }
}
