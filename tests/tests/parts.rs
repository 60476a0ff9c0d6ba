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
