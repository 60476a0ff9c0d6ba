//! Parts die, pods do not: what runs goes on, what is answered stays true, and nothing is started twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};

use tests::{Cluster, Machine, Options, eventually};

const ECHO: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{port: 7}]
---
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: coracle.example/busybox:1
    command: [sh, -c, 'echo started; exec nc -ll -p 7 -e cat']
    readinessProbe: {tcpSocket: {port: 7}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: short}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: short
    image: coracle.example/busybox:1
    command: [sh, -c, 'echo before; while ! test -e /go/now; do sleep 0.1; done; echo after; exit 42']
    volumeMounts: [{name: go, mountPath: /go}]
  volumes: [{name: go, hostPath: {path: GO, type: Directory}}]
"#;

/// A connection through the service address, held by a process in the machine's network.
struct Connection {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Connection {
    fn open(cluster: &Cluster, address: &str) -> Self {
        let mut child = cluster
            .machine
            .command("busybox")
            .args(["nc", address, "7"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    #[track_caller]
    fn ask(&mut self, text: &str) {
        writeln!(self.stdin, "{text}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        assert_eq!(answer, format!("{text}\n"));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn killing_everything_but_the_pods_loses_nothing() {
    let mut cluster = Cluster::up();
    let go = cluster.machine.path("go");
    std::fs::create_dir(&go).unwrap();
    cluster.apply(&ECHO.replace("GO", go.to_str().unwrap())).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/echo", "pod/short", "--timeout=60s"]).ok();
    let address = cluster.kubectl(["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let identity = [
        "get",
        "pod",
        "echo",
        "-o",
        "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.podIP}",
    ];
    let before = cluster.kubectl(identity).ok();
    // Ready endpoints reach the proxy a moment after the pod is ready.
    let mut connection = eventually("the service answers", || {
        let mut connection = Connection::open(&cluster, &address);
        writeln!(connection.stdin, "hello").map_err(|error| error.to_string())?;
        let mut answer = String::new();
        connection.stdout.read_line(&mut answer).map_err(|error| error.to_string())?;
        if answer == "hello\n" { Ok(connection) } else { Err(format!("answer {answer:?}")) }
    });

    cluster.kill();
    connection.ask("with the server gone, this connection goes on");
    Connection::open(&cluster, &address).ask("and new ones are accepted");
    // A container ends while nobody but its keeper looks.
    std::fs::write(go.join("now"), "").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    connection.ask("still");

    cluster.start();
    connection.ask("with the server back");
    assert_eq!(cluster.kubectl(identity).ok(), before, "the container was started again");
    eventually("the exit code of the time in between is there", || {
        let code = cluster
            .kubectl([
                "get",
                "pod",
                "short",
                "-o",
                "jsonpath={.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}",
            ])
            .ok();
        if code == "Failed 42" { Ok(()) } else { Err(code) }
    });
    assert_eq!(cluster.kubectl(["logs", "short"]).ok(), "before\nafter\n");
    assert_eq!(cluster.kubectl(["logs", "echo"]).ok(), "started\n", "a second start would have logged again");
    drop(connection);
    cluster.kubectl(["delete", "pod", "--all", "--timeout=60s"]).ok();
}

#[test]
fn many_kills_under_churn_start_nothing_twice() {
    let mut cluster = Cluster::up();
    let deployment = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: steady}
spec:
  replicas: 5
  selector: {matchLabels: {app: steady}}
  template:
    metadata: {labels: {app: steady}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: a, image: 'coracle.example/busybox:1', command: [sh, -c, 'echo start; exec sleep 100000']}]
"#;
    cluster.apply(deployment).ok();
    cluster.kubectl(["rollout", "status", "deployment/steady", "--timeout=60s"]).ok();
    let identities = [
        "get",
        "pods",
        "-l",
        "app=steady",
        "--sort-by=.metadata.name",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}",
    ];
    let before = cluster.kubectl(identities).ok();
    for round in 0..5 {
        let name = format!("passing-{round}");
        cluster
            .kubectl([
                "run",
                &name,
                "--image=coracle.example/busybox:1",
                "--restart=Never",
                "--command",
                "--",
                "sleep",
                "100000",
            ])
            .ok();
        cluster.kill();
        cluster.start();
        cluster.kubectl(["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).ok();
        assert_eq!(
            cluster
                .kubectl(["get", "pod", &name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"])
                .ok(),
            "0"
        );
    }
    assert_eq!(cluster.kubectl(identities).ok(), before);
    // One process for each container, no twins.
    let running = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        read("cmdline") == "sleep\x00100000\x00" && read("cgroup").contains(&cluster.cgroup_marker())
    });
    assert_eq!(running.count(), 10);
    cluster.kubectl(["delete", "deployment", "steady"]).ok();
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
}

#[test]
fn a_directory_is_enough() {
    let machine = Machine::new();
    let manifests = machine.path("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let pod = |name: &str, word: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
             - {{name: a, image: 'coracle.example/busybox:1', command: [sh, -c, 'exec sleep {word}']}}\n"
        )
    };
    let write = |name: &str, text: &str| {
        // As editors do it: written beside and renamed.
        std::fs::write(manifests.join(format!(".{name}.new")), text).unwrap();
        std::fs::rename(manifests.join(format!(".{name}.new")), manifests.join(name)).unwrap();
    };
    write("one.yaml", &pod("one", "100001"));
    let options = Options {
        subcommand: vec!["agent".to_owned()],
        args: vec![
            "--manifests".to_owned(),
            manifests.display().to_string(),
            "--node-name".to_owned(),
            "alone".to_owned(),
        ],
        ..Options::default()
    };
    let mut cluster = Cluster::with(machine, options);
    let pids = |word: &str| -> Vec<u32> {
        let wanted = format!("sleep\0{word}\0");
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut found: Vec<u32> = processes
            .filter(|entry| {
                std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line == wanted)
            })
            .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
            .collect();
        found.sort_unstable();
        found
    };
    let running = |word: &str| {
        eventually(&format!("{word} runs once"), || match pids(word).as_slice() {
            [pid] => Ok(*pid),
            others => Err(format!("{others:?}")),
        })
    };
    let gone = |word: &str| {
        eventually(&format!("{word} is gone"), || {
            if pids(word).is_empty() { Ok(()) } else { Err("it runs".to_owned()) }
        })
    };

    let first = running("100001");
    write("two.yaml", &pod("two", "100002"));
    running("100002");

    // The agent dies; the pods do not.
    cluster.kill();
    assert_eq!(pids("100001"), [first]);
    cluster.start();
    write("three.yaml", &pod("three", "100003"));
    running("100003");
    assert_eq!(pids("100001"), [first], "the pod was restarted");

    // A broken file leaves what ran; its repair is followed.
    write("one.yaml", "apiVersion: v1\nkind: Pod\nspec: [\n");
    write("two.yaml", &pod("two", "100004"));
    running("100004");
    gone("100002");
    assert_eq!(pids("100001"), [first], "a broken file ended its pod");
    write("one.yaml", &pod("one", "100005"));
    running("100005");
    gone("100001");
    std::fs::remove_file(manifests.join("three.yaml")).unwrap();
    gone("100003");

    // Everything of coracle is killed, the pods with it, as a power cut would do.
    cluster.kill();
    let run = cluster.machine.path("run").display().to_string();
    kill_all_naming(&run);
    for pid in pids("100004").into_iter().chain(pids("100005")) {
        kill(pid);
    }
    gone("100004");
    cluster.start();
    running("100004");
    running("100005");
    std::fs::remove_file(manifests.join("one.yaml")).unwrap();
    std::fs::remove_file(manifests.join("two.yaml")).unwrap();
    gone("100004");
    gone("100005");
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Kills the processes of one instance: those whose command line names its run directory.
fn kill_all_naming(text: &str) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if pid != std::process::id() && String::from_utf8_lossy(&line).contains(text) {
            kill(pid);
        }
    }
}
