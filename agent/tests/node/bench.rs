//! A node of its own for each test, driven by a directory of manifests, and the proof that nothing of it is left.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's tools fail like a test, and say why it is skipped"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agent::Config;
use agent::machine::NoProxy;
use agent::machine::store_images::StoreImages;
use image::{ImageStore, Reference};
use manifests::k8s_openapi::api::core::v1::PodStatus;
use network::NetNs;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Whether kernel tests can run. Where they must, set `CORACLE_KERNEL_TESTS=required`.
pub(crate) fn can_run() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !root {
        let required = std::env::var("CORACLE_KERNEL_TESTS").is_ok_and(|value| value == "required");
        assert!(!required, "kernel tests must run as root");
        println!("skipped: containers take root");
    }
    root
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A node.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    parent: String,
    number: u32,
    images: Arc<ImageStore>,
    agent: Option<(JoinHandle<Result<(), agent::Error>>, CancellationToken)>,
    /// The next agent serves its API here.
    pub(crate) serve: Option<agent::Serve>,
}

/// Runs a test in a network namespace of its own: every thread of the test's runtime is in it.
pub(crate) fn on_a_node<T: Future<Output = ()>>(test: impl FnOnce(Bench) -> T + Send + 'static) {
    let thread = std::thread::spawn(move || {
        NetNs::create().unwrap().enter().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async { test(Bench::new()).await });
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Bench {
    fn new() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = format!("coracle-agent-test-{}-{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix("coracle-agent-").tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        make_rootfs(&rootfs);
        fs::create_dir(dir.path().join("manifests")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        let images = ImageStore::open(dir.path().join("images")).unwrap();
        let config = serde_json::from_str(r#"{"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}"#).unwrap();
        images.build_rootfs(&rootfs, &Reference::parse("box").unwrap(), config).unwrap();
        Self { dir, parent, number, images, agent: None, serve: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&mut self) -> Config {
        let pods = format!("10.{}.{}.0/24", 100 + self.number % 100, std::process::id() % 200);
        Config {
            node_name: "node".into(),
            hostname: "node".into(),
            addresses: vec!["192.0.2.1".into()],
            labels: BTreeMap::new(),
            max_pods: 110,
            version: "v1.37.0+coracle".into(),
            data_dir: self.path("data"),
            runtime: runtime::Config {
                run_dir: self.path("run"),
                state_dir: self.path("data/sandboxes"),
                cgroup_parent: self.parent.clone(),
                keeper_argv: vec![env!("CARGO_BIN_EXE_agent-test-keeper").into()],
            },
            network: network::Config {
                bridge: "cor0".into(),
                pod_cidr: pods.parse().unwrap(),
                cluster_cidr: pods.parse().unwrap(),
                service_cidr: None,
                address: None,
                mtu: None,
                nft_table: "coracle-test".into(),
                state_dir: self.path("run/network"),
            },
            images: Arc::new(StoreImages::new(self.images.clone())),
            departures: Arc::new(NoProxy),
            services: None,
            objects: None,
            thresholds: Default::default(),
            soft_thresholds: Default::default(),
            image_policy: Default::default(),
            manifests: Some(self.path("manifests")),
            manifest_url: None,
            dns: Default::default(),
            resolv_conf: "/etc/resolv.conf".into(),
            logs: Default::default(),
            server: self.serve.take(),
        }
    }

    /// A new network namespace has its loopback down.
    pub(crate) fn set_loopback_up(&self) {
        let up = std::process::Command::new("/bin/busybox")
            .args(["ip", "link", "set", "lo", "up"])
            .status()
            .unwrap();
        assert!(up.success());
    }

    /// Starts an agent.
    pub(crate) fn start(&mut self) {
        let stop = CancellationToken::new();
        let task = tokio::spawn(agent::run(self.config(), None, stop.clone()));
        self.agent = Some((task, stop));
    }

    /// Stops the agent; pods go on.
    pub(crate) async fn stop(&mut self) {
        let (task, stop) = self.agent.take().unwrap();
        let began = Instant::now();
        stop.cancel();
        task.await.unwrap().unwrap();
        println!("stopped after {:?}", began.elapsed());
    }

    /// Writes a manifest of one pod, of which `spec` is the spec in flow style.
    pub(crate) fn apply(&self, name: &str, spec: &str) {
        // Most containers here are a shell or a sleep, which as process 1 do not listen to SIGTERM.
        let grace = if spec.contains("terminationGracePeriodSeconds") {
            ""
        } else {
            "terminationGracePeriodSeconds: 0, "
        };
        let text =
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{grace}{spec}}}\n");
        fs::write(self.path("manifests").join(format!("{name}.yaml")), text).unwrap();
    }

    pub(crate) fn delete(&self, name: &str) {
        fs::remove_file(self.path("manifests").join(format!("{name}.yaml"))).unwrap();
    }

    /// The directories of all pods.
    pub(crate) fn pods(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("data/pods")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// The last status of a pod, as it is on disk.
    pub(crate) fn status(&self, name: &str) -> Option<PodStatus> {
        let logs = fs::read_dir(self.path("data/logs/pods")).into_iter().flatten().flatten();
        let prefix = format!("default_{name}-node_");
        let uids =
            logs.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix(&prefix)?.to_owned()));
        let files = uids.map(|uid| self.path("data/pods").join(uid).join("status.json"));
        let text = files.filter_map(|file| fs::read(file).ok()).next()?;
        let record: serde_json::Value = serde_json::from_slice(&text).ok()?;
        serde_json::from_value(record["status"].clone()).ok()
    }

    /// Waits for something; shows everything if it does not come.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !condition(self) {
            if began.elapsed() > Duration::from_secs(15) {
                for dir in self.pods() {
                    println!("{}", fs::read_to_string(dir.join("status.json")).unwrap_or_default());
                }
                panic!("{what} did not come");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn phase(&self, name: &str, phase: &str) {
        let is =
            |bench: &Self| bench.status(name).is_some_and(|status| status.phase.as_deref() == Some(phase));
        self.until(&format!("{name} {phase}"), is).await;
    }

    /// What a container wrote to a file of the directory `out`, which tests mount.
    pub(crate) fn output(&self, file: &str) -> String {
        fs::read_to_string(self.path("out").join(file)).unwrap_or_default()
    }

    /// What a container wrote to its log.
    pub(crate) fn log(&self, name: &str, container: &str, run: u32) -> String {
        let logs = fs::read_dir(self.path("data/logs/pods")).into_iter().flatten().flatten();
        let prefix = format!("default_{name}-node_");
        let mut dirs =
            logs.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)));
        let dir = dirs.next().map(|entry| entry.path()).unwrap_or_default();
        let text = fs::read_to_string(dir.join(container).join(format!("{run}.log"))).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| format!("{line}\n")).collect()
    }

    /// Removes all pods and proves that nothing is left: no process, mount, cgroup, link or file.
    pub(crate) async fn finish(mut self) {
        for entry in fs::read_dir(self.path("manifests")).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
        }
        self.until("the end of all pods", |bench| bench.pods().is_empty() && bench.left_over().is_empty())
            .await;
        self.stop().await;
    }

    /// What the loss of power leaves: nothing of ours runs, and what was in memory is gone.
    pub(crate) fn kill_everything(&self) {
        for pid in processes_of(&self.parent) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let began = Instant::now();
        while !processes_of(&self.parent).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("dead after {:?}", began.elapsed());
    }

    pub(crate) fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        let dir = self.dir.path().to_str().unwrap();
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            if line.contains(dir) {
                left.push(format!("mount {line}"));
            }
        }
        for pid in processes_of(&self.parent) {
            left.push(format!("process {pid}"));
        }
        let links = fs::read_dir("/proc/thread-self/net/dev_snmp6").into_iter().flatten().flatten();
        for link in links {
            if link.file_name().to_str().is_some_and(|name| name.starts_with("cor") && name.len() > 8) {
                left.push(format!("link {:?}", link.file_name()));
            }
        }
        let logs = fs::read_dir(self.path("data/logs/pods")).into_iter().flatten().flatten();
        left.extend(logs.map(|entry| format!("log {:?}", entry.file_name())));
        left
    }
}

impl Drop for Bench {
    /// A test that fails leaves nothing either.
    fn drop(&mut self) {
        if let Some((task, stop)) = self.agent.take() {
            stop.cancel();
            task.abort();
        }
        for _ in 0..200 {
            let ours = processes_of(&self.parent);
            if ours.is_empty() {
                break;
            }
            for pid in ours {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let dir = self.dir.path().to_owned();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in
            table.lines().filter_map(|line| line.split(' ').nth(4)).collect::<Vec<_>>().into_iter().rev()
        {
            if Path::new(point).starts_with(&dir) {
                let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
            }
        }
        for hierarchy in
            ["", "cpu", "cpuset", "cpuacct", "memory", "devices", "freezer", "blkio", "pids", "unified"]
        {
            remove_groups(&Path::new("/sys/fs/cgroup").join(hierarchy).join(&self.parent));
        }
    }
}

fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// Processes in our cgroups, keepers included.
fn processes_of(parent: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(parent))
    })
    .collect()
}

fn make_rootfs(root: &Path) {
    for directory in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = [
        "sh", "cat", "echo", "ls", "sleep", "true", "false", "id", "kill", "touch", "stat", "seq", "head",
        "grep", "wc", "env", "hostname", "readlink", "mkdir", "rm", "nc", "httpd", "wget", "ip", "test",
        "date",
    ];
    for applet in applets {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:2000:app\n").unwrap();
}
