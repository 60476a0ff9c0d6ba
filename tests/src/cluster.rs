//! `coracle up` in a [`Machine`].

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{Machine, Output, coracle, eventually, kubectl};

/// The name under which tests have the image made of busybox.
pub const BUSYBOX: &str = "coracle.example/busybox:1";

/// How to start a cluster.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Arguments for `coracle up` beyond those that every test needs.
    pub args: Vec<String>,
    /// The subcommand; empty means `up`.
    pub subcommand: Vec<String>,
    /// Nodes in network namespaces; 0 means that the machine is the only node.
    pub nodes: usize,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Where it runs.
    pub machine: Machine,
    options: Options,
    process: Option<Child>,
    etcd: Option<Etcd>,
}

impl Cluster {
    /// A cluster on the embedded store, ready to be used, with the busybox image imported.
    pub fn up() -> Self {
        Self::with(Machine::new(), Options::default())
    }

    /// A cluster with options, ready to be used.
    pub fn with(machine: Machine, options: Options) -> Self {
        let etcd =
            (std::env::var("CORACLE_TEST_STORE").as_deref() == Ok("etcd")).then(|| Etcd::start(&machine));
        let mut cluster = Self { machine, options, process: None, etcd };
        cluster.import_busybox();
        cluster.start();
        cluster
    }

    /// Starts the process (again) and waits until the API is ready.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it is running already");
        let log = File::options().create(true).append(true).open(self.machine.path("log")).expect("log file");
        let subcommand = if self.options.subcommand.is_empty() {
            vec!["up".to_owned()]
        } else {
            self.options.subcommand.clone()
        };
        let mut command = self.machine.command(coracle());
        command.args(subcommand).args(self.instance_args()).args(&self.options.args);
        if self.etcd.is_some() && self.options.subcommand.is_empty() {
            command.args(["--etcd-servers", Etcd::URL]);
        }
        if self.options.nodes > 0 {
            command.args(["--nodes", &self.options.nodes.to_string()]);
        }
        command.args(["--log", "info"]).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().expect("coracle starts"));
        if self.options.subcommand.is_empty() {
            self.wait_ready();
        }
    }

    /// Waits until the API server says that it is ready and the node is Ready.
    pub fn wait_ready(&mut self) {
        let node =
            ["get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}"];
        eventually("the node becomes ready", || {
            if let Some(status) = self.process.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                panic!("coracle ended with {status}:\n{}", self.log());
            }
            if !self.kubeconfig().exists() {
                return Err(format!("no kubeconfig yet\n{}", self.log()));
            }
            let output = self.kubectl(node);
            let ready = output.stdout.split(' ').filter(|status| *status == "True").count();
            if ready == self.options.nodes.max(1) && ready == output.stdout.split(' ').count() {
                Ok(())
            } else {
                Err(format!("{output:?}\n{}", self.log()))
            }
        });
    }

    /// The flags that name this instance.
    pub fn instance_args(&self) -> Vec<String> {
        let data = self.machine.path("data").display().to_string();
        let run = self.machine.path("run").display().to_string();
        ["--data-dir", &data, "--run-dir", &run].map(str::to_owned).to_vec()
    }

    /// The name that this instance gives to its control group.
    pub fn cgroup_marker(&self) -> String {
        let instance = self
            .machine
            .run(coracle(), [vec!["check".into(), "--instance-name".into()], self.instance_args()].concat());
        instance.ok().trim().to_owned()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.machine.path("data/kubeconfig")
    }

    /// Runs the newest kubectl.
    pub fn kubectl<const N: usize>(&self, args: [&str; N]) -> Output {
        self.kubectl_version("1.36", &args)
    }

    /// Runs a kubectl of a version.
    pub fn kubectl_version(&self, version: &str, args: &[&str]) -> Output {
        crate::machine::run(self.kubectl_command(version).args(args))
    }

    /// A kubectl that has not been started yet.
    pub fn kubectl_command(&self, version: &str) -> Command {
        let mut command = self.machine.command(kubectl(version));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Runs `coracle` with a subcommand that speaks to the API.
    pub fn coracle(&self, args: &[&str]) -> Output {
        crate::machine::run(self.machine.command(coracle()).args(args).env("KUBECONFIG", self.kubeconfig()))
    }

    /// Runs `coracle` with a subcommand that works on the local instance.
    pub fn coracle_local(&self, args: &[&str]) -> Output {
        crate::machine::run(self.machine.command(coracle()).args(args).args(self.instance_args()))
    }

    /// Applies YAML from a string.
    pub fn apply(&self, yaml: &str) -> Output {
        let path = self.machine.write("apply.yaml", yaml);
        self.kubectl(["apply", "-f", path.to_str().expect("a path of ours")])
    }

    /// The process's number.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// The signal that the process has ended by, if it has.
    ///
    /// # Panics
    /// When it was ended from here before.
    pub fn ended_by(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        let process = self.process.as_mut().expect("it was started");
        process.try_wait().expect("wait").and_then(|status| status.signal())
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.process.take().expect("it runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// Ends the process as a service manager would.
    pub fn stop(&mut self) {
        let mut child = self.process.take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        child.wait().expect("wait");
    }

    /// Ends everything of this instance at once: pods, proxy, network.
    pub fn down(&mut self) -> Output {
        if self.process.is_some() {
            self.stop();
        }
        self.coracle_local(&["down", "--grace-period=0"])
    }

    /// What the process logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.machine.path("log")).unwrap_or_default()
    }

    fn import_busybox(&self) {
        let rootfs = self.machine.path("busybox");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/busybox-rootfs");
        crate::machine::run(Command::new(script).arg(&rootfs)).ok();
        let rootfs = rootfs.display().to_string();
        self.coracle_local(&["image", "build-rootfs", "--name", BUSYBOX, &rootfs]).ok();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            // What is left of it is taken down below.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            println!("---- log of coracle ----\n{}", self.log());
            for number in 1..=self.options.nodes {
                let log = self.machine.path(format!("data/nodes/n{number}/agent.log"));
                println!("---- log of n{number} ----\n{}", std::fs::read_to_string(log).unwrap_or_default());
            }
        }
        let output = self.coracle_local(&["down", "--grace-period=0"]);
        if !output.success && !std::thread::panicking() {
            panic!("coracle down: {}", output.stderr);
        }
    }
}

/// A real etcd in the machine's network.
#[derive(Debug)]
struct Etcd(Child);

impl Etcd {
    const URL: &str = "http://127.0.0.1:2379";

    fn start(machine: &Machine) -> Self {
        let log = File::create(machine.path("etcd.log")).expect("log file");
        let mut command = machine.command("etcd");
        command.arg("--data-dir").arg(machine.path("etcd")).args(["--logger", "zap"]);
        let child = command
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts (Debian package etcd-server)");
        eventually("etcd answers", || {
            let mut client = machine.command("etcdctl");
            client.env("ETCDCTL_API", "3").args(["endpoint", "health"]);
            let output = crate::machine::run(&mut client);
            if output.success { Ok(()) } else { Err(output.stderr) }
        });
        Self(child)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
