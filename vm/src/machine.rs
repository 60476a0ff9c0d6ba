//! One virtual machine: a directory with its files, and a QEMU process while it runs.
//!
//! ```text
//!   <directory>/console.log    what it prints
//!   <directory>/control.sock   crate::control
//!   <directory>/qmp.sock       crate::qmp
//!   <directory>/pid            QEMU's process
//!   <directory>/disk.img       its disk, if it has one
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::accel::Accelerator;

/// QEMU's name for the network card's cable.
pub(crate) const NETWORK: &str = "net0";
/// QEMU's program.
pub const QEMU: &str = "qemu-system-x86_64";

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its files.
    pub directory: PathBuf,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initramfs: PathBuf,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// Whether `disk.img` is its disk.
    pub disk: bool,
    /// The tap interface that its network card is plugged into, and the card's hardware address.
    pub network: Option<(String, [u8; 6])>,
    /// How its instructions run.
    pub accelerator: Accelerator,
    /// What its kernel is told beside what every machine's is.
    pub parameters: Vec<String>,
}

/// Why a machine does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No QEMU.
    #[error("starting {QEMU} (Debian: apt-get install qemu-system-x86)")]
    Spawn(#[source] io::Error),
    /// QEMU found something wrong.
    #[error("{QEMU} does not start: {words}")]
    Refused {
        /// Its words.
        words: String,
    },
    /// A file of the machine.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A signal.
    #[error("ending process {pid}")]
    Kill {
        /// QEMU's process.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Machine {
    /// Starts QEMU, which goes on by itself. Blocks for the moment that takes.
    pub fn start(&self) -> Result<(), MachineError> {
        let output = Command::new(QEMU).args(self.arguments()).output().map_err(MachineError::Spawn)?;
        if output.status.success() {
            return Ok(());
        }
        Err(MachineError::Refused { words: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
    }

    /// QEMU's command line.
    fn arguments(&self) -> Vec<String> {
        // A comma separates options; two stand for one.
        let path = |name: &str| self.directory.join(name).display().to_string().replace(',', ",,");
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-daemonize",
            "-machine",
            "pc",
        ]);
        add(self.accelerator.arguments());
        add(&["-m", &self.memory.to_string(), "-smp", &self.cpus.to_string()]);
        add(&[
            "-kernel",
            &self.kernel.display().to_string(),
            "-initrd",
            &self.initramfs.display().to_string(),
        ]);
        // The other kind of first file system stops growing at half of the memory. Without a disk, images are kept in it, and
        // then it must be that other kind, which has extended attributes.
        let root = if self.disk { " rootfstype=ramfs" } else { "" };
        let more: String = self.parameters.iter().map(|parameter| format!(" {parameter}")).collect();
        let accelerator = self.accelerator.kernel();
        let line = format!("console=ttyS0 quiet panic=-1 cgroup_no_v1=all{root}{accelerator}{more}");
        add(&["-append", &line]);
        add(&[
            "-chardev",
            &format!("file,id=console,append=on,path={}", path("console.log")),
            "-serial",
            "chardev:console",
        ]);
        add(&[
            "-chardev",
            &format!("socket,id=control,server=on,wait=off,path={}", path("control.sock")),
            "-serial",
            "chardev:control",
        ]);
        add(&["-qmp", &format!("unix:{},server=on,wait=off", path("qmp.sock"))]);
        add(&["-pidfile", &self.directory.join("pid").display().to_string()]);
        add(&["-device", "virtio-rng-pci"]);
        if self.disk {
            add(&["-drive", &format!("if=virtio,format=raw,cache=writeback,file={}", path("disk.img"))]);
        }
        if let Some((tap, mac)) = &self.network {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            add(&["-netdev", &format!("tap,id={NETWORK},ifname={tap},script=no,downscript=no")]);
            add(&["-device", &format!("virtio-net-pci,netdev={NETWORK},mac={mac}")]);
        }
        arguments
    }
}

/// The QEMU process of a machine's directory, if it runs.
pub fn running(directory: &Path) -> Option<i32> {
    let pid: i32 = fs::read_to_string(directory.join("pid")).ok()?.trim().parse().ok()?;
    // The number may be somebody else's by now.
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let directory = directory.as_os_str().as_encoded_bytes();
    command.windows(directory.len()).any(|window| window == directory).then_some(pid)
}

/// Waits until the machine is off; answers whether it is. Blocks.
pub fn wait_off(directory: &Path, patience: Duration) -> Result<bool, MachineError> {
    let Some(pid) = running(directory) else { return Ok(true) };
    let Some(process) = Pid::from_raw(pid) else { return Ok(true) };
    let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { return Ok(true) };
    ended_by(&handle, Instant::now() + patience).map_err(|source| MachineError::Kill { pid, source })
}

/// A power cut. Blocks until the process has gone.
pub fn cut(directory: &Path) -> Result<(), MachineError> {
    let Some(pid) = running(directory) else { return Ok(()) };
    let Some(process) = Pid::from_raw(pid) else { return Ok(()) };
    let fail = |source: io::Error| MachineError::Kill { pid, source };
    let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { return Ok(()) };
    kill_process(process, Signal::KILL).map_err(|error| fail(error.into()))?;
    ended_by(&handle, Instant::now() + Duration::from_secs(10)).map_err(fail).map(drop)
}

/// Waits until the process has ended, or the deadline is over; answers whether it has ended. Blocks.
pub fn ended_by(process: &std::os::fd::OwnedFd, deadline: Instant) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let left =
        Timespec::try_from(deadline.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
    let ready = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left))?;
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_names_every_file_of_the_machine() {
        let machine = Machine {
            directory: "/srv/a,b".into(),
            kernel: "/boot/vmlinuz".into(),
            initramfs: "/srv/initramfs".into(),
            memory: 256,
            cpus: 1,
            disk: true,
            network: Some(("tap0".into(), [2, 0, 0, 0, 0, 10])),
            accelerator: Accelerator::Emulation,
            parameters: Vec::new(),
        };
        let line = machine.arguments().join(" ");
        for part in [
            "path=/srv/a,,b/console.log",
            "path=/srv/a,,b/control.sock",
            "file=/srv/a,,b/disk.img",
            "-pidfile /srv/a,b/pid",
            "ifname=tap0",
            "mac=02:00:00:00:00:0a",
            "-accel tcg",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    #[test]
    fn a_number_that_is_somebody_elses_is_no_machine() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(running(directory.path()), None);
        fs::write(directory.path().join("pid"), "1").unwrap();
        assert_eq!(running(directory.path()), None);
        assert!(wait_off(directory.path(), Duration::ZERO).unwrap());
    }
}
