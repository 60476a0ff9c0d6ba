//! Pods are replaced under load and no request fails: a pod that goes leaves the service table before it gets its signal,
//! what is on its way to it arrives, and what it has begun it finishes. No hook, no delay, no second try.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and its output is its report"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tests::{Cluster, eventually};

/// A web server as strict as they come: the moment it is asked to end it listens no more, and what has begun it finishes.
const SERVER: &str = r#"
mkdir -p /www/cgi-bin
printf 'whole' > /www/index.html
printf '#!/bin/sh\nsleep 1.5\nprintf "Content-Type: text/plain\r\n\r\nwhole"\n' > /www/cgi-bin/slow
chmod +x /www/cgi-bin/slow
httpd -f -p 8080 -h /www &
listener=$!
trap 'kill $listener; while pidof httpd > /dev/null; do sleep 0.02; done; exit 0' TERM
wait
"#;

fn workload(name: &str, replicas: u32, surge: u32) -> String {
    let script = SERVER.replace('\n', "\n            ");
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxSurge: {surge}, maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: web
        image: coracle.example/busybox:1
        command:
        - sh
        - -c
        - |{script}
        readinessProbe: {{httpGet: {{port: 8080, path: /}}, periodSeconds: 1}}
---
"#
    )
}

/// Requests one after the other, from several threads, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `paths`: one thread each.
    fn start(cluster: &Arc<Cluster>, targets: &[(SocketAddr, &'static str)]) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            served: Arc::default(),
            failures: Arc::default(),
            threads: Vec::new(),
        };
        let start = Instant::now();
        for (address, path) in targets.iter().copied() {
            let (cluster, stop) = (cluster.clone(), load.stop.clone());
            let (served, failures) = (load.served.clone(), load.failures.clone());
            load.threads.push(std::thread::spawn(move || {
                cluster.machine.enter();
                while !stop.load(Ordering::Relaxed) {
                    match request(address, path) {
                        Ok(()) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures
                            .lock()
                            .unwrap()
                            .push(format!("{:?}: {address}{path}: {error}", start.elapsed())),
                    }
                }
            }));
        }
        load
    }

    /// How many requests were answered, and what went wrong.
    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.failures.lock().unwrap().clone();
        (self.served.load(Ordering::Relaxed), failures)
    }
}

/// One request, answered whole.
fn request(address: SocketAddr, path: &str) -> std::io::Result<()> {
    let patience = Duration::from_secs(20);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: web\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.") && answer.contains(" 200 OK") && answer.ends_with("whole") {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("answer {answer:?}")))
    }
}

fn replace_under_load(rounds: u32) {
    const REPLICAS: u32 = 4;
    let cluster = Arc::new(Cluster::up());
    cluster.apply(&(workload("many", REPLICAS, 2) + &workload("single", 1, 1))).ok();
    let rolled_out = || {
        for name in ["deployment/many", "deployment/single"] {
            cluster.kubectl(["rollout", "status", name, "--timeout=120s"]).ok();
        }
    };
    rolled_out();
    let address = |name: &str| -> SocketAddr {
        let ip = cluster.kubectl(["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"]).ok();
        SocketAddr::new(ip.parse().unwrap(), 80)
    };
    let (many, single) = (address("many"), address("single"));
    let reach = |address: SocketAddr| {
        let cluster = cluster.clone();
        let reached = move || {
            cluster.machine.enter();
            eventually("the service answers", || request(address, "/").map_err(|error| error.to_string()));
        };
        std::thread::spawn(reached).join().unwrap();
    };
    reach(many);
    reach(single);
    let names = || cluster.kubectl(["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]).ok();
    let load = Load::start(
        &cluster,
        &[(many, "/"), (many, "/"), (single, "/"), (many, "/cgi-bin/slow"), (single, "/cgi-bin/slow")],
    );
    let mut before = names();
    for _ in 0..rounds {
        cluster.kubectl(["rollout", "restart", "deployment/many", "deployment/single"]).ok();
        rolled_out();
        let after = names();
        let kept = after.split(' ').filter(|name| before.split(' ').any(|old| old == *name)).count();
        // Those that are on their way out may still be listed.
        assert!(kept <= usize::try_from(REPLICAS).unwrap() + 1, "{before} → {after}");
        before = after;
    }
    let (served, failures) = load.end();
    assert!(failures.is_empty(), "{} of {served} requests failed:\n{}", failures.len(), failures.join("\n"));
    assert!(served > u64::from(rounds) * 10, "hardly any load: {served} requests");
    println!("{} replacements, {served} requests, none failed", rounds * (REPLICAS + 1));
    cluster.kubectl(["delete", "deployment", "--all"]).ok();
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
}

#[test]
fn forty_replacements_under_load_fail_no_request() {
    replace_under_load(8);
}

#[test]
#[ignore = "takes an hour: make soak"]
fn a_thousand_replacements_under_load_fail_no_request() {
    replace_under_load(200);
}
