//! The life of a pod on the real runtime, feature by feature, as the kubelet has it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use tests::{Cluster, eventually};

struct Node {
    cluster: Cluster,
}

impl Node {
    fn up() -> Self {
        Self { cluster: Cluster::up() }
    }

    /// A directory of the machine that pods share.
    fn shared(&self, name: &str) -> String {
        let path = self.cluster.machine.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path.display().to_string()
    }

    fn apply(&self, yaml: &str) {
        self.cluster.apply(yaml).ok();
    }

    fn get(&self, pod: &str, path: &str) -> String {
        let jsonpath = format!("jsonpath={path}");
        let output = self.cluster.kubectl(["get", "pod", pod, "-o", &jsonpath]);
        if output.success { output.stdout } else { output.stderr }
    }

    #[track_caller]
    fn expect(&self, pod: &str, path: &str, expected: &str) {
        eventually(&format!("{pod}: {path} is {expected:?}"), || {
            let found = self.get(pod, path);
            if found == expected { Ok(()) } else { Err(format!("{found}\n{}", self.describe(pod))) }
        });
    }

    fn describe(&self, pod: &str) -> String {
        self.cluster.kubectl(["describe", "pod", pod]).stdout
    }

    #[track_caller]
    fn ready(&self, pod: &str) {
        self.expect(pod, "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    }

    #[track_caller]
    fn exec(&self, pod: &str, command: &str) -> String {
        self.cluster.kubectl(["exec", pod, "-c", "a", "--", "sh", "-c", command]).ok()
    }

    fn delete(&self, pod: &str) {
        self.cluster.kubectl(["delete", "pod", pod]).ok();
    }

    #[track_caller]
    fn event(&self, pod: &str, reason: &str, message: &str) {
        let selector = format!("involvedObject.name={pod},reason={reason}");
        eventually(&format!("{pod}: an event {reason} says {message:?}"), || {
            let args = ["get", "events", "--field-selector", &selector, "-o", "jsonpath={.items[*].message}"];
            let found = self.cluster.kubectl(args).stdout;
            if found.contains(message) { Ok(()) } else { Err(found) }
        });
    }

    fn clean(&self) {
        self.cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
    }
}

/// A container that says when it starts and when it is asked to end.
fn talker(name: &str, more: &str) -> String {
    format!(
        "{{name: {name}, image: 'coracle.example/busybox:1', volumeMounts: [{{name: s, mountPath: /s}}], \
          command: [sh, -c, 'trap \"echo {name} stops >> /s/log; exit 0\" TERM; echo {name} starts >> /s/log; touch /up; while :; do sleep 0.05; done'] {more}}}"
    )
}

#[test]
fn sidecars_start_in_order_and_stop_in_reverse() {
    let node = Node::up();
    let shared = node.shared("order");
    let probe = ", restartPolicy: Always, startupProbe: {exec: {command: [test, -e, /up]}, periodSeconds: 1}";
    let (one, two) = (talker("one", probe), talker("two", probe));
    let hooks = ", lifecycle: {postStart: {exec: {command: [sh, -c, 'echo a postStart >> /s/log']}}, \
                   preStop: {exec: {command: [sh, -c, 'echo a preStop >> /s/log']}}}";
    let app = talker("a", hooks);
    node.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  volumes: [{{name: s, hostPath: {{path: {shared}}}}}]\n  \
         initContainers:\n  - {one}\n  - {{name: init, image: 'coracle.example/busybox:1', volumeMounts: [{{name: s, mountPath: /s}}], command: [sh, -c, 'echo init >> /s/log']}}\n  - {two}\n  \
         containers:\n  - {app}\n"
    ));
    node.ready("p");
    node.expect("p", "{.status.initContainerStatuses[*].ready}", "true true true");
    node.delete("p");
    let log = std::fs::read_to_string(Path::new(&shared).join("log")).unwrap();
    // The hook runs beside the program, so those two may come in any order.
    let sorted: Vec<&str> = log.lines().filter(|line| !line.contains("postStart")).collect();
    assert_eq!(
        sorted,
        ["one starts", "init", "two starts", "a starts", "a preStop", "a stops", "two stops", "one stops"],
    );
    assert!(log.contains("a postStart"));
}

#[test]
fn hooks_signals_and_grace() {
    let node = Node::up();
    let shared = node.shared("hooks");
    node.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: own-signal}}
spec:
  os: {{name: linux}}
  volumes: [{{name: s, hostPath: {{path: {shared}}}}}]
  containers:
  - name: a
    image: coracle.example/busybox:1
    volumeMounts: [{{name: s, mountPath: /s}}]
    lifecycle: {{stopSignal: SIGUSR1}}
    command: [sh, -c, 'trap "echo USR1 > /s/signal; exit 0" USR1; trap "echo TERM > /s/signal; exit 0" TERM; touch /s/own; while :; do sleep 0.05; done']
---
apiVersion: v1
kind: Pod
metadata: {{name: slow-hook}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: s, hostPath: {{path: {shared}}}}}]
  containers:
  - name: a
    image: coracle.example/busybox:1
    volumeMounts: [{{name: s, mountPath: /s}}]
    lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
    command: [sh, -c, 'trap "echo asked > /s/slow; exit 0" TERM; while :; do sleep 0.05; done']
---
apiVersion: v1
kind: Pod
metadata: {{name: bad-hook}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: coracle.example/busybox:1
    lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'echo no; exit 3']}}}}}}
    command: [sleep, '100000']
---
apiVersion: v1
kind: Pod
metadata: {{name: stubborn}}
spec:
  terminationGracePeriodSeconds: 3600
  containers:
  - name: a
    image: coracle.example/busybox:1
    command: [sh, -c, 'trap "" TERM; while :; do sleep 0.05; done']
    livenessProbe: {{exec: {{command: [sh, -c, 'echo unwell; exit 1']}}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: late}}
spec:
  activeDeadlineSeconds: 1
  terminationGracePeriodSeconds: 0
  containers: [{{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000']}}]
"#
    ));
    node.ready("own-signal");
    eventually("it listens for signals", || {
        if Path::new(&shared).join("own").exists() { Ok(()) } else { Err(String::new()) }
    });
    node.expect("own-signal", "{.status.containerStatuses[0].stopSignal}", "SIGUSR1");
    node.delete("own-signal");
    assert_eq!(std::fs::read_to_string(Path::new(&shared).join("signal")).unwrap(), "USR1\n");
    // The hook takes all the time there is: the program still gets its signal, and a moment for it.
    node.ready("slow-hook");
    node.delete("slow-hook");
    assert_eq!(std::fs::read_to_string(Path::new(&shared).join("slow")).unwrap(), "asked\n");

    node.event("bad-hook", "FailedPostStartHook", "PostStartHook failed");
    node.expect("bad-hook", "{.status.phase}", "Failed");
    // The probe's own period counts, not the pod's hour.
    node.expect("stubborn", "{.status.containerStatuses[0].lastState.terminated.exitCode}", "137");
    node.event("stubborn", "Unhealthy", "Liveness probe failed: unwell");
    node.event("stubborn", "Killing", "Container a failed liveness probe, will be restarted");
    node.expect("late", "{.status.phase} {.status.reason}", "Failed DeadlineExceeded");
    node.expect("late", "{.status.message}", "Pod was active on the node longer than the specified deadline");
    node.clean();
}

#[test]
fn ephemeral_containers_come_to_a_running_pod() {
    let mut node = Node::up();
    node.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{name: a, image: 'coracle.example/busybox:1', command: [sh, -c, 'mkdir /w; echo hello > /w/index.html; exec httpd -f -p 8080 -h /w']}]\n");
    node.ready("p");
    let id = node.get("p", "{.status.containerStatuses[0].containerID}");
    let debug = |name: &str, command: &str| {
        let mut kubectl = node.cluster.kubectl_command("1.36");
        kubectl.args([
            "debug",
            "p",
            "--image=coracle.example/busybox:1",
            "--image-pull-policy=IfNotPresent",
            "--profile=general",
        ]);
        kubectl.args(["--container", name, "--", "sh", "-c", command]);
        let output = kubectl.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    debug("looker", "wget -q -O - http://127.0.0.1:8080/ && exec sleep 100000");
    let state = |name: &str, path: &str| {
        format!("{{.status.ephemeralContainerStatuses[?(@.name==\"{name}\")].{path}}}")
    };
    eventually("the looker runs", || {
        let started = node.get("p", &state("looker", "state.running.startedAt"));
        if started.is_empty() { Err(node.describe("p")) } else { Ok(()) }
    });
    debug("short", "exit 3");
    node.expect("p", &state("short", "state.terminated.exitCode"), "3");
    // It shares the pod's network, its log is read as any other's, and it can be entered.
    eventually("what it has seen is logged", || {
        let log = node.cluster.kubectl(["logs", "p", "-c", "looker"]).stdout;
        if log == "hello\n" { Ok(()) } else { Err(log) }
    });
    assert_eq!(node.cluster.kubectl(["exec", "p", "-c", "looker", "--", "echo", "in"]).ok(), "in\n");
    // Nothing else has changed, and nothing of it runs twice after a restart of the agent.
    node.ready("p");
    let looker = node.get("p", &state("looker", "containerID"));
    node.cluster.kill();
    node.cluster.start();
    node.expect("p", &state("looker", "containerID"), &looker);
    node.ready("p");
    assert_eq!(node.get("p", "{.status.containerStatuses[0].containerID}"), id);
    assert_eq!(node.get("p", &state("short", "restartCount")), "0");
    node.delete("p");
}

#[test]
fn last_words() {
    let node = Node::up();
    node.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  containers:
  - {name: written, image: 'coracle.example/busybox:1', command: [sh, -c, 'echo log; printf "the file" > /dev/termination-log; exit 1'], terminationMessagePolicy: FallbackToLogsOnError}
  - {name: elsewhere, image: 'coracle.example/busybox:1', command: [sh, -c, 'printf "own path" > /tmp/last'], terminationMessagePath: /tmp/last}
  - {name: logged, image: 'coracle.example/busybox:1', command: [sh, -c, 'echo first; echo second; exit 4'], terminationMessagePolicy: FallbackToLogsOnError}
  - {name: fine, image: 'coracle.example/busybox:1', command: [sh, -c, 'echo all is well'], terminationMessagePolicy: FallbackToLogsOnError}
  - {name: silent, image: 'coracle.example/busybox:1', command: [sh, -c, 'echo log; exit 5']}
"#,
    );
    node.expect("p", "{.status.phase}", "Failed");
    let word =
        |name: &str| format!("{{.status.containerStatuses[?(@.name==\"{name}\")].state.terminated.message}}");
    for (name, expected) in [
        ("written", "the file"),
        ("elsewhere", "own path"),
        ("logged", "first\nsecond\n"),
        ("fine", ""),
        ("silent", ""),
    ] {
        assert_eq!(node.get("p", &word(name)), expected, "{name}");
    }
    let reasons = node.get("p", "{.status.containerStatuses[*].state.terminated.reason}");
    assert_eq!(reasons, "Error Completed Error Completed Error");
}

#[test]
fn names_namespaces_and_settings() {
    let node = Node::up();
    let profiles = node.cluster.machine.path("data/seccomp/profiles");
    std::fs::create_dir_all(&profiles).unwrap();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
    std::fs::write(profiles.join("no-mkdir.json"), profile).unwrap();
    node.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  hostname: boat
  subdomain: fleet
  setHostnameAsFQDN: true
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 0
  hostAliases: [{ip: 192.0.2.7, hostnames: [harbour, harbour.example]}]
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53], searches: [fleet.example], options: [{name: ndots, value: '3'}, {name: edns0}]}
  securityContext:
    sysctls: [{name: kernel.shm_rmid_forced, value: '1'}, {name: net.ipv4.ip_local_port_range, value: '10000 10100'}]
  readinessGates: [{conditionType: example.com/loaded}]
  containers:
  - {name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000'], securityContext: {capabilities: {add: [SYS_PTRACE]}}}
  - {name: b, image: 'coracle.example/busybox:1', command: [sleep, '200000']}
---
apiVersion: v1
kind: Pod
metadata: {name: filtered}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {seccompProfile: {type: Localhost, localhostProfile: profiles/no-mkdir.json}}
  containers: [{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: unfiltered}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000'], securityContext: {seccompProfile: {type: Localhost, localhostProfile: profiles/none.json}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: forbidden}
spec:
  securityContext: {sysctls: [{name: kernel.msgmax, value: '1'}]}
  containers: [{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000']}]
"#,
    );
    node.expect("p", "{.status.conditions[?(@.type==\"ContainersReady\")].status}", "True");
    node.expect("p", "{.status.conditions[?(@.type==\"Ready\")].reason}", "ReadinessGatesNotReady");
    let gate = r#"{"status":{"conditions":[{"type":"example.com/loaded","status":"True"}]}}"#;
    node.cluster.kubectl(["patch", "pod", "p", "--subresource=status", "-p", gate]).ok();
    node.ready("p");

    assert_eq!(node.exec("p", "hostname"), "boat.fleet.default.svc.cluster.local\n");
    let hosts = node.exec("p", "cat /etc/hosts");
    assert!(hosts.contains("\tboat.fleet.default.svc.cluster.local\tboat\n"), "{hosts}");
    assert!(hosts.contains("192.0.2.7\tharbour\tharbour.example\n"), "{hosts}");
    assert_eq!(
        node.exec("p", "cat /etc/resolv.conf"),
        "search fleet.example\nnameserver 192.0.2.53\noptions ndots:3 edns0\n"
    );
    let processes = node.exec("p", "ps -o args");
    assert!(processes.contains("sleep 100000") && processes.contains("sleep 200000"), "{processes}");
    assert_eq!(node.exec("p", "cat /proc/sys/kernel/shm_rmid_forced"), "1\n");
    assert_eq!(node.exec("p", "cat /proc/sys/net/ipv4/ip_local_port_range"), "10000\t10100\n");

    node.ready("filtered");
    let refused = node.exec("filtered", "mkdir /tmp/x 2>&1; touch /tmp/y && echo touched");
    assert_eq!(refused, "mkdir: can't create directory '/tmp/x': Operation not permitted\ntouched\n");
    node.expect("unfiltered", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerError");
    node.event("unfiltered", "Failed", "profiles/none.json");
    node.expect("forbidden", "{.status.phase} {.status.reason}", "Failed SysctlForbidden");
    node.expect(
        "forbidden",
        "{.status.message}",
        "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
    );
    node.event("forbidden", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    node.clean();
}

#[test]
fn a_running_pod_gets_other_resources() {
    let mut node = Node::up();
    node.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: coracle.example/busybox:1
    command: [sleep, '100000']
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: NotRequired}]
  - name: b
    image: coracle.example/busybox:1
    command: [sleep, '200000']
    resources: {requests: {memory: 32Mi}}
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
"#,
    );
    node.ready("p");
    let state = "{.status.containerStatuses[*].containerID}";
    let before = node.get("p", state);
    let resize = |container: &str, resources: &str| {
        let patch =
            format!(r#"{{"spec":{{"containers":[{{"name":"{container}","resources":{resources}}}]}}}}"#);
        node.cluster.kubectl(["patch", "pod", "p", "--subresource=resize", "-p", &patch])
    };
    resize("a", r#"{"requests":{"cpu":"300m","memory":"40Mi"},"limits":{"cpu":"500m","memory":"96Mi"}}"#)
        .ok();
    node.expect("p", "{.status.containerStatuses[0].resources.limits}", r#"{"cpu":"500m","memory":"96Mi"}"#);
    node.expect(
        "p",
        "{.status.containerStatuses[0].allocatedResources}",
        r#"{"cpu":"300m","memory":"40Mi"}"#,
    );
    node.event("p", "ResizeStarted", "Pod resize started: ");
    node.event("p", "ResizeCompleted", "Pod resize completed: ");
    assert_eq!(node.get("p", state), before, "nothing was restarted");
    // What the kernel holds it to, and its pod with it.
    let uid = node.get("p", "{.metadata.uid}");
    let id = before.split(' ').next().unwrap().trim_start_matches("coracle://").to_owned();
    let marker = node.cluster.cgroup_marker();
    let held = |controller: &str, below: &str, file: &str| {
        let path = format!("/sys/fs/cgroup/{controller}/{marker}/burstable/pod{uid}/{below}{file}");
        std::fs::read_to_string(&path)
            .map_or_else(|error| format!("{path}: {error}"), |text| text.trim().to_owned())
    };
    let own = format!("{id}/");
    assert_eq!(held("cpu", &own, "cpu.shares"), "307");
    assert_eq!(held("cpu", &own, "cpu.cfs_quota_us"), "50000");
    assert_eq!(held("memory", &own, "memory.limit_in_bytes"), (96 << 20).to_string());
    assert_eq!(held("cpu", "", "cpu.shares"), "307");

    // A restart of the agent changes nothing; a policy may ask for a restart of the container.
    node.cluster.kill();
    node.cluster.start();
    node.ready("p");
    assert_eq!(node.get("p", state), before);
    let node = node;
    let resize = |container: &str, resources: &str| {
        let patch =
            format!(r#"{{"spec":{{"containers":[{{"name":"{container}","resources":{resources}}}]}}}}"#);
        node.cluster.kubectl(["patch", "pod", "p", "--subresource=resize", "-p", &patch])
    };
    resize("b", r#"{"requests":{"memory":"48Mi"}}"#).ok();
    node.expect("p", "{.status.containerStatuses[*].restartCount}", "0 1");
    node.event("p", "Killing", "Container b resize requires restart");
    node.expect("p", "{.status.containerStatuses[1].resources.requests.memory}", "48Mi");

    // More than the node has: the pod runs on as it is.
    resize("a", r#"{"requests":{"cpu":"900"},"limits":{"cpu":"900"}}"#).ok();
    let pending = "{.status.conditions[?(@.type==\"PodResizePending\")].reason}";
    node.expect("p", pending, "Infeasible");
    assert_eq!(node.get("p", "{.status.containerStatuses[0].allocatedResources.cpu}"), "300m");
    resize("a", r#"{"requests":{"cpu":"100m"},"limits":{"cpu":"200m"}}"#).ok();
    node.expect("p", pending, "");
    node.expect("p", "{.status.containerStatuses[0].resources.limits.cpu}", "200m");
    assert_eq!(held("cpu", &own, "cpu.cfs_quota_us"), "20000");
    // What cannot be is refused.
    let refused = resize("b", r#"{"requests":{"memory":null}}"#).err();
    assert!(refused.contains("resource requests cannot be removed"), "{refused}");
    node.clean();
}

#[test]
fn statuses_tell_of_users_and_mounts_and_a_target_shows_its_processes() {
    let node = Node::up();
    let shared = node.shared("tree");
    node.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{supplementalGroups: [4000], fsGroup: 5000}}
  automountServiceAccountToken: false
  volumes:
  - {{name: s, hostPath: {{path: {shared}}}}}
  - {{name: e, emptyDir: {{}}}}
  containers:
  - name: a
    image: coracle.example/busybox:1
    command: [sh, -c, 'exec sleep 100000']
    securityContext: {{runAsUser: 1000, runAsGroup: 3000}}
    volumeMounts:
    - {{name: s, mountPath: /s, readOnly: true, recursiveReadOnly: Enabled}}
    - {{name: s, mountPath: /t, readOnly: true}}
    - {{name: e, mountPath: /e}}
"#
    ));
    node.ready("p");
    node.expect(
        "p",
        "{.status.containerStatuses[0].user.linux}",
        r#"{"gid":3000,"supplementalGroups":[3000,4000,5000],"uid":1000}"#,
    );
    node.expect(
        "p",
        "{.status.containerStatuses[0].volumeMounts}",
        r#"[{"mountPath":"/s","name":"s","readOnly":true,"recursiveReadOnly":"Enabled"},{"mountPath":"/t","name":"s","readOnly":true,"recursiveReadOnly":"Disabled"},{"mountPath":"/e","name":"e"}]"#,
    );
    assert_eq!(
        node.exec("p", "id -u; touch /s/x 2>&1; touch /e/x && echo fine"),
        "1000\ntouch: /s/x: Read-only file system\nfine\n"
    );

    let debug = |name: &str, target: &str| {
        let mut kubectl = node.cluster.kubectl_command("1.36");
        kubectl.args(["debug", "p", "--image=coracle.example/busybox:1", "--image-pull-policy=IfNotPresent"]);
        kubectl.args(["--profile=general", "--target", target, "--container", name, "--", "sh", "-c"]);
        kubectl.arg("ps -o args; kill -0 1 && echo reached; exec sleep 300000");
        let output = kubectl.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    debug("looker", "a");
    eventually("the looker sees the processes of its target", || {
        let log = node.cluster.kubectl(["logs", "p", "-c", "looker"]).stdout;
        let seen = log.lines().any(|line| line == "sleep 100000") && log.contains("reached");
        if seen { Ok(()) } else { Err(format!("{log}\n{}", node.describe("p"))) }
    });
    let processes = node.exec("p", "ps -o args");
    assert!(processes.lines().any(|line| line == "sleep 300000"), "{processes}");
    node.clean();
}

#[test]
fn a_node_that_goes_down_lets_pods_end_in_order() {
    let mut node = Node::up();
    let shared = node.shared("shutdown");
    let pod = |name: &str, more: &str, extra: &str| {
        let container = talker(name, more);
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: kube-system}}\nspec:\n  {extra}\n  \
             volumes: [{{name: s, hostPath: {{path: {shared}}}}}]\n  containers:\n  - {container}\n---\n"
        )
    };
    let sidecar = format!("initContainers: [{}]", talker("sidecar", ", restartPolicy: Always"));
    let hook = ", lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook runs >>/s/log; sleep 1']}}}";
    let yaml = pod("critical", "", "priorityClassName: system-node-critical")
        + &pod("ordinary", hook, &sidecar)
        + &pod("stubborn", "", "terminationGracePeriodSeconds: 1").replace("exit 0", "true");
    node.apply(&yaml);
    node.cluster
        .kubectl(["wait", "-n", "kube-system", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])
        .ok();
    // The server and the agent are gone: pods that are asked to end still are, and the one that does not hear is killed.
    node.cluster.kill();
    node.cluster.coracle_local(&["down", "--grace-period=20", "--grace-period-critical=10"]).ok();
    let log = std::fs::read_to_string(Path::new(&shared).join("log")).unwrap();
    let ends: Vec<&str> = log.lines().filter(|line| line.contains("stops")).collect();
    // The hook runs to its end before the signal.
    let line = |wanted: &str| log.lines().position(|line| line == wanted);
    assert!(line("hook runs").unwrap() < line("ordinary stops").unwrap(), "{log}");
    let place = |name: &str| ends.iter().position(|line| *line == format!("{name} stops"));
    assert!(place("ordinary").unwrap() < place("sidecar").unwrap(), "{ends:?}");
    assert!(place("sidecar").unwrap() < place("critical").unwrap(), "{ends:?}");
    assert!(place("stubborn").unwrap() < place("critical").unwrap(), "{ends:?}");
    // Nothing is lost: the same pods are back at the next start.
    node.cluster.start();
    node.cluster
        .kubectl(["wait", "-n", "kube-system", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])
        .ok();
    node.cluster.kubectl(["delete", "pod", "--all", "-n", "kube-system", "--grace-period=0", "--force"]).ok();
}

const CLASSES: &str = r#"
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: usual}
handler: coracle
overhead: {podFixed: {memory: 10Mi}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: strange}
handler: strange
"#;

#[test]
fn runtime_classes_choose_and_refuse() {
    let cluster = Cluster::up();
    cluster.apply(CLASSES).ok();
    let pod = |class: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {class}}}\nspec:\n  runtimeClassName: {class}\n  \
             terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000']}}]\n"
        )
    };
    cluster.apply(&pod("usual")).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/usual", "--timeout=60s"]).ok();
    assert_eq!(
        cluster.kubectl(["get", "pod", "usual", "-o", "jsonpath={.spec.overhead.memory}"]).ok(),
        "10Mi"
    );
    let refused = cluster.apply(&pod("missing"));
    let why = "pods \"missing\" is forbidden: pod rejected: RuntimeClass \"missing\" not found";
    assert!(!refused.success && refused.stderr.contains(why), "{refused:?}");
    // The class is there, but no node has what it asks for.
    cluster.apply(&pod("strange")).ok();
    eventually("the node says why the pod does not run", || {
        let selector = "involvedObject.name=strange,reason=FailedCreatePodSandBox,type=Warning";
        let said = ["get", "events", "--field-selector", selector, "-o", "jsonpath={.items[*].message}"];
        let found = cluster.kubectl(said).stdout;
        if found.contains("no runtime for \"strange\" is configured") { Ok(()) } else { Err(found) }
    });
    assert_eq!(cluster.kubectl(["get", "pod", "strange", "-o", "jsonpath={.status.phase}"]).ok(), "Pending");
}
