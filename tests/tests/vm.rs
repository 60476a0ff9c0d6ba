//! A cluster of three virtual machines, as `examples/cluster` walks through it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a test's output is its report")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::promises::{Life, Lives, WORKLOAD, seconds};
use tests::{BUSYBOX, Machine, Output, coracle, guest_kernel, kubectl};

/// The machines' clocks are set to the second when they start.
const SLACK: u64 = 3;
/// Three emulated machines share two processors with everybody else.
const PATIENCE: u64 = 30;

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

    #[track_caller]
    fn all_run(&self) {
        for what in ["deployment/six", "daemonset/www", "daemonset/ask", "statefulset/one"] {
            self.kubectl(&["rollout", "status", what, "--timeout=240s"]).ok();
        }
    }

    /// A machine's node port leads to one that answers.
    #[track_caller]
    fn answers(&self, address: &str) {
        slowly("the node port answers", || {
            let url = format!("http://{address}:30066/");
            let output = self.machine.run("timeout", ["20", "busybox", "wget", "-q", "-O", "-", &url]);
            if output.stdout.starts_with("six-") { Ok(()) } else { Err(format!("{output:?}")) }
        });
    }

    /// Who ran when, from the machines' disks.
    fn lives(&self) -> Lives {
        let path = "jsonpath={.items[*].metadata.name}";
        let pods = self.kubectl(&["get", "pods", "-l", "app=www", "-o", path]).ok();
        let mut lives = Vec::new();
        for pod in pods.split(' ') {
            let script = "cd /beats; for f in *; do echo \"= $f\"; cat $f; done";
            let text = slowly("the files can be read", || {
                let output = self.kubectl(&["exec", pod, "--", "sh", "-c", script]);
                if output.success { Ok(output.stdout) } else { Err(output.stderr) }
            });
            let files = text.split("= ").filter_map(|file| file.split_once('\n'));
            lives.extend(files.filter_map(|(name, beats)| Life::read(name, beats)));
        }
        Lives(lives)
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

/// Three machines with what the promises are about.
fn three() -> Vms {
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
    let workload = vms.machine.write("workload.yaml", &WORKLOAD.replace("BEATS", "/var/lib/coracle/beats"));
    vms.kubectl(&["apply", "-f", workload.to_str().unwrap()]).ok();
    vms.all_run();
    vms
}

#[test]
fn three_machines_serve_together_and_survive_the_loss_of_one() {
    let vms = three();
    // Some on each node, and each node's pods reach all six, by name and in turn; so does the host by each node's port.
    let pods = vms.pods();
    assert_eq!(pods.len(), 3, "{pods:?}");
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
        vms.answers(address);
    }
    let name = pods["n3"].first().unwrap();
    assert_eq!(vms.kubectl(&["exec", name, "--", "cat", "/www/index.html"]).ok(), format!("{name} n3\n"));
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

    // Files go there and back, whatever is in them.
    let content: Vec<u8> = (0..70_000_u32).flat_map(|number| number.to_le_bytes()).take(70_000).collect();
    let (there, back) = (vms.machine.path("there"), vms.machine.path("back"));
    std::fs::write(&there, &content).unwrap();
    vms.coracle(&["vm", "cp", there.to_str().unwrap(), "n2:/tmp/"]).ok();
    vms.coracle(&["vm", "cp", "n2:/tmp/there", back.to_str().unwrap()]).ok();
    assert!(std::fs::read(back).unwrap() == content, "what comes back is not what went there");
    let error = vms.coracle(&["vm", "cp", "n2:/nowhere", "/dev/null"]).err();
    assert!(error.contains("n2: /nowhere: No such file"), "{error}");

    // One machine loses its power, another one its cable: the pods of both run elsewhere, and the service answers.
    let cut = seconds();
    vms.coracle(&["vm", "kill", "n2"]).ok();
    vms.coracle(&["vm", "partition", "n3"]).ok();
    slowly("six run on what is left", || {
        let pods = vms.pods();
        let total = pods.get("n1").map_or(0, BTreeSet::len);
        if total == 6 { Ok(()) } else { Err(format!("{pods:?}")) }
    });
    vms.answers("10.44.0.10");

    // Both come back, and nothing runs twice: what was given up on them is gone.
    let healed = seconds();
    vms.coracle(&["vm", "heal", "n3"]).ok();
    println!("{}", vms.coracle(&["vm", "start"]).ok());
    vms.six_and_no_others();
    vms.all_run();
    let lives = vms.lives();
    lives.no_pod_runs_twice(SLACK);
    for name in ["www", "ask"] {
        lives.went_on(name, "n1", (cut, healed), PATIENCE);
        let silence = lives.went_on(name, "n3", (cut, healed), PATIENCE);
        println!("{name} on the machine without a cable was never silent for longer than {silence} s");
    }

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
    vms.all_run();
    vms.six_and_no_others();
    vms.lives().no_pod_runs_twice(SLACK);
}

#[test]
#[ignore = "takes minutes: make soak"]
fn three_machines_survive_the_loss_of_the_server_and_of_the_host() {
    let vms = three();
    // The machine with the server loses its power: the others go on without it.
    let without = seconds();
    vms.coracle(&["vm", "kill", "n1"]).ok();
    vms.answers("10.44.0.11");
    vms.answers("10.44.0.12");
    println!("{}", vms.coracle(&["vm", "start"]).ok());
    let with = seconds();
    vms.all_run();
    let lives = vms.lives();
    for node in ["n2", "n3"] {
        lives.went_on("www", node, (without, with), PATIENCE);
    }

    // The host is started anew: all of QEMU is gone at once.
    for node in ["n1", "n2", "n3"] {
        vms.coracle(&["vm", "kill", node]).ok();
    }
    println!("{}", vms.coracle(&["vm", "start"]).ok());
    vms.all_run();
    vms.six_and_no_others();
    vms.lives().no_pod_runs_twice(SLACK);
}
