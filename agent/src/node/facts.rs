//! What the machine is and how much it has, read from the kernel.

use std::fs;
use std::path::Path;

use crate::eviction::{Shortage, Signal, Supplies, Supply};

/// One reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Processors.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Bytes of the file system that pods share.
    pub storage: u64,
    /// `uname -r`.
    pub kernel: String,
    /// As /etc/os-release calls the system.
    pub os_image: String,
    /// /etc/machine-id.
    pub machine_id: String,
    /// Changes with every start of the machine.
    pub boot_id: String,
    /// The board's.
    pub system_uuid: String,
    /// What is left.
    pub supplies: Supplies,
}

/// What is running out, by the node's thresholds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Bytes or inodes of the file system that pods share.
    pub disk: bool,
    /// Process ids.
    pub pids: bool,
}

impl Pressure {
    /// By what there is too little of.
    pub fn of(shortages: &[Shortage]) -> Self {
        let short = |signals: &[Signal]| shortages.iter().any(|shortage| signals.contains(&shortage.signal));
        Self {
            memory: short(&[Signal::Memory]),
            disk: short(&[Signal::Disk, Signal::Inodes]),
            pids: short(&[Signal::Pids]),
        }
    }
}

impl Facts {
    /// What is left; reads a few numbers. Blocks.
    pub fn supplies(data_dir: &Path) -> Supplies {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let meminfo = text("/proc/meminfo");
        let disk = rustix::fs::statvfs(data_dir).ok();
        // The last number of loadavg's fourth field is how many tasks there are.
        let tasks =
            text("/proc/loadavg").split(['/', ' ']).nth(4).and_then(|count| count.parse::<u64>().ok());
        let pid_max = text("/proc/sys/kernel/pid_max").parse::<u64>().ok().filter(|_| tasks.is_some());
        let supply = |available: Option<u64>, capacity: Option<u64>| match (available, capacity) {
            (Some(available), Some(capacity)) => Supply { available, capacity },
            _ => Supply::default(),
        };
        Supplies {
            memory: supply(field(&meminfo, "MemAvailable:"), field(&meminfo, "MemTotal:")),
            disk: supply(
                disk.as_ref().map(|disk| disk.f_bavail * disk.f_frsize),
                disk.as_ref().map(|disk| disk.f_blocks * disk.f_frsize),
            ),
            inodes: supply(disk.as_ref().map(|disk| disk.f_favail), disk.as_ref().map(|disk| disk.f_files)),
            pids: supply(pid_max.map(|max| max.saturating_sub(tasks.unwrap_or(0))), pid_max),
        }
    }

    /// Reads everything. What cannot be read is empty. Blocks.
    pub fn read(data_dir: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let meminfo = text("/proc/meminfo");
        let supplies = Self::supplies(data_dir);
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory: field(&meminfo, "MemTotal:").unwrap_or(0),
            storage: supplies.disk.capacity,
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_image(&text("/etc/os-release")),
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            supplies,
        }
    }
}

/// A line of /proc/meminfo, in bytes.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let facts = Facts::read(Path::new("/"));
        assert!(facts.cpus > 0 && facts.memory > 0 && facts.storage > 0, "{facts:?}");
        assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty(), "{facts:?}");
    }

    #[test]
    fn files_are_read_by_name() {
        assert_eq!(
            field("MemTotal:       1024 kB\nMemAvailable:  512 kB\n", "MemAvailable:"),
            Some(512 * 1024)
        );
        assert_eq!(field("", "MemTotal:"), None);
        assert_eq!(
            os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
    }
}
