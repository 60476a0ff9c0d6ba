//! Sources of bind mounts, and the user namespaces that their ids are mapped by.

use std::os::fd::{AsFd, OwnedFd};

use super::OciError;
use crate::child::open_bind;
use crate::idmap;
use crate::plan::IdMap;
use crate::plan::step::Step;

/// Opens the sources of bind mounts while everything is in reach.
pub(super) fn opened(
    open: &[Step],
    idmaps: &[Option<IdMap>],
    own: Option<&(String, String)>,
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
pub(super) fn mapping(map: &IdMap, own: Option<&(String, String)>) -> Result<OwnedFd, OciError> {
    if !map.uids.is_empty() {
        return user_namespace(&map.uids, &map.gids);
    }
    let Some((uids, gids)) = own else {
        let reason = "idmap without mappings needs a user namespace".to_owned();
        return Err(OciError::Invalid { field: "mounts".to_owned(), reason });
    };
    user_namespace(uids, gids)
}

fn user_namespace(uids: &str, gids: &str) -> Result<OwnedFd, OciError> {
    idmap::user_namespace(uids, gids).map_err(OciError::io("making a user namespace for an idmapped mount"))
}
