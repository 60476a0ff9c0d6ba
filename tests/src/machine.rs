//! A network namespace and a directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Where a test runs.
#[derive(Debug)]
pub struct Machine {
    name: String,
    directory: tempfile::TempDir,
}

/// What a finished command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status 0.
    pub success: bool,
    /// Exit status, -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "exit status {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        self.stdout
    }

    /// The standard error of a command that must have failed.
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn err(self) -> String {
        assert!(!self.success, "unexpected success\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stderr
    }
}

impl Machine {
    /// A new, empty machine.
    ///
    /// # Panics
    /// When it cannot be made: the tests need root and iproute2.
    pub fn new() -> Self {
        let name = format!("coracle-test-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let directory =
            tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary directory");
        run(Command::new("ip").args(["netns", "add", &name])).ok();
        let machine = Self { name, directory };
        machine.run("ip", ["link", "set", "lo", "up"]).ok();
        machine
    }

    /// The name of its network namespace, for `ip netns`.
    pub fn namespace(&self) -> &str {
        &self.name
    }

    /// A path in the machine's directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file into the machine's directory and returns its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folder");
        fs::write(&path, content).expect("file");
        path
    }

    /// A command that will run in the machine's network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command.stdin(Stdio::null()).env("HOME", self.directory.path()).env_remove("KUBECONFIG");
        command
    }

    /// Runs a command in the machine's network to its end.
    pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: I,
    ) -> Output {
        run(self.command(program).args(args))
    }

    /// Moves the calling thread into the machine's network, for clients that are libraries.
    ///
    /// # Panics
    /// When the namespace is gone.
    pub fn enter(&self) {
        let namespace = fs::File::open(format!("/run/netns/{}", self.name)).expect("the network namespace");
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))
            .expect("setns");
    }

    /// What somebody left behind: processes, mounts, control groups that name this machine's directory or
    /// `marker`, and network links other than loopback. Empty is what it should be.
    pub fn leftovers(&self, marker: &str) -> Vec<String> {
        let directory = self.directory.path().to_string_lossy().into_owned();
        let mut found = processes_naming(&directory);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        found.extend(
            mounts.lines().filter(|line| line.contains(&directory)).map(|line| format!("mount: {line}")),
        );
        found.extend(cgroups_named(marker).into_iter().map(|path| format!("cgroup: {}", path.display())));
        let links = self.run("ip", ["-o", "link"]).stdout;
        found
            .extend(links.lines().filter(|line| !line.contains(": lo:")).map(|line| format!("link: {line}")));
        found
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When the program is not there.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    Output {
        success: output.status.success(),
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Processes whose command line contains the text.
fn processes_naming(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(format!("process {pid}: {line}"));
        }
    }
    found
}

/// Control groups directly below a hierarchy's root whose name is the marker.
fn cgroups_named(marker: &str) -> Vec<PathBuf> {
    let hierarchies =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let groups = hierarchies.flat_map(|path| fs::read_dir(path).into_iter().flatten().flatten());
    // Nodes of one instance have its name and their own.
    let nodes = format!("{marker}-");
    let is_ours = |name: &str| name == marker || name.starts_with(&nodes);
    groups.filter(|group| group.file_name().to_str().is_some_and(is_ours)).map(|group| group.path()).collect()
}
