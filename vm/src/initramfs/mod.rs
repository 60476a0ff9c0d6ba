//! What a guest boots into: the coracle binary as `/init`, and the modules of its kernel.
//!
//! ```text
//!   /init                 this binary, or what starts it off the disk
//!   /lib/modules/NN-x.ko  in the order in which they load
//!   /etc/coracle/guest.json   what this guest is to be; in an archive of its own behind the first one
//! ```

mod cpio;
mod elf;
mod modules;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::guest::{BINARY, CONFIG, Config, DATA, DISK, FROM_DISK, MODULES};
use crate::sys::stage;
use cpio::Writer;
pub use modules::ModuleError;

/// Small and quick to unpack in a slow guest.
const LEVEL: i32 = 9;

/// Why an initramfs could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The modules.
    #[error(transparent)]
    Modules(#[from] ModuleError),
    /// A file that goes into it.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing or compressing the archive.
    #[error("writing {path}")]
    Write {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A file to put into an archive.
#[derive(Debug, Clone)]
pub struct Extra {
    /// Absolute path in the guest.
    pub path: String,
    /// The file on this machine.
    pub source: PathBuf,
}

/// A program as guests have it: without what is not mapped.
pub fn read_program(binary: &Path) -> Result<Vec<u8>, Error> {
    let content = fs::read(binary).map_err(|source| Error::Read { path: binary.to_owned(), source })?;
    Ok(elf::loadable(content))
}

/// What becomes process number one.
#[derive(Debug, Clone, Copy)]
pub enum Init<'a> {
    /// This program, one of [`read_program`], which stays in memory.
    Program(&'a [u8]),
    /// The program with this name on the disk: what runs from there can leave the memory when nobody needs it.
    OnDisk(&'a str),
}

/// Writes the part that all guests of one kernel share: compressed, so that little memory holds it while it unpacks.
pub fn write_base(out: &Path, init: Init<'_>, module_tree: Option<&Path>) -> Result<(), Error> {
    let fail = |source| Error::Write { path: out.to_owned(), source };
    let modules = module_tree.map_or(Ok(Vec::new()), |tree| modules::select(tree, modules::WANTED))?;
    // A guest may be booting from the file that was there before.
    let beside = out.with_extension("new");
    let write = || -> io::Result<()> {
        let mut encoder = zstd::Encoder::new(fs::File::create(&beside)?, LEVEL)?;
        encoder.include_checksum(false)?;
        let mut writer = Writer::new(encoder);
        writer.directory("/dev", 0o755)?;
        // The kernel opens it for its first process before anything is mounted.
        writer.character_device("/dev/console", 0o600, 5, 1)?;
        for directory in
            ["/lib", MODULES, "/etc", "/proc", "/sys", "/run", "/tmp", "/var", "/var/lib", "/var/lib/coracle"]
        {
            writer.directory(directory, 0o755)?;
        }
        let names: Vec<String> = modules
            .iter()
            .enumerate()
            .map(|(number, module)| format!("{MODULES}/{number:03}-{}.ko", module.name))
            .collect();
        match init {
            Init::Program(program) => writer.file(BINARY, 0o755, program)?,
            Init::OnDisk(path) => writer.file(BINARY, 0o755, &first_stage(&names, path))?,
        }
        for (name, module) in names.iter().zip(&modules) {
            writer.file(name, 0o644, &module.content)?;
        }
        let file = writer.finish()?.finish()?;
        file.sync_all()?;
        fs::rename(&beside, out)
    };
    write().map_err(fail)
}

/// Loads the modules, mounts the disk, and becomes the program there.
fn first_stage(modules: &[String], program: &str) -> Vec<u8> {
    let mut words: Vec<&str> = modules.iter().map(String::as_str).collect();
    words.extend(["", "devtmpfs", "/dev", DISK, DATA, "ext4", program, BINARY, FROM_DISK]);
    stage::program(&words)
}

/// Writes what makes one guest: its configuration and further files. The kernel unpacks it over the first archive.
pub fn write_own(out: &Path, config: &Config, extras: &[Extra]) -> Result<(), Error> {
    let fail = |source| Error::Write { path: out.to_owned(), source };
    let mut writer = Writer::new(Vec::new());
    let mut directories = std::collections::BTreeSet::new();
    let mut add = |writer: &mut Writer<Vec<u8>>, path: &str, mode, content: &[u8]| -> io::Result<()> {
        let ancestors: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        for directory in ancestors
            .iter()
            .rev()
            .filter_map(|directory| directory.to_str())
            .filter(|directory| *directory != "/")
        {
            if directories.insert(directory.to_owned()) {
                writer.directory(directory, 0o755)?;
            }
        }
        writer.file(path, mode, content)
    };
    let text = serde_json::to_vec(config).map_err(|error| fail(error.into()))?;
    add(&mut writer, CONFIG, 0o600, &text).map_err(fail)?;
    for extra in extras {
        let content =
            fs::read(&extra.source).map_err(|source| Error::Read { path: extra.source.clone(), source })?;
        add(&mut writer, &extra.path, 0o755, &content).map_err(fail)?;
    }
    let archive = writer.finish().map_err(fail)?;
    fs::write(out, archive).map_err(fail)
}

/// Joins archives into the one file that QEMU hands to the kernel. Each begins at a multiple of four bytes.
pub fn join(out: &Path, parts: &[&Path]) -> Result<(), Error> {
    let fail = |source| Error::Write { path: out.to_owned(), source };
    let mut whole = fs::File::create(out).map_err(fail)?;
    for part in parts {
        let mut file =
            fs::File::open(part).map_err(|source| Error::Read { path: part.to_path_buf(), source })?;
        let length = io::copy(&mut file, &mut whole).map_err(fail)?;
        let padding = length.next_multiple_of(4) - length;
        io::Write::write_all(&mut whole, &[0; 3][..padding as usize]).map_err(fail)?;
    }
    Ok(())
}
