//! `coracle up --nodes 3`: three nodes in network namespaces, used with kubectl, broken and mended. What is promised is checked against
//! what the containers wrote down themselves: `tests/src/promises.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::promises::{Lives, WORKLOAD, seconds};
use tests::{Cluster, Machine, Options, eventually};

/// A pod that was given up ends this soon after its node is back. It is told to end within a second; the rest is for a busy machine.
const AFTER_HEALING: u64 = 15;

/// Running pods of the deployment that are not about to end, by node.
fn six(cluster: &Cluster) -> BTreeMap<String, BTreeSet<String>> {
    let template = "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} {.status.phase} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let list = cluster.kubectl(["get", "pods", "-l", "app=six", "-o", template]).ok();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in list.lines() {
        if let [node, name, "Running"] = line.split_whitespace().collect::<Vec<_>>()[..] {
            found.entry(node.to_owned()).or_default().insert(name.to_owned());
        }
    }
    found
}

#[track_caller]
fn wait_for_six_on(cluster: &Cluster, nodes: &[&str]) {
    // Forty seconds until a silent node is given up, and five that the pods tolerate.
    let begin = std::time::Instant::now();
    loop {
        let pods = six(cluster);
        let total: usize =
            pods.iter().filter(|(node, _)| nodes.contains(&node.as_str())).map(|(_, pods)| pods.len()).sum();
        if total == 6 {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "six pods on {nodes:?}: {pods:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks a node port from outside again and again; answers how often it was answered and how often not.
fn watch(namespace: &str, url: &str, stop: &AtomicBool) -> (u32, Vec<u64>) {
    let (mut answers, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        // Until lost nodes are given up, four of six pods are theirs; each that is tried first costs seconds.
        let ask = ["timeout", "30", "busybox", "wget", "-q", "-O", "-", url];
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg("--").args(ask);
        if command.output().unwrap().status.success() {
            answers += 1;
        } else {
            failures.push(seconds());
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    (answers, failures)
}

#[test]
#[ignore = "takes a minute, and wants a machine that is not busy: make soak"]
fn three_nodes_keep_their_promises_when_two_of_them_are_lost() {
    let mut cluster = Cluster::with(Machine::new(), Options { nodes: 3, ..Options::default() });
    let beats = cluster.machine.path("beats");
    let node = |cluster: &Cluster, verb: &str, name: &str| cluster.coracle_local(&["node", verb, name]).ok();
    cluster.apply(&WORKLOAD.replace("BEATS", beats.to_str().unwrap())).ok();
    for what in ["deployment/six", "daemonset/www", "daemonset/ask", "statefulset/one"] {
        cluster.kubectl(["rollout", "status", what, "--timeout=60s"]).ok();
    }

    // Some on each node; from every node all six are reached, by name and by the port of every node.
    let pods = six(&cluster);
    assert_eq!(pods.len(), 3, "{pods:?}");
    let all: BTreeSet<String> = pods.values().flatten().cloned().collect();
    let ask = |address: &str| {
        format!("for i in 1 2 3 4 5 6; do timeout 5 busybox wget -q -O - http://{address}/; done")
    };
    let names = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
    };
    for names_of_node in pods.values() {
        eventually("a pod reaches all six", || {
            let from = names_of_node.first().unwrap();
            let output = cluster.kubectl(["exec", from, "--", "sh", "-c", &ask("six")]);
            if names(&output.stdout) == all { Ok(()) } else { Err(format!("{output:?}")) }
        });
    }
    for address in ["10.45.0.10:30066", "10.45.0.11:30066", "10.45.0.12:30066"] {
        eventually("the node port leads to all six", || {
            let output = cluster.machine.run("sh", ["-c", &ask(address)]);
            if names(&output.stdout) == all { Ok(()) } else { Err(format!("{output:?}")) }
        });
    }
    let one = cluster.kubectl(["get", "pod", "one-0", "-o", "jsonpath={.spec.nodeName}"]).ok();
    assert_eq!(one, "n3");

    // In order: a drained node has none.
    cluster.kubectl(["drain", "n2", "--ignore-daemonsets", "--timeout=60s"]).ok();
    wait_for_six_on(&cluster, &["n1", "n3"]);
    cluster.kubectl(["uncordon", "n2"]).ok();
    // Again some on each node: as long as one has none, one of the fullest goes to where there is more room.
    let spread = eventually("some run on each node", || {
        let pods = six(&cluster);
        if pods.len() == 3 && pods.values().map(BTreeSet::len).sum::<usize>() == 6 {
            return Ok(pods);
        }
        if let Some(fullest) = pods.values().max_by_key(|pods| pods.len()) {
            cluster.kubectl(["delete", "pod", fullest.first().unwrap()]).ok();
        }
        cluster.kubectl(["rollout", "status", "deployment/six", "--timeout=60s"]).ok();
        Err(format!("{pods:?}"))
    });
    eventually("no others are on their way out", || {
        let list = cluster.kubectl(["get", "pods", "-l", "app=six", "-o", "name"]).ok();
        if list.lines().count() == 6 { Ok(()) } else { Err(list) }
    });
    // A second after the last word of those that have gone.
    let settled = seconds() + 1;
    let finished = AtomicBool::new(false);
    let (cut, healed) = std::thread::scope(|scope| {
        let url = "http://10.45.0.10:30066/";
        let namespace = cluster.machine.namespace().to_owned();
        let stop = &finished;
        // Also when something fails: the watcher would go on for ever.
        let _stops = Stops(stop);
        let watcher = scope.spawn(move || watch(&namespace, url, stop));

        // The server is killed, and stopped: what is on the nodes goes on, and is what it was afterwards.
        cluster.kill();
        std::thread::sleep(Duration::from_secs(2));
        cluster.start();
        cluster.stop();
        std::thread::sleep(Duration::from_secs(2));
        cluster.start();
        assert_eq!(six(&cluster), spread);

        // One node loses its power, another one its cable.
        let cut = seconds();
        node(&cluster, "kill", "n2");
        node(&cluster, "partition", "n3");
        let list = cluster.coracle_local(&["node", "list"]).ok();
        let words: Vec<&str> = list.split_whitespace().collect();
        assert_eq!(
            words[3..],
            ["n1", "10.45.0.10", "running", "n2", "10.45.0.11", "off", "n3", "10.45.0.12", "cut", "off"]
        );
        wait_for_six_on(&cluster, &["n1"]);
        // The one that must not be two waits for its node.
        let one = cluster
            .kubectl(["get", "pod", "one-0", "-o", "jsonpath={.spec.nodeName} {.metadata.deletionTimestamp}"])
            .ok();
        assert!(one.starts_with("n3 2"), "{one}");

        // Both come back, and nothing is adopted twice.
        let healed = seconds();
        node(&cluster, "heal", "n3");
        node(&cluster, "start", "n2");
        for name in ["n2", "n3"] {
            let ready = ["wait", "--for=condition=Ready", "--timeout=60s", "node", name];
            cluster.kubectl(ready).ok();
        }
        eventually("six pods and no others", || {
            let list = cluster.kubectl(["get", "pods", "-l", "app=six", "-o", "name"]).ok();
            let running: usize = six(&cluster).values().map(BTreeSet::len).sum();
            if list.lines().count() == 6 && running == 6 { Ok(()) } else { Err(list) }
        });
        for what in ["daemonset/www", "daemonset/ask", "statefulset/one"] {
            cluster.kubectl(["rollout", "status", what, "--timeout=60s"]).ok();
        }
        stop.store(true, Ordering::SeqCst);
        let (answers, failures) = watcher.join().unwrap();
        assert!(failures.is_empty() && answers > 10, "{answers} answers, and none at {failures:?}");
        (cut, healed)
    });

    let lives = Lives::in_directory(&beats);
    lives.no_pod_runs_twice(0);
    // What the server does or does not do, and what happens to others, is nothing to pods of the node that stays.
    for name in ["www", "ask"] {
        lives.went_on(name, "n1", (settled, healed), 6);
    }
    // On the cut node pods go on, and go on to answer each other by the service's name.
    for name in ["six", "one", "www"] {
        lives.went_on(name, "n3", (settled, healed), 6);
    }
    let silence = lives.went_on("ask", "n3", (settled, healed), 12);
    println!("on the cut node nobody went unanswered for longer than {silence} s");
    // Twelve for as long as the cut node's pods cannot be told to end; at no other time more than six, since the new generation came.
    let later = Lives(lives.0.iter().filter(|life| life.beats.last() > Some(&settled)).cloned().collect());
    later.no_more_than(6, "six", &[(0, settled), (cut, healed + AFTER_HEALING)]);
    later.no_more_than(1, "one", &[]);

    let marker = cluster.cgroup_marker();
    assert_ne!(cluster.machine.leftovers(&marker), Vec::<String>::new());
    cluster.down().ok();
    let left = cluster.machine.leftovers(&marker);
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(cluster.machine.run("ip", ["route"]).ok(), "", "routes are left");
    assert!(!cluster.machine.run("nft", ["list", "ruleset"]).ok().contains("coracle"));
}

#[test]
fn nodes_share_images_keep_their_places_and_say_what_is_wrong() {
    let mut cluster = Cluster::with(Machine::new(), Options { nodes: 2, ..Options::default() });
    // An image that comes later is there for all nodes.
    let rootfs = cluster.machine.path("busybox").display().to_string();
    cluster.coracle_local(&["image", "build-rootfs", "--name", "coracle.example/later:1", &rootfs]).ok();
    for node in ["n1", "n2"] {
        let overrides =
            format!(r#"{{"spec": {{"nodeName": "{node}", "terminationGracePeriodSeconds": 0}}}}"#);
        let name = format!("on-{node}");
        cluster
            .kubectl([
                "run",
                &name,
                "--image=coracle.example/later:1",
                "--overrides",
                &overrides,
                "--command",
                "--",
                "sh",
                "-c",
                "echo here; exec sleep 100000",
            ])
            .ok();
    }
    cluster.kubectl(["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(["logs", "on-n2"]).ok(), "here\n");
    assert_eq!(cluster.kubectl(["exec", "on-n2", "--", "hostname"]).ok(), "on-n2\n");

    // The example is for these nodes too.
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster/six.yaml");
    cluster.kubectl(["apply", "-f", example]).ok();
    cluster.kubectl(["rollout", "status", "deployment/six", "--timeout=60s"]).ok();
    let pods = six(&cluster);
    assert_eq!(pods.values().map(BTreeSet::len).collect::<Vec<_>>(), [3, 3], "{pods:?}");
    cluster.kubectl(["delete", "-f", example, "--timeout=60s"]).ok();

    // Commands say what they cannot do.
    let error = cluster.coracle_local(&["node", "kill", "n9"]).err();
    assert!(error.contains("there is no node \"n9\"; there are n1, n2"), "{error}");
    let addresses = cluster.machine.run(
        tests::coracle(),
        ["node", "exec", "n2"]
            .map(str::to_owned)
            .into_iter()
            .chain(cluster.instance_args())
            .chain(["--", "ip", "-4", "-o", "address", "show", "eth0"].map(str::to_owned)),
    );
    assert!(addresses.clone().ok().contains("10.45.0.11/24"), "{addresses:?}");

    // Started again without the flag it is the same cluster; with fewer nodes it is refused.
    let uids = ["get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}"];
    let before = cluster.kubectl(uids).ok();
    cluster.stop();
    let refused = cluster.coracle_local(&["up", "--nodes", "1"]).err();
    assert!(refused.contains("--nodes takes none away"), "{refused}");
    let refused = cluster.coracle_local(&["up", "--nodes", "2", "--node-name", "a"]).err();
    assert!(refused.contains("--node-name is for one node"), "{refused}");
    cluster.start();
    assert_eq!(cluster.kubectl(uids).ok(), before);
    let restarts = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    assert_eq!(cluster.kubectl(["get", "pods", "on-n1", "on-n2", "-o", restarts]).ok(), "0 0");
    let error = {
        cluster.stop();
        cluster.coracle_local(&["node", "list"]).err()
    };
    assert!(error.contains("no `coracle up --nodes` runs"), "{error}");
}
