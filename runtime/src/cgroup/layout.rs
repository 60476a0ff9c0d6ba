//! Which hierarchies the machine has, and where.

use std::fs;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// How the machine's cgroups are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Controllers in hierarchies of version 1 only.
    V1,
    /// Version 1, with a version 2 hierarchy beside it that has none of the controllers that we need.
    Hybrid,
    /// Version 2.
    V2,
}

/// A hierarchy of version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, or `name=…` for one without.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
}

/// All hierarchies, as this process sees them mounted. Where we run in a container that sees a part of a
/// hierarchy only, the mount point is our own cgroup, so everything that we make lies below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Version 1.
    pub v1: Vec<Hierarchy>,
    /// Where version 2 is mounted.
    pub unified: Option<PathBuf>,
    /// The controllers that version 2 offers.
    pub unified_controllers: Vec<String>,
}

/// Words in the options of a version 1 mount that are not controllers.
const NOT_CONTROLLERS: [&str; 7] =
    ["rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods"];

impl Layout {
    /// Looks at the machine.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let mountinfo = fs::read_to_string(path).map_err(|source| CgroupError::Io {
            what: "reading",
            path: path.to_owned(),
            source,
        })?;
        let mut layout = Self::from_mountinfo(&mountinfo);
        if let Some(unified) = &layout.unified {
            let controllers = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
            layout.unified_controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        if layout.v1.is_empty() && layout.unified.is_none() {
            Err(CgroupError::NotMounted)
        } else {
            Ok(layout)
        }
    }

    /// Reads the table of mounts (proc_pid_mountinfo(5)).
    fn from_mountinfo(mountinfo: &str) -> Self {
        let mut layout = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(unescape) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap_or(""), right.nth(1).unwrap_or(""));
            match kind {
                "cgroup2" if layout.unified.is_none() => layout.unified = Some(mount),
                "cgroup" => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|word| !NOT_CONTROLLERS.contains(word) && !word.starts_with("release_agent="))
                        .map(str::to_owned)
                        .collect();
                    // A hierarchy can be mounted more than once; the first one will do.
                    if !layout.v1.iter().any(|known| known.controllers == controllers) {
                        layout.v1.push(Hierarchy { controllers, mount });
                    }
                }
                _ => {}
            }
        }
        layout
    }

    /// What of both versions is in use.
    pub fn mode(&self) -> Mode {
        match (self.v1.iter().any(|hierarchy| !hierarchy.is_named()), &self.unified) {
            (false, Some(_)) => Mode::V2,
            (_, Some(_)) => Mode::Hybrid,
            (_, None) => Mode::V1,
        }
    }

    /// The version 1 hierarchy of a controller.
    pub fn v1_of(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|one| one == controller))
    }

    /// Whether limits of this controller can be set here.
    pub fn has(&self, controller: &str) -> bool {
        match self.mode() {
            Mode::V2 => self.unified_controllers.iter().any(|one| one == controller),
            Mode::V1 | Mode::Hybrid => self.v1_of(controller).is_some(),
        }
    }
}

impl Hierarchy {
    /// It has no controller, only a name.
    pub fn is_named(&self) -> bool {
        self.controllers.iter().all(|controller| controller.starts_with("name="))
    }

    /// The last part of its mount point, which is how programs look it up below /sys/fs/cgroup.
    pub(super) fn directory(&self) -> &str {
        self.mount.file_name().and_then(|name| name.to_str()).unwrap_or("cgroup")
    }
}

/// Mount points in the table have blanks and backslashes as octal numbers.
fn unescape(text: &str) -> PathBuf {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                result.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                result.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    result.push_str(rest);
    PathBuf::from(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 28 0:20 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
23 22 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 master:1 - cgroup cgroup rw,cpu,cpuacct
24 22 0:22 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
25 22 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/usr/x,name=systemd
26 22 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
27 28 0:22 / /elsewhere/my\\040memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn mixed_layouts_are_read() {
        let layout = Layout::from_mountinfo(HYBRID);
        assert_eq!(layout.mode(), Mode::Hybrid);
        assert_eq!(layout.v1.len(), 3);
        assert_eq!(layout.v1_of("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(layout.v1_of("cpuacct").unwrap().directory(), "cpu,cpuacct");
        assert!(layout.v1_of("name=systemd").unwrap().is_named());
        assert!(layout.has("memory") && !layout.has("pids"));
        assert_eq!(layout.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn pure_layouts_are_told_apart() {
        let mode = |text: &str| Layout::from_mountinfo(text).mode();
        assert_eq!(mode("24 22 0:22 / /m rw - cgroup cgroup rw,memory"), Mode::V1);
        assert_eq!(mode("24 22 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup rw"), Mode::V2);
        // A named hierarchy for an init system beside version 2 does not make it a mixture.
        let systemd = "24 22 0:22 / /c rw - cgroup2 c rw\n25 22 0:23 / /s rw - cgroup c rw,name=systemd";
        assert_eq!(mode(systemd), Mode::V2);
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/a\\9"), Path::new("/a\\9"));
    }
}
