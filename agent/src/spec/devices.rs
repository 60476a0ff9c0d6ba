//! The node's devices, which privileged containers see.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use runtime::oci::{LinuxDevice, LinuxDeviceType};

/// Directories of terminals and shared memory, of which a container has its own, and links to descriptors.
const SKIPPED: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// More is not a `/dev`.
const MAX: usize = 4096;

/// All device nodes below `dir`. What cannot be read is left out.
pub fn host_devices(dir: &Path) -> Vec<LinuxDevice> {
    let mut devices = Vec::new();
    let mut directories = vec![dir.to_owned()];
    while let Some(dir) = directories.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            let kind = meta.file_type();
            let skipped = entry.file_name().to_str().is_none_or(|name| SKIPPED.contains(&name));
            if kind.is_dir() && !skipped {
                directories.push(path);
            } else if (kind.is_char_device() || kind.is_block_device()) && devices.len() < MAX {
                // The console of the node is not a container's.
                if path.ends_with("dev/console") {
                    continue;
                }
                let number = meta.rdev();
                let mut device = LinuxDevice::default();
                device.set_path(path);
                device.set_typ(if kind.is_char_device() { LinuxDeviceType::C } else { LinuxDeviceType::B });
                device.set_major(i64::from(rustix::fs::major(number)));
                device.set_minor(i64::from(rustix::fs::minor(number)));
                device.set_file_mode(Some(meta.permissions().mode() & 0o7777));
                device.set_uid(Some(meta.uid()));
                device.set_gid(Some(meta.gid()));
                devices.push(device);
            }
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_among_them() {
        let devices = host_devices(Path::new("/dev"));
        let null = devices.iter().find(|device| device.path() == Path::new("/dev/null")).unwrap();
        assert_eq!((null.major(), null.minor(), null.typ()), (1, 3, LinuxDeviceType::C));
        assert!(!devices.iter().any(|device| device.path().starts_with("/dev/pts")));
    }
}
