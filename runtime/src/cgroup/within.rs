//! Cgroups that a container has made below its own, for processes that join it there.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use super::layout::Mode;
use super::{CgroupError, Placement, Tree};

/// Which cgroup below the container's a process is to be in, by controller; under `""` for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Choice(BTreeMap<String, PathBuf>);

fn invalid<T>(reason: String) -> Result<T, CgroupError> {
    Err(CgroupError::Invalid { field: "cgroup", reason })
}

impl Choice {
    /// Reads `path`, or several `controller[,controller]:path`.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, CgroupError> {
        let mut choice = BTreeMap::new();
        for argument in arguments {
            let (controllers, path) = match argument.split_once(':') {
                Some(("", _)) => return invalid(format!("{argument:?} names no controller")),
                Some(parts) => parts,
                None if arguments.len() > 1 => return invalid(format!("{argument:?} names no controller")),
                None => ("", argument.as_str()),
            };
            let path = below(path)?;
            for controller in controllers.split(',') {
                if choice.insert(controller.to_owned(), path.clone()).is_some() {
                    return invalid(format!("controller {controller} is given twice"));
                }
            }
        }
        Ok(Self(choice))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A path that does not lead out of the container's cgroup.
fn below(path: &str) -> Result<PathBuf, CgroupError> {
    let mut plain = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return invalid(format!("bad sub cgroup path: {path}"));
            }
        }
    }
    Ok(plain)
}

impl Tree {
    /// The container's cgroups, with those in place of them that are chosen. `first`: the container's first process,
    /// which further ones join if nothing is chosen and they cannot be in the container's own: in version 2 there are
    /// no processes in a cgroup that has given its controllers to those below.
    pub(crate) fn within(
        &self,
        container: &str,
        choice: &Choice,
        first: i32,
    ) -> Result<Placement, CgroupError> {
        let mut placement = self.container("", container);
        if choice.is_empty() {
            if let Some(own) = &placement.unified
                && self.layout().mode() == Mode::V2
                && gives_controllers(own)
                && let Some(root) = &self.layout().unified
                && let Some(below) = unified_cgroup(first, root).filter(|below| below.starts_with(own))
            {
                placement.unified = Some(below);
            }
            return Ok(placement);
        }
        let existing = |directory: PathBuf| match directory.is_dir() {
            true => Ok(directory),
            false => Err(CgroupError::Io {
                what: "adding pid of a new process to",
                path: directory,
                source: io::Error::from_raw_os_error(libc::ENOENT),
            }),
        };
        let all = choice.0.get("");
        if let (Some(unified), Some(path)) = (&placement.unified, all)
            && self.layout().mode() == Mode::V2
        {
            placement.unified = Some(existing(unified.join(path))?);
            return Ok(placement);
        }
        let mut left: Vec<&str> = choice.0.keys().map(String::as_str).filter(|one| !one.is_empty()).collect();
        placement.tasks.clear();
        for hierarchy in &self.layout().v1 {
            let own = hierarchy.mount.join(container);
            if !own.is_dir() {
                continue;
            }
            let chosen = hierarchy.controllers.iter().find_map(|controller| choice.0.get(controller));
            left.retain(|one| !hierarchy.controllers.iter().any(|controller| controller == one));
            let directory = match chosen.or(all) {
                Some(path) => existing(own.join(path))?,
                None => own,
            };
            placement.tasks.push(directory.join("tasks"));
        }
        match left.first() {
            Some(unknown) => invalid(format!("unknown controller {unknown}")),
            None => Ok(placement),
        }
    }
}

/// Whether cgroups below have controllers of their own.
fn gives_controllers(directory: &Path) -> bool {
    fs::read_to_string(directory.join("cgroup.subtree_control")).is_ok_and(|text| !text.trim().is_empty())
}

/// Where a process is in the hierarchy of version 2 at `root`.
fn unified_cgroup(pid: i32, root: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(root.join(path.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        let read = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|one| (*one).to_owned()).collect();
            Choice::parse(&arguments).map(|choice| {
                choice
                    .0
                    .into_iter()
                    .map(|(name, path)| format!("{name}={}", path.display()))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(read(&["/a/b"]).unwrap(), ["=a/b"]);
        assert_eq!(read(&["/"]).unwrap(), ["="]);
        assert_eq!(read(&["cpu,cpuacct:x", "memory:y"]).unwrap(), ["cpu=x", "cpuacct=x", "memory=y"]);
        for bad in [&[".."][..], &["a/../.."], &[":x"], &["x", "y"], &["cpu:x", "cpu:y"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
