//! Resources: what the configuration and `update` ask for is what the kernel has.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bundle, everywhere, here};

/// A file of the container's cgroup on either version.
fn value(bundle: &Bundle, v1: &str, v2: &str) -> String {
    let (controller, file) = v1.split_once('/').unwrap();
    let own = std::path::Path::new("/sys/fs/cgroup");
    let first = own.join(controller).join(&bundle.id).join(file);
    let text = fs::read_to_string(first).or_else(|_| fs::read_to_string(own.join(&bundle.id).join(v2)));
    text.unwrap().trim().to_owned()
}

fn is_v2() -> bool {
    fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap()
}

#[test]
fn limits_of_the_configuration_hold() {
    everywhere(|bundle| {
        let resources = json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 33_554_432, "reservation": 16_777_216},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
            "pids": {"limit": 20},
        });
        let bundle = bundle.with("/linux/resources", resources);
        bundle.create();
        assert_eq!(value(&bundle, "memory/memory.limit_in_bytes", "memory.max"), "33554432");
        assert_eq!(value(&bundle, "memory/memory.soft_limit_in_bytes", "memory.low"), "16777216");
        assert_eq!(value(&bundle, "pids/pids.max", "pids.max"), "20");
        assert_eq!(value(&bundle, "cpuset/cpuset.cpus", "cpuset.cpus"), "0");
        if !is_v2() {
            assert_eq!(value(&bundle, "cpu/cpu.shares", ""), "512");
            assert_eq!(value(&bundle, "cpu/cpu.cfs_quota_us", ""), "50000");
        }
    });
}

#[test]
fn rarer_limits_hold_or_are_refused() {
    here(|bundle| {
        let cpu = json!({"quota": 50_000, "period": 100_000, "burst": 20_000});
        let bundle = bundle.with("/linux/resources/cpu", cpu);
        bundle.create();
        assert_eq!(value(&bundle, "cpu/cpu.cfs_burst_us", "cpu.max.burst"), "20000");
        let idle = bundle.another().with("/linux/resources/cpu", json!({"idle": 1}));
        idle.create();
        assert_eq!(value(&idle, "cpu/cpu.idle", "cpu.idle"), "1");
        let class = bundle.another().with("/linux/resources/network", json!({"classID": 7}));
        assert!(class.run().fails().contains("net_cls"));
    });
}

#[test]
fn limits_can_be_changed() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        bundle.oci(&["update", "--memory", "64000000", "--pids-limit", "30", &bundle.id]).ok();
        assert_eq!(
            value(&bundle, "memory/memory.limit_in_bytes", "memory.max"),
            (64_000_000 / 4096 * 4096).to_string()
        );
        assert_eq!(value(&bundle, "pids/pids.max", "pids.max"), "30");
        fs::write(bundle.path("resources"), json!({"pids": {"limit": 40}}).to_string()).unwrap();
        bundle.oci(&["update", "--resources", "resources", &bundle.id]).ok();
        assert_eq!(value(&bundle, "pids/pids.max", "pids.max"), "40");
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
        bundle.becomes("stopped");
    });
}

#[test]
fn only_listed_devices_can_be_used() {
    everywhere(|bundle| {
        let capabilities = json!(["CAP_MKNOD"]);
        let script = "mknod /dev/kmsg2 c 1 11 && cat /dev/kmsg2 2>&1 | head -c 0; dd if=/dev/kmsg2 count=0 2>/dev/null || echo refused; \
                      dd if=/dev/zero of=/dev/null count=1 2>/dev/null && echo allowed";
        let bundle = bundle
            .with(
                "/process/capabilities",
                json!({"bounding": capabilities, "permitted": capabilities, "effective": capabilities}),
            )
            .script(script);
        assert_eq!(bundle.run().ok(), "refused\nallowed\n");
    });
}

#[test]
fn figures_are_told() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        let name = bundle.id.clone();
        if bundle.runtime.name != "crun" {
            // A peer's start may return before its own threads have made place for the program.
            let event = tests::eventually("one process", || {
                let event: Value =
                    serde_json::from_str(&bundle.oci(&["events", "--stats", &name]).ok()).unwrap();
                if event["data"]["pids"]["current"] == 1 { Ok(event) } else { Err(event.to_string()) }
            });
            assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(name)));
            assert!(event["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
            assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
        }
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
        bundle.becomes("stopped");
    });
}

#[test]
fn a_cgroup_that_others_are_in_is_refused() {
    here(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        let path = format!("/{}", bundle.id);
        let other = bundle.another().with("/linux/cgroupsPath", json!(path));
        other.write();
        assert!(other.oci(&["create", &other.id]).fails().contains("is not empty"));
        assert_eq!(bundle.status(), "created", "the first one lives on");
        for bad in ["/", "/../x", "."] {
            let other = bundle.another().with("/linux/cgroupsPath", json!(bad));
            assert!(other.run().fails().contains("linux.cgroupsPath"), "{bad}");
        }
    });
}

#[test]
fn the_smallest_limit_on_processes_is_one() {
    here(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        bundle.oci(&["update", "--pids-limit", "0", &bundle.id]).ok();
        let files = bundle.cgroups().into_iter().map(|path| path.join("pids.max"));
        let found: Vec<_> = files.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        assert_eq!(found, ["1\n"]);
    });
}
