//! Sources of bind mounts, and the user namespaces that their ids are mapped by.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;

use super::OciError;
use crate::child::open_bind;
use crate::idmap;
use crate::plan::step::Step;
use crate::plan::{self, IdMap};

/// The container's own user namespace, which mounts can be mapped as.
#[derive(Debug, Clone, Copy)]
pub(super) enum OwnUser<'a> {
    /// It has none.
    None,
    /// A new one with these lines for user and group ids.
    New(&'a (String, String)),
    /// One that is there already.
    Joined(&'a Path),
}

impl<'a> OwnUser<'a> {
    /// Of a plan's id lines, and the namespaces that are joined (`CLONE_NEW*` and their files).
    pub(super) fn of(ids: Option<&'a (String, String)>, join: &'a [(u32, PathBuf)]) -> Self {
        let user = plan::flag(LinuxNamespaceType::User);
        match (ids, join.iter().find(|(kinds, _)| kinds & user != 0)) {
            (Some(ids), _) => Self::New(ids),
            (None, Some((_, path))) => Self::Joined(path),
            (None, None) => Self::None,
        }
    }
}

/// Opens the sources of bind mounts while everything is in reach.
pub(super) fn opened(
    open: &[Step],
    idmaps: &[Option<IdMap>],
    own: OwnUser<'_>,
) -> Result<Vec<OwnedFd>, OciError> {
    let failed = |step: &Step| {
        let step = step.to_string();
        move |errno: rustix::io::Errno| OciError::Step { step, source: errno.into() }
    };
    let mut opened = Vec::with_capacity(open.len());
    for (step, idmap) in open.iter().zip(idmaps) {
        let Step::OpenBind { source, recursive, attributes, .. } = step else { continue };
        let namespace = match idmap {
            None => None,
            Some(map) => Some((mapping(map, own)?, map.recursive)),
        };
        let user = namespace.as_ref().map(|(file, recursive)| (file.as_fd(), *recursive));
        opened.push(open_bind(source, *recursive, attributes, user).map_err(failed(step))?);
    }
    Ok(opened)
}

/// A user namespace that maps as a mount asks for, or as the container's own (`own`) does.
pub(super) fn mapping(map: &IdMap, own: OwnUser<'_>) -> Result<OwnedFd, OciError> {
    if !map.uids.is_empty() {
        return user_namespace(&map.uids, &map.gids);
    }
    match own {
        OwnUser::New((uids, gids)) => user_namespace(uids, gids),
        OwnUser::Joined(path) => {
            let file = File::open(path).map_err(OciError::io(format!("opening {}", path.display())))?;
            Ok(file.into())
        }
        OwnUser::None => {
            let reason = "idmap without mappings needs a user namespace".to_owned();
            Err(OciError::Invalid { field: "mounts".to_owned(), reason })
        }
    }
}

fn user_namespace(uids: &str, gids: &str) -> Result<OwnedFd, OciError> {
    idmap::user_namespace(uids, gids).map_err(OciError::io("making a user namespace for an idmapped mount"))
}
