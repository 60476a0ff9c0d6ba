//! The Python, the JavaScript and the Go client against a one-node cluster; and a client in a pod, with nothing but the pod's
//! own token.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{BUSYBOX, Cluster, Machine, Options, eventually};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The folder of a client, fetched when it is not there yet.
fn client(name: &str) -> PathBuf {
    let output = Command::new(format!("{ROOT}/hack/clients")).args(["path", name]).output().unwrap();
    assert!(output.status.success(), "hack/clients: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Runs a script of a client to its end.
fn run(cluster: &Cluster, interpreter: &Path, script: &Path) {
    run_with(cluster, interpreter, &[script]);
}

fn run_with(cluster: &Cluster, program: &Path, arguments: &[&Path]) {
    let mut command = cluster.machine.command(program);
    let output =
        command.args(arguments).arg(BUSYBOX).env("KUBECONFIG", cluster.kubeconfig()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn the_python_client() {
    let cluster = Cluster::up();
    run(
        &cluster,
        &client("python").join("bin/python"),
        Path::new(&format!("{ROOT}/tests/clients/python/client_test.py")),
    );
}

#[test]
fn the_javascript_client() {
    let cluster = Cluster::up();
    // Modules are looked for beside the script.
    let script = std::fs::read_to_string(format!("{ROOT}/tests/clients/javascript/client_test.mjs")).unwrap();
    let script = cluster.machine.write("javascript/client_test.mjs", &script);
    let modules = client("javascript").join("node_modules");
    std::os::unix::fs::symlink(modules, cluster.machine.path("javascript/node_modules")).unwrap();
    run(&cluster, Path::new("node"), &script);
}

/// Typed Go clients read and write protobuf.
#[test]
fn the_go_client_in_protobuf() {
    let cluster = Cluster::up();
    run_with(&cluster, &client("go").join("client"), &[]);
}

const INSIDE: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: inside}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: inside}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: open, namespace: inside}
data: {word: sesame}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: inside}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: inside}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: inside}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: inside}
spec:
  serviceAccountName: reader
  restartPolicy: Never
  containers:
  - name: python
    image: coracle.example/busybox:1
    command: [/usr/bin/python3, /script/inside.py]
    env: [{name: PYTHONPATH, value: /client}]
    volumeMounts:
    - {name: script, mountPath: /script}
    - {name: client, mountPath: /client, readOnly: true}
    - {name: usr, mountPath: /usr, readOnly: true}
    - {name: lib, mountPath: /lib, readOnly: true}
    - {name: lib64, mountPath: /lib64, readOnly: true}
  volumes:
  - {name: script, configMap: {name: script}}
  # Python is the machine's own: an image of it would take longer than everything else here.
  - {name: usr, hostPath: {path: /usr}}
  - {name: lib, hostPath: {path: /usr/lib}}
  - {name: lib64, hostPath: {path: /usr/lib64}}
  - {name: client, hostPath: {path: CLIENT}}
"#;

#[test]
fn a_pod_has_the_rights_of_its_account_and_no_others() {
    // Pods reach the API server by an address of the machine.
    let machine = Machine::new();
    machine.run("ip", ["link", "add", "wire", "type", "veth", "peer", "name", "far-end"]).ok();
    machine.run("ip", ["address", "add", "192.168.77.1/24", "dev", "wire"]).ok();
    machine.run("ip", ["link", "set", "wire", "up"]).ok();
    machine.run("ip", ["link", "set", "far-end", "up"]).ok();
    machine.run("ip", ["route", "add", "default", "dev", "wire"]).ok();
    let args = ["--listen", "0.0.0.0:6443"].map(str::to_owned).to_vec();
    let cluster = Cluster::with(machine, Options { args, ..Options::default() });
    let libraries = std::fs::read_dir(client("python").join("lib")).unwrap();
    let python =
        libraries.map(|entry| entry.unwrap().path()).find(|path| path.join("site-packages").exists());
    let packages = python.unwrap().join("site-packages");

    cluster.kubectl(["create", "namespace", "inside"]).ok();
    let script = format!("--from-file=inside.py={ROOT}/tests/clients/python/inside_test.py");
    cluster.kubectl(["create", "configmap", "script", "-n", "inside", &script]).ok();
    cluster.apply(&INSIDE.replace("CLIENT", packages.to_str().unwrap())).ok();
    eventually("the client ends", || {
        let phase =
            cluster.kubectl(["get", "pod", "client", "-n", "inside", "-o", "jsonpath={.status.phase}"]);
        match phase.stdout.as_str() {
            "Succeeded" | "Failed" => Ok(()),
            _ => Err(cluster.kubectl(["describe", "pod", "client", "-n", "inside"]).stdout),
        }
    });
    let log = cluster.kubectl(["logs", "client", "-n", "inside"]).ok();
    let user = "User \"system:serviceaccount:inside:reader\" cannot";
    let expected = format!(
        "read: sesame\n\
         delete: 403 Forbidden: configmaps \"open\" is forbidden: {user} delete resource \"configmaps\" in API group \
         \"\" in the namespace \"inside\"\n\
         list: 403 Forbidden: configmaps is forbidden: {user} list resource \"configmaps\" in API group \"\" in the \
         namespace \"inside\"\n\
         get elsewhere: 403 Forbidden: configmaps \"open\" is forbidden: {user} get resource \"configmaps\" in API \
         group \"\" in the namespace \"default\"\n"
    );
    assert_eq!(log, expected);
}
