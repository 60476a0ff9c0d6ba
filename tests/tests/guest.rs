//! On a kernel of its own, with cgroup v2 and nothing else on the machine: coracle is process number one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::{Guest, guest_kernel};

/// Emulated, the guest is some ten times slower than this machine.
const PATIENCE: Duration = Duration::from_secs(600);

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A cluster in a guest. Its limits are what the kernel's own files say.
const CLUSTER: &str = r#"
set -eu
export PATH=/bin KUBECONFIG=/var/lib/coracle/kubeconfig
/bin/busybox --install -s /bin
ln -s /init /bin/coracle
mkdir -p /rootfs/bin /rootfs/tmp /rootfs/www
cp /bin/busybox /rootfs/bin/busybox
for applet in $(busybox --list); do [ $applet = busybox ] || ln /rootfs/bin/busybox /rootfs/bin/$applet; done
coracle image build-rootfs --name coracle.example/busybox:1 /rootfs
coracle up --node-name guest >/tmp/log 2>&1 &
until [ -e $KUBECONFIG ]; do sleep 0.1; done
coracle wait --for=create node/guest --timeout 120s || { cat /tmp/log; exit 1; }
coracle wait --for=condition=Ready node/guest --timeout 120s || { cat /tmp/log; exit 1; }
coracle apply -f /hello.yaml
coracle apply -f /limits.yaml
coracle wait --for=condition=Ready pod/limited pod/client --timeout 120s || { coracle get pods; coracle describe pod limited; cat /tmp/log; exit 1; }
coracle wait --for=condition=Available deployment/hello --timeout 120s || { coracle get pods; cat /tmp/log; exit 1; }
pod=$(find /sys/fs/cgroup/coracle -name "pod$(coracle get pod limited -o 'jsonpath={.metadata.uid}')*" | head -n 1)
echo "layout: $(find /sys/fs/cgroup -maxdepth 1 -name cgroup.controllers | wc -l)"
container=$(find "$pod" -mindepth 1 -type d -name '*' | while read -r d; do [ "$(cat $d/memory.max)" = 33554432 ] && echo $d && break; done)
echo "memory: $(cat $container/memory.max)"
echo "cpu: $(cat $container/cpu.max) $(cat $container/cpu.weight)"
echo "inside: $(coracle exec limited -- cat /sys/fs/cgroup/memory.max)"
echo "device: $(coracle exec limited -- sh -c 'mknod /tmp/kmsg c 1 11 2>&1 || true; cat /tmp/kmsg 2>&1 | head -n 1')"
until [ "$(coracle get pod hog -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason}')" = OOMKilled ]; do sleep 0.2; done
echo "hog: $(coracle get pod hog -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}')"
until [ $(coracle logs client | grep '^hello from' | sort -u | wc -l) = 3 ]; do sleep 0.2; done
echo "backends: $(coracle logs client | grep '^hello from' | sort -u | wc -l)"
coracle delete -f /hello.yaml --timeout 120s
coracle down
echo "left: $(find /sys/fs/cgroup -maxdepth 1 -name 'coracle*' | wc -l) $(ps | grep -c '[k]eeper')"
"#;

const LIMITS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: coracle.example/busybox:1
    command: [sleep, '100000']
    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 250m, memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers:
  - name: a
    image: coracle.example/busybox:1
    # The whole input is one line, so it is held in memory.
    command: [sh, -c, 'tail -c 100000000 /dev/zero']
    resources: {limits: {memory: 16Mi}}
"#;

#[test]
fn a_cluster_runs_on_cgroup_v2_below_process_number_one() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ran = Guest::new()
        .file("/cluster.sh", write("cluster.sh", CLUSTER))
        .file("/limits.yaml", write("limits.yaml", LIMITS))
        .file("/hello.yaml", repository("examples/hello/hello.yaml"))
        .run(&["/bin/sh", "/cluster.sh"], PATIENCE);
    assert_eq!(ran.status, 0, "{}", ran.console);
    let said = |what: &str| {
        let line = ran.console.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {what:?}:\n{}", ran.console)).to_owned()
    };
    assert_eq!(said("layout"), "1", "cgroup v2");
    assert_eq!(said("memory"), "33554432");
    // 102 shares as a weight, by the formula that keeps small and large shares in proportion (kubernetes/enhancements#2254).
    assert_eq!(said("cpu"), "25000 100000 17");
    assert_eq!(said("inside"), "33554432", "a container sees its own control group as the root");
    assert!(said("device").contains("not permitted"), "{}", said("device"));
    assert_eq!(said("hog"), "OOMKilled 137");
    assert_eq!(said("backends"), "3");
    assert_eq!(said("left"), "0 0");
}

/// As a boot loader starts it, on a machine that nobody prepared an archive for: a kernel, `vm build`, and a line.
#[test]
fn what_vm_build_writes_boots_by_the_kernels_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let kernel = guest_kernel();
    let built = Command::new(tests::coracle())
        .args(["vm", "build", "--kernel"])
        .arg(&kernel)
        .arg(path("archive"))
        .output();
    let built = built.unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let boot = |line: &str| {
        let line = format!("console=ttyS0 quiet panic=-1 no_timer_check {line}");
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(vm::machine::QEMU);
        command.args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-m",
            "384",
            "-accel",
            "tcg",
            "-serial",
            "stdio",
        ]);
        command.arg("-kernel").arg(&kernel).arg("-initrd").arg(path("archive")).args(["-append", &line]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).replace('\r', "")
    };
    let console = boot(r#"coracle.hostname=metal coracle.once coracle.run="get --help""#);
    assert!(
        console.contains("Usage: coracle get") && console.contains("the program ended with status 0"),
        "{console}"
    );
    // A mistake is told, and the machine is off.
    let console = boot("coracle.adress=192.0.2.2/24 coracle.run=up");
    let words = "coracle guest: it does not come up: coracle.adress=192.0.2.2/24 on the kernel's command line is not understood";
    assert!(console.contains(words), "{console}");
}

/// A machine whose clock somebody sets an hour forth and back.
const CLOCK: &str = r#"
set -eu
export PATH=/bin KUBECONFIG=/var/lib/coracle/kubeconfig
/bin/busybox --install -s /bin
ln -s /init /bin/coracle
mkdir -p /rootfs/bin /rootfs/tmp
cp /bin/busybox /rootfs/bin/busybox
for applet in $(busybox --list); do [ $applet = busybox ] || ln /rootfs/bin/busybox /rootfs/bin/$applet; done
coracle image build-rootfs --name coracle.example/busybox:1 /rootfs
coracle up --node-name guest >/tmp/log 2>&1 &
until [ -e $KUBECONFIG ]; do sleep 0.1; done
fail() { echo "failed: $*"; coracle get pods; coracle get events; cat /tmp/log; exit 1; }
coracle wait --for=create node/guest --timeout 120s || fail create
coracle wait --for=condition=Ready node/guest --timeout 120s || fail ready
coracle apply -f /clock.yaml
coracle wait --for=condition=Ready pod/probed --timeout 120s || fail pods
coracle wait --for=condition=Available deployment/two --timeout 120s || fail deployment
state() { coracle get pods -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}{"\n"}{end}' | sort; }
probes() { coracle exec probed -- sh -c 'wc -l < /tmp/probes'; }
lease() { coracle get lease guest -n kube-node-lease -o 'jsonpath={.spec.renewTime}' | cut -c 1-13; }
version() { coracle get configmap mark -o 'jsonpath={.metadata.resourceVersion}'; }
ready() { coracle get node guest -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'; }
before=$(state)
last=$(version)
jump() {
  date -s @$(($(date +%s) + $2)) >/dev/null
  # The heart beats by the new time, and probes go on by theirs.
  hour=$(date -u +%Y-%m-%dT%H)
  until [ "$(lease)" = $hour ]; do hour=$(date -u +%Y-%m-%dT%H); sleep 0.5; done
  goal=$(($(probes) + 8))
  until [ $(probes) -ge $goal ]; do sleep 0.5; done
  # The API counts on, and pods come and go.
  coracle apply -f /mark-$1.yaml
  now=$(version)
  [ $now -gt $last ] || fail version $last $now
  last=$now
  coracle apply -f /guest-$1.yaml
  coracle wait --for=condition=Ready pod/guest-$1 --timeout 120s || fail pod guest-$1
  coracle delete pod guest-$1 --timeout 120s || fail deleting guest-$1
  [ "$(state)" = "$before" ] || { echo "$before"; state; fail state; }
  echo "$1: $(ready)"
}
jump forth 3600
jump back -3600
coracle down
"#;

fn clock_manifests() -> Vec<(String, String)> {
    let mark = |when: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: mark}}\ndata: {{when: {when}}}\n")
    };
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 5\n  \
             containers: [{{name: a, image: 'coracle.example/busybox:1', command: [sh, -c, 'trap exit TERM; while :; do sleep 1; done']{more}}}]\n"
        )
    };
    let probe = "{exec: {command: [sh, -c, 'echo x >> /tmp/probes']}, periodSeconds: 1, timeoutSeconds: 30}";
    let probes = format!(", livenessProbe: {probe}, readinessProbe: {probe}, startupProbe: {probe}");
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: two}\nspec:\n  replicas: 2\n  \
                      selector: {matchLabels: {app: two}}\n  template:\n    metadata: {labels: {app: two}}\n    spec:\n      \
                      terminationGracePeriodSeconds: 0\n      \
                      containers: [{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000']}]\n";
    let all = [mark("before"), pod("probed", &probes), deployment.to_owned()].join("---\n");
    let mut files = vec![("clock.yaml".to_owned(), all)];
    for when in ["forth", "back"] {
        files.push((format!("mark-{when}.yaml"), mark(when)));
        files.push((format!("guest-{when}.yaml"), pod(&format!("guest-{when}"), "")));
    }
    files
}

#[test]
fn a_clock_that_is_set_forth_and_back_restarts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = Guest::new();
    let script = ("clock.sh".to_owned(), CLOCK.to_owned());
    for (name, text) in clock_manifests().into_iter().chain([script]) {
        let path = directory.path().join(&name);
        std::fs::write(&path, text).unwrap();
        guest = guest.file(&format!("/{name}"), path);
    }
    let ran = guest.run(&["/bin/sh", "/clock.sh"], PATIENCE);
    assert_eq!(ran.status, 0, "{}", ran.console);
    for when in ["forth: True", "back: True"] {
        assert!(ran.console.lines().any(|line| line == when), "{}", ran.console);
    }
}

/// Builds a package's test, and gives what was built by name.
fn built(package: &str, test: &str) -> impl Fn(&str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--no-run", "--message-format=json", "--package", package, "--test", test])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let executables: Vec<(String, PathBuf)> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        })
        .collect();
    move |name| {
        let found = executables.iter().find(|(target, _)| target == name);
        found.unwrap_or_else(|| panic!("no {name}")).1.clone()
    }
}

/// The runtime's own tests, all of them, where cgroup v2 is.
#[test]
fn the_runtimes_tests_pass_on_cgroup_v2() {
    let find = built("runtime", "containers");
    let (tests, keeper) = (find("containers"), find("runtime-keeper"));
    let ran = Guest::new()
        .program("/tests", &tests)
        // The tests know it by the path at which it was built.
        .program(keeper.to_str().unwrap(), &keeper)
        .run(&["/tests", "--test-threads=2"], PATIENCE);
    assert_eq!(ran.status, 0, "{}", ran.console);
    assert!(ran.console.contains("test result: ok."), "{}", ran.console);
}

/// The contract of an OCI runtime, where cgroup v2 is, and AppArmor. Engines and strace are not there, and this
/// kernel cannot map the ids of a file system in memory.
const CONTRACT: &str = r#"
export PATH=/usr/bin:/bin CORACLE_BIN=/init RUST_BACKTRACE=0 CORACLE_TEST_APPARMOR=1
/bin/busybox --install -s /bin
mkdir -p /tmp /run
chmod 1777 /tmp
mount -t securityfs securityfs /sys/kernel/security
cat /profile >/sys/kernel/security/apparmor/.load
exec /tests --test-threads=2 --skip engines:: --skip trace:: --skip ids_of_a_mount_can_be_mapped --skip may_have_its_ids_mapped
"#;

/// Checkpoint and restore, with the CRIU and the kernel of one Debian release; newer kernels are too new for it.
const CRIU: &str = r#"
export PATH=/usr/sbin:/usr/bin:/bin CORACLE_BIN=/init RUST_BACKTRACE=0 CORACLE_TEST_CRIU=1
/bin/busybox --install -s /bin
mkdir -p /tmp /run
chmod 1777 /tmp
rm -f /bin/tar /bin/gzip
criu check || exit 1
exec /tests --test-threads=1 checkpoint::
"#;

#[test]
fn a_containers_state_is_kept_and_restored() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("criu.sh");
    std::fs::write(&script, CRIU).unwrap();
    let mut guest = Guest::new().modules(&[
        "unix_diag",
        "inet_diag",
        "tcp_diag",
        "udp_diag",
        "raw_diag",
        "af_packet_diag",
        "netlink_diag",
    ]);
    // With tar it keeps file systems in memory.
    for program in ["/usr/sbin/criu", "/usr/bin/tar", "/usr/bin/gzip"] {
        guest = guest.program(program, Path::new(program));
    }
    let ran = guest
        .program("/tests", &built("tests", "oci")("oci"))
        .file("/criu.sh", script)
        .run(&["/bin/sh", "/criu.sh"], PATIENCE);
    assert_eq!(ran.status, 0, "{}", ran.console);
    assert!(ran.console.contains("test result: ok. 4 passed"), "{}", ran.console);
}

/// SELinux with a policy of a few lines, which allows nothing to containers but to be executed and to look.
const SELINUX: &str = r#"
export PATH=/usr/bin:/bin CORACLE_BIN=/init RUST_BACKTRACE=0 CORACLE_TEST_SELINUX=1
/bin/busybox --install -s /bin
mkdir -p /tmp /run
chmod 1777 /tmp
mount -t selinuxfs selinuxfs /sys/fs/selinux
cat /policy >/sys/fs/selinux/load || { dmesg | tail -5; exit 1; }
exec /tests --test-threads=2 selinux::
"#;

#[test]
fn labels_of_selinux_are_given() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("selinux.sh"), SELINUX).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oci/selinux.cil");
    let compiled = Command::new("secilc")
        .args(["--policyvers=33", "--filecontext=/dev/null", "--output"])
        .args([path("policy").as_path(), Path::new(source)])
        .status();
    assert!(compiled.expect("secilc is installed by hack/install").success());
    let ran = Guest::new()
        .parameter("security=selinux")
        .program("/tests", &built("tests", "oci")("oci"))
        .file("/selinux.sh", path("selinux.sh"))
        .file("/policy", path("policy"))
        .run(&["/bin/sh", "/selinux.sh"], PATIENCE);
    assert_eq!(ran.status, 0, "{}", ran.console);
    assert!(ran.console.contains("test result: ok. 3 passed"), "{}", ran.console);
}

/// A profile that lets everything happen but writing to one directory.
const PROFILE: &str = "abi <abi/3.0>,
profile coracle-test flags=(attach_disconnected, mediate_deleted) {
  file,
  capability,
  deny /etc/** w,
}
";

#[test]
fn the_contract_of_a_runtime_holds_on_cgroup_v2() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("contract.sh"), CONTRACT).unwrap();
    std::fs::write(path("profile.txt"), PROFILE).unwrap();
    let compiled = Command::new("apparmor_parser")
        .args(["--skip-kernel-load", "--skip-cache", "--features-file", "/etc/apparmor.d/abi/3.0", "--ofile"])
        .args([path("profile"), path("profile.txt")])
        .status();
    assert!(compiled.expect("apparmor_parser is installed by hack/install").success());
    let ran = Guest::new()
        .program("/tests", &built("tests", "oci")("oci"))
        .program("/usr/bin/setpriv", Path::new("/usr/bin/setpriv"))
        .file("/contract.sh", path("contract.sh"))
        .file("/profile", path("profile"))
        .run(&["/bin/sh", "/contract.sh"], PATIENCE);
    assert_eq!(ran.status, 0, "{}", ran.console);
    assert!(ran.console.contains("test result: ok."), "{}", ran.console);
}
