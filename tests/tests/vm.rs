//! A cluster of three virtual machines, as `examples/cluster` walks through it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a test's output is its report")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::{BUSYBOX, Machine, Output, coracle, guest_kernel, kubectl};

struct Vms {
    machine: Machine,
}

impl Vms {
    fn new() -> Self {
        let vms = Self { machine: Machine::new() };
        let rootfs = vms.machine.path("busybox").display().to_string();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/busybox-rootfs");
        assert!(Command::new(script).arg(&rootfs).status().unwrap().success());
        vms.coracle(&["image", "build-rootfs", "--name", BUSYBOX, &rootfs]).ok();
        vms
    }

    fn coracle(&self, args: &[&str]) -> Output {
        let (data, run) = (self.machine.path("data"), self.machine.path("run"));
        let (instance, rest) = args.split_at(args.iter().position(|arg| *arg == "--").unwrap_or(args.len()));
        let mut all: Vec<String> = instance.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend([
            "--data-dir".into(),
            data.display().to_string(),
            "--run-dir".into(),
            run.display().to_string(),
        ]);
        all.extend(rest.iter().map(|arg| (*arg).to_owned()));
        self.machine.run(coracle(), all)
    }

    fn kubectl(&self, args: &[&str]) -> Output {
        let mut command = self.machine.command(kubectl("1.36"));
        let output = command.env("KUBECONFIG", self.kubeconfig()).args(args).output().unwrap();
        Output {
            success: output.status.success(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.machine.path("data/vm/default/kubeconfig")
    }

    /// Running pods of the deployment that are not about to end, by node.
    fn pods(&self) -> BTreeMap<String, BTreeSet<String>> {
        let template = "{range .items[*]}{.spec.nodeName} {.metadata.name} {.status.phase} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
        let list =
            self.kubectl(&["get", "pods", "-l", "app=six", "-o", &format!("jsonpath={template}")]).ok();
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in list.lines() {
            if let [node, name, "Running"] = line.split_whitespace().collect::<Vec<_>>()[..] {
                found.entry(node.to_owned()).or_default().insert(name.to_owned());
            }
        }
        found
    }

    #[track_caller]
    fn six_and_no_others(&self) {
        slowly("six pods and no others", || {
            let list = self.kubectl(&["get", "pods", "-l", "app=six", "-o", "name"]).ok();
            let running: usize = self.pods().values().map(BTreeSet::len).sum();
            if list.lines().count() == 6 && running == 6 { Ok(()) } else { Err(list) }
        });
    }

    fn console(&self) {
        for node in ["n1", "n2", "n3"] {
            println!("---- console of {node} ----\n{}", self.coracle(&["vm", "logs", node]).stdout);
        }
    }
}

impl Drop for Vms {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.console();
        }
        let output = self.coracle(&["vm", "down"]);
        assert!(output.success || std::thread::panicking(), "{}", output.stderr);
    }
}

/// As [`tests::eventually`], with the patience that three emulated machines on two processors need.
#[track_caller]
fn slowly<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(reason) if begin.elapsed() > Duration::from_secs(240) => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

#[test]
fn three_machines_serve_together_and_survive_the_loss_of_one() {
    let vms = Vms::new();
    let kernel = guest_kernel();
    let up = vms
        .coracle(&[
            "vm",
            "up",
            "--nodes",
            "3",
            "--memory",
            "320",
            "--timeout",
            "300s",
            "--kernel",
            kernel.to_str().unwrap(),
        ])
        .ok();
    println!("{up}");
    for node in ["n1", "n2", "n3"] {
        assert!(up.contains(&format!("{node} is Ready")), "{up}");
    }
    vms.kubectl(&["apply", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster/six.yaml")]).ok();
    vms.kubectl(&["rollout", "status", "deployment/six", "--timeout=240s"]).ok();

    // Two on each node, and each node's pods reach all six, by name and in turn; so does the host by each node's port.
    let pods = vms.pods();
    assert_eq!(pods.values().map(BTreeSet::len).collect::<Vec<_>>(), [2, 2, 2], "{pods:?}");
    let all: BTreeSet<&String> = pods.values().flatten().collect();
    for (node, names) in &pods {
        let ask = "for i in 1 2 3 4 5 6; do wget -q -O - http://six/; done";
        slowly(&format!("pods on {node} reach all six"), || {
            let answers = vms.kubectl(&["exec", names.first().unwrap(), "--", "sh", "-c", ask]);
            let seen: BTreeSet<String> = answers
                .stdout
                .lines()
                .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
                .collect();
            if seen.iter().collect::<BTreeSet<_>>() == all { Ok(()) } else { Err(format!("{answers:?}")) }
        });
    }
    for address in ["10.44.0.10", "10.44.0.11", "10.44.0.12"] {
        let answer =
            vms.machine.run("busybox", ["wget", "-q", "-O", "-", &format!("http://{address}:30066/")]).ok();
        assert!(answer.starts_with("six-"), "{answer}");
    }
    let name = pods["n3"].first().unwrap();
    assert_eq!(vms.kubectl(&["exec", name, "--", "cat", "/www/index.html"]).ok(), format!("{name} on n3\n"));
    assert_eq!(
        vms.coracle(&["vm", "exec", "n2", "--", "coracle", "--version"]).ok(),
        vms.coracle(&["--version"]).ok()
    );

    // In order: a drained node has none, and six run on.
    vms.kubectl(&["drain", "n3", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"]).ok();
    slowly("six run on the other two", || {
        let pods = vms.pods();
        let total: usize = pods.values().map(BTreeSet::len).sum();
        if total == 6 && !pods.contains_key("n3") { Ok(()) } else { Err(format!("{pods:?}")) }
    });
    vms.kubectl(&["uncordon", "n3"]).ok();

    // A power cut: its pods run elsewhere, and the service answers.
    vms.coracle(&["vm", "kill", "n2"]).ok();
    slowly("six run without n2", || {
        let pods = vms.pods();
        let total: usize = pods.iter().filter(|(node, _)| *node != "n2").map(|(_, names)| names.len()).sum();
        if total == 6 { Ok(()) } else { Err(format!("{pods:?}")) }
    });
    let answer = vms.machine.run("busybox", ["wget", "-q", "-O", "-", "http://10.44.0.12:30066/"]).ok();
    assert!(answer.starts_with("six-"), "{answer}");

    // It comes back, and nothing runs twice: what was given up on it is gone.
    println!("{}", vms.coracle(&["vm", "start"]).ok());
    vms.six_and_no_others();

    // Switched off and on again it is the same cluster.
    let before =
        vms.kubectl(&["get", "service", "six", "-o", "jsonpath={.metadata.uid}{.spec.clusterIP}"]).ok();
    vms.coracle(&["vm", "stop"]).ok();
    let list = vms.coracle(&["vm", "list"]).ok();
    assert_eq!(list.lines().filter(|line| line.ends_with("off")).count(), 3, "{list}");
    println!("{}", vms.coracle(&["vm", "start"]).ok());
    assert_eq!(
        vms.kubectl(&["get", "service", "six", "-o", "jsonpath={.metadata.uid}{.spec.clusterIP}"]).ok(),
        before
    );
    vms.kubectl(&["rollout", "status", "deployment/six", "--timeout=240s"]).ok();
    vms.six_and_no_others();
}
