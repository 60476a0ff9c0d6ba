//! Keeping a running container's whole state on disk, by CRIU; `super::restore` makes a container of it again.
//!
//! What lies outside of the container is named for CRIU on both sides: bind mounts by their place in the container,
//! namespaces that were joined by their kind, and the standard streams by what they were (`descriptors.json`).

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::criu::{Criu, Kind, Message};
use super::lifecycle::Status;
use super::record::{self, Directory, Record};
use super::{Engine, OciError};
use crate::cgroup::Placement;

/// What the standard streams were, for whoever restores.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// What to do with cgroups that the container has made in its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ManageCgroups {
    /// Restore the properties of those that CRIU makes itself.
    #[default]
    Soft,
    /// Restore all properties.
    Full,
    /// Insist on making them all.
    Strict,
    /// Leave them alone.
    Ignore,
}

/// What checkpoint and restore have in common: runc's flags.
#[derive(Debug, Clone, Default)]
pub struct CriuOptions {
    /// The program.
    pub program: PathBuf,
    /// The directory of the images.
    pub images: PathBuf,
    /// Where CRIU writes its log.
    pub work: Option<PathBuf>,
    /// Keep established TCP connections.
    pub tcp_established: bool,
    /// Allow sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Allow a terminal of somebody else's.
    pub shell_job: bool,
    /// Keep locks of files.
    pub file_locks: bool,
    /// What to do with cgroups.
    pub manage_cgroups: ManageCgroups,
    /// Make the network namespace anew, and empty.
    pub empty_network: bool,
    /// Drop from older images what newer ones have.
    pub auto_dedup: bool,
    /// Bring memory back when it is used.
    pub lazy_pages: bool,
}

/// How a container's state is kept.
#[derive(Debug, Clone, Default)]
pub struct CheckpointOptions {
    /// What both sides must agree upon.
    pub criu: CriuOptions,
    /// Images of an earlier `pre_dump`, relative to this one's.
    pub parent: Option<PathBuf>,
    /// Memory only, and the container goes on.
    pub pre_dump: bool,
    /// The container goes on.
    pub leave_running: bool,
    /// Give up TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Allow files that have been unlinked to be linked for a moment.
    pub link_remap: bool,
    /// The server that takes the memory.
    pub page_server: Option<(String, u16)>,
    /// Where CRIU says that the server of lazy pages is ready.
    pub status_fd: Option<u32>,
}

impl CriuOptions {
    /// Makes and opens the directories.
    pub(super) fn directories(&self, log: &str) -> Result<Directories, OciError> {
        let open = |path: &Path| -> Result<OwnedFd, OciError> {
            match DirBuilder::new().recursive(true).mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => File::open(path).map(OwnedFd::from),
            }
            .map_err(OciError::io(format!("opening {}", path.display())))
        };
        let images = open(&self.images)?;
        let work = self.work.as_deref().map(open).transpose()?;
        let log = self.work.as_ref().unwrap_or(&self.images).join(log);
        Ok(Directories { images, work, log })
    }

    /// The part of a request that both sides have.
    pub(super) fn request(
        &self,
        directories: &Directories,
        annotations: &HashMap<String, String>,
    ) -> Message {
        let mut options = Message::default();
        options.descriptor(1, &directories.images);
        options.flag(4, self.ext_unix_sk);
        options.flag(5, self.tcp_established);
        options.flag(7, self.shell_job);
        options.flag(8, self.file_locks);
        options.number(9, 4);
        let log = directories.log.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        options.text(10, log);
        options.flag(12, true);
        options.flag(16, self.auto_dedup);
        if let Some(work) = &directories.work {
            options.descriptor(17, work);
        }
        options.flag(24, true);
        options.number(
            34,
            match self.manage_cgroups {
                ManageCgroups::Ignore => 0,
                ManageCgroups::Soft => 3,
                ManageCgroups::Full => 4,
                ManageCgroups::Strict => 5,
            },
        );
        if self.empty_network {
            options.number(38, u64::from(crate::plan::flag(LinuxNamespaceType::Network)));
        }
        options.flag(48, self.lazy_pages);
        options.flag(50, true);
        // Settings for one container, or for all that a runtime like this one makes.
        match annotations.get("org.criu.config").map(String::as_str) {
            Some("") => {}
            Some(file) => options.text(51, file),
            None => options.text(51, "/etc/criu/runc.conf"),
        }
        options
    }
}

/// Where CRIU reads and writes.
#[derive(Debug)]
pub(super) struct Directories {
    images: OwnedFd,
    work: Option<OwnedFd>,
    pub(super) log: PathBuf,
}

impl Engine {
    /// Keeps the state of a container. Gives warnings.
    pub fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<Vec<String>, OciError> {
        let directory = Directory::open(self, id)?;
        let record = record::read(self, id)?;
        let status = self.status(&record)?;
        if matches!(status, Status::Created | Status::Stopped) {
            let reason = format!("container cannot be checkpointed in {} state", status.name());
            return Err(OciError::State(reason));
        }
        let spec = record::config(self, id)?;
        let log = if options.pre_dump { "pre-dump.log" } else { "dump.log" };
        let directories = options.criu.directories(log)?;
        if let Some(parent) = &options.parent {
            check_parent(&options.criu.images, parent)?;
        }
        let request = self.dump_request(&record, &spec, options, &directories)?;
        let criu = Criu::start(&options.criu.program, &[], directories.log.clone())?;
        let kind = if options.pre_dump { Kind::PreDump } else { Kind::Dump };
        let mut warnings = Vec::new();
        criu.ask(kind, &request, &mut |notice| {
            if notice.script == "status-ready"
                && let Some(number) = options.status_fd
                && let Err(error) = fs::write(format!("/proc/self/fd/{number}"), b"\0")
            {
                warnings.push(format!("telling descriptor {number} that pages can be had: {error}"));
            }
            Ok(())
        })?;
        drop(directory);
        if !options.leave_running && !options.pre_dump {
            warnings.extend(self.delete(id, true)?);
        }
        Ok(warnings)
    }

    fn dump_request(
        &self,
        record: &Record,
        spec: &Spec,
        options: &CheckpointOptions,
        directories: &Directories,
    ) -> Result<Message, OciError> {
        let mut request = options.criu.request(directories, &record.annotations);
        request.number(2, u64::try_from(record.pid).unwrap_or_default());
        request.flag(3, options.leave_running);
        if let Some((address, port)) = &options.page_server {
            let mut server = Message::default();
            server.text(1, address);
            server.number(2, u64::from(*port));
            request.message(11, &server);
        }
        request.text(13, &record.rootfs.to_string_lossy());
        if let Some(parent) = &options.parent {
            request.text(14, &parent.to_string_lossy());
        }
        request.flag(15, options.parent.is_some() || options.pre_dump);
        request.flag(18, options.link_remap);
        request.flag(46, options.tcp_skip_in_flight);
        let cgroup = record.cgroup.to_str().unwrap_or_default();
        let tree = self.tree()?;
        // Stopping all at once leaves no moment for new processes.
        if let Some(freezer) = tree.directory("", Some(cgroup), "freezer") {
            request.text(44, &freezer.to_string_lossy());
        }
        if options.pre_dump {
            return Ok(request);
        }
        for (kind, path) in joined(spec) {
            let file = fs::metadata(path)
                .map_err(OciError::io(format!("looking for namespace {}", path.display())))?;
            if let Some(key) = key_of(kind) {
                request.text(37, &format!("{kind}[{}]:{key}", file.ino(), kind = name_of(kind)));
            }
        }
        let placement = tree.container("", cgroup);
        for (place, _) in outside(spec, &placement) {
            request.text(37, &format!("mnt[{place}]:{place}"));
        }
        for path in masked_files(spec, record.pid) {
            request.text(37, &format!("mnt[{path}]:{NULL}"));
        }
        let streams = streams(record.pid);
        let files: BTreeSet<&String> = streams.iter().filter(|name| name.starts_with("file[")).collect();
        for file in files {
            request.text(37, file);
        }
        let path = options.criu.images.join(DESCRIPTORS);
        let text = serde_json::to_vec(&streams).unwrap_or_default();
        fs::write(&path, text).map_err(OciError::io(format!("writing {}", path.display())))?;
        Ok(request)
    }
}

/// What masks files.
pub(super) const NULL: &str = "/dev/null";

fn check_parent(images: &Path, parent: &Path) -> Result<(), OciError> {
    let invalid = |reason: String| Err(OciError::Invalid { field: "--parent-path".to_owned(), reason });
    if parent.is_absolute() {
        return invalid("must be relative".to_owned());
    }
    let there = images.join(parent);
    match fs::metadata(&there) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => invalid(format!("{} is not a directory", there.display())),
        Err(error) => invalid(format!("{}: {error}", there.display())),
    }
}

/// Namespaces that the container was put into.
pub(super) fn joined(spec: &Spec) -> impl Iterator<Item = (LinuxNamespaceType, &Path)> {
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    all.iter().filter_map(|one| {
        let path = one.path().as_deref().filter(|path| !path.as_os_str().is_empty())?;
        Some((one.typ(), path))
    })
}

/// CRIU's name of a kind of namespace.
pub(super) fn name_of(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Time => "time",
    }
}

/// The name under which a namespace is left to whoever restores, where CRIU can do so.
pub(super) fn key_of(kind: LinuxNamespaceType) -> Option<&'static str> {
    match kind {
        LinuxNamespaceType::Network => Some("extRootNetNS"),
        LinuxNamespaceType::Pid => Some("extRootPidNS"),
        _ => None,
    }
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    mount.typ().as_deref() == Some("bind")
        || options.iter().any(|option| option == "bind" || option == "rbind")
}

/// Mounts whose content lies outside: their place in the container, and where it comes from.
pub(super) fn outside(spec: &Spec, placement: &Placement) -> Vec<(String, PathBuf)> {
    let mut all = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let place = mount.destination().to_string_lossy();
        let place = format!("/{}", place.trim_matches('/'));
        match mount.typ().as_deref() {
            _ if is_bind(mount) => {
                all.extend(mount.source().clone().map(|source| (place, source)));
            }
            // The container's own cgroups, as they are mounted in `plan::mounts`.
            Some("cgroup" | "cgroup2") if placement.views.is_empty() => {
                all.extend(placement.unified.clone().map(|path| (place, path)));
            }
            Some("cgroup" | "cgroup2") => {
                let views = placement.views.iter();
                all.extend(views.map(|view| (format!("{place}/{}", view.name), view.path.clone())));
            }
            _ => {}
        }
    }
    all
}

/// Paths that are covered by /dev/null; directories are covered by file systems, which CRIU knows how to keep.
fn masked_files(spec: &Spec, pid: i32) -> Vec<&str> {
    let masked = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default();
    let is_file =
        |path: &&str| fs::metadata(format!("/proc/{pid}/root{path}")).is_ok_and(|found| !found.is_dir());
    masked.iter().map(String::as_str).filter(is_file).collect()
}

/// What the standard streams of a process are: pipes and files outside by their names for CRIU, all else by path.
fn streams(pid: i32) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let inside: BTreeSet<&str> = mounts.lines().filter_map(|line| line.split(' ').next()).collect();
    let one = |number: i32| {
        let path = format!("/proc/{pid}/fd/{number}");
        let name = fs::read_link(&path).unwrap_or_default().to_string_lossy().into_owned();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map_or("", str::trim);
        let inode = fs::metadata(&path).map(|file| file.ino()).unwrap_or_default();
        outside_name(name, mount, inode, &inside)
    };
    (0..3).map(one).collect()
}

fn outside_name(name: String, mount: &str, inode: u64, inside: &BTreeSet<&str>) -> String {
    match mount.parse::<u32>() {
        Ok(number) if name.starts_with('/') && !inside.contains(mount) => {
            format!("file[{number:x}:{inode:x}]")
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_from_outside_are_named() {
        let inside = BTreeSet::from(["30", "31"]);
        let name = |name: &str, mount: &str| outside_name(name.to_owned(), mount, 255, &inside);
        assert_eq!(name("pipe:[7]", "14"), "pipe:[7]");
        assert_eq!(name("/dev/null", "31"), "/dev/null");
        assert_eq!(name("/tmp/log", "26"), "file[1a:ff]");
        assert_eq!(name("", ""), "");
    }

    #[test]
    fn what_lies_outside_is_known() {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.3.0",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/data/", "type": "none", "source": "/srv", "options": ["rbind", "ro"] },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" },
            ],
        }))
        .unwrap();
        let v2 = Placement { unified: Some("/sys/fs/cgroup/a".into()), ..Placement::default() };
        let expected: Vec<(String, PathBuf)> =
            vec![("/data".into(), "/srv".into()), ("/sys/fs/cgroup".into(), "/sys/fs/cgroup/a".into())];
        assert_eq!(outside(&spec, &v2), expected);
        let view = crate::cgroup::View { name: "memory".into(), path: "/m/a".into() };
        let v1 = Placement { views: vec![view], ..Placement::default() };
        let expected: Vec<(String, PathBuf)> =
            vec![("/data".into(), "/srv".into()), ("/sys/fs/cgroup/memory".into(), "/m/a".into())];
        assert_eq!(outside(&spec, &v1), expected);
    }
}
