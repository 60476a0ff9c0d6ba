//! Nodes that share a link reach each other's pods by plain routes, nodes behind a router through a tunnel; the same things work
//! from and to all of them.

use tests::{BUSYBOX, Cluster, Machine, Node, Options, Switch, eventually};

fn pod(node: &str) -> String {
    // A megabyte does not fit into one packet: what is too large for the tunnel has to be noticed by the sender.
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: on-{node}, labels: {{app: www}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: {BUSYBOX}
    command: [sh, -c, 'mkdir -p /tmp/www; hostname > /tmp/www/index.html; head -c 1000000 /dev/zero > /tmp/www/large; exec httpd -f -p 8080 -h /tmp/www']
---
"#
    )
}

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: www}
spec:
  type: NodePort
  selector: {app: www}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"#;

#[test]
fn three_nodes_on_two_links_are_one_network() {
    let (left, right, router) = (Switch::new(), Switch::new(), Machine::new());
    left.plug(&router, "eth0", "192.0.2.254/24");
    right.plug(&router, "eth1", "198.51.100.254/24");
    router.run("sysctl", ["-q", "-w", "net.ipv4.ip_forward=1"]).ok();
    let machine = |switch: &Switch, address: &str, gateway: &str| {
        let machine = Machine::new();
        switch.plug(&machine, "eth0", &format!("{address}/24"));
        machine.run("ip", ["route", "add", "default", "via", gateway]).ok();
        machine
    };
    let one = machine(&left, "192.0.2.1", "192.0.2.254");
    let args = ["--listen", "0.0.0.0:6443", "--node-name", "n1"].map(str::to_owned).to_vec();
    let cluster = Cluster::with(one, Options { args, ..Options::default() });
    let token = cluster.coracle(&["token", "create"]).ok();
    let join = |machine: Machine, name: &str| {
        let mut node = Node::new(machine, name, &["--server", "https://192.0.2.1:6443"]);
        node.start(&["--token", token.trim()]);
        node
    };
    let two = join(machine(&left, "192.0.2.2", "192.0.2.254"), "n2");
    let three = join(machine(&right, "198.51.100.3", "198.51.100.254"), "n3");
    for node in [&two, &three] {
        eventually(&format!("{} is there", node.name), || {
            let output = cluster.kubectl(["get", "node", &node.name]);
            if output.stdout.contains(" Ready ") {
                Ok(())
            } else {
                Err(format!("{output:?}\n{}", node.log()))
            }
        });
    }
    let names = ["n1", "n2", "n3"];
    cluster.apply(&(names.map(pod).concat() + SERVICE)).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]).ok();

    // From every pod to every pod, small and large; and the service by its name and address.
    let column = |path: &str| {
        let text = cluster.kubectl(["get", "pods", "-o", &format!("jsonpath={{.items[*].{path}}}")]).ok();
        text.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let addresses = column("status.podIP");
    let service = cluster.kubectl(["get", "service", "www", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    for from in names {
        let exec = |script: &str| cluster.kubectl(["exec", &format!("on-{from}"), "--", "sh", "-c", script]);
        for (address, name) in addresses.iter().zip(names) {
            eventually(&format!("{from} reaches {name}"), || {
                let script = format!(
                    "timeout 5 wget -q -O - http://{address}:8080; timeout 5 wget -q -O - http://{address}:8080/large | wc -c"
                );
                match exec(&script) {
                    output if output.stdout == format!("on-{name}\n1000000\n") => Ok(()),
                    output => Err(format!("{output:?}")),
                }
            });
        }
        eventually(&format!("{from} reaches all behind the service"), || {
            let script =
                format!("for i in 1 2 3 4 5 6; do timeout 5 wget -q -O - http://{service}; done | sort -u");
            match exec(&script) {
                output if output.stdout == "on-n1\non-n2\non-n3\n" => Ok(()),
                output => Err(format!("{output:?}")),
            }
        });
        let found = exec("nslookup www.default.svc.cluster.local").ok();
        assert!(found.contains(&service), "{found}");
    }
    // Node ports of every node, from a machine that is no node.
    for node in ["192.0.2.1", "192.0.2.2", "198.51.100.3"] {
        let url = format!("http://{node}:30080");
        eventually(&format!("the node port of {node} leads to all"), || {
            let script =
                format!("for i in 1 2 3 4 5 6; do timeout 5 busybox wget -q -O - {url}; done | sort -u");
            match router.run("sh", ["-c", &script]) {
                output if output.stdout == "on-n1\non-n2\non-n3\n" => Ok(()),
                output => Err(format!("{output:?}")),
            }
        });
    }

    // What is a neighbour has a plain route, what is not goes through the tunnel.
    let route = |machine: &Machine, range: &str| machine.run("ip", ["route", "show", range]).ok();
    let ranges = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"]).ok();
    let ranges: Vec<&str> = ranges.split(' ').collect();
    assert!(route(&two.machine, ranges[0]).contains("via 192.0.2.1 dev eth0"));
    assert!(route(&two.machine, ranges[2]).contains("dev cvx-"), "{}", route(&two.machine, ranges[2]));
    assert!(route(&three.machine, ranges[0]).contains("dev cvx-"));
    // Pods keep the whole packets of the link, for everybody who is not behind the tunnel.
    let mtu = |interface: &str| {
        cluster.kubectl(["exec", "on-n3", "--", "cat", &format!("/sys/class/net/{interface}/mtu")]).ok()
    };
    assert_eq!(mtu("eth0"), "1500\n");
    let tunnel = three.machine.run("ip", ["-o", "link", "show", "type", "vxlan"]).ok();
    assert!(tunnel.contains("mtu 1450"), "{tunnel}");

    // The last node behind the router goes, and the tunnel with it.
    drop(three);
    cluster.kubectl(["delete", "node", "n3", "--wait=false"]).ok();
    eventually("no tunnel is left on the others", || {
        let left = two.machine.run("ip", ["-o", "link", "show", "type", "vxlan"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(route(&two.machine, ranges[2]), "");
}
