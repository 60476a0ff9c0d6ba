//! The verbs of `coracle` itself against a real cluster.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::{Child, Stdio};

use tests::{Cluster, coracle, eventually};

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: serving}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: coracle.example/busybox:1
        command: [sh, -c, 'mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www']
        ports: [{name: serving, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: cat, image: 'coracle.example/busybox:1', command: [cat], stdin: true}
";

const NOWHERE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: nowhere}
spec:
  nodeSelector: {disk: fast}
  containers:
  - {name: a, image: 'coracle.example/busybox:1', resources: {requests: {cpu: 1000}}}
";

/// A command that is still running, ended when the test ends.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(cluster: &Cluster, args: &[&str]) -> Background {
    let mut command = cluster.machine.command(coracle());
    command.args(args).env("KUBECONFIG", cluster.kubeconfig());
    // Nobody would read a pipe of complaints, and a full one would hold the command up.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    Background(command.spawn().unwrap())
}

fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn rollouts(cluster: &Cluster) {
    let run = |args: &[&str]| cluster.coracle(args);
    let done = run(&["rollout", "status", "deployment/web", "--timeout", "60s"]).ok();
    assert!(done.ends_with("deployment \"web\" successfully rolled out\n"), "{done}");
    cluster.kubectl(["set", "env", "deployment/web", "COLOUR=blue"]).ok();
    run(&["rollout", "status", "deployment", "web", "--timeout", "60s"]).ok();
    let history = run(&["rollout", "history", "deployment/web"]).ok();
    assert_eq!(
        history,
        "deployment.apps/web\nREVISION   CHANGE-CAUSE\n1          <none>\n2          <none>\n"
    );
    let second = run(&["rollout", "history", "deployment/web", "--revision", "2"]).ok();
    assert!(second.contains("value: blue") && !second.contains("pod-template-hash"), "{second}");
    run(&["rollout", "undo", "deployment/web"]).ok();
    run(&["rollout", "status", "deployment/web", "--timeout", "60s"]).ok();
    let colour = ["get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env}"];
    assert_eq!(cluster.kubectl(colour).ok(), "");
    run(&["rollout", "restart", "deployment/web"]).ok();
    run(&["rollout", "status", "deployment/web", "--timeout", "60s"]).ok();
    let missing = run(&["rollout", "undo", "deployment/web", "--to-revision", "77"]).err();
    assert!(missing.contains("unable to find specified revision 77"), "{missing}");
    assert!(run(&["rollout", "status", "service/web"]).err().contains("only Deployments have"));
}

fn explanations(cluster: &Cluster) {
    let run = |args: &[&str]| cluster.coracle(args);
    let file = cluster.machine.write("nowhere.yaml", NOWHERE);
    let file = file.to_str().unwrap();
    let plan = run(&["plan", "-f", file]);
    assert!(!plan.success && plan.stdout.contains("nowhere   <none>"), "{plan:?}");
    let both = ["NodeAffinity", "NodeResourcesFit", "Insufficient cpu"];
    assert!(both.iter().all(|word| plan.stdout.contains(word)), "{plan:?}");
    assert!(cluster.kubectl(["get", "pod", "nowhere"]).err().contains("not found"));
    let web = cluster.machine.write("web.yaml", WEB);
    let fits = run(&["plan", "-f", web.to_str().unwrap(), "--replicas", "2"]).ok();
    assert!(fits.contains("web-1") && !fits.contains("<none>"), "{fits}");

    cluster.kubectl(["apply", "-f", file]).ok();
    eventually("the scheduler has looked at it", || {
        let why = run(&["why", "nowhere"]).ok();
        let told = why.contains("has no node yet")
            && both.iter().all(|word| why.contains(word))
            && why.contains("FailedScheduling");
        if told { Ok(()) } else { Err(why) }
    });
    let well = run(&["why", "deployment/web"]).ok();
    assert!(well.contains("1 of 1 replicas are ready"), "{well}");
    let events = run(&["events", "--for", "pod/nowhere", "--types", "Warning"]).ok();
    assert!(events.starts_with("LAST SEEN") && events.contains("pod/nowhere"), "{events}");
    assert!(run(&["events", "--for", "pod/other"]).ok().is_empty());

    let nodes = run(&["top", "nodes"]).ok();
    assert!(nodes.starts_with("NAME") && nodes.contains('%') && nodes.lines().count() == 2, "{nodes}");
    let pods = run(&["top", "pods", "--containers", "-l", "app=web"]).ok();
    assert!(pods.contains("POD") && pods.contains("Mi"), "{pods}");
}

fn attach(cluster: &Cluster) {
    let mut attached = start(cluster, &["attach", "-i", "echo"]);
    attached.0.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut seen = BufReader::new(attached.0.stdout.take().unwrap()).lines();
    assert!(seen.any(|line| line.unwrap() == "hello"), "the connection ended without an echo");
    let deaf = cluster.coracle(&["attach", "-i", "deployment/web"]).err();
    assert!(deaf.contains("`stdin: true`"), "{deaf}");
}

fn port_forward(cluster: &Cluster) {
    let mut forward = start(cluster, &["port-forward", "service/web", ":http", ":80"]);
    let mut lines = BufReader::new(forward.0.stdout.take().unwrap()).lines();
    let mut port = || {
        let line = lines.next().expect("it listens").unwrap();
        let local = line.strip_prefix("Forwarding from 127.0.0.1:").unwrap_or_else(|| panic!("{line:?}"));
        local.strip_suffix(" -> 8080").unwrap_or_else(|| panic!("{line:?}")).parse::<u16>().unwrap()
    };
    let (port, other) = (port(), port());
    let first = get(port).unwrap();
    assert!(first.contains("web-") && get(other).unwrap() == first, "{first}");
    // The pod is replaced: the same port leads to its successor.
    cluster.kubectl(["delete", "pod", "-l", "app=web", "--wait=false"]).ok();
    eventually("the successor answers", || match get(port) {
        Ok(answer) if answer.contains("web-") && answer != first => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(forward);
    let wrong = cluster.coracle(&["port-forward", "service/web", "81"]).err();
    assert!(wrong.contains("Service web does not have a service port 81"), "{wrong}");
}

#[test]
fn verbs_beyond_objects() {
    let cluster = Cluster::up();
    cluster.apply(WEB).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]).ok();
    rollouts(&cluster);
    explanations(&cluster);
    attach(&cluster);
    // Only this thread.
    cluster.machine.enter();
    port_forward(&cluster);
}
