//! Services, names and ports, from pods and from the host.

use std::collections::BTreeMap;

use tests::{Cluster, eventually};

const BACKENDS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: nobody}
  ports: [{port: 80}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: coracle.example/busybox:1
        command: [sh, -c, 'hostname > /www/index.html; exec httpd -f -p 8080 -h /www']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        volumeMounts: [{name: www, mountPath: /www}]
      volumes: [{name: www, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: on-host}
spec:
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  terminationGracePeriodSeconds: 0
  containers: [{name: a, image: 'coracle.example/busybox:1', command: [sh, -c, 'mkdir -p /srv; echo host > /srv/index.html; exec httpd -f -p 80 -h /srv']}]
---
apiVersion: v1
kind: Pod
metadata: {name: with-port}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: coracle.example/busybox:1
    command: [sh, -c, 'mkdir -p /srv; echo port > /srv/index.html; exec httpd -f -p 8080 -h /srv']
    ports: [{containerPort: 8080, hostPort: 8123}]
"#;

#[test]
fn services_are_reached_by_address_name_and_port() {
    let cluster = Cluster::up();
    cluster.apply(BACKENDS).ok();
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    cluster
        .kubectl([
            "wait",
            "--for=condition=Ready",
            "pod/client",
            "pod/on-host",
            "pod/with-port",
            "--timeout=60s",
        ])
        .ok();
    let inside = |command: &str| cluster.kubectl(["exec", "client", "--", "sh", "-c", command]);
    let host = |url: &str| cluster.machine.run("busybox", ["wget", "-q", "-O", "-", url]);
    let address = cluster.kubectl(["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).ok();

    eventually("the service has all its backends", || {
        let names = inside("for i in 1 2 3; do wget -q -O - http://web/; done").stdout;
        let distinct: std::collections::BTreeSet<&str> = names.lines().collect();
        if distinct.len() == 3 { Ok(()) } else { Err(names.clone()) }
    });

    // In turn, exactly.
    let answers = inside(&format!("for i in $(seq 30); do wget -q -O - http://{address}/; done")).ok();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    answers.lines().for_each(|name| *counts.entry(name).or_default() += 1);
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10, 10, 10], "{counts:?}");

    // From the host, from a pod on the host's network, by node port, by host port.
    assert!(host(&format!("http://{address}/")).ok().starts_with("web-"));
    assert!(
        cluster
            .kubectl([
                "exec",
                "on-host",
                "--",
                "wget",
                "-q",
                "-O",
                "-",
                "http://web.default.svc.cluster.local/"
            ])
            .ok()
            .starts_with("web-")
    );
    let node = cluster
        .kubectl([
            "get",
            "nodes",
            "-o",
            "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}",
        ])
        .ok();
    assert!(host(&format!("http://{node}:30080/")).ok().starts_with("web-"));
    assert_eq!(host(&format!("http://{node}:8123/")).ok(), "port\n");
    // A pod on the host's port 80 and a service on port 80 do not meet.
    assert_eq!(host(&format!("http://{node}/")).ok(), "host\n");

    // Names.
    let headless = inside("nslookup each.default.svc.cluster.local | grep -c '^Address.*10\\.42\\.'").ok();
    assert_eq!(headless.trim(), "3");
    assert!(inside("nslookup web.default.svc.cluster.local").ok().contains(&address));
    assert!(!inside("nslookup missing.default.svc.cluster.local").success);
    assert!(
        inside("cat /etc/resolv.conf")
            .ok()
            .contains("search default.svc.cluster.local svc.cluster.local cluster.local")
    );

    // Nobody behind it: refused at once, not timed out.
    let refused = inside("time -f %e wget -q -O - http://nobody/ 2>&1 | head -n 1").stdout;
    assert!(refused.contains("refused"), "{refused}");

    // A backend that is killed without a word costs nobody an answer.
    let victim =
        cluster.kubectl(["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    cluster.kubectl(["delete", "pod", &victim, "--grace-period=0", "--force"]).ok();
    let answers = inside("for i in $(seq 20); do wget -q -O - http://web/ || echo lost; done").ok();
    assert!(!answers.contains("lost"), "{answers}");

    // The environment of a pod that was made after the service.
    assert_eq!(inside("echo $WEB_SERVICE_HOST:$WEB_SERVICE_PORT").ok().trim(), format!("{address}:80"));
    cluster.kubectl(["delete", "deployment", "web"]).ok();
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
}
