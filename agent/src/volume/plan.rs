//! From a pod's volumes to what has to exist on the node, as plain values.

use std::path::{Path, PathBuf};

use manifests::k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, Pod, SecretProjection, ServiceAccountTokenProjection, Volume,
};
use manifests::quantity::Quantity;
use manifests::volumes::claims_of;

/// Mode of files whose volume says nothing.
pub const DEFAULT_MODE: u32 = 0o644;

/// One volume of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumePlan {
    /// As the pod calls it.
    pub name: String,
    /// Where it is on the node.
    pub path: PathBuf,
    /// How it comes to be.
    pub kind: Kind,
}

/// How a volume comes to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A directory of the pod's own.
    EmptyDir,
    /// A tmpfs of the pod's own, with this many bytes at most.
    Memory {
        /// None: half of the machine's memory, as the kernel does it.
        size: Option<u64>,
    },
    /// Something on the node, with what it has to be.
    HostPath {
        /// What is there, or is made there.
        expect: HostPathType,
    },
    /// The files of an image, which nobody can change.
    Image {
        /// Name of the image.
        reference: String,
        /// When it is fetched: `Always`, `IfNotPresent` or `Never`.
        policy: String,
    },
    /// What a claim is bound to.
    Claim {
        /// Name of the claim.
        claim: String,
        /// Nobody in the pod writes to it.
        read_only: bool,
    },
    /// Files that are made of API objects.
    Files {
        /// Where each file comes from, in order; later ones win.
        sources: Vec<FileSource>,
        /// Mode of files that have none of their own.
        mode: u32,
    },
}

/// What a hostPath has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathType {
    /// Anything, or nothing: no check.
    Unset,
    /// A directory; made if there is nothing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file; made if there is nothing.
    FileOrCreate,
    /// A regular file.
    File,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Objects that files are made of.
#[derive(Debug, Clone, PartialEq)]
pub enum FileSource {
    /// Keys of a ConfigMap.
    ConfigMap(ConfigMapProjection),
    /// Keys of a Secret.
    Secret(SecretProjection),
    /// Fields of the pod.
    Downward(DownwardAPIProjection),
    /// A token of the pod's service account.
    Token(ServiceAccountTokenProjection),
}

/// A volume that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A type that this node does not know.
    #[error("volume {name:?} has a type that this node does not support")]
    Unsupported {
        /// Of the volume.
        name: String,
    },
    /// A projection that this node does not know.
    #[error("volume {name:?} projects a source that this node does not support")]
    UnsupportedProjection {
        /// Of the volume.
        name: String,
    },
    /// A hostPath type that is none.
    #[error("volume {name:?} has the unknown hostPath type {value:?}")]
    HostPathType {
        /// Of the volume.
        name: String,
        /// What was given.
        value: String,
    },
}

/// Plans all volumes of `pod`, whose directory is `pod_dir`.
pub fn plan(pod: &Pod, pod_dir: &Path) -> Result<Vec<VolumePlan>, PlanError> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().map(|volume| plan_one(pod, volume, pod_dir)).collect()
}

fn plan_one(pod: &Pod, volume: &Volume, pod_dir: &Path) -> Result<VolumePlan, PlanError> {
    let name = volume.name.clone();
    let at = |plugin: &str| pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&name);
    let mode = |mode: Option<i32>| mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE);
    let (path, kind) = if let Some(source) = &volume.empty_dir {
        let size = source.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok());
        let size = size.and_then(|size| u64::try_from(size.value()).ok()).filter(|size| *size > 0);
        match source.medium.as_deref() {
            Some("Memory") => (at("empty-dir"), Kind::Memory { size }),
            _ => (at("empty-dir"), Kind::EmptyDir),
        }
    } else if let Some(source) = &volume.host_path {
        let expect = host_path_type(source.type_.as_deref().unwrap_or_default()).ok_or_else(|| {
            PlanError::HostPathType { name: name.clone(), value: source.type_.clone().unwrap_or_default() }
        })?;
        (PathBuf::from(&source.path), Kind::HostPath { expect })
    } else if let Some(source) = &volume.config_map {
        let projection = ConfigMapProjection {
            name: source.name.clone(),
            items: source.items.clone(),
            optional: source.optional,
        };
        let sources = vec![FileSource::ConfigMap(projection)];
        (at("configmap"), Kind::Files { sources, mode: mode(source.default_mode) })
    } else if let Some(source) = &volume.secret {
        let projection = SecretProjection {
            name: source.secret_name.clone().unwrap_or_default(),
            items: source.items.clone(),
            optional: source.optional,
        };
        let sources = vec![FileSource::Secret(projection)];
        (at("secret"), Kind::Files { sources, mode: mode(source.default_mode) })
    } else if let Some(source) = &volume.downward_api {
        let sources = vec![FileSource::Downward(DownwardAPIProjection { items: source.items.clone() })];
        (at("downward-api"), Kind::Files { sources, mode: mode(source.default_mode) })
    } else if let Some(source) = &volume.projected {
        let mut sources = Vec::new();
        for projection in source.sources.iter().flatten() {
            let planned = None
                .or_else(|| projection.config_map.clone().map(FileSource::ConfigMap))
                .or_else(|| projection.secret.clone().map(FileSource::Secret))
                .or_else(|| projection.downward_api.clone().map(FileSource::Downward))
                .or_else(|| projection.service_account_token.clone().map(FileSource::Token));
            sources.push(planned.ok_or_else(|| PlanError::UnsupportedProjection { name: name.clone() })?);
        }
        (at("projected"), Kind::Files { sources, mode: mode(source.default_mode) })
    } else if let Some(used) = claims_of(pod).into_iter().find(|used| used.volume == name) {
        let source = volume.persistent_volume_claim.as_ref();
        let read_only = source.and_then(|source| source.read_only).unwrap_or(false);
        (at("persistent-claim"), Kind::Claim { claim: used.claim, read_only })
    } else if let Some(source) = &volume.image {
        let reference = source.reference.clone().unwrap_or_default();
        let policy = source.pull_policy.clone().filter(|policy| !policy.is_empty());
        let policy = policy.unwrap_or_else(|| "IfNotPresent".to_owned());
        (at("image"), Kind::Image { reference, policy })
    } else if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        // No source at all is an emptyDir, as the defaults say; static pods may come without them.
        (at("empty-dir"), Kind::EmptyDir)
    } else {
        return Err(PlanError::Unsupported { name });
    };
    Ok(VolumePlan { name, path, kind })
}

pub(super) fn host_path_type(text: &str) -> Option<HostPathType> {
    Some(match text {
        "" => HostPathType::Unset,
        "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
        "Directory" => HostPathType::Directory,
        "FileOrCreate" => HostPathType::FileOrCreate,
        "File" => HostPathType::File,
        "Socket" => HostPathType::Socket,
        "CharDevice" => HostPathType::CharDevice,
        "BlockDevice" => HostPathType::BlockDevice,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn check(volume: &str, expected: Result<(&str, Kind), &str>) {
        let pod = fixture::pod(&format!(
            "{{containers: [{{name: a, image: i}}], volumes: [{{name: v, {volume}}}]}}"
        ));
        let planned = plan(&pod, Path::new("/p")).map(|mut plans| plans.remove(0));
        match (planned, expected) {
            (Ok(planned), Ok((path, kind))) => {
                assert_eq!(planned.path, Path::new(path), "{volume}");
                assert_eq!(planned.kind, kind, "{volume}");
            }
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected, "{volume}"),
            (planned, expected) => panic!("{volume}: {planned:?} is not {expected:?}"),
        }
    }

    #[test]
    fn kinds() {
        check("emptyDir: {}", Ok(("/p/volumes/kubernetes.io~empty-dir/v", Kind::EmptyDir)));
        check(
            "emptyDir: {medium: Memory, sizeLimit: 1Mi}",
            Ok(("/p/volumes/kubernetes.io~empty-dir/v", Kind::Memory { size: Some(1 << 20) })),
        );
        check(
            "hostPath: {path: /srv, type: Directory}",
            Ok(("/srv", Kind::HostPath { expect: HostPathType::Directory })),
        );
        check("hostPath: {path: /srv}", Ok(("/srv", Kind::HostPath { expect: HostPathType::Unset })));
        check("hostPath: {path: /srv, type: Dir}", Err("volume \"v\" has the unknown hostPath type \"Dir\""));
        let projection = ConfigMapProjection { name: "c".into(), items: None, optional: Some(true) };
        check(
            "configMap: {name: c, optional: true, defaultMode: 256}",
            Ok((
                "/p/volumes/kubernetes.io~configmap/v",
                Kind::Files { sources: vec![FileSource::ConfigMap(projection)], mode: 0o400 },
            )),
        );
        let projection = SecretProjection { name: "s".into(), items: None, optional: None };
        check(
            "secret: {secretName: s}",
            Ok((
                "/p/volumes/kubernetes.io~secret/v",
                Kind::Files { sources: vec![FileSource::Secret(projection)], mode: 0o644 },
            )),
        );
        check(
            "image: {reference: x/y:1, pullPolicy: Never}",
            Ok((
                "/p/volumes/kubernetes.io~image/v",
                Kind::Image { reference: "x/y:1".into(), policy: "Never".into() },
            )),
        );
        check(
            "persistentVolumeClaim: {claimName: c, readOnly: true}",
            Ok((
                "/p/volumes/kubernetes.io~persistent-claim/v",
                Kind::Claim { claim: "c".into(), read_only: true },
            )),
        );
        check("nfs: {server: s, path: /}", Err("volume \"v\" has a type that this node does not support"));
    }
}
