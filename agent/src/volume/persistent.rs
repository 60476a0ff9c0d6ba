//! PersistentVolumes on this node: which directory one is, and how a pod gets to see it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use manifests::k8s_openapi::api::core::v1::PersistentVolume;
use manifests::volumes::{LOCAL_PATH_PROVISIONER, PROVISIONED_BY, annotation};

use super::mount::{self, MountError};
use super::owner::{self, OwnerError};
use super::plan::{HostPathType, host_path_type};

/// Who runs in a container is the image's affair, and they all have to write to their volume.
const OPEN: u32 = 0o777;

/// A volume that pods cannot have.
#[derive(Debug, thiserror::Error)]
pub enum PersistentError {
    /// It is of a type that this node does not know.
    #[error("this node supports only hostPath and local volumes with a file system")]
    Unsupported,
    /// Its directory is not there.
    #[error("path {path:?} does not exist")]
    Missing {
        /// On the node.
        path: PathBuf,
    },
    /// A type of hostPath that is none.
    #[error("unknown hostPath type {0:?}")]
    HostPathType(String),
    /// Its directory cannot be made.
    #[error("creating {path}")]
    Create {
        /// On the node.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It cannot be given to the pod's group.
    #[error(transparent)]
    Owner(#[from] OwnerError),
}

/// Whom a volume is given to.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// `fsGroup`.
    pub id: u32,
    /// `OnRootMismatch`: only if the volume itself is somebody else's.
    pub root_only: bool,
}

/// Shows a volume at a pod's place for it. One that is shown stays as it is.
pub fn mount(
    volume: &PersistentVolume,
    place: &Path,
    read_only: bool,
    group: Option<Group>,
) -> Result<(), PersistentError> {
    if mount::is_bound(place) {
        return Ok(());
    }
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(PersistentError::Unsupported);
    }
    let owned = annotation(&volume.metadata, PROVISIONED_BY) == Some(LOCAL_PATH_PROVISIONER);
    let (source, give) = if let Some(local) = spec.local {
        (PathBuf::from(local.path), true)
    } else if let Some(host) = spec.host_path {
        let path = PathBuf::from(&host.path);
        if owned {
            make(&path)?;
        } else {
            let wanted = host.type_.unwrap_or_default();
            let expect = host_path_type(&wanted).ok_or(PersistentError::HostPathType(wanted))?;
            // What is missing becomes a directory, as upstream has it for these volumes.
            let expect = match expect {
                HostPathType::Unset => HostPathType::DirectoryOrCreate,
                other => other,
            };
            mount::host_path(&path, expect)?;
        }
        // A directory that somebody chose on the node is not ours to give away.
        (path, owned)
    } else {
        return Err(PersistentError::Unsupported);
    };
    if !source.exists() {
        return Err(PersistentError::Missing { path: source });
    }
    if let Some(group) = group.filter(|_| give && !read_only) {
        owner::give(&source, group.id, group.root_only)?;
    }
    Ok(mount::bind(&source, place, read_only)?)
}

/// Makes the directory of a volume of the node's own. Nobody but root gets past the directory that they are all in.
fn make(path: &Path) -> Result<(), PersistentError> {
    let failed = |source| PersistentError::Create { path: path.to_owned(), source };
    if let Some(parent) = path.parent()
        && !parent.is_dir()
    {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    match fs::create_dir(path) {
        // Apart, because of the mask that modes of new directories go through.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(OPEN)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn directories_become_volumes() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir(at("data")).unwrap();
        let volume = |spec: Value, by: &str| -> PersistentVolume {
            let made =
                json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": by}}, "spec": spec});
            serde_json::from_value(made).unwrap()
        };
        let place = dir.path().join("pod/volume");
        let check = |spec: Value, by: &str, read_only: bool| {
            let group = Some(Group { id: 77, root_only: true });
            let result = mount(&volume(spec, by), &place, read_only, group);
            let seen = result.map(|()| {
                let mode = fs::metadata(&place).unwrap().permissions().mode() & 0o7777;
                let writes = fs::write(place.join("x"), "x").is_ok();
                format!("{mode:o} {writes}")
            });
            mount::remove(&dir.path().join("pod")).unwrap();
            seen.unwrap_or_else(|error| error.to_string())
        };
        let local = json!({"local": {"path": at("data")}});
        assert_eq!(check(local.clone(), "", false), "2775 true");
        assert_eq!(check(local, "", true), "2775 false");
        let made = json!({"hostPath": {"path": at("storage/pvc-1"), "type": "DirectoryOrCreate"}});
        assert_eq!(check(made, LOCAL_PATH_PROVISIONER, false), "2777 true");
        assert_eq!(check(json!({"hostPath": {"path": at("new")}}), "", false), "755 true");
        let none = at("none");
        assert_eq!(
            check(json!({"local": {"path": none}}), "", false),
            format!("path {none:?} does not exist")
        );
        assert!(check(json!({"nfs": {"path": "/", "server": "s"}}), "", false).contains("supports only"));
        assert!(dir.path().join("data/x").exists(), "what was written stays when the pod goes");
    }
}
