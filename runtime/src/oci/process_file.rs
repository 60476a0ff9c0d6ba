//! The process that `exec` runs: from a file, or the container's own with other words.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, Process, Spec, User};

use super::{Engine, OciError, document, record};

/// What a command line changes of the container's process.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, in addition.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: Option<PathBuf>,
    /// `uid[:gid]`.
    pub user: Option<String>,
    /// Groups in addition to the user's.
    pub additional_gids: Vec<u32>,
    /// On a terminal.
    pub tty: bool,
    /// Capabilities in addition.
    pub capabilities: Vec<String>,
    /// Whether programs may give more rights than their caller has.
    pub no_new_privileges: bool,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux label.
    pub process_label: Option<String>,
}

/// The process that a file (by its path and content) describes, or the container's with what `overrides` say; and
/// what was passed over.
pub fn exec_process(
    engine: &Engine,
    id: &str,
    file: Option<(&Path, &[u8])>,
    overrides: &Overrides,
) -> Result<(Process, Vec<String>), OciError> {
    if let Some((path, text)) = file {
        let (mut process, warnings) = document::process(text, path)?;
        if process.capabilities().is_none() {
            // As many as the container has, then.
            let spec = record::config(engine, id)?;
            process.set_capabilities(spec.process().as_ref().and_then(|own| own.capabilities().clone()));
        }
        return Ok((process, warnings));
    }
    let spec = record::config(engine, id)?;
    let invalid = |field: &str, reason: String| OciError::Invalid { field: field.to_owned(), reason };
    let Some(mut process) = spec.process().clone() else {
        return Err(invalid("process", "is missing".to_owned()));
    };
    if overrides.args.is_empty() {
        return Err(invalid("process.args", "names no program".to_owned()));
    }
    process.set_args(Some(overrides.args.clone()));
    process.env_mut().get_or_insert_default().extend(overrides.env.iter().cloned());
    process.set_terminal(Some(overrides.tty));
    if let Some(cwd) = &overrides.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(text) = &overrides.user {
        let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str| text.parse::<u32>();
        let mut user = User::default();
        user.set_umask(process.user().umask());
        match (number(uid), gid.is_empty(), number(gid)) {
            (Ok(uid), true, _) => {
                user.set_uid(uid);
                user.set_gid(process.user().gid());
            }
            (Ok(uid), false, Ok(gid)) => {
                user.set_uid(uid);
                user.set_gid(gid);
            }
            _ => return Err(invalid("user", format!("{text:?} is not of the form uid[:gid]"))),
        }
        process.set_user(user);
    }
    if !overrides.additional_gids.is_empty() {
        let mut user = process.user().clone();
        user.additional_gids_mut().get_or_insert_default().extend(&overrides.additional_gids);
        process.set_user(user);
    }
    if overrides.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if overrides.apparmor.is_some() {
        process.set_apparmor_profile(overrides.apparmor.clone());
    }
    if overrides.process_label.is_some() {
        process.set_selinux_label(overrides.process_label.clone());
    }
    if !overrides.capabilities.is_empty() {
        let sets = process.capabilities().clone().unwrap_or_else(no_capabilities);
        process.set_capabilities(Some(with_more(sets, &overrides.capabilities)?));
    }
    Ok((process, Vec::new()))
}

fn no_capabilities() -> LinuxCapabilities {
    LinuxCapabilitiesBuilder::default()
        .bounding([])
        .effective([])
        .permitted([])
        .inheritable([])
        .ambient([])
        .build()
        .unwrap_or_default()
}

fn with_more(mut sets: LinuxCapabilities, names: &[String]) -> Result<LinuxCapabilities, OciError> {
    for name in names {
        let value = serde_json::Value::from(name.to_uppercase());
        let capability: Capability = serde_json::from_value(value).map_err(|_| OciError::Invalid {
            field: "process.capabilities".to_owned(),
            reason: format!("{name:?} is not a capability"),
        })?;
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        sets.set_bounding(with(sets.bounding()));
        sets.set_effective(with(sets.effective()));
        sets.set_permitted(with(sets.permitted()));
        // For a user other than root only an ambient one counts, and only what is inheritable can be that: where
        // the container has such capabilities, this one is meant to work as they do.
        if sets.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
            sets.set_ambient(with(sets.ambient()));
        }
    }
    Ok(sets)
}

/// A process that says nothing about capabilities has none. (The library's default would be others.)
pub(super) fn default_rights(spec: &mut Spec) {
    if let Some(process) = spec.process_mut()
        && process.capabilities().is_none()
    {
        process.set_capabilities(Some(no_capabilities()));
    }
}
