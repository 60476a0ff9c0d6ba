//! A directory is a cluster: files of any kind, one host, no server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;

use tests::{Cluster, Machine, Options, eventually};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

const BACKEND: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: coracle.example/busybox:1
        command: [sh, -c, 'exec httpd -f -p 8080 -h /www']
        readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
        env: [{name: WORD, valueFrom: {secretKeyRef: {name: word, key: word}}}]
        volumeMounts: [{name: www, mountPath: /www}]
      volumes: [{name: www, configMap: {name: page}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: page, namespace: shop}
data: {index.html: "first\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: word, namespace: shop}
stringData: {word: hush}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"#;

const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000']}]
"#;

struct Directory {
    cluster: Cluster,
    path: PathBuf,
}

impl Directory {
    fn start(files: &[(&str, &str)]) -> Self {
        Self::of("agent", files)
    }

    fn of(subcommand: &str, files: &[(&str, &str)]) -> Self {
        let machine = Machine::new();
        let path = machine.path("manifests");
        std::fs::create_dir(&path).unwrap();
        for (name, text) in files {
            std::fs::write(path.join(name), text).unwrap();
        }
        let options = Options {
            subcommand: vec![subcommand.to_owned()],
            args: vec![
                "--manifests".to_owned(),
                path.display().to_string(),
                "--node-name".to_owned(),
                "alone".to_owned(),
            ],
            ..Options::default()
        };
        let mut cluster = Cluster::with(machine, options);
        cluster.wait_ready();
        Self { cluster, path }
    }

    fn write(&self, name: &str, text: &str) {
        // As editors do it: written beside and renamed.
        std::fs::write(self.path.join(format!(".{name}.new")), text).unwrap();
        std::fs::rename(self.path.join(format!(".{name}.new")), self.path.join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path.join(name)).unwrap();
    }

    fn get(&self, what: &[&str], path: &str) -> String {
        let jsonpath = format!("jsonpath={path}");
        let output = self.cluster.kubectl_version("1.36", &[&["get"], what, &["-o", &jsonpath]].concat());
        if output.success { output.stdout } else { output.stderr }
    }

    fn expect(&self, what: &[&str], path: &str, expected: &str) {
        eventually(&format!("{what:?} {path} is {expected:?}"), || {
            let found = self.get(what, path);
            if found == expected { Ok(()) } else { Err(format!("{found}\n{}", self.cluster.log())) }
        });
    }

    fn gone(&self, what: &[&str]) {
        eventually(&format!("{what:?} is gone"), || {
            let args = [&["get", "--ignore-not-found", "-o", "name"], what].concat();
            let found = self.cluster.kubectl_version("1.36", &args).ok();
            if found.is_empty() { Ok(()) } else { Err(found) }
        });
    }

    fn page(&self) -> String {
        let command = "wget -q -O - http://web.shop/index.html";
        self.cluster.kubectl(["exec", "client-alone", "--", "sh", "-c", command]).stdout
    }

    fn expect_page(&self, expected: &str) {
        eventually("the service answers by its name", || {
            let page = self.page();
            if page == expected { Ok(()) } else { Err(page) }
        });
    }
}

#[test]
fn files_of_any_kind_are_a_cluster() {
    // The order of names is the wrong one on purpose: the namespace comes last.
    let mut directory = Directory::start(&[
        ("a-backend.yaml", BACKEND),
        ("client.yaml", CLIENT),
        ("z-namespace.yaml", NAMESPACE),
    ]);
    let deployment = ["deployment", "web", "-n", "shop"];
    directory.expect(&deployment, "{.status.readyReplicas}", "2");
    directory.expect(&["pod", "client-alone"], "{.status.phase}", "Running");
    directory.expect_page("first\n");
    let environment =
        directory.cluster.kubectl(["exec", "-n", "shop", "deploy/web", "--", "sh", "-c", "echo $WORD"]).ok();
    assert_eq!(environment, "hush\n");

    // The agent is killed: pods, addresses and history are what they were.
    let identities = ["pods", "-n", "shop"];
    let of_each = "{range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}";
    let address = directory.get(&["service", "web", "-n", "shop"], "{.spec.clusterIP}");
    let before = directory.get(&identities, of_each);
    directory.cluster.kill();
    directory.cluster.start();
    directory.cluster.wait_ready();
    directory.expect(&deployment, "{.status.readyReplicas}", "2");
    assert_eq!(directory.get(&identities, of_each), before);
    assert_eq!(directory.get(&["service", "web", "-n", "shop"], "{.spec.clusterIP}"), address);
    directory.expect_page("first\n");

    // A file that changes: a rollout, with what the file says no more taken away.
    directory.write(
        "a-backend.yaml",
        &BACKEND
            .replace("replicas: 2", "replicas: 1")
            .replace("metadata: {labels: {app: web}}", "metadata: {labels: {app: web, version: '2'}}"),
    );
    directory.expect(&["pods", "-n", "shop", "-l", "app=web"], "{.items[*].metadata.labels.version}", "2");
    directory.expect(
        &deployment,
        "{.status.readyReplicas}{.status.updatedReplicas}{.status.replicas}",
        "111",
    );

    // A file that goes takes its objects and all they own with it.
    directory.remove("a-backend.yaml");
    directory.gone(&[
        "deployments,replicasets,pods,services,configmaps,secrets",
        "-n",
        "shop",
        "--field-selector",
        "metadata.name!=kube-root-ca.crt",
    ]);
    assert_eq!(directory.page(), "");
    directory.expect(&["namespace", "shop"], "{.status.phase}", "Active");

    // Also when nobody looks.
    directory.cluster.kill();
    directory.remove("z-namespace.yaml");
    directory.remove("client.yaml");
    directory.cluster.start();
    directory.cluster.wait_ready();
    directory.gone(&["namespace", "shop"]);
    directory.gone(&["pod", "client-alone"]);
}

#[test]
fn broken_files_are_reported_and_change_nothing() {
    let directory = Directory::start(&[("a.yaml", NAMESPACE), ("b.yaml", BACKEND)]);
    let deployment = ["deployment", "web", "-n", "shop"];
    directory.expect(&deployment, "{.status.readyReplicas}", "2");
    let generation = directory.get(&deployment, "{.metadata.generation}");
    let reported = |wanted: &str| {
        eventually(&format!("{wanted} is reported"), || {
            let events = directory
                .get(&["events", "--field-selector", "reason=FailedManifest"], "{.items[*].message}");
            let log = directory.cluster.log();
            if events.contains(wanted) && log.contains(wanted) {
                Ok(())
            } else {
                Err(format!("{events}\n{log}"))
            }
        });
    };
    // No YAML.
    directory.write("b.yaml", "apiVersion: v1\nkind: [\n");
    reported("b.yaml:");
    // YAML that is no object of its kind: what is right beside it is followed, and what was there stays.
    let page = BACKEND.replace("first", "second");
    directory.write("b.yaml", &page.replace("replicas: 2", "replicas: -2"));
    reported("b.yaml:6:3: ");
    directory.expect(&["configmap", "page", "-n", "shop"], "{.data.index\\.html}", "second\n");
    directory.write("b.yaml", &page.replace("replicas: 2", "replicaz: 2"));
    reported("replicaz");
    // A kind that nobody serves.
    directory.write("c.yaml", "apiVersion: boats.example/v1\nkind: Boat\nmetadata: {name: b}\n");
    reported("c.yaml:2:1: no matches for kind \"Boat\" in version \"boats.example/v1\"");
    assert_eq!(directory.get(&deployment, "{.metadata.generation}"), generation);
    assert_eq!(directory.get(&deployment, "{.spec.replicas}"), "2");
    // Repaired.
    directory.write("b.yaml", &page.replace("replicas: 2", "replicas: 1"));
    directory.expect(&deployment, "{.spec.replicas}{.status.readyReplicas}", "11");
}

#[test]
fn a_directory_beside_an_api_that_others_write_to() {
    let directory = Directory::of("up", &[("a.yaml", NAMESPACE), ("b.yaml", BACKEND)]);
    let deployment = ["deployment", "web", "-n", "shop"];
    directory.expect(&deployment, "{.status.readyReplicas}", "2");
    // What others make and change stays, also in objects that are from files.
    directory.cluster.kubectl(["create", "configmap", "own", "-n", "shop"]).ok();
    directory.cluster.kubectl(["annotate", "deployment", "web", "-n", "shop", "note=mine"]).ok();
    directory.write("b.yaml", &BACKEND.replace("replicas: 2", "replicas: 1"));
    directory.expect(&deployment, "{.spec.replicas}{.status.readyReplicas}", "11");
    assert_eq!(directory.get(&deployment, "{.metadata.annotations.note}"), "mine");
    directory.remove("b.yaml");
    directory.gone(&["deployments,pods,services,secrets", "-n", "shop"]);
    directory.expect(&["configmap", "own", "-n", "shop"], "{.metadata.name}", "own");
}

#[test]
fn what_somebody_changes_or_deletes_comes_back() {
    let directory = Directory::start(&[("backend.yaml", BACKEND), ("namespace.yaml", NAMESPACE)]);
    let deployment = ["deployment", "web", "-n", "shop"];
    directory.expect(&deployment, "{.status.readyReplicas}", "2");
    // Deleted, changed, and both with the objects that it owns; none of the files is touched.
    directory.cluster.kubectl(["delete", "service", "web", "-n", "shop"]).ok();
    directory.expect(&["service", "web", "-n", "shop"], "{.spec.ports[0].targetPort}", "8080");
    let page = r#"{"data":{"index.html":"other\n","more":"kept"}}"#;
    directory.cluster.kubectl(["patch", "configmap", "page", "-n", "shop", "-p", page]).ok();
    directory.expect(
        &["configmap", "page", "-n", "shop"],
        "{.data}",
        r#"{"index.html":"first\n","more":"kept"}"#,
    );
    directory.cluster.kubectl(["scale", "deployment", "web", "-n", "shop", "--replicas=5"]).ok();
    directory.expect(&deployment, "{.spec.replicas}", "2");
    let before = directory.get(&deployment, "{.metadata.uid}");
    directory.cluster.kubectl(["delete", "deployment", "web", "-n", "shop"]).ok();
    directory.expect(&deployment, "{.status.readyReplicas}", "2");
    assert_ne!(directory.get(&deployment, "{.metadata.uid}"), before);
    // A namespace takes its objects with it, and all come back.
    directory.cluster.kubectl(["delete", "namespace", "shop", "--wait=false"]).ok();
    eventually("the namespace is a new one", || {
        let secret = directory.get(&["secret", "word", "-n", "shop"], "{.data.word}");
        let phase = directory.get(&["namespace", "shop"], "{.status.phase}");
        let ready = directory.get(&deployment, "{.status.readyReplicas}");
        let fresh = directory.get(&deployment, "{.metadata.uid}") != before && phase == "Active";
        if fresh && secret == "aHVzaA==" && ready == "2" {
            Ok(())
        } else {
            Err(format!("{phase} {secret} {ready}"))
        }
    });
    // What no file says stays as somebody wants it.
    directory.cluster.kubectl(["annotate", "service", "web", "-n", "shop", "mine=yes"]).ok();
    directory.cluster.kubectl(["delete", "service", "web", "-n", "shop"]).ok();
    directory.expect(&["service", "web", "-n", "shop"], "{.metadata.annotations.mine}", "");
    directory.remove("backend.yaml");
    directory.gone(&deployment);
    directory.gone(&["service", "web", "-n", "shop"]);
}

const KEPT: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"#;

const KEEPER: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeper}
spec:
  replicas: 1
  serviceName: keeper
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: a
        image: coracle.example/busybox:1
        command: [sh, -c, 'echo up >> /own/starts; echo up >> /kept/starts; exec sleep 100000']
        volumeMounts: [{name: own, mountPath: /own}, {name: kept, mountPath: /kept}]
      volumes: [{name: kept, persistentVolumeClaim: {claimName: kept}}]
  volumeClaimTemplates:
  - metadata: {name: own}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"#;

#[test]
fn claims_of_files_have_volumes() {
    let mut directory = Directory::start(&[("claim.yaml", KEPT), ("keeper.yaml", KEEPER)]);
    let claims = "{range .items[*]}{.metadata.name}={.status.phase} {end}";
    directory.expect(&["pvc"], claims, "kept=Bound own-keeper-0=Bound ");
    let starts = |directory: &Directory, expected: &str| {
        eventually("what the pod wrote is there", || {
            let command = "cat /own/starts /kept/starts";
            let found = directory.cluster.kubectl(["exec", "keeper-0", "--", "sh", "-c", command]);
            if found.stdout == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    starts(&directory, "up\nup\n");
    // Neither another agent nor another pod changes what is in them.
    directory.cluster.kill();
    directory.cluster.start();
    directory.cluster.wait_ready();
    starts(&directory, "up\nup\n");
    directory.cluster.kubectl(["delete", "pod", "keeper-0"]).ok();
    starts(&directory, "up\nup\nup\nup\n");
    // The claim goes with its file, once nobody uses it; the set's own stays, as its policy is to retain.
    directory.remove("keeper.yaml");
    directory.remove("claim.yaml");
    directory.gone(&["pods"]);
    directory.expect(&["pvc"], claims, "own-keeper-0=Bound ");
}
