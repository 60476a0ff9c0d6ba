//! Bundles, and the runtimes that they are given to.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

/// A runtime and how it is called.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    command: Vec<String>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Its output, if it went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// What it complained about.
    #[track_caller]
    pub(crate) fn fails(self) -> String {
        assert_ne!(self.code, 0, "{self:?}");
        self.err
    }
}

/// Coracle alone.
pub(crate) fn coracle() -> Runtime {
    let binary = tests::coracle().display().to_string();
    Runtime { name: "coracle", command: vec![binary, "oci".to_owned()] }
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Coracle and its peers.
fn runtimes() -> &'static [Runtime] {
    static ALL: OnceLock<Vec<Runtime>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = vec![coracle()];
        for name in ["runc", "crun"] {
            if installed(name) {
                all.push(Runtime { name, command: peer(name) });
            } else {
                println!("{name} is not installed: the cases are not compared with it");
            }
        }
        all
    })
}

/// crun refuses a version 2 hierarchy with a controller beside version 1; it gets a view without.
fn peer(name: &str) -> Vec<String> {
    let unified = Path::new("/sys/fs/cgroup/unified/cgroup.controllers");
    let left = fs::read_to_string(unified).unwrap_or_default();
    if name != "crun" || left.trim().is_empty() {
        return vec![name.to_owned()];
    }
    println!(
        "crun refuses this machine's cgroups (version 2 offers {:?}): it is run without them",
        left.trim()
    );
    let script = "umount /sys/fs/cgroup/unified && exec crun \"$@\"";
    ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "crun"].map(str::to_owned).to_vec()
}

/// Runs a case against every runtime.
pub(crate) fn everywhere(case: impl Fn(Bundle)) {
    if !can_run() {
        return;
    }
    for runtime in runtimes() {
        println!("with {}", runtime.name);
        case(Bundle::new(runtime.clone()));
    }
}

/// Runs a case against coracle.
pub(crate) fn here(case: impl Fn(Bundle)) {
    if can_run() {
        case(Bundle::new(coracle()));
    }
}

/// Whether this kernel has AppArmor.
pub(crate) fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "these tests need root");
    if !root {
        println!("skipped: these tests need root");
    }
    root
}

/// A bundle whose container is removed with it.
pub(crate) struct Bundle {
    pub(crate) runtime: Runtime,
    directory: tempfile::TempDir,
    pub(crate) config: Value,
    pub(crate) id: String,
}

const APPLETS: [&str; 31] = [
    "sh", "true", "false", "cat", "ls", "id", "sleep", "echo", "readlink", "grep", "hostname", "stat",
    "mkdir", "touch", "env", "pwd", "umask", "wc", "ps", "dd", "mknod", "mount", "ln", "test", "cut", "sort",
    "uname", "kill", "tty", "head", "rm",
];

impl Bundle {
    fn new(runtime: Runtime) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        for below in ["bin", "tmp", "etc", "data", "root"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("coracle-test-{}-{number}", std::process::id());
        let config = config(&id);
        Self { runtime, directory, config, id }
    }

    /// A fresh one for the same runtime.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.runtime.clone())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("rootfs")
    }

    /// The program.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// A shell with this script.
    pub(crate) fn script(self, script: &str) -> Self {
        self.args(&["sh", "-c", script])
    }

    /// Another value somewhere (a JSON pointer).
    pub(crate) fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap_or_else(|| panic!("{parent}"))[key] = value;
        self
    }

    pub(crate) fn with_hooks(mut self, hooks: Value) -> Self {
        self.config["hooks"] = hooks;
        self
    }

    /// One more in a list.
    pub(crate) fn and(mut self, pointer: &str, value: Value) -> Self {
        let list = self.config.pointer_mut(pointer).and_then(Value::as_array_mut);
        list.unwrap_or_else(|| panic!("{pointer}")).push(value);
        self
    }

    pub(crate) fn write(&self) {
        fs::write(self.path("config.json"), serde_json::to_vec_pretty(&self.config).unwrap()).unwrap();
    }

    /// The runtime's command line.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime.command[0]);
        command.args(&self.runtime.command[1..]).arg("--root").arg(self.path("state")).args(args);
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs the runtime. Its output goes to files, because a container that lives on holds on to it.
    #[track_caller]
    pub(crate) fn oci(&self, args: &[&str]) -> Ran {
        let file = |name: &str| fs::File::create(self.path(name)).unwrap();
        let mut command = self.command(args);
        let status = command.stdout(file("out")).stderr(file("err")).status().unwrap();
        let read = |name: &str| String::from_utf8_lossy(&fs::read(self.path(name)).unwrap()).into_owned();
        Ran { code: status.code().unwrap_or(-1), out: read("out"), err: read("err") }
    }

    /// Runs the container to its end.
    #[track_caller]
    pub(crate) fn run(&self) -> Ran {
        self.write();
        let ran = self.oci(&["run", &self.id]);
        self.leaves_nothing();
        ran
    }

    #[track_caller]
    pub(crate) fn create(&self) {
        self.write();
        self.oci(&["create", &self.id]).ok();
    }

    #[track_caller]
    pub(crate) fn start(&self) {
        self.oci(&["start", &self.id]).ok();
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.oci(&["state", &self.id]).ok()).unwrap()
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    /// Waits for a status.
    #[track_caller]
    pub(crate) fn becomes(&self, status: &str) {
        tests::eventually(status, || {
            let now = self.status();
            if now == status { Ok(()) } else { Err(now) }
        });
    }

    /// A container that is gone has no cgroup and no directory.
    #[track_caller]
    fn leaves_nothing(&self) {
        if self.runtime.name != "coracle" {
            return;
        }
        let left = self.cgroups();
        assert!(left.is_empty(), "{left:?}");
        assert!(!self.path("state").join(&self.id).exists());
    }

    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let paths = hierarchies
            .map(|entry| entry.path().join(&self.id))
            .chain([Path::new("/sys/fs/cgroup").join(&self.id)]);
        paths.filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]).output();
        for path in self.cgroups() {
            // An engine makes more of them below.
            for below in fs::read_dir(&path).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(below.path());
            }
            let _ = fs::remove_dir(path);
        }
    }
}

fn config(id: &str) -> Value {
    let capabilities = json!(["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin", "NAME=value"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "annotations": {"example.org/key": "kept"},
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "maskedPaths": ["/proc/kcore", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}
