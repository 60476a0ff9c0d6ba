//! Images that nobody uses make room; those in use, and those that nobody could bring back, stay.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Child, Command, Stdio};

use tests::{Cluster, Machine, Options, eventually};

/// Debian's docker-registry in a machine.
struct Registry(Child);

impl Registry {
    const ADDRESS: &str = "127.0.0.1:5000";

    fn start(machine: &Machine) -> Self {
        let storage = machine.path("registry").display().to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: '{}'}}\n",
            Self::ADDRESS
        );
        let config = machine.write("registry.yml", &config);
        let mut command = machine.command("docker-registry");
        command.arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry starts (Debian package docker-registry)");
        eventually("the registry answers", || {
            let answer =
                machine.run("busybox", ["wget", "-q", "-O", "-", &format!("http://{}/v2/", Self::ADDRESS)]);
            if answer.success { Ok(()) } else { Err(answer.stderr) }
        });
        Self(child)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Builds an image of one file in a store of its own and pushes it.
fn push(machine: &Machine, name: &str) -> String {
    let root = machine.path(format!("{name}-root"));
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("word"), format!("{name}\n")).unwrap();
    let (data, run) = (machine.path("source"), machine.path("source-run"));
    let tar = machine.path(format!("{name}.tar")).display().to_string();
    let local = |args: &[&str]| {
        let mut command = Command::new(tests::coracle());
        command.args(args).arg("--data-dir").arg(&data).arg("--run-dir").arg(&run);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    local(&["image", "build-rootfs", "--name", name, &root.display().to_string()]);
    local(&["image", "export", name, &tar]);
    let reference = format!("{}/{name}:1", Registry::ADDRESS);
    let (from, to) = (format!("oci-archive:{tar}"), format!("docker://{reference}"));
    machine.run("skopeo", ["--insecure-policy", "copy", "--dest-tls-verify=false", &from, &to]).ok();
    reference
}

#[test]
fn what_nobody_uses_makes_room() {
    let machine = Machine::new();
    let registry = Registry::start(&machine);
    let (kept, passing) = (push(&machine, "kept"), push(&machine, "passing"));
    // Every disk is fuller than this, so all goes that may.
    let args = ["--image-gc-high-threshold=0", "--image-gc-low-threshold=0", "--image-gc-min-age=0"];
    let options = Options { args: args.map(str::to_owned).to_vec(), ..Options::default() };
    let cluster = Cluster::with(machine, options);
    let pod = |name: &str, image: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000'], volumeMounts: [{{name: v, mountPath: /v}}]}}]\n  \
             volumes: [{{name: v, image: {{reference: '{image}'}}}}]\n"
        )
    };
    cluster.apply(&[pod("keeper", &kept), pod("passer", &passing)].concat()).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/keeper", "pod/passer", "--timeout=60s"]).ok();
    let images = || cluster.coracle_local(&["image", "list"]).ok();
    assert!(images().contains("passing") && images().contains("kept"), "{}", images());

    cluster.kubectl(["delete", "pod", "passer"]).ok();
    eventually("the image that nobody uses is gone", || {
        let images = images();
        if images.contains("passing") { Err(images) } else { Ok(()) }
    });
    let left = images();
    assert!(left.contains("kept"), "an image in use was removed: {left}");
    assert!(left.contains("coracle.example/busybox"), "an image that cannot be pulled was removed: {left}");
    assert_eq!(cluster.kubectl(["exec", "keeper", "--", "cat", "/v/word"]).ok(), "kept\n");
    // It can be had again.
    cluster.apply(&pod("passer", &passing)).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/passer", "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(["exec", "passer", "--", "cat", "/v/word"]).ok(), "passing\n");
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
    drop(registry);
}
