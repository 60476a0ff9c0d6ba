//! From the kernel's first file system to a machine that programs can run on.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_move};
use rustix::process::{chdir, chroot};
use rustix::system::{RebootCommand, finit_module, reboot, sethostname};

use super::command_line::{self, Misunderstood};
use super::{BINARY, CONFIG, Config, DATA, DISK, MODULES};

/// A disk appears a moment after its driver.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a guest does not come up, a variant per step.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The configuration.
    #[error("reading {CONFIG}")]
    Config(#[source] io::Error),
    /// Its content.
    #[error("{CONFIG} is not a guest's configuration")]
    Malformed(#[source] serde_json::Error),
    /// The kernel's command line.
    #[error(transparent)]
    CommandLine(#[from] Misunderstood),
    /// Neither says what runs.
    #[error("nothing to run: the kernel's command line has no coracle.run=\"…\", and there is no {CONFIG}")]
    Nothing,
    /// A root that containers can leave.
    #[error("moving the root file system")]
    Root(#[source] io::Error),
    /// A mount.
    #[error("mounting {what} on {target}")]
    Mount {
        /// Kind of file system, or device.
        what: String,
        /// Where.
        target: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory or file.
    #[error("writing {path}")]
    Write {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A kernel module.
    #[error("loading {path}")]
    Module {
        /// The module.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host's name.
    #[error("setting the host name")]
    Hostname(#[source] io::Error),
    /// The network card.
    #[error("setting up the network")]
    Network(#[from] network::Error),
    /// The disk.
    #[error("no disk appears as {device}")]
    NoDisk {
        /// Its name.
        device: String,
    },
}

fn read_config() -> Result<Config, BootError> {
    let archive = match fs::read(CONFIG) {
        Ok(text) => Some(serde_json::from_slice(&text).map_err(BootError::Malformed)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(BootError::Config(error)),
    };
    let line = fs::read_to_string("/proc/cmdline").map_err(BootError::Config)?;
    command_line::config(&line, archive)?.ok_or(BootError::Nothing)
}

/// `from_disk` says that the disk is mounted, and that this program runs off it.
pub(crate) fn boot(from_disk: bool) -> Result<Config, BootError> {
    leave_rootfs(from_disk).map_err(BootError::Root)?;
    mount_system()?;
    if from_disk {
        keep_name().map_err(|source| BootError::Write { path: BINARY.into(), source })?;
    }
    let config = read_config()?;
    load_modules()?;
    sethostname(config.hostname.as_bytes()).map_err(|error| BootError::Hostname(error.into()))?;
    write_names(&config)?;
    network::host::set_up("lo")?;
    if let Some(address) = config.address {
        network::host::configure("eth0", address, config.gateway)?;
    }
    if config.disk && !from_disk {
        mount_disk(config.device.as_deref().unwrap_or(DISK))?;
    }
    Ok(config)
}

/// Who looks for this program at its usual place finds it. It is there at every moment: without it this machine could start nothing.
fn keep_name() -> io::Result<()> {
    const BESIDE: &str = "/init.new";
    std::os::unix::fs::symlink(std::env::current_exe()?, BESIDE)?;
    fs::rename(BESIDE, BINARY)
}

/// The kernel's first file system cannot be left by pivot_root(2), which containers need. Bound onto itself and moved
/// over the root, it is a mount like any other.
fn leave_rootfs(from_disk: bool) -> io::Result<()> {
    const ROOT: &str = "/root";
    fs::create_dir_all(ROOT)?;
    mount_bind("/", ROOT)?;
    if from_disk {
        mount_move(DATA, format!("{ROOT}{DATA}"))?;
    }
    chdir(ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    Ok(())
}

fn mount_system() -> Result<(), BootError> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, target, flags, data) in [
        ("proc", "/proc", quiet, None),
        ("sysfs", "/sys", quiet, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755")),
        (
            "devpts",
            "/dev/pts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            Some(c"mode=0620,gid=5,ptmxmode=0666"),
        ),
        ("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777")),
        ("mqueue", "/dev/mqueue", quiet, None),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755")),
        ("tmpfs", "/tmp", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777")),
        ("cgroup2", "/sys/fs/cgroup", quiet, Some(c"nsdelegate")),
    ] {
        let fail = |source: io::Error| BootError::Mount { what: kind.to_owned(), target, source };
        match fs::create_dir_all(target) {
            // The kernel makes the directories below /sys itself.
            Err(_) if target.starts_with("/sys/") => {}
            result => result.map_err(fail)?,
        }
        mount(kind, target, kind, flags, data).map_err(|error| fail(error.into()))?;
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        // devtmpfs of some kernels has them.
        let _ = std::os::unix::fs::symlink(target, link);
    }
    Ok(())
}

fn load_modules() -> Result<(), BootError> {
    let fail = |path: PathBuf| move |source: io::Error| BootError::Module { path, source };
    let directory = match fs::read_dir(MODULES) {
        Ok(directory) => directory,
        Err(_) => return Ok(()),
    };
    let mut paths: Vec<PathBuf> = directory.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let file = fs::File::open(&path).map_err(fail(path.clone()))?;
        match finit_module(&file, &CString::default(), 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(fail(path)(error.into())),
        }
        // It is in the kernel now; the copy would only take memory.
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

fn write_names(config: &Config) -> Result<(), BootError> {
    let write = |path: &str, text: String| {
        fs::write(path, text).map_err(|source| BootError::Write { path: path.into(), source })
    };
    let mut hosts = format!("127.0.0.1 localhost {}\n", config.hostname);
    for (name, address) in &config.hosts {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    write("/etc/hosts", hosts)?;
    write(
        "/etc/resolv.conf",
        config.nameservers.iter().map(|server| format!("nameserver {server}\n")).collect(),
    )?;
    write("/etc/hostname", format!("{}\n", config.hostname))?;
    write("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n".to_owned())?;
    write("/etc/group", "root:x:0:\n".to_owned())
}

fn mount_disk(device: &str) -> Result<(), BootError> {
    let fail = |source: io::Error| BootError::Mount { what: device.to_owned(), target: DATA, source };
    let deadline = Instant::now() + PATIENCE;
    while !fs::exists(device).unwrap_or(false) {
        if Instant::now() >= deadline {
            return Err(BootError::NoDisk { device: device.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    fs::create_dir_all(DATA).map_err(fail)?;
    mount(device, DATA, "ext4", MountFlags::NODEV | MountFlags::NOSUID, None)
        .map_err(|error| fail(error.into()))
}

/// Writes everything to disk and switches the machine off.
pub(crate) fn power_off() -> ! {
    rustix::fs::sync();
    // Busy or not there: the file system's journal puts it right.
    let _ = rustix::mount::unmount(DATA, rustix::mount::UnmountFlags::DETACH);
    rustix::fs::sync();
    // A machine that cannot switch off can at least stop.
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Halt);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
