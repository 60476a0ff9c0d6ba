//! Which kernel modules a guest needs, and in which order they load. Distributions ship the order only after `depmod` has
//! run on the machine; each module says in its `.modinfo` section what it depends on, and that is enough.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

/// What a node needs if its kernel has it as a module.
pub(crate) const WANTED: &[&str] = &[
    // The machine.
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    // File systems.
    "ext4",
    "overlay",
    // Pod networking.
    "veth",
    "bridge",
    "vxlan",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_ct",
    "nft_fib",
    "nft_fib_ipv4",
    "nft_fib_inet",
    "nft_redir",
    "nft_reject_inet",
    "nft_compat",
    "xt_comment",
    "tun",
    // What pods may ask for.
    "fuse",
];

/// Why the modules of a kernel cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A file of the module tree.
    #[error("reading {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A module that is no module.
    #[error("{path} is not a kernel module: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A module to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// The wanted modules with all that they depend on, each after its dependencies. What the kernel has built in, or does not have
/// at all, is left out.
pub(crate) fn select(tree: &Path, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
    let mut files = BTreeMap::new();
    find(&tree.join("kernel"), &mut files)?;
    let mut selection = Selection { files, chosen: Vec::new(), seen: BTreeSet::new() };
    for name in wanted {
        selection.add(name)?;
    }
    Ok(selection.chosen)
}

struct Selection {
    files: BTreeMap<String, PathBuf>,
    chosen: Vec<Module>,
    seen: BTreeSet<String>,
}

impl Selection {
    fn add(&mut self, name: &str) -> Result<(), ModuleError> {
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name).cloned() else { return Ok(()) };
        let content = read(&path)?;
        for dependency in dependencies(&path, &content)? {
            self.add(&dependency)?;
        }
        self.chosen.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// Module names, with `_` for `-`, and their files.
fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ModuleError> {
    let fail = |source| ModuleError::Read { path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let path = entry.path();
        if entry.file_type().map_err(fail)?.is_dir() {
            find(&path, files)?;
            continue;
        }
        let file_name = entry.file_name();
        let file_name = file_name.to_string_lossy();
        if let Some(name) = file_name.strip_suffix(".ko").or_else(|| file_name.strip_suffix(".ko.zst")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, ModuleError> {
    let fail = |source| ModuleError::Read { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(fail)?;
    if path.extension().is_some_and(|extension| extension == "zst") {
        return zstd::stream::decode_all(bytes.as_slice()).map_err(fail);
    }
    Ok(bytes)
}

/// `depends=a,b` of a module.
fn dependencies(path: &Path, content: &[u8]) -> Result<Vec<String>, ModuleError> {
    let malformed = |reason: String| ModuleError::Malformed { path: path.to_owned(), reason };
    let elf = object::File::parse(content).map_err(|error| malformed(error.to_string()))?;
    let section =
        elf.section_by_name(".modinfo").ok_or_else(|| malformed("it has no .modinfo section".to_owned()))?;
    let info = section.data().map_err(|error| malformed(error.to_string()))?;
    let depends = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    Ok(names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}
