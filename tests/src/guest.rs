//! A machine with a kernel of its own: a virtual machine that runs one program and switches off. Debian's kernel has cgroup
//! v2 only there, and modules that this machine's may lack.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vm::accel::Accelerator;
use vm::guest::{Config, ENDED};
use vm::initramfs::{self, Extra, Init};
use vm::machine::{self, Machine};

use crate::coracle;

/// A guest that runs one program.
#[derive(Debug, Default)]
pub struct Guest {
    extras: Vec<Extra>,
    parameters: Vec<String>,
}

/// How it went.
#[derive(Debug)]
pub struct Ran {
    /// The program's exit status.
    pub status: i32,
    /// Everything on the console.
    pub console: String,
}

impl Guest {
    /// A guest with busybox and its shell.
    pub fn new() -> Self {
        let mut guest = Self::default();
        for path in ["/bin/busybox", "/bin/sh"] {
            guest.extras.push(Extra { path: path.to_owned(), source: "/bin/busybox".into() });
        }
        guest
    }

    /// Puts a file into the guest.
    pub fn file(mut self, path: &str, source: impl Into<PathBuf>) -> Self {
        self.extras.push(Extra { path: path.to_owned(), source: source.into() });
        self
    }

    /// Tells the guest's kernel something, such as `security=selinux`.
    pub fn parameter(mut self, parameter: &str) -> Self {
        self.parameters.push(parameter.to_owned());
        self
    }

    /// Puts a program into the guest, with the libraries that it is linked with.
    pub fn program(self, path: &str, source: &Path) -> Self {
        self.libraries_of(source).file(path, source)
    }

    /// Has the guest load modules of its kernel beside those that every guest has, in this order.
    ///
    /// # Panics
    /// When the kernel has no such module.
    pub fn modules(mut self, names: &[&str]) -> Self {
        let kernel = vm::kernel::at(&guest_kernel()).expect("a kernel");
        let tree = kernel.modules.expect("a kernel with modules");
        for (number, name) in names.iter().enumerate() {
            let source = find(&tree, &format!("{name}.ko")).unwrap_or_else(|| panic!("no module {name}"));
            self.extras.push(Extra { path: format!("/lib/modules/9{number:02}-{name}.ko"), source });
        }
        self
    }

    fn libraries_of(mut self, program: &Path) -> Self {
        for library in libraries(program) {
            if !self.extras.iter().any(|extra| extra.path == library) {
                self.extras.push(Extra { source: PathBuf::from(&library), path: library });
            }
        }
        self
    }

    /// MiB: the file system is half of the memory, and holds every file.
    fn memory(&self, init: &Path) -> u32 {
        let sizes = self.extras.iter().map(|extra| extra.source.as_path()).chain([init]);
        let bytes: u64 = sizes.filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum();
        u32::try_from(512 + 3 * (bytes >> 20)).expect("files that fit into a guest")
    }

    /// Boots it, runs the program, and waits until it is off.
    ///
    /// # Panics
    /// When it does not boot, or does not end within the patience.
    pub fn run(self, program: &[&str], patience: Duration) -> Ran {
        let directory =
            tempfile::Builder::new().prefix("coracle-guest-").tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        let kernel = vm::kernel::at(&guest_kernel()).expect("a kernel");
        let init = coracle();
        let guest = self.libraries_of(&init);
        let binary = initramfs::read_program(&init).expect("the binary");
        initramfs::write_base(&path("base"), Init::Program(&binary), kernel.modules.as_deref())
            .expect("the initramfs");
        let config = Config {
            hostname: "guest".to_owned(),
            program: program.iter().map(|word| (*word).to_owned()).collect(),
            once: true,
            ..Config::default()
        };
        initramfs::write_own(&path("own"), &config, &guest.extras).expect("the guest's own archive");
        initramfs::join(&path("initramfs"), &[&path("base"), &path("own")]).expect("the initramfs");
        let machine = Machine {
            directory: directory.path().to_owned(),
            kernel: kernel.image,
            initramfs: path("initramfs"),
            memory: guest.memory(&init),
            cpus: 2,
            disk: false,
            network: None,
            // What a test runs on should not depend on what the machine may do.
            accelerator: Accelerator::Emulation,
            parameters: guest.parameters.clone(),
        };
        machine.start().expect("QEMU starts");
        let off = machine::wait_off(directory.path(), patience).expect("waiting for QEMU");
        if !off {
            machine::cut(directory.path()).expect("ending QEMU");
        }
        let console = std::fs::read(path("console.log")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        assert!(off, "the guest does not end:\n{console}");
        let status =
            console.rsplit_once(ENDED).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        Ran {
            status: status.unwrap_or_else(|| panic!("the guest's program did not end:\n{console}")),
            console,
        }
    }
}

/// Debian's kernel for virtual machines: the image, with its modules beside it.
///
/// # Panics
/// When it has not been fetched.
pub fn guest_kernel() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/guest-kernel");
    let output = Command::new(script).arg("path").output().expect("hack/guest-kernel runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// A file with this name below a directory.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let mut directories = Vec::new();
    for entry in entries {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories.push(entry.path());
        }
    }
    directories.iter().find_map(|directory| find(directory, name))
}

/// The shared libraries of a program, the loader included; none of a static one.
fn libraries(program: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(str::to_owned)
        .collect()
}
