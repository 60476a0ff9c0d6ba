//! Stock kubectls of three ages, default flags, against a one-node cluster.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use tests::{Cluster, eventually};

const WEB: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: "first\n"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: coracle.example/busybox:1
        command: [sh, -c, 'trap "exit 0" TERM; echo serving; httpd -f -p 8080 -h /www & wait']
        ports: [{containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: page, mountPath: /www}]
      volumes: [{name: page, configMap: {name: page}}]
"#;

/// A command that is still running, ended when the test ends.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Server-side apply: fields that go when they are no longer applied, conflicts, force, and the way over from
/// client-side apply.
fn server_side_apply(cluster: &Cluster, version: &str) {
    let kubectl = |args: &[&str]| cluster.kubectl_version(version, args);
    let map = |data: &str| {
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ours}}\ndata: {{{data}}}\n");
        cluster.machine.write("ours.yaml", &text).to_str().unwrap().to_owned()
    };
    let data = || kubectl(&["get", "configmap", "ours", "-o", "jsonpath={.data}"]).ok();
    let file = map("a: \"1\", b: \"1\"");
    let applied = kubectl(&["apply", "--server-side", "-f", &file]).ok();
    assert!(applied.contains("configmap/ours serverside-applied"), "{applied}");
    kubectl(&["apply", "--server-side", "-f", &map("b: \"2\"")]).ok();
    assert_eq!(data(), r#"{"b":"2"}"#);
    let file = map("b: \"3\"");
    let refused = kubectl(&["apply", "--server-side", "--field-manager=other", "-f", &file]);
    assert!(refused.stderr.contains("conflict with \"kubectl\": .data.b"), "{refused:?}");
    kubectl(&["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", &file]).ok();
    assert_eq!(data(), r#"{"b":"3"}"#);
    kubectl(&["delete", "-f", &file]).ok();

    kubectl(&["apply", "-f", &map("a: \"1\", b: \"1\"")]).ok();
    kubectl(&["apply", "--server-side", "-f", &map("a: \"2\", b: \"1\"")]).ok();
    kubectl(&["apply", "--server-side", "-f", &map("a: \"2\"")]).ok();
    // The oldest leaves its client-side account in place, which still owns the field.
    let expected = if version == "1.20" { r#"{"a":"2","b":"1"}"# } else { r#"{"a":"2"}"# };
    assert_eq!(data(), expected);
    kubectl(&["delete", "-f", &file]).ok();
}

/// Roles, tokens of accounts, impersonation, and a certificate for a new user.
fn permissions(cluster: &Cluster, version: &str) {
    let kubectl = |args: &[&str]| cluster.kubectl_version(version, args);
    kubectl(&["create", "namespace", "guarded"]).ok();
    kubectl(&["create", "serviceaccount", "robot", "-n", "guarded"]).ok();
    let can = |args: &[&str]| {
        let mut all = vec!["auth", "can-i", "--as=system:serviceaccount:guarded:robot", "-n", "guarded"];
        all.extend_from_slice(args);
        kubectl(&all).stdout.trim().to_owned()
    };
    assert_eq!(kubectl(&["auth", "can-i", "delete", "nodes"]).stdout.trim(), "yes");
    assert_eq!(can(&["list", "pods"]), "no");
    kubectl(&["create", "role", "reader", "--verb=get,list", "--resource=pods", "-n", "guarded"]).ok();
    let bind = [
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        "--serviceaccount=guarded:robot",
        "-n",
        "guarded",
    ];
    kubectl(&bind).ok();
    assert_eq!(can(&["list", "pods"]), "yes");
    assert_eq!(can(&["list", "secrets"]), "no");
    assert!(can(&["--list"]).contains("selfsubjectaccessreviews"));
    let refused = kubectl(&["get", "secrets", "-n", "guarded", "--as=jane"]);
    let why = "User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"guarded\"";
    assert!(refused.stderr.contains(why), "{refused:?}");
    let described = kubectl(&["describe", "clusterrole", "view"]).ok();
    assert!(described.contains("deployments.apps"), "{described}");
    if version != "1.20" {
        let token = kubectl(&["create", "token", "robot", "-n", "guarded"]).ok();
        let token = format!("--token={}", token.trim());
        // A kubeconfig's certificate comes before a token, so only the server and its CA are taken from it.
        let server =
            kubectl(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}"]).ok();
        let server = format!("--server={server}");
        let bearer = |args: &[&str]| {
            let mut command = cluster.kubectl_command(version);
            command
                .env("KUBECONFIG", "/dev/null")
                .args([&token, &server, "--insecure-skip-tls-verify"])
                .args(args);
            let output = command.output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert!(
            bearer(&["get", "pods", "-n", "guarded"]).0,
            "{:?}",
            bearer(&["get", "pods", "-n", "guarded"])
        );
        let (allowed, why) = bearer(&["get", "secrets", "-n", "guarded"]);
        assert!(!allowed && why.contains("system:serviceaccount:guarded:robot"), "{why}");
        let who = kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
        assert_eq!(who.ok(), "admin");
    }
    kubectl(&["delete", "namespace", "guarded", "--timeout=60s"]).ok();
    certificate(cluster, version);
}

/// A certificate for a new user: asked for, approved, signed.
fn certificate(cluster: &Cluster, version: &str) {
    let kubectl = |args: &[&str]| cluster.kubectl_version(version, args);
    let key = cluster.machine.path("new.key");
    let request = cluster.machine.path("new.csr");
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/O=devs/CN=new",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&request)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let encoded = std::process::Command::new("base64").arg("-w0").arg(&request).output().unwrap();
    let text = format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: new}}\nspec:\n  request: \
         {}\n  signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n",
        String::from_utf8_lossy(&encoded.stdout)
    );
    let file = cluster.machine.write("csr.yaml", &text);
    kubectl(&["create", "-f", file.to_str().unwrap()]).ok();
    assert!(kubectl(&["get", "csr"]).ok().contains("Pending"));
    kubectl(&["certificate", "approve", "new"]).ok();
    eventually("the certificate is signed", || {
        let shown = kubectl(&["get", "csr", "new"]).ok();
        if shown.contains("Approved,Issued") { Ok(()) } else { Err(shown) }
    });
    kubectl(&["delete", "csr", "new"]).ok();
}

fn check(version: &str) {
    let cluster = Cluster::up();
    let kubectl = |args: &[&str]| cluster.kubectl_version(version, args);
    server_side_apply(&cluster, version);
    permissions(&cluster, version);
    let file = cluster.machine.write("web.yaml", WEB);
    let file = file.to_str().unwrap();

    // apply, twice: the second changes nothing
    let applied = kubectl(&["apply", "-f", file]).ok();
    assert!(applied.contains("deployment.apps/web created"), "{applied}");
    let again = kubectl(&["apply", "-f", file]).ok();
    assert_eq!(again.lines().filter(|line| line.ends_with("unchanged")).count(), 3, "{again}");
    kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]).ok();

    // get in its formats
    let table = kubectl(&["get", "pods", "-o", "wide"]).ok();
    assert!(table.starts_with("NAME"), "{table}");
    assert_eq!(table.matches("1/1     Running").count(), 2, "{table}");
    assert!(table.contains("NOMINATED NODE"), "{table}");
    assert!(kubectl(&["get", "deployment", "web"]).ok().contains("2/2"));
    assert!(kubectl(&["get", "deployment", "web", "-o", "yaml"]).ok().contains("readyReplicas: 2"));
    let names = kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"]).ok();
    let pod = names.split(' ').next().unwrap().to_owned();
    let field = format!("metadata.name={pod}");
    assert_eq!(
        kubectl(&["get", "pods", "--field-selector", &field, "-o", "name"]).ok().trim(),
        format!("pod/{pod}")
    );
    assert!(kubectl(&["get", "nodes"]).ok().contains("Ready"));
    assert!(kubectl(&["get", "all"]).ok().contains("replicaset.apps/web-"));
    assert!(kubectl(&["get", "endpoints", "web"]).ok().contains(":8080"));
    assert!(kubectl(&["get", "events"]).ok().contains("Scheduled"));

    // describe
    let described = kubectl(&["describe", "pod", &pod]).ok();
    assert!(
        described.contains("Ready:          True") && described.contains("Started container web"),
        "{described}"
    );
    let described = kubectl(&["describe", "deployment", "web"]).ok();
    assert!(described.contains("2 desired | 2 updated | 2 total | 2 available"), "{described}");
    kubectl(&["describe", "service", "web"]).ok();
    kubectl(&["describe", "node"]).ok();

    // logs, followed
    assert_eq!(kubectl(&["logs", &pod]).ok(), "serving\n");
    let mut follow = cluster.kubectl_command(version);
    let mut follow = Background(follow.args(["logs", "-f", &pod]).stdout(Stdio::piped()).spawn().unwrap());
    let mut first = String::new();
    BufReader::new(follow.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "serving\n");
    drop(follow);

    // exec; the oldest speaks SPDY. More of it is in streams.rs.
    assert_eq!(kubectl(&["exec", &pod, "--", "cat", "/www/index.html"]).ok(), "first\n");
    let failed = kubectl(&["exec", &pod, "--", "sh", "-c", "echo oops >&2; exit 7"]);
    assert_eq!((failed.code, failed.stderr.contains("oops")), (7, true), "{failed:?}");

    // a watch shows what happens
    let mut watch = cluster.kubectl_command(version);
    watch.args(["get", "pods", "-w", "-o", "name"]).stdout(Stdio::piped());
    let mut watch = Background(watch.spawn().unwrap());
    let mut seen = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let run = kubectl(&[
        "run",
        "once",
        "--image=coracle.example/busybox:1",
        "--restart=Never",
        "--command",
        "--",
        "true",
    ])
    .ok();
    assert!(run.contains("pod/once created"), "{run}");
    assert!(seen.any(|line| line.unwrap() == "pod/once"), "the watch ended without the pod");
    drop(watch);
    eventually("the pod completes", || {
        let phase = kubectl(&["get", "pod", "once", "-o", "jsonpath={.status.phase}"]).ok();
        if phase == "Succeeded" { Ok(()) } else { Err(phase) }
    });

    // scale, label, annotate, patch, edit, diff
    kubectl(&["scale", "deployment/web", "--replicas=3"]).ok();
    kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    kubectl(&["label", "deployment/web", "tier=front"]).ok();
    kubectl(&["annotate", "deployment/web", "note=afloat"]).ok();
    kubectl(&[
        "patch",
        "deployment",
        "web",
        "-p",
        r#"{"spec":{"minReadySeconds":0,"revisionHistoryLimit":5}}"#,
    ])
    .ok();
    kubectl(&[
        "patch",
        "deployment",
        "web",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/metadata/labels/json","value":"yes"}]"#,
    ])
    .ok();
    kubectl(&["patch", "configmap", "page", "--type=merge", "-p", r#"{"data":{"more":"text"}}"#]).ok();
    let labels = kubectl(&[
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.metadata.labels.tier},{.metadata.labels.json},{.spec.revisionHistoryLimit}",
    ]);
    assert_eq!(labels.ok(), "front,yes,5");
    let edited = cluster
        .kubectl_command(version)
        .args(["edit", "configmap", "page"])
        .env("KUBE_EDITOR", "sed -i s/text/edited/")
        .output()
        .unwrap();
    assert!(edited.status.success(), "{edited:?}");
    assert_eq!(kubectl(&["get", "configmap", "page", "-o", "jsonpath={.data.more}"]).ok(), "edited");
    let changed = cluster.machine.write("changed.yaml", &WEB.replace("replicas: 2", "replicas: 1"));
    let diff = kubectl(&["diff", "-f", changed.to_str().unwrap()]);
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(diff.stdout.contains("-  replicas: 3") && diff.stdout.contains("+  replicas: 1"), "{diff:?}");

    // a rollout and its undoing
    kubectl(&["set", "env", "deployment/web", "COLOUR=blue"]).ok();
    kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let environment =
        ["get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env[*].value}"];
    assert_eq!(kubectl(&environment).ok(), "blue");
    kubectl(&["rollout", "undo", "deployment/web"]).ok();
    kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    assert_eq!(kubectl(&environment).ok(), "");
    assert!(kubectl(&["rollout", "history", "deployment/web"]).ok().contains('3'));

    // create
    kubectl(&["create", "namespace", "side"]).ok();
    kubectl(&["create", "configmap", "made", "--from-literal=a=b", "-n", "side"]).ok();
    kubectl(&["create", "secret", "generic", "made", "--from-literal=password=x", "-n", "side"]).ok();
    kubectl(&["create", "deployment", "made", "--image=coracle.example/busybox:1", "-n", "side"]).ok();
    assert_eq!(
        kubectl(&["get", "secret", "made", "-n", "side", "-o", "jsonpath={.data.password}"]).ok(),
        "eA=="
    );
    assert_eq!(kubectl(&["get", "configmap", "made", "-n", "side", "-o", "jsonpath={.data.a}"]).ok(), "b");

    // what the server serves
    let resources = kubectl(&["api-resources"]).ok();
    assert!(resources.contains("deployments") && resources.contains("deploy"), "{resources}");
    let explained = kubectl(&["explain", "pod.spec"]).ok();
    assert!(explained.contains("restartPolicy") && explained.contains("containers"), "{explained}");
    kubectl(&["version"]).ok();
    kubectl(&["cluster-info"]).ok();

    // delete, and everything that belongs to it
    kubectl(&["delete", "namespace", "side", "--timeout=60s"]).ok();
    kubectl(&["delete", "-f", file, "--timeout=60s"]).ok();
    kubectl(&["delete", "pod", "once", "--timeout=60s"]).ok();
    eventually("all pods are gone", || {
        let left = kubectl(&["get", "pods", "-o", "name"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn kubectl_1_36_works_with_default_flags() {
    check("1.36");
}

#[test]
fn kubectl_1_32_works_with_default_flags() {
    check("1.32");
}

#[test]
fn kubectl_1_20_works_with_default_flags() {
    check("1.20");
}
