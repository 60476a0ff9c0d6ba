//! Whether the processor runs guests itself. `/dev/kvm` may be there, open, and still run nothing: in a virtual machine whose
//! own host does not pass virtualisation on, guests hang. So a guest is started, and has to get somewhere.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::QEMU;

/// How a guest's instructions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// On the processor.
    Kvm,
    /// One by one, in QEMU.
    Emulation,
}

impl Accelerator {
    /// For the kernel's command line.
    pub(crate) fn kernel(self) -> &'static str {
        match self {
            Self::Kvm => "",
            // An emulated timer is late when the host is busy, which is no reason to panic.
            Self::Emulation => " no_timer_check",
        }
    }

    /// For the command line.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // One thread for all processors: with one for each, guests of more than one have been seen locked up for good.
            // What is translated is kept: in 64 MiB instead of as much as comes, which was 110 MiB more for a server and no quicker.
            Self::Emulation => &["-accel", "tcg,thread=single,tb-size=64", "-cpu", "max"],
        }
    }
}

/// A kernel without an initramfs gives up within a second where it runs at all.
const PATIENCE: Duration = Duration::from_secs(4);

/// Finds out by running something. The second part says in a few words why. Blocks for up to four seconds.
pub fn probe(kernel: &Path) -> io::Result<(Accelerator, &'static str)> {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok((Accelerator::Emulation, "/dev/kvm cannot be opened"));
    }
    let mut child = Command::new(QEMU)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "pc",
            "-m",
            "128",
        ])
        .args(Accelerator::Kvm.arguments())
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    match ended {
        // It found no root file system, gave up, and the machine went off.
        Some(status) if status.success() => Ok((Accelerator::Kvm, "a guest ran")),
        Some(_) => Ok((Accelerator::Emulation, "/dev/kvm refuses")),
        None => {
            child.kill()?;
            child.wait()?;
            Ok((Accelerator::Emulation, "/dev/kvm opens, but a guest hangs"))
        }
    }
}
