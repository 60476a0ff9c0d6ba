//! DaemonSets, StatefulSets and CronJobs, driven by kubectl: rollouts, history, undo, scale.

use tests::{Cluster, eventually};

const DAEMON: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: daemon}
spec:
  selector: {matchLabels: {app: daemon}}
  template:
    metadata: {labels: {app: daemon}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: coracle.example/busybox:1, command: [sleep, "100000"]}]
"#;

const STATEFUL: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 3
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: coracle.example/busybox:1
        command: [sh, -c, 'test $(hostname) = $NAME && exec sleep 100000']
        env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
"#;

const DATABASE: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Retain}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: coracle.example/busybox:1
        command: [sh, -c, 'hostname >> /data/starts; exec sleep 100000']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"#;

const CRON: &str = r#"
apiVersion: batch/v1
kind: CronJob
metadata: {name: often}
spec:
  schedule: "@every 1s"
  concurrencyPolicy: Forbid
  successfulJobsHistoryLimit: 2
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 0
          containers: [{name: main, image: coracle.example/busybox:1, command: ["true"]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: paused}
spec:
  schedule: "0 0 29 2 *"
  suspend: true
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: main, image: coracle.example/busybox:1, command: ["true"]}]
"#;

fn value(cluster: &Cluster, what: &str, path: &str) -> String {
    cluster.kubectl(["get", what, "-o", &format!("jsonpath={path}")]).ok()
}

fn becomes(cluster: &Cluster, what: &str, path: &str, expected: &str) {
    eventually(&format!("{what} becomes {expected}"), || {
        let now = value(cluster, what, path);
        if now == expected { Ok(()) } else { Err(now) }
    });
}

#[test]
fn daemon_sets_roll_out_and_back() {
    let cluster = Cluster::up();
    cluster.apply(DAEMON).ok();
    cluster.kubectl(["rollout", "status", "ds/daemon", "--timeout=60s"]).ok();
    let shown = cluster.kubectl(["get", "ds", "daemon", "--no-headers"]).ok();
    let cells: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(cells[..6], ["daemon", "1", "1", "1", "1", "1"], "{shown}");
    cluster.kubectl(["set", "env", "ds/daemon", "A=1"]).ok();
    cluster.kubectl(["rollout", "status", "ds/daemon", "--timeout=60s"]).ok();
    let history = cluster.kubectl(["rollout", "history", "ds/daemon"]).ok();
    assert_eq!(history.lines().filter(|line| line.starts_with(char::is_numeric)).count(), 2, "{history}");
    let env = "{.items[*].spec.containers[0].env[*].name}";
    assert_eq!(value(&cluster, "pods", env), "A");
    cluster.kubectl(["rollout", "undo", "ds/daemon"]).ok();
    cluster.kubectl(["rollout", "status", "ds/daemon", "--timeout=60s"]).ok();
    becomes(&cluster, "pods", env, "");
    // A node that nobody may be on loses its daemon, and has it again.
    let node = value(&cluster, "nodes", "{.items[0].metadata.name}");
    cluster.kubectl(["taint", "node", &node, "mine=1:NoExecute"]).ok();
    becomes(&cluster, "ds/daemon", "{.status.desiredNumberScheduled}", "0");
    becomes(&cluster, "pods", "{.items[*].metadata.name}", "");
    cluster.kubectl(["taint", "node", &node, "mine-"]).ok();
    cluster.kubectl(["rollout", "status", "ds/daemon", "--timeout=60s"]).ok();
    becomes(&cluster, "ds/daemon", "{.status.numberReady}", "1");
    cluster.kubectl(["delete", "ds", "daemon", "--timeout=60s"]).ok();
    becomes(&cluster, "pods", "{.items[*].metadata.name}", "");
    becomes(&cluster, "controllerrevisions", "{.items[*].metadata.name}", "");
}

#[test]
fn stateful_sets_go_in_order() {
    let cluster = Cluster::up();
    cluster.apply(STATEFUL).ok();
    cluster.kubectl(["rollout", "status", "sts/web", "--timeout=60s"]).ok();
    let made = "{range .items[*]}{.metadata.name} {end}";
    let sorted = ["get", "pods", "--sort-by=.metadata.creationTimestamp", "-o"];
    let [get, pods, by, o] = sorted;
    let order = cluster.kubectl([get, pods, by, o, &format!("jsonpath={made}")]).ok();
    let mut names: Vec<&str> = order.split_whitespace().collect();
    names.sort_unstable();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    cluster.kubectl(["set", "env", "sts/web", "A=1"]).ok();
    cluster.kubectl(["rollout", "status", "sts/web", "--timeout=90s"]).ok();
    let env = "{.items[*].spec.containers[0].env[?(@.name==\"A\")].value}";
    assert_eq!(value(&cluster, "pods", env), "1 1 1");
    cluster.kubectl(["rollout", "undo", "sts/web"]).ok();
    cluster.kubectl(["rollout", "status", "sts/web", "--timeout=90s"]).ok();
    becomes(&cluster, "pods", env, "");
    becomes(&cluster, "sts/web", "{.status.readyReplicas}/{.status.updatedReplicas}", "3/3");
    cluster.kubectl(["scale", "sts/web", "--replicas=1"]).ok();
    becomes(&cluster, "pods", made, "web-0 ");
    let shown = cluster.kubectl(["get", "sts", "web", "--no-headers"]).ok();
    assert_eq!(shown.split_whitespace().nth(1), Some("1/1"), "{shown}");
    cluster.kubectl(["delete", "sts", "web", "--timeout=60s"]).ok();
    becomes(&cluster, "pods", made, "");
}

#[test]
fn pods_of_stateful_sets_keep_their_volumes() {
    let mut cluster = Cluster::up();
    cluster.apply(DATABASE).ok();
    cluster.kubectl(["rollout", "status", "sts/db", "--timeout=60s"]).ok();
    let claims = "{range .items[*]}{.metadata.name}={.status.phase} {end}";
    becomes(&cluster, "pvc", claims, "data-db-0=Bound data-db-1=Bound ");
    let volume_of_one = value(&cluster, "pvc/data-db-1", "{.spec.volumeName}");
    let starts = |cluster: &Cluster, pod: &str| {
        let mut seen = String::new();
        eventually("the pod can be asked", || {
            let output = cluster.kubectl(["exec", pod, "--", "cat", "/data/starts"]);
            seen = output.stdout.clone();
            if output.success { Ok(()) } else { Err(output.stderr) }
        });
        seen
    };
    assert_eq!(starts(&cluster, "db-1"), "db-1\n");
    // Another pod of the name has the data, also after it was scaled away.
    let first = value(&cluster, "pod/db-1", "{.metadata.uid}");
    cluster.kubectl(["delete", "pod", "db-1"]).ok();
    eventually("the next db-1 runs", || {
        let now =
            cluster.kubectl(["get", "pod", "db-1", "-o", "jsonpath={.metadata.uid} {.status.phase}"]).stdout;
        if now.ends_with(" Running") && !now.starts_with(&first) { Ok(()) } else { Err(now) }
    });
    assert_eq!(starts(&cluster, "db-1"), "db-1\ndb-1\n");
    cluster.kubectl(["scale", "sts/db", "--replicas=1"]).ok();
    becomes(&cluster, "pods", "{.items[*].metadata.name}", "db-0");
    assert_eq!(value(&cluster, "pvc", claims), "data-db-0=Bound data-db-1=Bound ");
    cluster.kubectl(["scale", "sts/db", "--replicas=2"]).ok();
    becomes(&cluster, "sts/db", "{.status.readyReplicas}", "2");
    assert_eq!(starts(&cluster, "db-1"), "db-1\ndb-1\ndb-1\n");
    assert_eq!(value(&cluster, "pvc/data-db-1", "{.spec.volumeName}"), volume_of_one);

    // With the other policy, what is scaled away loses its data.
    let policy = r#"{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenScaled":"Delete"}}}"#;
    cluster.kubectl(["patch", "sts", "db", "--type=merge", "-p", policy]).ok();
    cluster.kubectl(["scale", "sts/db", "--replicas=1"]).ok();
    becomes(&cluster, "pvc", claims, "data-db-0=Bound ");
    cluster.kubectl(["scale", "sts/db", "--replicas=2"]).ok();
    becomes(&cluster, "sts/db", "{.status.readyReplicas}", "2");
    assert_eq!(starts(&cluster, "db-1"), "db-1\n");
    assert_ne!(value(&cluster, "pvc/data-db-1", "{.spec.volumeName}"), volume_of_one);
    cluster.kubectl(["delete", "sts", "db", "--timeout=60s"]).ok();
    becomes(&cluster, "pvc", claims, "");
    becomes(&cluster, "pv", "{.items[*].metadata.name}", "");
    cluster.down().ok();
    let left = cluster.machine.leftovers(&cluster.cgroup_marker());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn cron_jobs_run_by_the_clock() {
    let cluster = Cluster::up();
    cluster.apply(CRON).ok();
    eventually("a job of the schedule succeeds", || {
        let last = value(&cluster, "cj/often", "{.status.lastSuccessfulTime}");
        if last.is_empty() { Err(value(&cluster, "jobs", "{.items[*].metadata.name}")) } else { Ok(()) }
    });
    cluster.kubectl(["patch", "cj", "often", "-p", r#"{"spec":{"suspend":true}}"#]).ok();
    cluster.kubectl(["create", "job", "now", "--from=cronjob/paused"]).ok();
    cluster.kubectl(["wait", "job/now", "--for=condition=Complete", "--timeout=60s"]).ok();
    assert_eq!(value(&cluster, "cj/paused", "{.status.lastScheduleTime}"), "");
    eventually("old jobs are collected", || {
        let active = value(&cluster, "cj/often", "{.status.active}");
        let jobs = cluster.kubectl(["get", "jobs", "-o", "name"]).ok();
        let count = jobs.lines().filter(|name| name.contains("often")).count();
        if active.is_empty() && (1..=2).contains(&count) { Ok(()) } else { Err(format!("{active} {jobs}")) }
    });
    cluster.kubectl(["delete", "cj", "--all", "--timeout=60s"]).ok();
    eventually("its jobs go with it", || {
        let jobs = cluster.kubectl(["get", "jobs", "-o", "name"]).ok();
        if jobs.contains("often") { Err(jobs) } else { Ok(()) }
    });
}

const OLD_WAYS: &str = r#"
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 2
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: coracle.example/busybox:1
        command: [sh, -c, 'mkdir -p /www && echo old > /www/index.html && exec httpd -f -p 8080 -h /www']
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {ports: [{port: 80}]}
"#;

#[test]
fn replication_controllers_and_endpoints_written_by_hand() {
    let cluster = Cluster::up();
    cluster.apply(OLD_WAYS).ok();
    becomes(&cluster, "rc/old", "{.status.readyReplicas}", "2");
    let address = value(&cluster, "pods", "{.items[0].status.podIP}");
    let endpoints = format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: outside}}\nsubsets:\n- addresses: [{{ip: {address}}}]\n  ports: [{{port: 8080}}]\n"
    );
    cluster.apply(&endpoints).ok();
    let slices =
        "{.items[?(@.metadata.labels.kubernetes\\.io/service-name==\"outside\")].endpoints[*].addresses[*]}";
    becomes(&cluster, "endpointslices", slices, &address);
    let service = value(&cluster, "svc/outside", "{.spec.clusterIP}");
    eventually("the service leads to the endpoint", || {
        let page = cluster.machine.run("busybox", ["wget", "-q", "-O", "-", &format!("http://{service}/")]);
        if page.stdout.contains("old") { Ok(()) } else { Err(format!("{page:?}")) }
    });
    cluster.kubectl(["delete", "endpoints", "outside"]).ok();
    becomes(&cluster, "endpointslices", slices, "");
    cluster.kubectl(["scale", "rc/old", "--replicas=1"]).ok();
    becomes(&cluster, "rc/old", "{.status.replicas}", "1");
    cluster.kubectl(["delete", "rc", "old", "--timeout=60s"]).ok();
    becomes(&cluster, "pods", "{.items[*].metadata.name}", "");
}
