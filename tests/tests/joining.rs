//! Machines that join a cluster by a token, each with a network of its own.

use tests::{BUSYBOX, Cluster, Machine, Node, Options, Switch, eventually};

const SERVER: &str = "https://192.0.2.1:6443";

/// A cluster on a machine that others can reach, and what they are plugged into.
fn cluster(more: &[&str]) -> (Switch, Cluster) {
    let switch = Switch::new();
    let machine = Machine::new();
    switch.plug(&machine, "eth0", "192.0.2.1/24");
    let args =
        ["--listen", "0.0.0.0:6443", "--node-ip", "192.0.2.1", "--tls-san", "192.0.2.1", "--node-name", "n1"];
    let args = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
    let cluster = Cluster::with(machine, Options { args, ..Options::default() });
    (switch, cluster)
}

fn node(switch: &Switch, name: &str, address: &str) -> Node {
    let machine = Machine::new();
    switch.plug(&machine, "eth0", &format!("{address}/24"));
    Node::new(machine, name, &["--server", SERVER])
}

fn wait_for(cluster: &Cluster, node: &Node) {
    eventually(&format!("{} is Ready", node.name), || {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        match cluster.kubectl(["get", "node", &node.name, "-o", path]) {
            output if output.stdout == "True" => Ok(()),
            output => Err(format!("{output:?}\n{}", node.log())),
        }
    });
}

/// A pod that stays, on a node.
fn pod(name: &str, node: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "www"}}}}, "spec": {{
            "nodeName": "{node}", "terminationGracePeriodSeconds": 0, "containers": [{{"name": "a", "image": "{BUSYBOX}",
            "command": ["sh", "-c", "mkdir -p /tmp/www; hostname > /tmp/www/index.html; echo here; exec httpd -f -p 8080 -h /tmp/www"]}}]}}}}"#
    )
}

#[test]
fn a_machine_joins_by_a_token_and_stays_itself_when_its_address_changes() {
    let (switch, cluster) = cluster(&[]);
    let mut two = node(&switch, "n2", "192.0.2.2");

    // Without a token, and with one of another cluster, nothing comes in.
    let refused = two.coracle(&["agent", "--node-name", "n2", "--server", SERVER]).err();
    assert!(refused.contains("coracle token create"), "{refused}");
    let token = cluster.coracle(&["token", "create", "--description", "for n2", "--ttl", "1h"]).ok();
    let token = token.trim();
    let bearer = token.rsplit("::").next().unwrap().to_owned();
    let wrong = format!("CORACLE10{}::{bearer}", "00".repeat(32));
    let refused = two.coracle(&["agent", "--node-name", "n2", "--server", SERVER, "--token", &wrong]).err();
    assert!(refused.contains("does not show the authority"), "{refused}");
    let listed = cluster.coracle(&["token", "list"]).ok();
    assert!(listed.contains(&bearer) && listed.contains("for n2") && listed.contains("59m"), "{listed}");

    two.start(&["--token", token]);
    wait_for(&cluster, &two);
    let ranges = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"]).ok();
    assert_eq!(ranges, "10.42.0.0/24 10.42.1.0/24");
    let requests = cluster.kubectl(["get", "csr", "-o", "jsonpath={range .items[*]}{.spec.username} {.spec.signerName} {.status.conditions[0].type}{\"\\n\"}{end}"]).ok();
    let mut requests: Vec<&str> = requests.lines().collect();
    requests.sort_unstable();
    let bootstrap =
        format!("system:bootstrap:{} kubernetes.io/kube-apiserver-client-kubelet Approved", &bearer[..6]);
    assert_eq!(requests, [bootstrap.as_str(), "system:node:n2 kubernetes.io/kubelet-serving Approved"]);

    // Pods of both nodes, reached by name of the service from both, and by kubectl.
    for node in ["n1", "n2"] {
        let file = cluster.machine.write("pod.yaml", &pod(&format!("on-{node}"), node));
        cluster.kubectl(["apply", "-f", file.to_str().unwrap()]).ok();
    }
    cluster.kubectl(["expose", "pod", "on-n2", "--name=www", "--port=80", "--target-port=8080"]).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(["logs", "on-n2"]).ok(), "here\n");
    let address = cluster.kubectl(["get", "service", "www", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    for from in ["on-n1", "on-n2"] {
        eventually("both pods answer behind the service", || {
            let script =
                format!("for i in 1 2 3 4; do timeout 5 wget -q -O - http://{address}; done | sort -u");
            match cluster.kubectl(["exec", from, "--", "sh", "-c", &script]) {
                output if output.stdout == "on-n1\non-n2\n" => Ok(()),
                output => Err(format!("{output:?}")),
            }
        });
        let found = cluster.kubectl(["exec", from, "--", "nslookup", "www.default.svc.cluster.local"]).ok();
        assert!(found.contains(&address), "{found}");
    }

    // Addresses that are another node's are refused.
    let mut three = node(&switch, "n3", "192.0.2.3");
    three.start(&["--token", token, "--node-cidr", "10.42.1.0/24"]);
    assert!(!three.wait().success());
    let refused = "--node-cidr 10.42.1.0/24 overlaps with 10.42.1.0/24, the pod addresses of node n2";
    assert!(three.log().contains(refused), "{}", three.log());
    drop(three);

    // Removed tokens are no longer believed; who has joined stays.
    cluster.coracle(&["token", "delete", &bearer[..6]]).ok();
    let mut three = node(&switch, "n4", "192.0.2.4");
    three.start(&["--token", token]);
    assert!(!three.wait().success());
    assert!(three.log().contains("Unauthorized"), "{}", three.log());

    // Those whose time is over go by themselves.
    let short = cluster.coracle(&["token", "create", "--ttl", "1s", "abcdef.0123456789abcdef"]).ok();
    assert!(short.contains("abcdef"), "{short}");
    eventually("the token is gone", || {
        let output = cluster.kubectl(["-n", "kube-system", "get", "secret", "bootstrap-token-abcdef"]);
        if output.stderr.contains("NotFound") { Ok(()) } else { Err(format!("{output:?}")) }
    });

    // Another address: the same node, with the same pods.
    let uid = cluster.kubectl(["get", "node", "n2", "-o", "jsonpath={.metadata.uid}"]).ok();
    two.kill();
    two.machine.run("ip", ["address", "delete", "192.0.2.2/24", "dev", "eth0"]).ok();
    two.machine.run("ip", ["address", "add", "192.0.2.22/24", "dev", "eth0"]).ok();
    two.start(&[]);
    eventually("pods on the node are reached at its new address", || {
        let output = cluster.kubectl(["exec", "on-n2", "--", "echo", "in it"]);
        if output.success { Ok(output.stdout) } else { Err(format!("{output:?}\n{}", two.log())) }
    });
    let script = format!("timeout 5 wget -q -O - http://{address}; timeout 5 wget -q -O - http://{address}");
    eventually("routes follow", || {
        let output = cluster.kubectl(["exec", "on-n1", "--", "sh", "-c", &script]);
        if output.stdout.contains("on-n2") { Ok(()) } else { Err(format!("{output:?}")) }
    });
    // And another one while the agent runs: it notices, and everything follows.
    two.machine.run("ip", ["address", "delete", "192.0.2.22/24", "dev", "eth0"]).ok();
    two.machine.run("ip", ["address", "add", "192.0.2.23/24", "dev", "eth0"]).ok();
    let internal = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    eventually("the node reports its new address", || {
        let address = cluster.kubectl(["get", "node", "n2", "-o", internal]).ok();
        if address == "192.0.2.23" { Ok(()) } else { Err(format!("{address}\n{}", two.log())) }
    });
    eventually("pods on the node are reached at its new address", || {
        let output = cluster.kubectl(["exec", "on-n2", "--", "echo", "in it"]);
        if output.success { Ok(output.stdout) } else { Err(format!("{output:?}\n{}", two.log())) }
    });
    for from in ["on-n1", "on-n2"] {
        eventually("both pods answer behind the service", || {
            let script =
                format!("for i in 1 2 3 4; do timeout 5 wget -q -O - http://{address}; done | sort -u");
            match cluster.kubectl(["exec", from, "--", "sh", "-c", &script]) {
                output if output.stdout == "on-n1\non-n2\n" => Ok(()),
                output => Err(format!("{output:?}\n{}", two.log())),
            }
        });
    }
    // The same address again: a link that was down has lost its routes.
    two.machine.run("ip", ["link", "set", "eth0", "down"]).ok();
    two.machine.run("ip", ["link", "set", "eth0", "up"]).ok();
    eventually("routes come back with the link", || {
        let output = cluster.kubectl(["exec", "on-n1", "--", "sh", "-c", &script]);
        if output.stdout.contains("on-n2") { Ok(()) } else { Err(format!("{output:?}")) }
    });
    assert!(two.is_running(), "{}", two.log());
    assert_eq!(cluster.kubectl(["get", "node", "n2", "-o", "jsonpath={.metadata.uid}"]).ok(), uid);
    let restarts = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    assert_eq!(cluster.kubectl(["get", "pods", "-o", restarts]).ok(), "0 0");
}

#[test]
fn certificates_are_renewed_while_everything_runs() {
    // So short that all of the first ones have expired before the test ends.
    let (switch, cluster) = cluster(&["--cluster-signing-duration", "12s"]);
    let mut two = node(&switch, "n2", "192.0.2.2");
    let token = cluster.coracle(&["token", "create"]).ok();
    two.start(&["--token", token.trim()]);
    wait_for(&cluster, &two);
    let file = cluster.machine.write("pod.yaml", &pod("on-n2", "n2"));
    cluster.kubectl(["apply", "-f", file.to_str().unwrap()]).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/on-n2", "--timeout=60s"]).ok();
    let requests = "jsonpath={range .items[?(@.status.certificate)]}{.spec.signerName}{\"\\n\"}{end}";
    eventually("both certificates were renewed twice", || {
        let all = cluster.kubectl(["get", "csr", "-o", requests]).ok();
        let count = |signer: &str| all.lines().filter(|line| line.ends_with(signer)).count();
        let (client, serving) = (count("client-kubelet"), count("kubelet-serving"));
        if client > 2 && serving > 2 { Ok(()) } else { Err(format!("{all}\n{}", two.log())) }
    });
    // The node is known by its new certificate, and its own API by its.
    cluster.kubectl(["delete", "pod", "on-n2"]).ok();
    cluster.kubectl(["apply", "-f", file.to_str().unwrap()]).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/on-n2", "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(["exec", "on-n2", "--", "echo", "in it"]).ok(), "in it\n");
    assert_eq!(
        two.log().matches("this machine is a node of the cluster").count(),
        1,
        "it never started again"
    );
}
