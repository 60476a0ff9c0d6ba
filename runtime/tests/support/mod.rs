//! A runtime of its own for each test, and the proof that nothing of it is left.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "this is a part of tests, whose functions are not marked as such"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtime::oci::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount,
    MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use runtime::{Config, ContainerSpec, LogSpec, Rootfs, Runtime, Sandbox, SandboxSpec};

/// Whether kernel tests can run. Where they must, set `CORACLE_KERNEL_TESTS=required`.
pub fn can_run() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|proc| proc.uid() == 0);
    if !root {
        assert_ne!(
            std::env::var("CORACLE_KERNEL_TESTS").as_deref(),
            Ok("required"),
            "kernel tests must run as root"
        );
        println!("skipped: containers take root");
    }
    root
}

/// Skips a test where it cannot run.
#[macro_export]
macro_rules! need_root {
    () => {
        if !support::can_run() {
            return;
        }
    };
}

/// A runtime in directories and cgroups of its own.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub runtime: Arc<Runtime>,
    pub parent: String,
    next: AtomicU32,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Bench {
    pub fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = format!("coracle-test-{}-{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix("coracle-runtime-").tempdir().unwrap();
        make_rootfs(&dir.path().join("image"));
        let runtime = Self::open(dir.path(), &parent);
        Self { dir, runtime, parent, next: AtomicU32::new(0) }
    }

    fn open(dir: &Path, parent: &str) -> Arc<Runtime> {
        Self::open_with(dir, parent, Path::new(env!("CARGO_BIN_EXE_runtime-keeper")))
    }

    fn open_with(dir: &Path, parent: &str, keeper: &Path) -> Arc<Runtime> {
        Runtime::open(Config {
            run_dir: dir.join("run"),
            state_dir: dir.join("state"),
            cgroup_parent: parent.to_owned(),
            // The second word is for those who look for its processes.
            keeper_argv: vec![keeper.into(), dir.join("run").into()],
        })
        .unwrap()
    }

    /// The same runtime as a restarted caller has it.
    pub fn reopened(&self) -> Arc<Runtime> {
        Self::open(self.dir.path(), &self.parent)
    }

    /// The same with another program for keepers.
    pub fn reopened_with(&self, keeper: &Path) -> Arc<Runtime> {
        Self::open_with(self.dir.path(), &self.parent, keeper)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn image(&self) -> PathBuf {
        self.path("image")
    }

    pub fn sandbox_spec(&self, id: &str) -> SandboxSpec {
        let mut spec = SandboxSpec::new(id, format!("pods/{id}"));
        spec.hostname = Some(format!("host-{id}"));
        spec.labels.insert("uid".to_owned(), format!("uid-of-{id}"));
        spec
    }

    pub async fn sandbox(&self) -> Arc<Sandbox> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.runtime.create_sandbox(self.sandbox_spec(&format!("s{number}"))).await.unwrap()
    }

    /// A container that runs a shell script.
    pub fn shell(&self, id: &str, script: &str) -> ContainerSpec {
        self.container(id, &["/bin/sh", "-c", script])
    }

    pub fn container(&self, id: &str, argv: &[&str]) -> ContainerSpec {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (upper, work) = (self.path(&format!("upper{number}")), self.path(&format!("work{number}")));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        ContainerSpec {
            id: id.to_owned(),
            labels: BTreeMap::from([("name".to_owned(), id.to_owned())]),
            spec: spec(argv),
            rootfs: Rootfs::Overlay { lower: vec![self.image()], upper, work },
            log: Some(LogSpec::new(self.log_path(id))),
            stdin: false,
            stdin_once: false,
            tty: false,
            join_pid: None,
        }
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.path("logs").join(id).join("0.log")
    }

    /// What a container wrote to standard output, without the log's format.
    pub fn output(&self, id: &str) -> String {
        stream_of(&fs::read_to_string(self.log_path(id)).unwrap_or_default(), "stdout")
    }

    pub fn errors(&self, id: &str) -> String {
        stream_of(&fs::read_to_string(self.log_path(id)).unwrap_or_default(), "stderr")
    }

    /// Runs a script in a container of a new sandbox; gives exit code, output and errors.
    pub async fn run(&self, script: &str) -> (i32, String, String) {
        self.run_container(self.shell("c", script)).await
    }

    pub async fn run_container(&self, container: ContainerSpec) -> (i32, String, String) {
        let sandbox = self.sandbox().await;
        let id = container.id.clone();
        let _ = fs::remove_file(self.log_path(&id));
        sandbox.start(container).await.unwrap();
        let exit = sandbox.wait(&id).await.unwrap();
        let seen = (exit.code, self.output(&id), self.errors(&id));
        sandbox.remove().await.unwrap();
        seen
    }

    /// Proves that nothing is left: no process, mount or cgroup.
    pub fn finish(self) {
        // A keeper that has ended is a zombie until init, whose child it is, gets to reap it.
        let start = Instant::now();
        loop {
            self.runtime.remove_empty_cgroups();
            let left = self.left_over();
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(3), "left over: {left:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        for hierarchy in cgroup_mounts() {
            let path = hierarchy.join(&self.parent);
            if path.exists() {
                left.push(format!("cgroup {}", path.display()));
            }
        }
        let dir = self.dir.path().to_str().unwrap();
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            if line.contains(dir) || line.contains(&self.parent) {
                left.push(format!("mount {line}"));
            }
        }
        for (pid, name) in processes() {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if cgroup.contains(&self.parent) {
                left.push(format!("process {pid} {name}"));
            }
        }
        left
    }
}

impl Drop for Bench {
    /// A test that fails leaves nothing either.
    fn drop(&mut self) {
        for _ in 0..200 {
            let ours: Vec<i32> = processes()
                .into_iter()
                .filter(|(pid, _)| {
                    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                    cgroup.contains(&self.parent)
                })
                .map(|(pid, _)| pid)
                .collect();
            if ours.is_empty() {
                break;
            }
            for pid in ours {
                let _ = rustix::process::kill_process(
                    rustix::process::Pid::from_raw(pid).unwrap(),
                    rustix::process::Signal::KILL,
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.runtime.remove_empty_cgroups();
    }
}

pub fn cgroup_mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect()
}

pub fn processes() -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some((pid, name.trim().to_owned()))
        })
        .collect()
}

fn stream_of(log: &str, stream: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut words = line.splitn(4, ' ');
        let (_, name, tag) = (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
        if name == stream {
            text.push_str(words.next().unwrap_or(""));
            if tag == "F" {
                text.push('\n');
            }
        }
    }
    text
}

/// A root file system that has busybox and nothing else.
pub fn make_rootfs(root: &Path) {
    for directory in ["bin", "etc", "tmp", "var", "root", "home/app"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "ls", "sleep", "true", "false", "id", "mount", "kill", "touch", "ps", "stat",
        "seq", "head", "tail", "dd", "grep", "wc", "env", "pwd", "hostname", "readlink", "chroot", "unshare",
        "mkdir", "rm", "tr", "stty", "tty", "sort", "mknod", "ln", "umount", "nproc", "ulimit", "test", "[",
        "printf", "awk", "sed", "cut", "ip", "ifconfig", "dmesg", "nohup", "setsid", "usleep", "xargs",
        "yes", "df",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:2000:app\n").unwrap();
}

pub fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .unwrap()
}

/// The mounts that every container of Kubernetes has.
pub fn usual_mounts() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

/// The capabilities that containers have by default.
pub const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

pub fn spec(argv: &[&str]) -> Spec {
    let namespaces: Vec<_> = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ]
    .into_iter()
    .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap())
    .collect();
    let capabilities = CAPABILITIES.into_iter().collect::<std::collections::HashSet<_>>();
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    SpecBuilder::default()
        .process(
            ProcessBuilder::default()
                .user(UserBuilder::default().uid(0_u32).gid(0_u32).build().unwrap())
                .args(paths(argv))
                .env(vec!["PATH=/bin".to_owned()])
                .cwd("/")
                .no_new_privileges(true)
                .capabilities(
                    LinuxCapabilitiesBuilder::default()
                        .bounding(capabilities.clone())
                        .effective(capabilities.clone())
                        .permitted(capabilities)
                        .inheritable(std::collections::HashSet::new())
                        .ambient(std::collections::HashSet::new())
                        .build()
                        .unwrap(),
                )
                .build()
                .unwrap(),
        )
        .root(RootBuilder::default().path("/").readonly(false).build().unwrap())
        .mounts(usual_mounts())
        .linux(
            LinuxBuilder::default()
                .namespaces(namespaces)
                .seccomp(runtime::seccomp::default_profile(&CAPABILITIES))
                .masked_paths(paths(&[
                    "/proc/asound",
                    "/proc/acpi",
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/latency_stats",
                    "/proc/timer_list",
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/proc/scsi",
                    "/sys/firmware",
                    "/sys/devices/virtual/powercap",
                ]))
                .readonly_paths(paths(&[
                    "/proc/bus",
                    "/proc/fs",
                    "/proc/irq",
                    "/proc/sys",
                    "/proc/sysrq-trigger",
                ]))
                .build()
                .unwrap(),
        )
        .build()
        .unwrap()
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(60), "not after a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Changes the process of a specification.
pub fn with_process(container: &mut ContainerSpec, change: impl FnOnce(&mut runtime::oci::Process)) {
    let mut process = container.spec.process().clone().unwrap();
    change(&mut process);
    container.spec.set_process(Some(process));
}

pub fn with_linux(container: &mut ContainerSpec, change: impl FnOnce(&mut runtime::oci::Linux)) {
    let mut linux = container.spec.linux().clone().unwrap();
    change(&mut linux);
    container.spec.set_linux(Some(linux));
}

pub fn add_mounts(spec: &mut Spec, more: Vec<runtime::oci::Mount>) {
    let mut mounts = usual_mounts();
    mounts.extend(more);
    spec.set_mounts(Some(mounts));
}

pub fn kill_keeper(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Everything that a stream has to say.
pub async fn read_all(stream: Option<runtime::ReadStream>) -> String {
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream.unwrap(), &mut text).await.unwrap();
    text
}
