//! Finding a kernel for guests.

use std::fs;
use std::path::{Path, PathBuf};

/// A kernel image and the modules that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The image.
    pub image: PathBuf,
    /// Its directory below `/lib/modules`; none for a kernel that needs none.
    pub modules: Option<PathBuf>,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The one that was asked for.
    #[error("there is no kernel at {path}")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// None on this machine.
    #[error(
        "no kernel found in {boot}: install one (Debian: apt-get install linux-image-cloud-amd64) or name one with --kernel"
    )]
    None {
        /// Where they were looked for.
        boot: PathBuf,
    },
}

/// The kernel at a path, with the modules of the version in its name, as distributions install them.
pub fn at(image: &Path) -> Result<Kernel, KernelError> {
    if !image.is_file() {
        return Err(KernelError::Missing { path: image.to_owned() });
    }
    let version = image
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split_once('-'))
        .map(|(_, version)| version);
    // <root>/boot/vmlinuz-VERSION and <root>/lib/modules/VERSION
    let root = image.parent().and_then(Path::parent);
    let modules = version.zip(root).and_then(|(version, root)| {
        let candidates = [root.join("lib/modules").join(version), root.join("usr/lib/modules").join(version)];
        candidates.into_iter().find(|path| path.is_dir())
    });
    Ok(Kernel { image: image.to_owned(), modules })
}

/// The best kernel of a machine: one made for virtual machines if there is one, and the newest.
pub fn find(boot: &Path) -> Result<Kernel, KernelError> {
    let none = || KernelError::None { boot: boot.to_owned() };
    let names = fs::read_dir(boot)
        .map_err(|_| none())?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let best = choose(names).ok_or_else(none)?;
    at(&boot.join(best))
}

fn choose(names: impl Iterator<Item = String>) -> Option<String> {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    names
        .filter(|name| name.starts_with("vmlinuz-"))
        .max_by_key(|name| (name.contains("-cloud-"), numbers(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_for_virtual_machines_and_then_the_newest() {
        let choose = |names: &[&str]| choose(names.iter().map(|name| (*name).to_owned()));
        assert_eq!(choose(&["config-6.1", "initrd.img-6.1"]), None);
        assert_eq!(
            choose(&["vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64"]).unwrap(),
            "vmlinuz-6.1.0-10-amd64"
        );
        assert_eq!(
            choose(&[
                "vmlinuz-6.12.0-1-amd64",
                "vmlinuz-6.1.0-9-cloud-amd64",
                "vmlinuz-6.1.0-56-cloud-amd64"
            ])
            .unwrap(),
            "vmlinuz-6.1.0-56-cloud-amd64"
        );
    }

    #[test]
    fn modules_are_found_beside_the_kernel() {
        let root = tempfile::tempdir().unwrap();
        let boot = root.path().join("boot");
        let modules = root.path().join("lib/modules/6.1.0-9-cloud-amd64");
        fs::create_dir_all(&boot).unwrap();
        fs::create_dir_all(&modules).unwrap();
        assert!(find(&boot).unwrap_err().to_string().contains("linux-image-cloud-amd64"));
        let image = boot.join("vmlinuz-6.1.0-9-cloud-amd64");
        fs::write(&image, "").unwrap();
        assert_eq!(find(&boot).unwrap(), Kernel { image: image.clone(), modules: Some(modules) });
        assert!(at(&boot.join("vmlinuz-7")).is_err());
    }
}
