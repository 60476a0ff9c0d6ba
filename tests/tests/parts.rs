//! The parts of an instance as processes of their own: `coracle server` and `coracle agent`.

use std::fs::File;
use std::process::{Child, Stdio};

use tests::{BUSYBOX, Cluster, Machine, Options, coracle, eventually};

struct Agent(Child);

impl Agent {
    fn start(cluster: &Cluster) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(cluster.machine.path("agent.log"))
            .expect("log file");
        let mut command = cluster.machine.command(coracle());
        command.arg("agent").args(cluster.instance_args()).arg("--kubeconfig").arg(cluster.kubeconfig());
        Self(
            command
                .args(["--node-name", "alone"])
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("the agent starts"),
        )
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_server_and_an_agent_share_an_instance_and_die_apart() {
    let mut cluster = Cluster::with(
        Machine::new(),
        Options { subcommand: vec!["server".to_owned()], ..Options::default() },
    );
    eventually("the server writes a kubeconfig", || {
        cluster.kubeconfig().exists().then_some(()).ok_or_else(|| cluster.log())
    });
    let agent = Agent::start(&cluster);
    cluster.wait_ready();

    cluster
        .kubectl([
            "run",
            "one",
            &format!("--image={BUSYBOX}"),
            "--command",
            "--",
            "sh",
            "-c",
            "echo here; sleep 100000",
        ])
        .ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(["logs", "one"]).ok(), "here\n");
    assert_eq!(cluster.kubectl(["exec", "one", "--", "echo", "in it"]).ok(), "in it\n");

    // Pods, and the host, find the API server where every client in a pod looks for it, though it listens on loopback.
    let inside = cluster.kubectl([
        "exec",
        "one",
        "--",
        "sh",
        "-c",
        "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo there",
    ]);
    assert_eq!(inside.ok(), "there\n");
    assert!(
        cluster
            .kubectl(["get", "--server=https://10.43.0.1", "--raw", "/version"])
            .ok()
            .contains("gitVersion")
    );

    // A second of either part is refused and told why.
    let second = cluster.coracle_local(&["server", "--listen", "127.0.0.1:0"]).err();
    assert!(second.contains("runs the control plane"), "{second}");

    // The agent dies and comes back while the server runs on, and the other way round.
    drop(agent);
    let _agent = Agent::start(&cluster);
    eventually("the agent answers again", || match cluster.kubectl(["exec", "one", "--", "true"]) {
        output if output.success => Ok(()),
        output => Err(output.stderr),
    });
    cluster.kill();
    cluster.start();
    cluster.wait_ready();
    cluster.kubectl(["run", "two", &format!("--image={BUSYBOX}"), "--command", "--", "sleep", "100000"]).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/two", "--timeout=60s"]).ok();
    let restarts = cluster.kubectl([
        "get",
        "pods",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
    ]);
    assert_eq!(restarts.ok(), "0 0");
    cluster.down().ok();
}

/// Everything that a power cut takes: processes, what is in memory (the run directory), links and rules of the network.
fn cut_power(cluster: &Cluster, marker: &str) {
    let directory = cluster.machine.path("").display().to_string();
    let all = || -> Vec<i32> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = processes.filter(|entry| {
            let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let names = |bytes: &[u8], text: &str| String::from_utf8_lossy(bytes).contains(text);
            names(&read("cmdline"), &directory) || names(&read("cgroup"), marker)
        });
        ours.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
    };
    eventually("all processes are gone", || {
        let left = all();
        for pid in left.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
            _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let run = cluster.machine.path("run");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| point.starts_with(&directory)) {
        _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    }
    std::fs::remove_dir_all(run).expect("the run directory");
    let links = cluster.machine.run("ip", ["-o", "link"]).ok();
    for link in links.lines().filter_map(|line| line.split(": ").nth(1)) {
        let name = link.split('@').next().unwrap_or(link);
        if name != "lo" {
            // One half of a pair takes the other one along.
            _ = cluster.machine.run("ip", ["link", "delete", name]);
        }
    }
    cluster.machine.run("nft", ["flush", "ruleset"]).ok();
}

#[test]
fn pods_of_the_api_come_back_after_a_power_cut_with_the_server_away() {
    let mut cluster = Cluster::with(
        Machine::new(),
        Options { subcommand: vec!["server".to_owned()], ..Options::default() },
    );
    eventually("the server writes a kubeconfig", || {
        cluster.kubeconfig().exists().then_some(()).ok_or_else(|| cluster.log())
    });
    let agent = Agent::start(&cluster);
    cluster.wait_ready();
    let marker = cluster.cgroup_marker();
    let said = cluster.machine.path("said");
    std::fs::create_dir(&said).expect("a directory");
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: word}}\ndata: {{word: hush}}\n---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: one}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: s, hostPath: {{path: {}}}}}]\n  \
             containers:\n  - name: a\n    image: '{BUSYBOX}'\n    command: [sh, -c, 'echo $WORD >> /s/log; exec sleep 100000']\n    \
             env: [{{name: WORD, valueFrom: {{configMapKeyRef: {{name: word, key: word}}}}}}]\n    volumeMounts: [{{name: s, mountPath: /s}}]\n",
            said.display()
        ))
        .ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"]).ok();
    let log = || std::fs::read_to_string(said.join("log")).unwrap_or_default();
    assert_eq!(log(), "hush\n");

    cluster.kill();
    drop(agent);
    cut_power(&cluster, &marker);
    let _agent = Agent::start(&cluster);
    eventually("the pod runs without a server, with what its objects said", || {
        if log() == "hush\nhush\n" { Ok(()) } else { Err(log()) }
    });
    cluster.start();
    cluster.wait_ready();
    eventually("the server hears of it", || {
        let path = "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount}";
        let state = cluster.kubectl(["get", "pod", "one", "-o", path]).ok();
        if state == "Running 1" { Ok(()) } else { Err(state) }
    });
    assert_eq!(log(), "hush\nhush\n", "it was started once");
    cluster.kubectl(["delete", "pod", "one", "--grace-period=0", "--force"]).ok();
    cluster.down().ok();
}
