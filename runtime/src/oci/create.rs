//! Creating a container: everything up to the moment in which somebody may start it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use oci_spec::runtime::{ContainerState, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::launch::{Arrived, Join, Launch, Words, follow, launch, words_of};
use super::parent::Helper;
use super::record::{Directory, Parsed, Record, parse_config};
use super::sources::{OwnUser, opened};
use super::{Engine, OciError, hooks, sockets};
use crate::cgroup::{CgroupError, Placement, Tree};
use crate::plan::step::{Plan, Step};
use crate::plan::{self, Bundle, Surroundings};
use crate::spec::Rootfs;

/// Where the cgroups of containers are that name none.
pub(super) const DEFAULT_CGROUP: &str = "coracle-oci";

/// How long processes that have been killed may hang in the kernel.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(10);

/// Where the terminal goes.
#[derive(Debug, Clone, Default)]
pub enum Console {
    /// To whoever creates the container.
    #[default]
    Keep,
    /// To the socket at this path.
    Socket(PathBuf),
}

/// Gives a network device of ours to a network namespace, under another name.
pub type GiveDevice = fn(&str, BorrowedFd<'_>, &str) -> io::Result<()>;

/// How a container is created.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The directory that has `config.json`.
    pub bundle: PathBuf,
    /// The terminal.
    pub console: Console,
    /// Where the process's number is written.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors after the standard ones the container gets.
    pub preserved: u32,
    /// Do not use pivot_root(2).
    pub no_pivot: bool,
    /// Stay with the caller's session keyring.
    pub no_new_keyring: bool,
    /// Nobody will take a terminal: refuse one that goes nowhere.
    pub detached: bool,
    /// Variables that the program gets in addition.
    pub extra_env: Vec<String>,
    /// Who is to get a handle on the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Who moves network devices into containers; nobody: they are refused.
    pub give_device: Option<GiveDevice>,
    /// Tell all that the new process does.
    pub trace: bool,
}

/// A created container.
#[derive(Debug)]
pub struct Created {
    /// Its first process.
    pub pid: Pid,
    /// The same, as a handle.
    pub pidfd: OwnedFd,
    /// The terminal, if it was to be kept.
    pub terminal: Option<OwnedFd>,
    /// What the process did, if that was asked for.
    pub trace: Vec<String>,
}

/// Undoes what was done when something fails.
pub(super) struct Undo<'a> {
    pub(super) tree: &'a Tree,
    pub(super) directory: &'a Directory,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) pidfd: Option<OwnedFd>,
    /// Of a process that mounts where it must not be forgotten.
    pub(super) record: Option<Record>,
}

impl Undo<'_> {
    pub(super) fn undo(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        if let Some(cgroup) = self.cgroup.take().as_deref().and_then(Path::to_str) {
            self.tree.kill_all("", Some(cgroup), END_PATIENCE);
            let _ = self.tree.remove("", Some(cgroup));
            self.tree.remove_if_empty(DEFAULT_CGROUP);
        }
        if let Some(record) = self.record.take() {
            record.unmount();
        }
        let _ = self.directory.remove();
    }
}

impl Engine {
    /// Creates a container from a bundle. Its program does not run yet. What went wrong without consequence is added
    /// to the warnings. Should something fail, they are about the configuration alone: engines look for the cause in
    /// all that is said, and what the process had met before was not it.
    pub fn create(
        &self,
        id: &str,
        options: &CreateOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Created, OciError> {
        let bundle = fs::canonicalize(&options.bundle)
            .map_err(OciError::io(format!("looking for bundle {}", options.bundle.display())))?;
        let Parsed { mut spec, config, warnings: passed_over } = parse_config(&bundle.join("config.json"))?;
        warnings.extend(passed_over);
        let rootfs = checked(&spec, &bundle, options)?;
        if let Some(process) = spec.process_mut() {
            process.env_mut().get_or_insert_default().extend(options.extra_env.iter().cloned());
        }
        super::process_file::default_rights(&mut spec);
        resolve_sources(&mut spec, &bundle);
        let console = connect_console(&options.console)?;
        let tree = self.tree()?;
        let directory = Directory::create(self, id)?;
        let mut undo = Undo { tree: &tree, directory: &directory, cgroup: None, pidfd: None, record: None };
        let birth = Birth {
            engine: self,
            id,
            options,
            spec: &spec,
            rootfs,
            bundle,
            tree: &tree,
            directory: &directory,
        };
        match birth.run(&config, console, &mut undo, warnings) {
            Ok(created) => Ok(created),
            Err(error) => {
                let was_made = undo.pidfd.is_some();
                undo.undo();
                if was_made {
                    // The lifecycle goes on at its end: what earlier hooks have set up is taken down.
                    let stop = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref());
                    let record = birth.record(0, 0, &no_plan(), false);
                    hooks::run_all("poststop", stop, &hooks::state_text(&record, ContainerState::Stopped, 0));
                }
                Err(error)
            }
        }
    }
}

/// Connects to whoever takes the terminal.
pub(super) fn connect_console(console: &Console) -> Result<Option<OwnedFd>, OciError> {
    let Console::Socket(path) = console else { return Ok(None) };
    let failed = OciError::io(format!("connecting to console socket {}", path.display()));
    sockets::connect(path).map(Some).map_err(failed)
}

/// Of a process that none of our steps has made.
pub(super) fn no_plan() -> Plan {
    Plan { namespaces: 0, cgroup: None, steps: Vec::new(), program: crate::plan::step::Program::default() }
}

/// Refuses what can be seen to be wrong before anything is made.
pub(super) fn checked(spec: &Spec, bundle: &Path, options: &CreateOptions) -> Result<PathBuf, OciError> {
    let invalid =
        |field: &str, reason: &str| OciError::Invalid { field: field.to_owned(), reason: reason.to_owned() };
    let version = spec.version();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if version.split('.').count() < 3 || major.is_none_or(|major| major > 1) {
        return Err(invalid("ociVersion", &format!("{version:?} is not a version that is supported")));
    }
    let Some(root) = spec.root() else { return Err(invalid("root", "is missing")) };
    let Some(process) = spec.process() else { return Err(invalid("process", "is missing")) };
    if spec.linux().is_none() {
        return Err(invalid("linux", "is missing"));
    }
    let terminal = process.terminal().unwrap_or(false);
    match (&options.console, terminal) {
        (Console::Socket(_), false) => {
            return Err(invalid(
                "process.terminal",
                "a console socket is given for a process without a terminal",
            ));
        }
        (Console::Keep, true) if options.detached => {
            return Err(invalid(
                "process.terminal",
                "a detached process with a terminal needs a console socket",
            ));
        }
        _ => {}
    }
    let path = bundle.join(root.path());
    let path =
        fs::canonicalize(&path).map_err(OciError::io(format!("looking for root.path {}", path.display())))?;
    if !path.is_dir() {
        return Err(invalid("root.path", &format!("{} is not a directory", path.display())));
    }
    Ok(path)
}

/// Sources of bind mounts may be given relative to the bundle.
pub(super) fn resolve_sources(spec: &mut Spec, bundle: &Path) {
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let options = mount.options().as_deref().unwrap_or_default();
        let bind = mount.typ().as_deref() == Some("bind")
            || options.iter().any(|option| option == "bind" || option == "rbind");
        if bind && let Some(source) = mount.source().clone().filter(|source| source.is_relative()) {
            mount.set_source(Some(bundle.join(source)));
        }
    }
}

/// The cgroup that a specification names, below the hierarchies.
pub(super) fn cgroup_path(spec: &Spec, id: &str) -> Result<PathBuf, OciError> {
    let named = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let Some(named) = named.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(Path::new(DEFAULT_CGROUP).join(id));
    };
    let mut path = PathBuf::new();
    for component in named.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let reason = format!("{} leads upwards", named.display());
                return Err(OciError::Invalid { field: "linux.cgroupsPath".to_owned(), reason });
            }
        }
    }
    if path.as_os_str().is_empty() || path.to_str().is_none() {
        let reason = format!("{} is not a container's own cgroup", named.display());
        return Err(OciError::Invalid { field: "linux.cgroupsPath".to_owned(), reason });
    }
    Ok(path)
}

/// Makes a container's cgroup, with its limits.
pub(super) fn new_cgroup(tree: &Tree, cgroup: &Path, spec: &Spec) -> Result<Placement, OciError> {
    let looks =
        |mount: &oci_spec::runtime::Mount| matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
    let everywhere = spec.mounts().iter().flatten().any(looks);
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    match tree.create_alone(cgroup, resources, everywhere) {
        // An unprivileged user has no cgroup to give, and what asks for no limit needs none.
        Err(CgroupError::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied && !is_root() =>
        {
            Ok(Placement::default())
        }
        Err(CgroupError::Limit { .. }) if !is_root() => Ok(Placement::default()),
        result => result.map_err(OciError::Cgroup),
    }
}

/// Refuses a cgroup that others are in: deleting the container would kill them.
pub(super) fn check_empty(tree: &Tree, cgroup: &Path) -> Result<(), OciError> {
    let left = tree.processes("", cgroup.to_str()).len();
    if left == 0 {
        return Ok(());
    }
    let reason = format!("container's cgroup is not empty: {left} process(es) in {}", cgroup.display());
    Err(OciError::Invalid { field: "linux.cgroupsPath".to_owned(), reason })
}

/// One creation.
pub(super) struct Birth<'a> {
    pub(super) engine: &'a Engine,
    pub(super) id: &'a str,
    pub(super) options: &'a CreateOptions,
    pub(super) spec: &'a Spec,
    pub(super) rootfs: PathBuf,
    pub(super) bundle: PathBuf,
    pub(super) tree: &'a Tree,
    pub(super) directory: &'a Directory,
}

impl Birth<'_> {
    fn run(
        &self,
        config: &[u8],
        console: Option<OwnedFd>,
        undo: &mut Undo<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Created, OciError> {
        let cgroup = cgroup_path(self.spec, self.id)?;
        check_empty(self.tree, &cgroup)?;
        undo.cgroup = Some(cgroup.clone());
        let placement = new_cgroup(self.tree, &cgroup, self.spec)?;
        let process = self.spec.process().as_ref();
        let env = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
        let uid = process.map_or(0, |process| process.user().uid());
        let home = home(env, uid, &self.rootfs);
        let around = Surroundings {
            cgroups: &placement,
            rootfs: &self.rootfs,
            home: home.as_deref(),
            keyring: !self.options.no_new_keyring,
            pivot: !self.options.no_pivot,
            listen: true,
            ..machine(&placement, &self.rootfs)
        };
        let planned = plan::bundle(self.spec, around)?;
        let Bundle {
            plan,
            open,
            idmaps,
            join,
            ids,
            maps_late,
            shares_mounts,
            warnings: planning,
            net_devices,
        } = planned;
        warnings.extend(planning);
        let user = OwnUser::of(ids.as_ref(), &join);
        let opened = opened(&open, &idmaps, user)?;
        let joins = join.iter().map(joined).collect::<Result<Vec<_>, _>>()?;
        self.directory.write_config(config)?;
        let new_user = self.spec.linux().as_ref().is_some_and(|linux| {
            linux.namespaces().iter().flatten().any(|one| one.typ() == LinuxNamespaceType::User)
        });
        let launched = launch(Launch {
            plan,
            early: Vec::new(),
            joins: order(joins),
            opened,
            listener: Some(self.directory.listen()?),
            preserved: self.options.preserved,
            dumpable: new_user && !is_root(),
        })?;
        undo.pidfd =
            Some(launched.pidfd.try_clone().map_err(OciError::io("keeping the process's descriptor"))?);
        let pid = launched.pid.as_raw_pid();
        let started = super::lifecycle::start_time(pid).unwrap_or(0);
        let record = self.record(pid, started, &launched.plan, shares_mounts);
        self.directory.write(&record)?;
        undo.record = shares_mounts.then(|| record.clone());
        self.give_devices(pid, &net_devices)?;
        let mut helper = Helper {
            record: &record,
            hooks: self.spec.hooks().as_ref(),
            user,
            maps_late: &maps_late,
            console,
            terminal: None,
            status: ContainerState::Creating,
            seccomp: self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
        };
        let words = Words { step: &|number| words_of(&launched.plan, number), program: &record.program };
        let mut met = Vec::new();
        let arrived = follow(&launched.report, &words, &mut helper, &mut met)?;
        warnings.extend(met);
        debug_assert_eq!(arrived, Arrived::Waiting);
        let terminal = helper.terminal;
        if let Some(path) = &self.options.pidfd_socket {
            sockets::send_process(path, "standard", launched.pidfd.as_fd())?;
        }
        if let Some(path) = &self.options.pid_file {
            write_pid(path, pid)?;
        }
        undo.pidfd = None;
        undo.cgroup = None;
        let trace = if self.options.trace { traced(&launched.plan.steps) } else { Vec::new() };
        Ok(Created { pid: launched.pid, pidfd: launched.pidfd, terminal, trace })
    }

    /// Moves network devices to a process's network namespace. Its hooks find them there.
    fn give_devices(&self, pid: i32, devices: &[(String, String)]) -> Result<(), OciError> {
        if devices.is_empty() {
            return Ok(());
        }
        let path = format!("/proc/{pid}/ns/net");
        let netns = File::open(&path).map_err(OciError::io(format!("opening {path}")))?;
        for (name, inside) in devices {
            let give = self.options.give_device.ok_or_else(|| OciError::Invalid {
                field: "linux.netDevices".to_owned(),
                reason: "is not supported here".to_owned(),
            })?;
            let what = format!("moving network device {name} into the container as {inside}");
            give(name, netns.as_fd(), inside).map_err(OciError::io(what))?;
        }
        Ok(())
    }

    pub(super) fn record(&self, pid: i32, start_time: u64, plan: &Plan, shares_mounts: bool) -> Record {
        let late_from = plan.steps.iter().position(|step| matches!(step, Step::Listen)).unwrap_or(0);
        let spec_version = self.spec.version();
        let _ = self.engine;
        Record {
            oci_version: spec_version.clone(),
            id: self.id.to_owned(),
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            pid,
            start_time,
            created: now(),
            owner: rustix::process::getuid().as_raw(),
            annotations: self.spec.annotations().clone().unwrap_or_default(),
            cgroup: cgroup_path(self.spec, self.id).unwrap_or_default(),
            late_from,
            late: plan.steps.iter().skip(late_from).map(ToString::to_string).collect(),
            program: plan.program.name.clone(),
            no_pivot: self.options.no_pivot,
            shares_mounts,
        }
    }
}

/// What steps make a process do, as lines.
pub(super) fn traced(steps: &[Step]) -> Vec<String> {
    let words = |step: &Step| {
        let flags = match step {
            Step::Seccomp { flags, .. } => Some(format!("seccomp filter flags: {flags}")),
            // All that there are is no choice.
            Step::Affinity { cpus } if cpus.iter().any(|bits| *bits != u64::MAX) => {
                Some(format!("affinity: {}", mask(cpus)))
            }
            _ => None,
        };
        std::iter::once(step.to_string()).chain(flags)
    };
    steps.iter().flat_map(words).collect()
}

/// CPUs as one hexadecimal number.
fn mask(cpus: &[u64]) -> String {
    let digits: String = cpus.iter().rev().map(|word| format!("{word:016x}")).collect();
    let digits = digits.trim_start_matches('0');
    format!("0x{}", if digits.is_empty() { "0" } else { digits })
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// This moment by RFC 3339.
pub fn now() -> String {
    String::from_utf8_lossy(&crate::keeper::log::timestamp(SystemTime::now())).into_owned()
}

/// What depends on the machine alone.
pub(super) fn machine<'a>(cgroups: &'a crate::cgroup::Placement, rootfs: &'a Path) -> Surroundings<'a> {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok();
    let apparmor = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    Surroundings {
        cgroups,
        rootfs,
        last_capability: last.and_then(|text| text.trim().parse().ok()).unwrap_or(40),
        home: None,
        keyring: true,
        pivot: true,
        listen: false,
        privileged: is_root(),
        apparmor: apparmor.is_ok_and(|text| text.starts_with('Y')),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

/// The home directory for an environment that does not name one.
pub(super) fn home(env: &[String], uid: u32, rootfs: &Path) -> Option<String> {
    if plan::names_home(env) {
        return None;
    }
    let home = crate::user::home(&Rootfs::Directory(rootfs.to_owned()), uid);
    Some(home.unwrap_or_else(|_| "/".to_owned()))
}

fn joined((kinds, path): &(u32, PathBuf)) -> Result<Join, OciError> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| OciError::io(format!("opening namespace {}", path.display()))(errno.into()))?;
    Ok(Join { file, kinds: *kinds })
}

/// The user namespace comes last, because entering it gives up the right to enter others.
fn order(mut joins: Vec<Join>) -> Vec<Join> {
    let user = plan::flag(LinuxNamespaceType::User);
    joins.sort_by_key(|join| join.kinds == user);
    joins
}

/// Written beside and renamed: whoever waits for the file finds all of it.
pub(super) fn write_pid(path: &Path, pid: i32) -> Result<(), OciError> {
    let write = || -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        let beside = path.with_file_name(format!(".{name}"));
        let mut file = File::create(&beside)?;
        write!(file, "{pid}")?;
        fs::rename(&beside, path)
    };
    write().map_err(OciError::io(format!("writing {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_the_containers_own() {
        let path = |named: &str| {
            let mut spec = Spec::default();
            let mut linux = spec.linux().clone().unwrap_or_default();
            linux.set_cgroups_path(Some(named.into()));
            spec.set_linux(Some(linux));
            cgroup_path(&spec, "id").ok()
        };
        assert_eq!(path("/a/b"), Some("a/b".into()));
        assert_eq!(path("a/./b"), Some("a/b".into()));
        assert_eq!(path(""), Some("coracle-oci/id".into()));
        // Deleting such a container would kill everything on the machine.
        assert_eq!(path("/"), None);
        assert_eq!(path("/a/../.."), None);
        assert_eq!(path("."), None);
    }
}
