//! `coracle cp` and `kubectl cp`: files and directories into containers and out of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tests::{Cluster, Machine, Options, Output, eventually};

/// Two pods: one whose image has a shell and a tar, one whose image has a single program.
fn pods(extra: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: full}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000']}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: bare}}
spec:
  {extra}
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: coracle.example/bare:1
    command: [/busybox, sleep, '100000']
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, emptyDir: {{}}}}]
"#
    )
}

fn import_bare(cluster: &Cluster) {
    let root = cluster.machine.path("bare");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::copy("/bin/busybox", root.join("busybox")).unwrap();
    fs::write(root.join("etc/motd"), "hello\n").unwrap();
    symlink("/etc/motd", root.join("link")).unwrap();
    let root = root.display().to_string();
    cluster.coracle_local(&["image", "build-rootfs", "--name", "coracle.example/bare:1", &root]).ok();
}

fn running(cluster: &Cluster, pod: &str) {
    eventually(&format!("{pod} runs"), || {
        let phase = cluster.kubectl(["get", "pod", pod, "-o", "jsonpath={.status.phase}"]).stdout;
        if phase == "Running" {
            Ok(())
        } else {
            Err(format!("{phase}\n{}", cluster.kubectl(["describe", "pod", pod]).stdout))
        }
    });
}

fn tree(base: &Path) {
    fs::create_dir_all(base.join("sub/empty")).unwrap();
    fs::write(base.join("sub/run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(base.join("sub/run"), fs::Permissions::from_mode(0o751)).unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    fs::write(base.join("large"), large).unwrap();
    symlink("sub/run", base.join("inside")).unwrap();
    symlink("/etc/shadow", base.join("outside")).unwrap();
}

fn both_ways(cluster: &Cluster, pod: &str) {
    let local = cluster.machine.path("tree");
    let copy = |from: &str, to: &str| -> Output { cluster.coracle(&["cp", from, to]) };
    let here = |name: &str| cluster.machine.path(name).display().to_string();
    copy(&here("tree"), &format!("{pod}:/data/tree")).ok();
    let back = cluster.machine.path(format!("back-{pod}"));
    let warned = copy(&format!("{pod}:/data/tree"), &back.display().to_string());
    assert!(
        warned.success && warned.stderr.contains("skipping symlink: \"data/tree/outside\""),
        "{warned:?}"
    );
    assert_eq!(fs::read(back.join("large")).unwrap(), fs::read(local.join("large")).unwrap());
    assert_eq!(fs::metadata(back.join("sub/run")).unwrap().mode() & 0o7777, 0o751);
    assert_eq!(fs::read_link(back.join("inside")).unwrap(), Path::new("sub/run"));
    assert!(back.join("sub/empty").is_dir() && fs::symlink_metadata(back.join("outside")).is_err());

    // To a directory that exists: under its own name, whichever way.
    copy(&here("tree/sub/run"), &format!("{pod}:/data/tree")).ok();
    let there = cluster.machine.path(format!("there-{pod}"));
    fs::create_dir(&there).unwrap();
    copy(&format!("{pod}:/data/tree/run"), &there.display().to_string()).ok();
    assert_eq!(fs::read_to_string(there.join("run")).unwrap(), "#!/bin/sh\necho ran\n");

    // Standard input and output.
    let mut piped = cluster.machine.command(tests::coracle());
    piped.args(["cp", "-", &format!("{pod}:/data/typed")]).env("KUBECONFIG", cluster.kubeconfig());
    let input = cluster.machine.write("typed", "from a pipe\n");
    piped.stdin(fs::File::open(input).unwrap());
    let sent = piped.output().unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(copy(&format!("{pod}:/data/typed"), "-").ok(), "from a pipe\n");

    // What is wrong is told in words, and nothing is left half done here.
    let missing = copy(&format!("{pod}:/no/such"), &here("none"));
    assert!(!missing.success && missing.stderr.contains("No such file or directory"), "{missing:?}");
    assert!(!cluster.machine.path("none").exists());
    let nowhere = copy(&here("tree/sub/run"), &format!("{pod}:/no/such/place"));
    assert!(!nowhere.success && nowhere.stderr.contains("opening /no/such"), "{nowhere:?}");
}

#[test]
fn files_go_into_pods_and_out_of_them() {
    let mut cluster = Cluster::up();
    import_bare(&cluster);
    tree(&cluster.machine.path("tree"));
    cluster.apply(&pods("")).ok();
    running(&cluster, "full");
    running(&cluster, "bare");
    cluster.kubectl(["exec", "full", "--", "mkdir", "/data"]).ok();
    both_ways(&cluster, "full");
    both_ways(&cluster, "bare");
    // A link that is named is followed, and as the container sees it.
    assert_eq!(cluster.coracle(&["cp", "bare:/link", "-"]).ok(), "hello\n");

    // kubectl's own way, where the image has a tar.
    let (tree, target) = (cluster.machine.path("tree/sub"), "full:/data/by-kubectl");
    cluster.kubectl(["cp", tree.to_str().unwrap(), target]).ok();
    let back = cluster.machine.path("by-kubectl");
    cluster.kubectl(["cp", target, back.to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(back.join("run")).unwrap(), "#!/bin/sh\necho ran\n");

    // Nobody copies who may not execute.
    let config = fs::read_to_string(cluster.kubeconfig()).unwrap();
    assert!(config.contains("admin"));
    cluster.kubectl(["create", "serviceaccount", "reader"]).ok();
    cluster
        .kubectl(["create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount=default:reader"])
        .ok();
    let token = cluster.kubectl(["create", "token", "reader"]).ok();
    let weak = cluster.machine.path("weak");
    fs::copy(cluster.kubeconfig(), &weak).unwrap();
    let weak = weak.to_str().unwrap();
    cluster
        .kubectl(["config", "--kubeconfig", weak, "set-credentials", "reader", "--token", token.trim()])
        .ok();
    let context = cluster.kubectl(["config", "--kubeconfig", weak, "current-context"]).ok();
    cluster.kubectl(["config", "--kubeconfig", weak, "set-context", context.trim(), "--user", "reader"]).ok();
    let refused = cluster.coracle(&["cp", "--kubeconfig", weak, "bare:/etc/motd", "-"]);
    assert!(!refused.success && refused.stderr.contains("pods/exec"), "{refused:?}");
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
    cluster.down().ok();
    let left = cluster.machine.leftovers(&cluster.cgroup_marker());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn owners_are_the_containers() {
    let cluster = Cluster::up();
    import_bare(&cluster);
    let file = cluster.machine.write("owned", "x");
    std::os::unix::fs::chown(&file, Some(1234), Some(5678)).unwrap();
    let file = file.display().to_string();
    // In a user namespace, with the pod's own ids.
    cluster.apply(&pods("hostUsers: false")).ok();
    running(&cluster, "bare");
    cluster.coracle(&["cp", &file, "bare:/data/kept"]).ok();
    cluster.coracle(&["cp", "--no-preserve", &file, "bare:/data/given"]).ok();
    let owner =
        |path: &str| cluster.kubectl(["exec", "bare", "--", "/busybox", "stat", "-c", "%u:%g", path]).ok();
    assert_eq!(owner("/data/kept"), "1234:5678\n");
    assert_eq!(owner("/data/given"), "0:0\n");
    let back = cluster.machine.path("back");
    cluster.coracle(&["cp", "bare:/data/kept", back.to_str().unwrap()]).ok();
    assert_eq!(fs::metadata(&back).unwrap().uid(), 1234);
}

#[test]
fn static_pods_can_be_copied_from() {
    let machine = Machine::new();
    let manifests = machine.path("manifests");
    fs::create_dir(&manifests).unwrap();
    let options = Options {
        subcommand: vec!["agent".to_owned()],
        args: ["--manifests", manifests.to_str().unwrap(), "--node-name", "alone"]
            .map(str::to_owned)
            .to_vec(),
        ..Options::default()
    };
    let mut cluster = Cluster::with(machine, options);
    import_bare(&cluster);
    fs::write(manifests.join("pods.yaml"), pods("")).unwrap();
    cluster.wait_ready();
    running(&cluster, "bare-alone");
    let file = cluster.machine.write("note", "hello\n").display().to_string();
    cluster.coracle(&["cp", &file, "bare-alone:/data/"]).ok();
    assert_eq!(cluster.coracle(&["cp", "bare-alone:/data/note", "-"]).ok(), "hello\n");
}
