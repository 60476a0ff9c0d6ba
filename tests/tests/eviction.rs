//! Pods that have to go: too much on disk, or a node that runs short.

use tests::{Cluster, Machine, Options, eventually};

fn get(cluster: &Cluster, pod: &str, path: &str) -> String {
    let output = cluster.kubectl(["get", "pod", pod, "-o", &format!("jsonpath={path}")]);
    if output.success { output.stdout } else { output.stderr }
}

#[track_caller]
fn expect(cluster: &Cluster, pod: &str, path: &str, expected: &str) {
    eventually(&format!("{pod}: {path} is {expected:?}"), || {
        let found = get(cluster, pod, path);
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found}\n{}", cluster.kubectl(["describe", "pod", pod]).stdout))
        }
    });
}

fn pod(name: &str, command: &str, container: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 3600\n{spec}  containers:\n  \
         - {{name: a, image: 'coracle.example/busybox:1', command: [sh, -c, 'trap \"\" TERM; {command}; while :; do sleep 0.1; done'], {container}}}\n"
    )
}

#[test]
fn too_much_on_disk() {
    let cluster = Cluster::up();
    let fill = "dd if=/dev/zero of=/v/file bs=1M count=3";
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let yaml = [
        pod("volume", fill, mount, "  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]\n"),
        pod(
            "layer",
            "mkdir /v; dd if=/dev/zero of=/v/file bs=1M count=3",
            "resources: {limits: {ephemeral-storage: 2Mi}}",
            "",
        ),
        pod("modest", fill, mount, "  volumes: [{name: v, emptyDir: {sizeLimit: 10Mi}}]\n"),
    ];
    cluster.apply(&yaml.concat()).ok();
    expect(&cluster, "volume", "{.status.phase} {.status.reason}", "Failed Evicted");
    expect(
        &cluster,
        "volume",
        "{.status.message}",
        "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ",
    );
    expect(&cluster, "layer", "{.status.phase} {.status.reason}", "Failed Evicted");
    expect(
        &cluster,
        "layer",
        "{.status.message}",
        "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
    );
    // At once, not after the hour that the pod asked for.
    expect(&cluster, "volume", "{.status.containerStatuses[0].state.terminated.exitCode}", "137");
    assert_eq!(get(&cluster, "modest", "{.status.phase}"), "Running");
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
}

#[test]
fn a_node_that_runs_short_of_memory() {
    let machine = Machine::new();
    let options = Options {
        args: vec!["--eviction-hard".into(), "memory.available<100Ti".into()],
        ..Options::default()
    };
    // What is asked for is taken at once, and the node never has it: pods go one after the other.
    let cluster = Cluster::with(machine, options);
    let class =
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: important}\nvalue: 1000\n";
    // The node says that it is under pressure, which keeps new pods away; these do not mind.
    let tolerant = "  tolerations: [{operator: Exists}]\n";
    let important = format!("{tolerant}  priorityClassName: important\n");
    let hold = "x=$(head -c 6000000 /dev/zero | tr \"\\0\" x)";
    let yaml = [
        class.to_owned(),
        pod("modest", ":", "resources: {requests: {memory: 500Mi}}", tolerant),
        pod("greedy", hold, "resources: {requests: {memory: 1Mi}}", tolerant),
        pod("important", hold, "resources: {requests: {memory: 1Mi}}", &important),
    ];
    cluster.apply(&yaml.concat()).ok();
    let evicted = |pod: &str| expect(&cluster, pod, "{.status.phase} {.status.reason}", "Failed Evicted");
    evicted("modest");
    evicted("important");
    evicted("greedy");
    let message = get(&cluster, "greedy", "{.status.message}");
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 100Ti, available: "),
        "{message}"
    );
    assert!(message.contains("Container a was using "), "{message}");
    assert!(message.ends_with(", request is 1Mi, has larger consumption of memory. "), "{message}");
    let condition = "{.status.conditions[?(@.type==\"DisruptionTarget\")]['status','reason']}";
    assert_eq!(get(&cluster, "greedy", condition), "True TerminationByKubelet");
    expect(&cluster, "modest", "{.status.containerStatuses[0].state.terminated.exitCode}", "137");
    let end = |pod: &str| get(&cluster, pod, "{.status.containerStatuses[0].state.terminated.finishedAt}");
    let (modest, greedy, important) = (end("modest"), end("greedy"), end("important"));
    assert!(
        greedy < important && important < modest,
        "greedy {greedy}, important {important}, modest {modest}"
    );
    let condition = "jsonpath={.items[0].status.conditions[?(@.type==\"MemoryPressure\")].status}";
    assert_eq!(cluster.kubectl(["get", "nodes", "-o", condition]).ok(), "True");
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
}

#[test]
fn a_node_that_has_been_short_for_a_while() {
    let options = Options {
        args: [
            "--eviction-soft=memory.available<100Ti",
            "--eviction-soft-grace-period=memory.available=12s",
            "--eviction-max-pod-grace-period=5",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Options::default()
    };
    let cluster = Cluster::with(Machine::new(), options);
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: polite}\nspec:\n  tolerations: [{operator: Exists}]\n  terminationGracePeriodSeconds: 3600\n  containers:\n  - {name: a, image: 'coracle.example/busybox:1', command: [sh, -c, 'trap \"exit 7\" TERM; while :; do sleep 0.1; done']}\n";
    cluster.apply(yaml).ok();
    // Short from the beginning: the node says so, and the pod has its while, and time to end.
    eventually("the node is under pressure", || {
        let path = "jsonpath={.items[0].status.conditions[?(@.type==\"MemoryPressure\")].status}";
        let status = cluster.kubectl(["get", "nodes", "-o", path]).ok();
        if status == "True" { Ok(()) } else { Err(status) }
    });
    expect(&cluster, "polite", "{.status.phase} {.status.reason}", "Failed Evicted");
    expect(&cluster, "polite", "{.status.containerStatuses[0].state.terminated.exitCode}", "7");
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
}
