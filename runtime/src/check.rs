//! Probes of what the kernel and the machine offer, for `coracle check`.
//!
//! Each one does what it asks about, in a small way that leaves nothing: a version number tells what somebody
//! released, not what this kernel was built with or what a filter around us allows.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use rustix::process::PidfdFlags;
use rustix::thread::CapabilitySet;

use crate::cgroup::{Layout, Mode as CgroupMode};
use crate::kernel;
use crate::seal::{Kind, Sealed};
use crate::spec::Config;
use crate::sys::mount::{Change, set_attributes};
use crate::sys::process;

/// How a probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Ok,
    /// coracle works without it, but something is slower, weaker or missing.
    Warn,
    /// Containers cannot run without it.
    Missing,
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was tried.
    pub name: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do about it; empty if it works.
    pub advice: String,
}

/// The oldest kernel whose interfaces suffice: mount_setattr came with 5.12, the rest before.
const OLDEST: (u32, u32) = (5, 12);

/// Tries everything that the runtime needs. Blocks for some milliseconds.
pub fn run(config: &Config) -> Vec<Probe> {
    let mut probes = vec![version(), root(), clone3()];
    probes.extend(namespaces());
    probes.extend([
        pidfd(),
        openat2(),
        mount_api(),
        overlay(config),
        shared_memory(),
        seccomp(),
        pivot_root(),
    ]);
    probes.extend(cgroups(config));
    probes.extend([keeper(config), oom_score(), keyring()]);
    probes
}

fn ok(name: &'static str, detail: impl Into<String>) -> Probe {
    Probe { name, outcome: Outcome::Ok, detail: detail.into(), advice: String::new() }
}

fn missing(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Probe {
    Probe { name, outcome: Outcome::Missing, detail: detail.into(), advice: advice.into() }
}

fn warn(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Probe {
    Probe { name, outcome: Outcome::Warn, detail: detail.into(), advice: advice.into() }
}

fn version() -> Probe {
    let name = "kernel";
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = text.trim().to_owned();
    match kernel::version(&text) {
        Some(version) if version >= OLDEST => ok(name, format!("Linux {text}")),
        Some(_) => {
            missing(name, format!("Linux {text}"), format!("run Linux {}.{} or newer", OLDEST.0, OLDEST.1))
        }
        None => warn(name, format!("unknown version {text:?}"), "see whether the other probes pass"),
    }
}

fn root() -> Probe {
    let name = "privileges";
    let held =
        rustix::thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    let needed = [
        (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::SETUID, "CAP_SETUID"),
        (CapabilitySet::SETGID, "CAP_SETGID"),
        (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
        (CapabilitySet::MKNOD, "CAP_MKNOD"),
        (CapabilitySet::CHOWN, "CAP_CHOWN"),
        (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
        (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    ];
    let lacking: Vec<_> =
        needed.iter().filter(|(bit, _)| !held.contains(*bit)).map(|(_, name)| *name).collect();
    if !lacking.is_empty() {
        return missing(name, format!("without {}", lacking.join(", ")), "run as root");
    }
    if !held.contains(CapabilitySet::SYS_RESOURCE) {
        return warn(
            name,
            "without CAP_SYS_RESOURCE",
            "hard limits cannot be raised and oom_score_adj cannot be lowered; containers run without that",
        );
    }
    ok(name, "root with all capabilities that are needed")
}

fn clone3() -> Probe {
    match process::can_clone(0, None) {
        Ok(()) => ok("clone3", "works"),
        Err(Errno::NOSYS) => warn("clone3", "hidden by a filter", "clone is used instead"),
        Err(errno) => missing("clone3", errno.to_string(), "see what keeps this process from making others"),
    }
}

fn namespaces() -> Vec<Probe> {
    let kinds = [
        ("namespace mnt", libc::CLONE_NEWNS, true, "CONFIG_NAMESPACES"),
        ("namespace pid", libc::CLONE_NEWPID, true, "CONFIG_PID_NS"),
        ("namespace net", libc::CLONE_NEWNET, true, "CONFIG_NET_NS"),
        ("namespace ipc", libc::CLONE_NEWIPC, true, "CONFIG_IPC_NS"),
        ("namespace uts", libc::CLONE_NEWUTS, true, "CONFIG_UTS_NS"),
        ("namespace cgroup", libc::CLONE_NEWCGROUP, true, "CONFIG_CGROUPS"),
        ("namespace user", libc::CLONE_NEWUSER, false, "CONFIG_USER_NS"),
    ];
    let try_one = |(name, flag, needed, config): (&'static str, i32, bool, &str)| match process::can_clone(
        u64::from(flag.unsigned_abs()),
        None,
    ) {
        Ok(()) => ok(name, "works"),
        Err(errno) if needed => missing(name, errno.to_string(), format!("the kernel needs {config}")),
        Err(errno) => warn(name, errno.to_string(), format!("not used yet; it would need {config}")),
    };
    kinds.into_iter().map(try_one).collect()
}

fn pidfd() -> Probe {
    let result = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .and_then(|pidfd| process::send_signal(pidfd.as_fd(), 0));
    match result {
        Ok(()) => ok("pidfd", "works"),
        Err(errno) => missing("pidfd", errno.to_string(), "run Linux 5.3 or newer"),
    }
}

fn openat2() -> Probe {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(_) => ok("openat2", "works"),
        Err(errno) => missing("openat2", errno.to_string(), "run Linux 5.6 or newer"),
    }
}

fn mount_api() -> Probe {
    let name = "mount API";
    let result = (|| {
        let mount = tmpfs()?;
        set_attributes(&mount, Change { set: 1, ..Change::default() }, true)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(CWD, "/", flags).map(drop)
    })();
    match result {
        Ok(()) => ok(name, "fsopen, open_tree and mount_setattr work"),
        Err(errno) => missing(name, errno.to_string(), "run Linux 5.12 or newer"),
    }
}

fn tmpfs() -> Result<std::os::fd::OwnedFd, Errno> {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// An overlay with an upper layer where ours will be: not every file system can hold one.
fn overlay(config: &Config) -> Probe {
    let name = "overlayfs";
    let place = config.state_dir.join(format!(".check-{}", std::process::id()));
    let result = (|| -> io::Result<()> {
        for directory in ["lower", "upper", "work"] {
            fs::create_dir_all(place.join(directory))?;
        }
        let text = |name: &str| {
            let path = place.join(name).into_os_string().into_encoded_bytes();
            CString::new(path).map_err(io::Error::from)
        };
        let (lower, upper, work) = (text("lower")?, text("upper")?, text("work")?);
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&fs, "lowerdir", &lower)?;
        rustix::mount::fsconfig_set_string(&fs, "upperdir", &upper)?;
        rustix::mount::fsconfig_set_string(&fs, "workdir", &work)?;
        rustix::mount::fsconfig_create(&fs)?;
        let attributes = MountAttrFlags::empty();
        let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&mount, "file", flags, Mode::RUSR)?;
        fs::File::from(file).write_all(b"x")?;
        if place.join("upper/file").exists() {
            Ok(())
        } else {
            Err(io::Error::other("the file is not there"))
        }
    })();
    let _ = fs::remove_dir_all(&place);
    match result {
        Ok(()) => ok(name, format!("works in {}", config.state_dir.display())),
        Err(error) => missing(
            name,
            format!("in {}: {error}", config.state_dir.display()),
            "the kernel needs CONFIG_OVERLAY_FS, and the data directory a file system that can be an upper \
             layer (ext4, xfs with ftype=1, btrfs, tmpfs)",
        ),
    }
}

fn shared_memory() -> Probe {
    let name = "detached mounts";
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    match tmpfs().and_then(|mount| rustix::mount::open_tree(&mount, "", flags)) {
        Ok(_) => ok(name, "can be copied"),
        // Not a fault: there is another way, which is only a little less tidy.
        Err(_) => ok(name, "cannot be copied; shared memory is mounted in the run directory"),
    }
}

fn seccomp() -> Probe {
    const ERRNO: u32 = 0x0005_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    if process::knows_action(ERRNO) && process::knows_action(KILL_PROCESS) {
        ok("seccomp", "filters work")
    } else {
        missing("seccomp", "filters are not available", "the kernel needs CONFIG_SECCOMP_FILTER")
    }
}

/// The root of an initial ramdisk cannot be pivoted from.
fn pivot_root() -> Probe {
    let name = "pivot_root";
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    match root.and_then(|line| line.split_once(" - ")?.1.split(' ').next()) {
        Some("rootfs") => missing(
            name,
            "the root is the initial ramdisk",
            "mount another file system (a tmpfs will do) and make it the root first",
        ),
        Some(kind) => ok(name, format!("the root is {kind}")),
        None => warn(name, "the root is no mount", "containers may fail to start in a chroot"),
    }
}

fn cgroups(config: &Config) -> Vec<Probe> {
    let layout = match Layout::detect() {
        Ok(layout) => layout,
        Err(error) => {
            let advice = "mount cgroup2 on /sys/fs/cgroup";
            return vec![missing("cgroups", error.to_string(), advice)];
        }
    };
    let mut probes = vec![match layout.mode() {
        CgroupMode::V2 => ok("cgroups", "version 2"),
        CgroupMode::V1 => ok("cgroups", "version 1"),
        CgroupMode::Hybrid => ok("cgroups", "version 1, with version 2 beside it"),
    }];
    for (controller, probe, effect) in [
        ("memory", "cgroup memory", "limits on memory and pods' memory use are not available"),
        ("cpu", "cgroup cpu", "limits on CPU time are not available"),
        ("pids", "cgroup pids", "limits on processes are not available"),
        ("cpuset", "cgroup cpuset", "containers cannot be bound to CPUs"),
    ] {
        probes.push(if layout.has(controller) {
            ok(probe, "available")
        } else {
            let advice = format!("{effect}; enable the controller at boot (cgroup_enable={controller})");
            warn(probe, "not available", advice)
        });
    }
    probes.push(if layout.mode() == CgroupMode::V2 {
        warn(
            "cgroup devices",
            "version 2 has no list of devices",
            "containers are kept from devices by missing nodes and capabilities alone",
        )
    } else if layout.has("devices") {
        ok("cgroup devices", "available")
    } else {
        warn("cgroup devices", "not available", "any process that can make a device node can use it")
    });
    probes.push(make_cgroup(config, &layout));
    probes
}

/// Makes a cgroup where ours will be, and clones into it.
fn make_cgroup(config: &Config, layout: &Layout) -> Probe {
    let name = "cgroup creation";
    let path = Path::new(&config.cgroup_parent).join(format!("check-{}", std::process::id()));
    let roots: Vec<PathBuf> =
        layout.v1.iter().map(|hierarchy| hierarchy.mount.clone()).chain(layout.unified.clone()).collect();
    let result = (|| -> io::Result<()> {
        for root in &roots {
            fs::create_dir_all(root.join(&path))?;
        }
        if let (CgroupMode::V2, Some(unified)) = (layout.mode(), &layout.unified) {
            // What the runtime will do as well. It is refused where processes are in the cgroup itself.
            if layout.has("memory") {
                fs::write(unified.join("cgroup.subtree_control"), "+memory").map_err(|error| {
                    io::Error::new(error.kind(), format!("passing the memory controller on: {error}"))
                })?;
            }
        }
        if let Some(unified) = &layout.unified {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(CWD, unified.join(&path), flags, Mode::empty())?;
            match process::can_clone(0, Some(directory.as_fd())) {
                Err(Errno::NOSYS) | Ok(()) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    })();
    for root in &roots {
        // A process that has just ended can hold it for a moment.
        for _ in 0..20 {
            match fs::remove_dir(root.join(&path)) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                _ => break,
            }
        }
        // Ours only if nothing else is in it.
        let _ = fs::remove_dir(root.join(&config.cgroup_parent));
    }
    match result {
        Ok(()) => ok(name, format!("works below {}", config.cgroup_parent)),
        Err(error) => missing(
            name,
            error.to_string(),
            "mount the cgroup file systems writable; in a container with version 2, move all processes out of \
             its topmost cgroup first",
        ),
    }
}

fn keeper(config: &Config) -> Probe {
    let name = "keeper program";
    let Some(program) = config.keeper_argv.first() else {
        return missing(name, "none is configured", "give Config::keeper_argv");
    };
    let place = config.state_dir.join(format!(".check-{}", std::process::id()));
    let sealed = fs::create_dir_all(&place).and_then(|()| Sealed::new(Path::new(program), &place));
    let _ = fs::remove_dir_all(&place);
    match sealed {
        Ok(sealed) if sealed.kind == Kind::Overlay => ok(name, "runs from a read-only overlay"),
        Ok(_) => warn(
            name,
            "runs from a sealed copy in memory",
            "that costs the size of the binary once; put the binary on a plain file system to avoid it",
        ),
        Err(error) => missing(name, error.to_string(), "see that the binary can be read"),
    }
}

fn oom_score() -> Probe {
    let name = "oom_score_adj";
    let path = "/proc/self/oom_score_adj";
    let now = fs::read_to_string(path).unwrap_or_default();
    let now: i32 = now.trim().parse().unwrap_or(0);
    let lowered = fs::write(path, (now - 1).max(-1000).to_string());
    if lowered.is_ok() {
        let _ = fs::write(path, now.to_string());
        ok(name, "can be lowered")
    } else {
        warn(
            name,
            "cannot be lowered",
            "keepers are not protected when memory runs out; CAP_SYS_RESOURCE helps",
        )
    }
}

fn keyring() -> Probe {
    let name = "keyrings";
    // On a thread that is thrown away: the keyring stays with the one that joins it.
    let joined = std::thread::spawn(process::new_session_keyring).join();
    match joined {
        Ok(Ok(())) => ok(name, "each container gets its own"),
        Ok(Err(Errno::NOSYS)) => ok(name, "the kernel has none"),
        Ok(Err(errno)) => warn(name, errno.to_string(), "containers see the keys of whoever starts coracle"),
        Err(_) => warn(name, "the probe failed", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_nothing_and_say_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let parent = format!("coracle-check-{}", std::process::id());
        let config = Config {
            run_dir: directory.path().join("run"),
            state_dir: directory.path().to_owned(),
            cgroup_parent: parent.clone(),
            keeper_argv: vec!["/proc/self/exe".into()],
        };
        let probes = run(&config);
        for probe in &probes {
            println!("{:?} {}: {} {}", probe.outcome, probe.name, probe.detail, probe.advice);
            assert_eq!(probe.outcome == Outcome::Ok, probe.advice.is_empty(), "{}", probe.name);
        }
        if rustix::process::geteuid().is_root() {
            assert!(probes.iter().all(|probe| probe.outcome != Outcome::Missing));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in mountinfo.lines().filter(|line| line.contains(" - cgroup")) {
            let mount = line.split(' ').nth(4).unwrap();
            assert!(!Path::new(mount).join(&parent).exists());
        }
    }
}
