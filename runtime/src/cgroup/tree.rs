//! Making, finding, emptying and removing the cgroups of sandboxes and containers.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::devices::DevicesController;
use cgroups_rs::fs::freezer::FreezerController;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, Hierarchy as CrateHierarchy, Subsystem};
use oci_spec::runtime::LinuxResources;
use rustix::process::{Pid, Signal};

use super::layout::{Hierarchy, Layout, Mode};
use super::{CgroupError, apply, apply_devices};

/// Controllers that every container gets a cgroup for. The fewer, the faster: each costs two directories.
const BASE: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];

/// The name of the cgroup that keepers are in.
pub(crate) const KEEPERS: &str = "keepers";

/// A container's cgroups as its process must know them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// `tasks` files to be entered.
    pub(crate) tasks: Vec<PathBuf>,
    /// The directory in the v2 hierarchy to be cloned into.
    pub(crate) unified: Option<PathBuf>,
    /// What the container may see of v1 hierarchies; empty on v2.
    pub(crate) views: Vec<View>,
    /// Names of single controllers for hierarchies that have several.
    pub(crate) links: Vec<(String, String)>,
    /// The file that counts processes killed for want of memory.
    pub(crate) oom: Option<PathBuf>,
    /// The file that kills all.
    pub(crate) kill: Option<PathBuf>,
    /// A file that lists the processes.
    pub(crate) procs: Option<PathBuf>,
}

/// A directory that is the root of a hierarchy for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Its name below /sys/fs/cgroup.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The cgroups of one runtime.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    layout: Layout,
    parent: String,
}

/// The hierarchies that a cgroup is made in, for the `cgroups-rs` crate, which would use all there are.
#[derive(Debug)]
struct Chosen {
    subsystems: Vec<Subsystem>,
    v2: bool,
    root: PathBuf,
}

impl CrateHierarchy for Chosen {
    fn subsystems(&self) -> Vec<Subsystem> {
        self.subsystems.clone()
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(
            Box::new(Self { subsystems: self.subsystems.clone(), v2: self.v2, root: self.root.clone() }),
            "",
        )
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        let parent = Path::new(path).parent().unwrap_or(Path::new(""));
        Cgroup::load(
            Box::new(Self { subsystems: self.subsystems.clone(), v2: self.v2, root: self.root.clone() }),
            parent,
        )
    }

    fn v2(&self) -> bool {
        self.v2
    }
}

impl Tree {
    pub(crate) fn new(layout: Layout, parent: String) -> Self {
        Self { layout, parent }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes the keepers' cgroup.
    pub(crate) fn create_keepers(&self) -> Result<Placement, CgroupError> {
        let path = self.below(KEEPERS);
        // In all hierarchies, so that keepers are nowhere in the cgroup of whoever started them: an init
        // system that stops a service kills everything in the service's cgroup.
        for hierarchy in &self.layout.v1 {
            make_directory(&hierarchy.mount.join(&path))?;
            if hierarchy.controllers.iter().any(|one| one == "cpuset") {
                self.crate_v1(&path, &["cpuset"])?;
            }
        }
        if let Some(unified) = &self.layout.unified {
            make_directory(&unified.join(&path))?;
        }
        Ok(self.placement(&path))
    }

    /// Makes a sandbox's cgroup and sets its limits.
    pub(crate) fn create_sandbox(
        &self,
        sandbox: &str,
        resources: Option<&LinuxResources>,
    ) -> Result<(), CgroupError> {
        let path = self.below(sandbox);
        let cgroup = self.create(&path, resources, &[])?;
        match resources {
            Some(resources) => apply(&cgroup, &path, &self.layout, resources),
            None => Ok(()),
        }
    }

    /// Makes a container's cgroup and sets its limits.
    pub(crate) fn create_container(
        &self,
        sandbox: &str,
        container: &str,
        resources: Option<&LinuxResources>,
    ) -> Result<Placement, CgroupError> {
        let parent = self.below(sandbox);
        let path = parent.join(container);
        // Where the sandbox has a cgroup of its own, its containers must be below it.
        let inherited: Vec<&Hierarchy> =
            self.layout.v1.iter().filter(|hierarchy| hierarchy.mount.join(&parent).is_dir()).collect();
        let cgroup = self.create(&path, resources, &inherited)?;
        apply_devices(&cgroup, &path, &self.layout, resources)?;
        if let Some(resources) = resources {
            apply(&cgroup, &path, &self.layout, resources)?;
        }
        Ok(self.placement(&path))
    }

    /// Makes a cgroup that belongs to no sandbox and sets its limits. `everywhere`: in all hierarchies and with all
    /// controllers, for a container that will look at them.
    pub(crate) fn create_alone(
        &self,
        path: &Path,
        resources: Option<&LinuxResources>,
        everywhere: bool,
    ) -> Result<Placement, CgroupError> {
        let all: Vec<&Hierarchy> = self.layout.v1.iter().filter(|_| everywhere).collect();
        let cgroup = if everywhere && self.layout.mode() == Mode::V2 && rustix::process::geteuid().is_root() {
            let every: Vec<&str> = self.layout.unified_controllers.iter().map(String::as_str).collect();
            self.crate_v2(path, &every)?
        } else {
            self.create(path, resources, &all)?
        };
        for hierarchy in all.iter().filter(|hierarchy| hierarchy.is_named()) {
            make_directory(&hierarchy.mount.join(path))?;
        }
        apply_devices(&cgroup, path, &self.layout, resources)?;
        if let Some(resources) = resources {
            apply(&cgroup, path, &self.layout, resources)?;
        }
        Ok(self.placement(path))
    }

    /// Changes limits of a container.
    pub(crate) fn update_container(
        &self,
        sandbox: &str,
        container: &str,
        resources: &LinuxResources,
    ) -> Result<(), CgroupError> {
        let path = self.below(sandbox).join(container);
        apply(&self.load(&path), &path, &self.layout, resources)
    }

    /// A container's cgroups, as they are.
    pub(crate) fn container(&self, sandbox: &str, container: &str) -> Placement {
        self.placement(&self.below(sandbox).join(container))
    }

    /// The directory of a cgroup in the hierarchy of a controller, if it is there.
    pub(crate) fn directory(
        &self,
        sandbox: &str,
        container: Option<&str>,
        controller: &str,
    ) -> Option<PathBuf> {
        let mut path = self.below(sandbox);
        path.extend(container);
        let root = match self.layout.mode() {
            Mode::V2 => self.layout.unified.as_ref()?,
            Mode::V1 | Mode::Hybrid => &self.layout.v1_of(controller)?.mount,
        };
        Some(root.join(path)).filter(|path| path.is_dir())
    }

    /// Freezes or thaws a container.
    pub(crate) fn freeze(&self, sandbox: &str, container: &str, freeze: bool) -> Result<(), CgroupError> {
        let path = self.below(sandbox).join(container);
        // The v2 hierarchy can freeze even if it has no controllers.
        let (file, text) = if let Some(unified) = &self.layout.unified {
            (unified.join(path).join("cgroup.freeze"), if freeze { "1" } else { "0" })
        } else {
            let Some(freezer) = self.layout.v1_of("freezer") else {
                return Err(CgroupError::NoController { controller: "freezer", what: "pausing" });
            };
            (freezer.mount.join(path).join("freezer.state"), if freeze { "FROZEN" } else { "THAWED" })
        };
        fs::write(&file, text).map_err(|source| CgroupError::Io { what: "writing", path: file, source })
    }

    /// Whether a container is frozen, or about to be.
    pub(crate) fn is_frozen(&self, sandbox: &str, container: &str) -> bool {
        let path = self.below(sandbox).join(container);
        let own = self.layout.unified.as_ref().map(|root| root.join(&path).join("cgroup.freeze"));
        if let Some(text) = own.and_then(|file| fs::read_to_string(file).ok()) {
            return text.trim() == "1";
        }
        let Some(freezer) = self.layout.v1_of("freezer") else { return false };
        let state = fs::read_to_string(freezer.mount.join(path).join("freezer.state"));
        state.is_ok_and(|state| state.starts_with("FR"))
    }

    /// The processes in a cgroup and everything below it, in all hierarchies.
    pub(crate) fn processes(&self, sandbox: &str, container: Option<&str>) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for directory in self.directories(sandbox, container) {
            collect_processes(&directory, &mut pids);
        }
        pids
    }

    /// Kills every process in a cgroup and below it, and waits until they are gone; gives the number that is
    /// still there when patience ends. Blocks.
    pub(crate) fn kill_all(&self, sandbox: &str, container: Option<&str>, patience: Duration) -> usize {
        let step = Duration::from_millis(2);
        let mut waited = Duration::ZERO;
        loop {
            let left = self.processes(sandbox, container);
            if left.is_empty() || waited >= patience {
                return left.len();
            }
            for pid in left {
                // The number comes from the cgroup that only our containers are in; should it have been
                // reused within these microseconds, then by a process that is in no cgroup of ours. A pidfd
                // would not close that gap, as it too is opened by number.
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            if let Some(freezer) = self.layout.v1_of("freezer")
                && self.layout.unified.is_none()
            {
                // A frozen process on v1 dies only when it is thawed.
                let mut path = freezer.mount.join(self.below(sandbox));
                path.extend(container);
                let _ = fs::write(path.join("freezer.state"), "THAWED");
            }
            thread::sleep(step);
            waited += step;
        }
    }

    /// Removes a cgroup and everything below it. Not an error if it is not there. Blocks for moments while
    /// the kernel lets go of processes that have just died.
    pub(crate) fn remove(&self, sandbox: &str, container: Option<&str>) -> Result<(), CgroupError> {
        for directory in self.directories(sandbox, container) {
            remove_tree(&directory).map_err(|source| CgroupError::Io {
                what: "removing",
                path: directory,
                source,
            })?;
        }
        Ok(())
    }

    /// Removes a cgroup in all hierarchies if nothing is in it.
    pub(crate) fn remove_if_empty(&self, path: &str) {
        for directory in self.directories(path, None) {
            let _ = fs::remove_dir(directory);
        }
    }

    /// Removes what is empty of our own tree: the keepers' cgroup and the parent.
    pub(crate) fn remove_empty(&self) {
        let roots = self.layout.v1.iter().map(|hierarchy| &hierarchy.mount).chain(&self.layout.unified);
        for root in roots {
            remove_empty_tree(&root.join(&self.parent));
        }
    }

    /// Makes sure that a cgroup exists and has these limits: for levels above the sandboxes.
    pub(crate) fn ensure(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
        self.create_sandbox(path, Some(resources))
    }

    fn below(&self, path: &str) -> PathBuf {
        Path::new(&self.parent).join(path)
    }

    fn directories(&self, sandbox: &str, container: Option<&str>) -> Vec<PathBuf> {
        let mut path = self.below(sandbox);
        path.extend(container);
        let roots = self.layout.v1.iter().map(|hierarchy| &hierarchy.mount).chain(&self.layout.unified);
        roots.map(|root| root.join(&path)).filter(|path| path.is_dir()).collect()
    }

    /// Creates a cgroup in the hierarchies that are needed for it.
    fn create(
        &self,
        path: &Path,
        resources: Option<&LinuxResources>,
        inherited: &[&Hierarchy],
    ) -> Result<Cgroup, CgroupError> {
        let mut wanted: Vec<&str> = BASE.to_vec();
        if self.layout.unified.is_none() {
            wanted.push("freezer");
        }
        if let Some(resources) = resources {
            let cpu = resources.cpu().as_ref();
            if cpu.is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some()) {
                wanted.push("cpuset");
            }
            if resources.block_io().is_some() {
                wanted.extend(["blkio", "io"]);
            }
            if resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()) {
                wanted.push("hugetlb");
            }
        }
        for hierarchy in inherited {
            wanted.extend(hierarchy.controllers.iter().map(String::as_str));
        }
        match self.layout.mode() {
            Mode::V2 => self.crate_v2(path, &wanted),
            Mode::V1 | Mode::Hybrid => {
                let cgroup = self.crate_v1(path, &wanted)?;
                if let Some(unified) = &self.layout.unified {
                    make_directory(&unified.join(path))?;
                }
                Ok(cgroup)
            }
        }
    }

    fn crate_v1(&self, path: &Path, wanted: &[&str]) -> Result<Cgroup, CgroupError> {
        let chosen = Chosen { subsystems: self.subsystems(Some(wanted)), v2: false, root: PathBuf::new() };
        Cgroup::new(Box::new(chosen), path).map_err(|error| creation_error(path, error))
    }

    fn crate_v2(&self, path: &Path, wanted: &[&str]) -> Result<Cgroup, CgroupError> {
        let controllers = self
            .layout
            .unified_controllers
            .iter()
            .filter(|controller| wanted.contains(&controller.as_str()))
            .cloned()
            .collect();
        let chosen = Chosen {
            subsystems: self.subsystems(None),
            v2: true,
            root: self.layout.unified.clone().unwrap_or_default(),
        };
        Cgroup::new_with_specified_controllers(Box::new(chosen), path, Some(controllers))
            .map_err(|error| creation_error(path, error))
    }

    /// A handle on a cgroup that exists.
    fn load(&self, path: &Path) -> Cgroup {
        let v2 = self.layout.mode() == Mode::V2;
        let chosen = Chosen {
            subsystems: self.subsystems(None),
            v2,
            root: self.layout.unified.clone().unwrap_or_default(),
        };
        Cgroup::load(Box::new(chosen), path)
    }

    /// The crate's controllers on our mount points: those wanted, or all.
    fn subsystems(&self, wanted: Option<&[&str]>) -> Vec<Subsystem> {
        let v2 = self.layout.mode() == Mode::V2;
        let mut seen = Vec::new();
        let mut result = Vec::new();
        for controller in
            ["cpu", "cpuacct", "memory", "pids", "devices", "freezer", "cpuset", "blkio", "io", "hugetlb"]
        {
            if wanted.is_some_and(|wanted| !wanted.contains(&controller)) {
                continue;
            }
            let point = if v2 {
                if !self.layout.has(controller) {
                    continue;
                }
                self.layout.unified.clone()
            } else {
                self.layout.v1_of(controller).map(|hierarchy| hierarchy.mount.clone())
            };
            let Some(point) = point else { continue };
            seen.push(point.clone());
            // The crate compares a cgroup's path with this one to know whether it is the root.
            let base = point.clone();
            result.push(match controller {
                "cpu" => Subsystem::Cpu(CpuController::new(point, base, v2)),
                "cpuacct" => Subsystem::CpuAcct(CpuAcctController::new(point, base)),
                "memory" => Subsystem::Mem(MemController::new(point, base, v2)),
                "pids" => Subsystem::Pid(PidController::new(point, base, v2)),
                "devices" => Subsystem::Devices(DevicesController::new(point, base)),
                "freezer" => Subsystem::Freezer(FreezerController::new(point, base, v2)),
                "cpuset" => Subsystem::CpuSet(CpuSetController::new(point, base, v2)),
                "hugetlb" => Subsystem::HugeTlb(HugeTlbController::new(point, base, v2)),
                _ => Subsystem::BlkIo(BlkIoController::new(point, base, v2)),
            });
        }
        result
    }

    /// The files of a cgroup that exists in some hierarchies.
    fn placement(&self, path: &Path) -> Placement {
        let keepers = self.below(KEEPERS);
        let mut placement = Placement {
            unified: self.layout.unified.as_ref().map(|root| root.join(path)).filter(|path| path.is_dir()),
            ..Placement::default()
        };
        let v1 = self.layout.mode() != Mode::V2;
        for hierarchy in &self.layout.v1 {
            let own = hierarchy.mount.join(path);
            let exists = own.is_dir();
            if exists {
                placement.tasks.push(own.join("tasks"));
                placement.procs.get_or_insert_with(|| own.join("cgroup.procs"));
            }
            if !v1 || hierarchy.is_named() {
                continue;
            }
            let name = hierarchy.directory().to_owned();
            for controller in &hierarchy.controllers {
                if *controller != name {
                    placement.links.push((controller.clone(), name.clone()));
                }
            }
            // Hierarchies without a cgroup of the container's are those that it shares with its keeper.
            let path = if exists { own } else { hierarchy.mount.join(&keepers) };
            // One that is not with a keeper's has neither: such a container sees what it has.
            if exists || !self.parent.is_empty() {
                placement.views.push(View { name, path });
            }
        }
        let memory = if v1 {
            self.layout.v1_of("memory").map(|memory| memory.mount.join(path).join("memory.oom_control"))
        } else {
            placement.unified.as_ref().map(|own| own.join("memory.events"))
        };
        placement.oom = memory.filter(|file| file.exists());
        if let Some(own) = &placement.unified {
            placement.procs = Some(own.join("cgroup.procs"));
            placement.kill = Some(own.join("cgroup.kill")).filter(|file| file.exists());
        }
        placement
    }
}

fn creation_error(path: &Path, error: cgroups_rs::fs::error::Error) -> CgroupError {
    CgroupError::Limit { what: "the directories", path: path.to_owned(), source: Box::new(error) }
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|source| CgroupError::Io {
        what: "making",
        path: path.to_owned(),
        source,
    })
}

fn collect_processes(directory: &Path, pids: &mut BTreeSet<i32>) {
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    for child in children(directory) {
        collect_processes(&child, pids);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a directory of cgroups, children first.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in children(directory) {
        remove_tree(&child)?;
    }
    // A process that has been killed and reaped can count for a moment longer.
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && pause < Duration::from_millis(500) =>
            {
                thread::sleep(pause);
                pause *= 2;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes what can be removed; something in use keeps its place.
fn remove_empty_tree(directory: &Path) {
    for child in children(directory) {
        remove_empty_tree(&child);
    }
    let _ = fs::remove_dir(directory);
}
