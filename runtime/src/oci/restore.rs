//! A container from what `super::checkpoint` has kept.
//!
//! CRIU makes namespaces, mounts and processes; what a creation would have around them is made here, from the bundle:
//! the directory, the cgroup that CRIU is put into so that all it makes is there, places to mount upon, hooks.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ContainerState, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags};

use super::checkpoint::{CriuOptions, DESCRIPTORS, NULL, is_bind, joined, key_of, name_of, outside};
use super::create::{Birth, Undo, cgroup_path, check_empty, checked, connect_console, new_cgroup, write_pid};
use super::criu::{Criu, Kind, Message, Notice};
use super::launch::Parent;
use super::parent::Helper;
use super::record::{Directory, Parsed, parse_config};
use super::sources::OwnUser;
use super::{CreateOptions, Created, Engine, OciError, hooks, sockets};
use crate::cgroup::Placement;

/// How a container is restored.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// What both sides must agree upon.
    pub criu: CriuOptions,
    /// What a creation is told as well.
    pub create: CreateOptions,
    /// `TYPE:NAME` of a profile in place of the one that it had.
    pub lsm_profile: Option<String>,
    /// Context of mounts in place of theirs.
    pub lsm_mount_context: Option<String>,
}

impl Engine {
    /// Makes a container of a kept state. It runs, and its first process is our child.
    pub fn restore(
        &self,
        id: &str,
        options: &RestoreOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Created, OciError> {
        let create = &options.create;
        let bundle = fs::canonicalize(&create.bundle)
            .map_err(OciError::io(format!("looking for bundle {}", create.bundle.display())))?;
        let Parsed { mut spec, config, warnings: passed_over } = parse_config(&bundle.join("config.json"))?;
        warnings.extend(passed_over);
        let rootfs = checked(&spec, &bundle, create)?;
        super::create::resolve_sources(&mut spec, &bundle);
        let console = connect_console(&create.console)?;
        let tree = self.tree()?;
        let directory = Directory::create(self, id)?;
        let mut undo = Undo { tree: &tree, directory: &directory, cgroup: None, pidfd: None, record: None };
        let birth = Birth {
            engine: self,
            id,
            options: create,
            spec: &spec,
            rootfs,
            bundle,
            tree: &tree,
            directory: &directory,
        };
        match birth.again(&config, options, console, &mut undo) {
            Ok(created) => Ok(created),
            Err(error) => {
                undo.undo();
                Err(error)
            }
        }
    }
}

/// The root file system as CRIU wants it: a mount of its own.
struct Root {
    path: PathBuf,
}

impl Root {
    fn new(rootfs: &Path, directory: &Path) -> Result<Self, OciError> {
        let path = directory.join("criu-root");
        let failed = || OciError::io(format!("binding {} to {}", rootfs.display(), path.display()));
        fs::create_dir(&path).map_err(failed())?;
        let root = Self { path: path.clone() };
        rustix::mount::mount_bind_recursive(rootfs, &root.path).map_err(|errno| failed()(errno.into()))?;
        Ok(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = fs::remove_dir(&self.path);
    }
}

impl Birth<'_> {
    fn again(
        &self,
        config: &[u8],
        options: &RestoreOptions,
        console: Option<OwnedFd>,
        undo: &mut Undo<'_>,
    ) -> Result<Created, OciError> {
        let cgroup = cgroup_path(self.spec, self.id)?;
        check_empty(self.tree, &cgroup)?;
        undo.cgroup = Some(cgroup.clone());
        let placement = new_cgroup(self.tree, &cgroup, self.spec)?;
        self.directory.write_config(config)?;
        let root = Root::new(&self.rootfs, &self.directory.path)?;
        places(self.spec, &root.path)?;
        let directories = options.criu.directories("restore.log")?;
        let annotations = self.spec.annotations().clone().unwrap_or_default();
        let mut request = options.criu.request(&directories, &annotations);
        request.flag(6, true);
        request.text(13, &root.path.to_string_lossy());
        request.flag(26, true);
        for (place, source) in outside(self.spec, &placement) {
            request.text(37, &format!("mnt[{place}]:{}", source.display()));
        }
        request.text(37, &format!("mnt[{NULL}]:{NULL}"));
        if let Some(profile) = &options.lsm_profile {
            request.text(53, profile);
        }
        if let Some(context) = &options.lsm_mount_context {
            request.text(55, context);
        }
        let namespaces = self.namespaces(&mut request)?;
        inherited_streams(&options.criu.images, &mut request)?;

        let kept: Vec<&OwnedFd> = namespaces.iter().collect();
        let criu = Criu::start(&options.criu.program, &kept, directories.log.clone())?;
        enter(criu.pid(), &placement)?;
        cgroup_roots(criu.pid(), &mut request)?;
        let mut record = self.record(0, 0, &super::create::no_plan(), false);
        let hooks = self.spec.hooks().as_ref();
        let (mut console, mut terminal) = (console, None);
        let pid = criu.ask(Kind::Restore, &request, &mut |notice: Notice<'_>| {
            match (notice.script, notice.descriptor) {
                ("setup-namespaces", _) => {
                    let state = hooks::state_text(&record, ContainerState::Creating, notice.pid);
                    hooks::run("prestart", hooks.and_then(|all| all.prestart().as_deref()), &state)?;
                    hooks::run("createRuntime", hooks.and_then(|all| all.create_runtime().as_deref()), &state)
                }
                ("post-restore", _) => {
                    // From here on it can be found, whatever becomes of us.
                    record.pid = notice.pid;
                    record.start_time = super::lifecycle::start_time(notice.pid).unwrap_or(0);
                    self.directory.write(&record)
                }
                ("orphan-pts-master", Some(descriptor)) => {
                    let mut helper = Helper {
                        record: &record,
                        hooks: None,
                        user: OwnUser::None,
                        maps_late: &[],
                        console: console.take(),
                        terminal: None,
                        status: ContainerState::Creating,
                        seccomp: None,
                    };
                    helper.terminal(descriptor)?;
                    terminal = helper.terminal;
                    Ok(())
                }
                _ => Ok(()),
            }
        })?;
        let what = "opening the restored process";
        let pid = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH);
        let pid = pid.map_err(|errno| OciError::io(what)(errno.into()))?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| OciError::io(what)(errno.into()))?;
        undo.pidfd = Some(pidfd.try_clone().map_err(OciError::io(what))?);
        if let Some(path) = &self.options.pidfd_socket {
            sockets::send_process(path, "standard", pidfd.as_fd())?;
        }
        if let Some(path) = &self.options.pid_file {
            write_pid(path, pid.as_raw_pid())?;
        }
        undo.pidfd = None;
        undo.cgroup = None;
        Ok(Created { pid, pidfd, terminal, trace: Vec::new() })
    }

    /// Names the namespaces that are there already; gives those that CRIU must have open.
    fn namespaces(&self, request: &mut Message) -> Result<Vec<OwnedFd>, OciError> {
        let mut kept = Vec::new();
        for (kind, path) in joined(self.spec) {
            if kind == LinuxNamespaceType::Cgroup {
                let reason = "criu cannot restore into a cgroup namespace that is there".to_owned();
                return Err(OciError::Invalid { field: "linux.namespaces".to_owned(), reason });
            }
            let Some(key) = key_of(kind) else {
                let mut join = Message::default();
                join.text(1, name_of(kind));
                join.text(2, &path.to_string_lossy());
                request.message(39, &join);
                continue;
            };
            let file: OwnedFd = File::open(path)
                .map_err(OciError::io(format!("opening namespace {}", path.display())))?
                .into();
            request.message(27, &inherit(key, file.as_raw_fd()));
            kept.push(file);
        }
        Ok(kept)
    }
}

fn inherit(key: &str, number: i32) -> Message {
    let mut inherited = Message::default();
    inherited.text(1, key);
    inherited.number(2, u64::try_from(number).unwrap_or_default());
    inherited
}

/// Our standard streams in place of those that it had.
fn inherited_streams(images: &Path, request: &mut Message) -> Result<(), OciError> {
    let path = images.join(DESCRIPTORS);
    let text = fs::read(&path).map_err(OciError::io(format!("reading {}", path.display())))?;
    let names: Vec<String> =
        serde_json::from_slice(&text).map_err(|source| OciError::Json { path, source })?;
    let mut seen = BTreeSet::new();
    for (number, name) in (0..3).zip(&names) {
        if (name.starts_with("pipe:[") || name.starts_with("file[")) && seen.insert(name) {
            request.message(27, &inherit(name, number));
        }
    }
    Ok(())
}

/// Puts CRIU, which waits for its request, into the container's cgroup: what it makes is there from the beginning.
fn enter(pid: u32, placement: &Placement) -> Result<(), OciError> {
    let unified = placement.unified.iter().map(|path| path.join("cgroup.procs"));
    for file in placement.tasks.iter().cloned().chain(unified) {
        fs::write(&file, pid.to_string())
            .map_err(OciError::io(format!("moving criu into the container's cgroup {}", file.display())))?;
    }
    Ok(())
}

/// Tells CRIU that where it is now is where the container's cgroups begin.
fn cgroup_roots(pid: u32, request: &mut Message) -> Result<(), OciError> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).map_err(OciError::io(format!("reading {path}")))?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        if let (Some(_), Some(controller), Some(place)) = (parts.next(), parts.next(), parts.next()) {
            let mut root = Message::default();
            if !controller.is_empty() {
                root.text(1, controller);
            }
            root.text(2, place);
            request.message(25, &root);
        }
    }
    Ok(())
}

/// Makes the places that mounts need, as a creation does. What is on a tmpfs comes back with it.
fn places(spec: &Spec, root: &Path) -> Result<(), OciError> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, root, flags, Mode::empty())
        .map_err(|errno| OciError::io(format!("opening {}", root.display()))(errno.into()))?;
    for mount in mounts {
        let place = mount.destination();
        let covered = mounts.iter().any(|other| {
            !is_bind(other) && place != other.destination() && place.starts_with(other.destination())
        });
        if covered || matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) {
            continue;
        }
        let is_file = is_bind(mount)
            && mount
                .source()
                .as_ref()
                .is_some_and(|source| fs::metadata(source).is_ok_and(|it| !it.is_dir()));
        let failed = || OciError::io(format!("making the mount point {}", place.display()));
        let path = CString::new(place.as_os_str().as_bytes()).map_err(|error| failed()(error.into()))?;
        crate::child::ensure_place(opened.as_fd(), &path, is_file).map_err(|errno| failed()(errno.into()))?;
    }
    Ok(())
}
