//! What the machine is and how much it has, read from the kernel.

use std::fs;
use std::path::Path;

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
    /// What is running out.
    pub pressure: Pressure,
}

/// What is running out, by upstream's default eviction thresholds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Less than 100 MiB of memory available.
    pub memory: bool,
    /// Less than a twentieth of the file system (2 GiB at most), or of its inodes, free.
    pub disk: bool,
    /// Nine tenths of the process ids are taken.
    pub pids: bool,
}

const MIN_MEMORY: u64 = 100 << 20;
/// A twentieth of a large disk is more than anybody needs to go on.
const MIN_STORAGE: u64 = 2 << 30;

impl Facts {
    /// Reads everything. What cannot be read is empty. Blocks.
    pub fn read(data_dir: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let meminfo = text("/proc/meminfo");
        let disk = rustix::fs::statvfs(data_dir).ok();
        let storage = disk.as_ref().map_or(0, |disk| disk.f_blocks * disk.f_frsize);
        let disk_pressure = disk.is_some_and(|disk| {
            disk.f_bavail * disk.f_frsize < (storage / 20).min(MIN_STORAGE)
                || (disk.f_files > 0 && disk.f_favail * 20 < disk.f_files)
        });
        // The last number of loadavg's fourth field is how many tasks there are.
        let tasks =
            text("/proc/loadavg").split(['/', ' ']).nth(4).and_then(|count| count.parse::<u64>().ok());
        let pid_max = text("/proc/sys/kernel/pid_max").parse::<u64>().unwrap_or(u64::MAX);
        let available = field(&meminfo, "MemAvailable:");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory: field(&meminfo, "MemTotal:").unwrap_or(0),
            storage,
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_image(&text("/etc/os-release")),
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            pressure: Pressure {
                memory: available.is_some_and(|available| available < MIN_MEMORY),
                disk: disk_pressure,
                pids: tasks.is_some_and(|tasks| tasks > pid_max / 10 * 9),
            },
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
