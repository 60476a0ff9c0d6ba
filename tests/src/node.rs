//! A node that has joined a cluster: `coracle agent` on a machine of its own.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use crate::{BUSYBOX, Machine, Output, coracle};

/// A machine that is a node, or is going to be.
#[derive(Debug)]
pub struct Node {
    /// Where it runs.
    pub machine: Machine,
    /// Its name in the cluster.
    pub name: String,
    args: Vec<String>,
    process: Option<Child>,
}

impl Node {
    /// A node that has not started, with the busybox image imported.
    pub fn new(machine: Machine, name: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let node = Self { machine, name: name.to_owned(), args, process: None };
        let rootfs = node.machine.path("busybox");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/busybox-rootfs");
        crate::machine::run(Command::new(script).arg(&rootfs)).ok();
        let rootfs = rootfs.display().to_string();
        node.coracle(&["image", "build-rootfs", "--name", BUSYBOX, &rootfs]).ok();
        node
    }

    /// Starts the agent with more arguments.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self, more: &[&str]) {
        assert!(self.process.is_none(), "it is running already");
        let log = File::options().create(true).append(true).open(self.machine.path("log")).expect("log file");
        let mut command = self.machine.command(coracle());
        command.arg("agent").args(self.instance_args()).args(["--node-name", &self.name]);
        command.args(&self.args).args(more).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().expect("the agent starts"));
    }

    /// Ends the agent as a crash would.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut child = self.process.take().expect("it runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// Whether the process that was started is still there.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// How the agent ended.
    ///
    /// # Panics
    /// When it was not started.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.process.take().expect("it runs").wait().expect("wait")
    }

    /// Runs `coracle` on this node's instance.
    pub fn coracle(&self, args: &[&str]) -> Output {
        crate::machine::run(self.machine.command(coracle()).args(args).args(self.instance_args()))
    }

    /// What the agent logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.machine.path("log")).unwrap_or_default()
    }

    fn instance_args(&self) -> [String; 4] {
        let data = self.machine.path("data").display().to_string();
        let run = self.machine.path("run").display().to_string();
        ["--data-dir".to_owned(), data, "--run-dir".to_owned(), run]
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            // What is left of it is taken down below.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            println!("---- log of {} ----\n{}", self.name, self.log());
        }
        let output = self.coracle(&["down"]);
        if !output.success && !std::thread::panicking() {
            panic!("coracle down on {}: {}", self.name, output.stderr);
        }
    }
}
