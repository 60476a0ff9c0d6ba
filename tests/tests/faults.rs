//! What is broken around a node: a full disk, a disk without inodes, one that takes no writes, a registry and a volume that
//! never answer, no memory for coracle itself. Pods that run go on, pods that have nothing to do with it start, and all is well again when it is over.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{Cluster, Machine, Options, eventually};

fn pod(name: &str, command: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{more}  \
         containers: [{{name: a, image: 'coracle.example/busybox:1', command: [sh, -c, '{command}']}}]\n"
    )
}

const TICKS: &str = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done";
const IDENTITY: &str =
    "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";

fn ready(cluster: &Cluster, pod: &str) {
    let pod = format!("pod/{pod}");
    cluster.kubectl(["wait", "--for=condition=Ready", &pod, "--timeout=60s"]).ok();
}

fn identity(cluster: &Cluster, pod: &str) -> String {
    cluster.kubectl(["get", "pod", pod, "-o", IDENTITY]).ok()
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A cluster whose data directory is a small file system of its own, with a pod that runs.
fn small(options: &str) -> (Cluster, PathBuf, String) {
    let machine = Machine::new();
    let data = machine.path("data");
    fs::create_dir(&data).unwrap();
    // Taken away with the node: what is mounted there is its own.
    run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", data.to_str().unwrap()]);
    let cluster = Cluster::with(machine, Options::default());
    cluster.apply(&pod("steady", TICKS, "")).ok();
    ready(&cluster, "steady");
    let before = identity(&cluster, "steady");
    (cluster, data, before)
}

/// While something is wrong: whatever is asked may be refused, but is answered, and what runs is not touched.
fn stands(cluster: &Cluster, before: &str) {
    let _refused = cluster.kubectl(["--request-timeout=10s", "create", "configmap", "maybe"]);
    let yaml = cluster.machine.write("late.yaml", &pod("late", "exec sleep 100000", ""));
    let _refused = cluster.kubectl(["--request-timeout=10s", "apply", "-f", yaml.to_str().unwrap()]);
    assert_eq!(identity(cluster, "steady"), before);
    assert_eq!(cluster.kubectl(["exec", "steady", "--", "echo", "in"]).ok(), "in\n");
}

/// When it is over: writes are taken, new pods run, and what ran is what it was, also after a crash.
fn recovers(cluster: &mut Cluster, before: &str) {
    let lines = |cluster: &Cluster| cluster.kubectl(["logs", "steady"]).ok().lines().count();
    eventually("writes are taken again", || {
        let output = cluster.kubectl(["--request-timeout=10s", "create", "configmap", "again"]);
        if output.success || output.stderr.contains("AlreadyExists") { Ok(()) } else { Err(output.stderr) }
    });
    cluster.apply(&pod("late", "exec sleep 100000", "")).ok();
    ready(cluster, "late");
    let written = lines(cluster);
    eventually("its log goes on", || {
        let now = lines(cluster);
        if now > written { Ok(()) } else { Err(format!("{now} lines")) }
    });
    cluster.kill();
    cluster.start();
    assert_eq!(identity(cluster, "steady"), before);
    assert_eq!(identity(cluster, "late").split(' ').next_back(), Some("0"));
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
}

#[test]
fn a_full_disk() {
    let (mut cluster, data, before) = small("size=160m");
    let filler = data.join("filler");
    let mut file = File::create(&filler).unwrap();
    let piece = vec![1; 64 << 10];
    while file.write_all(&piece).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
    stands(&cluster, &before);
    fs::remove_file(filler).unwrap();
    drop(file);
    recovers(&mut cluster, &before);
}

#[test]
fn a_disk_without_inodes() {
    let (mut cluster, data, before) = small("size=160m,nr_inodes=4000");
    let filler = data.join("filler");
    fs::create_dir(&filler).unwrap();
    let mut number = 0;
    while File::create(filler.join(number.to_string())).is_ok() {
        number += 1;
    }
    stands(&cluster, &before);
    fs::remove_dir_all(filler).unwrap();
    recovers(&mut cluster, &before);
}

#[test]
fn a_disk_that_takes_no_writes() {
    let (mut cluster, data, before) = small("size=160m");
    let data = data.to_str().unwrap();
    // What is open stays writable, as the kernel would refuse otherwise; whatever is opened from now on is not.
    run("mount", &["--bind", data, data]);
    run("mount", &["-o", "remount,bind,ro", data]);
    stands(&cluster, &before);
    cluster.kill();
    // It cannot start like this, and says so; the pod does not notice.
    let refused = cluster.coracle_local(&["up"]).err();
    assert!(refused.contains("Read-only file system"), "{refused}");
    run("umount", &["--lazy", data]);
    cluster.start();
    recovers(&mut cluster, &before);
}

#[test]
fn a_registry_that_never_answers() {
    let cluster = Cluster::up();
    // Connections are taken by the kernel, and nobody ever reads from them.
    let listener = std::thread::scope(|scope| {
        let bound = scope.spawn(|| {
            cluster.machine.enter();
            TcpListener::bind("127.0.0.1:5000").unwrap()
        });
        bound.join().unwrap()
    });
    let waiting = |name: &str| {
        pod(name, "sleep 100000", "")
            .replace("coracle.example/busybox:1", &format!("127.0.0.1:5000/{name}:1"))
    };
    let yaml: String = (0..4).map(|number| waiting(&format!("waiting-{number}"))).collect();
    cluster.apply(&yaml).ok();
    eventually("the pull has begun", || {
        let events = cluster.kubectl(["get", "events", "--field-selector=reason=Pulling", "-o", "name"]).ok();
        if events.lines().count() >= 4 { Ok(()) } else { Err(events) }
    });
    cluster.apply(&pod("other", "exec sleep 100000", "")).ok();
    ready(&cluster, "other");
    // Who waits can still go.
    cluster.kubectl(["delete", "pod", "--all", "--timeout=60s"]).ok();
    drop(listener);
}

/// A file system whose server never answers: every question to it hangs.
struct Hung {
    server: Option<File>,
    path: PathBuf,
}

impl Hung {
    fn mount(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", server.as_raw_fd());
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("hung", path, "fuse", flags, options).unwrap();
        Self { server: Some(server), path: path.to_owned() }
    }

    /// It is gone: every question fails.
    fn end(&mut self) {
        self.server = None;
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.end();
        _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_volume_that_never_answers() {
    let mut cluster = Cluster::up();
    let path = cluster.machine.path("hung");
    let mut hung = Hung::mount(&path);
    let volumes =
        format!("  volumes: [{{name: h, hostPath: {{path: {}, type: Directory}}}}]\n", path.display());
    let stuck: String =
        (0..3).map(|number| pod(&format!("stuck-{number}"), "exec sleep 100000", &volumes)).collect();
    cluster.apply(&stuck).ok();
    cluster.apply(&pod("other", TICKS, "")).ok();
    ready(&cluster, "other");
    let before = identity(&cluster, "other");
    // The agent can be ended and killed all the same, and comes back.
    cluster.stop();
    cluster.start();
    cluster.kill();
    cluster.start();
    assert_eq!(identity(&cluster, "other"), before);
    cluster.apply(&pod("later", "exec sleep 100000", "")).ok();
    ready(&cluster, "later");
    cluster.kubectl(["delete", "pod", "later", "--timeout=60s"]).ok();
    hung.end();
    cluster.kubectl(["delete", "pod", "--all", "--timeout=60s"]).ok();
}

/// A control group whose processes have little memory; gone with this.
struct Little {
    path: PathBuf,
    kills: &'static str,
}

impl Little {
    fn new(name: &str, bytes: u64) -> Self {
        let old = Path::new("/sys/fs/cgroup/memory");
        let (root, limit, kills) = match old.is_dir() {
            true => (old, "memory.limit_in_bytes", "memory.oom_control"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max", "memory.events"),
        };
        let little = Self { path: root.join(name), kills };
        fs::create_dir(&little.path).unwrap();
        fs::write(little.path.join(limit), bytes.to_string()).unwrap();
        little
    }

    fn take(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.path.join(self.kills)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Little {
    fn drop(&mut self) {
        // Whoever is still in it belongs where all others are.
        let above = self.path.parent().unwrap().join("cgroup.procs");
        for pid in fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(&above, pid);
        }
        let _ = fs::remove_dir(&self.path);
    }
}

#[test]
fn no_memory_for_coracle_itself() {
    let mut cluster = Cluster::with(Machine::new(), Options::default());
    cluster.apply(&pod("steady", TICKS, "")).ok();
    ready(&cluster, "steady");
    let before = identity(&cluster, "steady");
    let little = Little::new(&format!("coracle-test-little-{}", std::process::id()), 8 << 20);
    little.take(cluster.pid());
    // Each of these is kept in memory.
    let large = cluster.machine.write("large", &"x".repeat(700 << 10)).display().to_string();
    let mut kept = Vec::new();
    for number in 0..200 {
        if let Some(signal) = cluster.ended_by() {
            assert_eq!(signal, libc_kill(), "{}", cluster.log());
            break;
        }
        let name = format!("large-{number}");
        let from = format!("--from-file={large}");
        if cluster.kubectl(["--request-timeout=20s", "create", "configmap", &name, &from]).success {
            kept.push(name);
        }
    }
    eventually("the kernel has killed it", || match cluster.ended_by() {
        Some(_) => Ok(()),
        None => Err(format!("{} are kept", kept.len())),
    });
    assert!(little.kills() >= 1);
    // What it has said yes to is there, and what ran is what it was.
    cluster.kill();
    cluster.start();
    for name in &kept {
        cluster.kubectl(["get", "configmap", name, "-o", "name"]).ok();
    }
    assert_eq!(identity(&cluster, "steady"), before);
    drop(little);
    recovers(&mut cluster, &before);
    cluster.down().ok();
    let left = cluster.machine.leftovers(&cluster.cgroup_marker());
    assert!(left.is_empty(), "{left:?}");
}

fn libc_kill() -> i32 {
    rustix::process::Signal::KILL.as_raw()
}
