//! coracle leaves a machine as it found it.

use tests::{BUSYBOX, Cluster};

#[test]
fn after_down_nothing_is_left() {
    let mut cluster = Cluster::up();
    let marker = cluster.cgroup_marker();
    cluster.kubectl(["run", "web", &format!("--image={BUSYBOX}"), "--command", "--", "sleep", "100000"]).ok();
    cluster.kubectl(["expose", "pod", "web", "--port=80"]).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).ok();
    assert_ne!(
        cluster.machine.leftovers(&marker),
        Vec::<String>::new(),
        "the check for leftovers finds nothing at all"
    );
    cluster.down().ok();
    let left = cluster.machine.leftovers(&marker);
    assert!(left.is_empty(), "{left:#?}");
    let routes = cluster.machine.run("ip", ["route"]).ok();
    assert_eq!(routes, "", "routes are left");
    let rules = cluster.machine.run("nft", ["list", "ruleset"]).ok();
    assert!(!rules.contains("coracle"), "{rules}");
}

#[test]
fn two_clusters_on_one_machine_do_not_meet() {
    let one = Cluster::up();
    let two = Cluster::up();
    one.kubectl(["create", "configmap", "mine"]).ok();
    assert!(two.kubectl(["get", "configmap", "mine"]).err().contains("NotFound"));
    assert_ne!(one.cgroup_marker(), two.cgroup_marker());
}
