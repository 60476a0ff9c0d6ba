//! Process number one of a guest: from a bare kernel to a running coracle, and back to power off.
//!
//! It mounts, loads modules, sets up the network and the disk, and supervises one program. It reaps every orphan, and does
//! what the host asks over the second serial port ([`crate::control`]).

mod boot;
mod command_line;
mod reaper;
mod serve;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use boot::BootError;
pub use command_line::Misunderstood;
use reaper::Reaper;
#[cfg(test)]
pub(crate) use serve::answer_file;

/// Where a guest finds its configuration.
pub const CONFIG: &str = "/etc/coracle/guest.json";
/// Kernel modules, named in the order in which they load.
pub const MODULES: &str = "/lib/modules";
/// This binary, in a guest.
pub const BINARY: &str = "/init";
/// The first argument of process number one when it runs off the disk.
pub(crate) const FROM_DISK: &str = "--from-disk";
/// The disk of a virtual machine.
pub(crate) const DISK: &str = "/dev/vda";
/// Where the disk is mounted.
pub const DATA: &str = "/var/lib/coracle";

/// A program that ends is started again after this.
const RESTART: Duration = Duration::from_secs(1);
/// How long processes may take to end before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// What a guest is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The machine's name.
    pub hostname: String,
    /// Address of its network card with the length of the link's prefix; none without a card.
    pub address: Option<Ipv4Net>,
    /// The way out.
    pub gateway: Option<Ipv4Addr>,
    /// Who knows names.
    #[serde(default)]
    pub nameservers: Vec<Ipv4Addr>,
    /// Names of other machines.
    #[serde(default)]
    pub hosts: BTreeMap<String, Ipv4Addr>,
    /// Whether there is a disk (ext4) to be mounted at [`DATA`].
    #[serde(default)]
    pub disk: bool,
    /// The disk's name [default: the first one of a virtual machine]
    #[serde(default)]
    pub device: Option<String>,
    /// Program and arguments; the program `coracle` is this binary.
    pub program: Vec<String>,
    /// Switch off when the program has ended, instead of starting it again.
    #[serde(default)]
    pub once: bool,
}

/// The line on the console that tells how a program that runs once has ended.
pub const ENDED: &str = "coracle guest: the program ended with status";

/// Whether this process is the first of a guest. The kernel starts it under this name; who starts coracle as the first process of a
/// container does not.
pub fn is_init() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == BINARY)
}

/// Runs the guest. Never returns: a kernel without its first process stops in panic.
#[expect(clippy::print_stderr, reason = "standard output is the guest's console")]
pub fn main() -> ! {
    let from_disk = std::env::args_os().nth(1).is_some_and(|first| first == FROM_DISK);
    match boot::boot(from_disk) {
        Ok(config) => run(&config),
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            eprint!("coracle guest: it does not come up");
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
        }
    }
    boot::power_off()
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "standard output is the guest's console")]
fn run(config: &Config) {
    let reaper = Arc::new(Reaper::default());
    let ending = Arc::new(AtomicBool::new(false));
    let program = Arc::new(std::sync::Mutex::new(None::<Pid>));
    {
        let (reaper, ending, program) = (Arc::clone(&reaper), Arc::clone(&ending), Arc::clone(&program));
        let end = move || {
            ending.store(true, Ordering::SeqCst);
            if let Some(pid) = *program.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
                // It may have ended by itself this very moment.
                let _ = signal::kill(pid, Signal::SIGTERM);
            }
        };
        let served =
            std::thread::Builder::new().name("control".to_owned()).spawn(move || serve::serve(&reaper, &end));
        if let Err(error) = served {
            eprintln!("coracle guest: nobody listens to the host: {error}");
        }
    }
    loop {
        let waiting = {
            let mut current = program.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if ending.load(Ordering::SeqCst) {
                break;
            }
            match reaper.spawn(&mut command(&config.program)) {
                Ok((child, waiting)) => {
                    *current = Some(Pid::from_raw(child.id().cast_signed()));
                    Some(waiting)
                }
                Err(error) => {
                    eprintln!("coracle guest: starting {:?}: {error}", config.program);
                    None
                }
            }
        };
        let status = waiting.and_then(|waiting| reaper.reap_until(&waiting));
        *program.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        if config.once {
            println!("{ENDED} {}", status.unwrap_or(127));
            break;
        }
        if !ending.load(Ordering::SeqCst) {
            println!("coracle guest: the program has ended with status {status:?}; starting it again");
            std::thread::sleep(RESTART);
        }
    }
    reaper.end_all(GRACE);
}

/// A command whose program `coracle` is this binary.
pub(crate) fn command(argv: &[String]) -> Command {
    let (first, rest) = argv.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let mut command = Command::new(if first == "coracle" { BINARY } else { first });
    command.arg0(first).args(rest).env_clear().env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").env("HOME", "/");
    // The console is a file on the host.
    command.env("NO_COLOR", "1");
    // A session of its own: a signal to it is none to us.
    command.process_group(0);
    command
}
