//! Namespaces: new, joined, none; id maps, names, clocks and kernel parameters.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bundle, everywhere, here};

const KINDS: [(&str, &str); 5] =
    [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt")];

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn listed_namespaces_are_new() {
    everywhere(|bundle| {
        let bundle = bundle.script(
            "for n in pid net ipc uts mnt user; do readlink /proc/self/ns/$n; done; echo $$; hostname",
        );
        let out = bundle.run().ok();
        let lines: Vec<&str> = out.lines().collect();
        for ((_, kind), line) in KINDS.iter().zip(&lines) {
            assert_ne!(*line, own(kind), "{kind}");
        }
        assert_eq!(lines[5], own("user"), "one that is not listed is shared");
        assert_eq!(lines[6..], ["1", "box"]);
    });
}

#[test]
fn a_namespace_can_be_joined() {
    everywhere(|bundle| {
        let holder = bundle.another().args(&["sleep", "1000"]);
        holder.create();
        let pid = holder.state()["pid"].to_string();
        let namespaces: Vec<Value> = KINDS
            .iter()
            .map(|(name, kind)| match *name {
                "mount" => json!({"type": name}),
                _ => json!({"type": name, "path": format!("/proc/{pid}/ns/{kind}")}),
            })
            .collect();
        let mut bundle = bundle.with("/linux/namespaces", json!(namespaces));
        bundle.config.as_object_mut().unwrap().remove("hostname");
        let out = bundle
            .script("for n in pid net ipc uts; do readlink /proc/self/ns/$n; done; hostname")
            .run()
            .ok();
        let mut expected: Vec<String> = ["pid", "net", "ipc", "uts"]
            .iter()
            .map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string())
            .collect();
        expected.push("box".to_owned());
        assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    });
}

fn in_user_namespace(bundle: Bundle) -> Bundle {
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    // The root of the namespace must be able to reach and to write its root file system.
    for entry in ["", "data", "tmp", "etc"] {
        std::os::unix::fs::chown(bundle.root().join(entry), Some(100_000), Some(100_000)).unwrap();
    }
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(bundle.path(""), mode).unwrap();
    bundle
        .and("/linux/namespaces", json!({"type": "user"}))
        .with("/linux/uidMappings", ids.clone())
        .with("/linux/gidMappings", ids)
}

#[test]
fn users_are_mapped() {
    everywhere(|bundle| {
        let bundle = in_user_namespace(bundle).script(
            "id -u; cat /proc/self/uid_map; touch /data/x; stat -c %u /data/x; echo x > /dev/null && stat -c %t:%T /dev/null",
        );
        let out = bundle.run().ok();
        let words: Vec<&str> = out.split_whitespace().collect();
        assert_eq!(words, ["0", "0", "100000", "65536", "0", "1:3"]);
        let made = <fs::Metadata as std::os::unix::fs::MetadataExt>::uid;
        assert_eq!(made(&fs::metadata(bundle.root().join("data/x")).unwrap()), 100_000);
    });
}

#[test]
fn an_exec_joins_the_user_namespace() {
    everywhere(|bundle| {
        let bundle = in_user_namespace(bundle).args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        let out = bundle
            .oci(&["exec", "-u", "5:6", &bundle.id, "sh", "-c", "id -u; id -g; cat /proc/self/uid_map"])
            .ok();
        assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["5", "6", "0", "100000", "65536"]);
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
    });
}

#[test]
fn clocks_have_offsets() {
    // Debian's runc and crun know nothing of time namespaces.
    here(|bundle| {
        let bundle = bundle
            .and("/linux/namespaces", json!({"type": "time"}))
            .with("/linux/timeOffsets", json!({"boottime": {"secs": 8_640_000}}))
            .script("cut -d. -f1 /proc/uptime");
        let seconds: u64 = bundle.run().ok().trim().parse().unwrap();
        assert!(seconds >= 8_640_000, "{seconds}");
    });
}

#[test]
fn cgroup_namespaces_hide_where_we_are() {
    everywhere(|bundle| {
        let bundle = bundle
            .and("/linux/namespaces", json!({"type": "cgroup"}))
            .script("grep -E ':(memory|pids):|^0::/' /proc/self/cgroup | grep -vc ':/$'; true");
        let out = bundle.run().ok();
        // runc leaves the process out of a version 2 hierarchy beside version 1.
        assert!(bundle.runtime.name != "coracle" || out == "0\n", "{out}");
    });
}

#[test]
fn parameters_belong_to_namespaces() {
    everywhere(|bundle| {
        let sysctls = json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "4096"});
        let bundle = bundle.with("/linux/sysctl", sysctls);
        let bundle = bundle.script("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax");
        assert_eq!(bundle.run().ok(), "1\n4096\n");
        bundle.another().with("/linux/sysctl", json!({"vm.overcommit_memory": "1"})).run().fails();
        let mut shared = bundle.another().with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        shared.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "network");
        shared.config["mounts"].as_array_mut().unwrap().retain(|one| one["type"] != "sysfs");
        shared.run().fails();
    });
}

#[test]
fn the_loopback_is_up() {
    everywhere(|bundle| {
        let bundle = bundle.script("cat /sys/class/net/lo/carrier; ls /sys/class/net | wc -l");
        assert!(bundle.run().ok().starts_with("1\n"));
    });
}

#[test]
fn an_unprivileged_user_runs_containers() {
    use std::os::unix::fs::{PermissionsExt, chown};
    const NOBODY: u32 = 65534;
    here(|bundle| {
        // Somewhere that the user can reach, with a program that the user can execute.
        fs::set_permissions(bundle.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(tests::coracle(), bundle.path("coracle")).unwrap();
        for own in ["", "rootfs"] {
            chown(bundle.path(own), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let run = |args: &[&str]| {
            let mut command = std::process::Command::new("setpriv");
            command.args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "./coracle",
                "oci",
                "--root",
                "state",
            ]);
            command.args(args).current_dir(bundle.path("")).stdin(std::process::Stdio::null());
            command.output().unwrap()
        };
        assert!(run(&["spec", "--rootless"]).status.success());
        let mut config: Value =
            serde_json::from_slice(&fs::read(bundle.path("config.json")).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] =
            json!(["sh", "-c", "id -u; cat /proc/self/uid_map; echo x > /dev/null && hostname; exit 3"]);
        fs::write(bundle.path("config.json"), config.to_string()).unwrap();
        let output = run(&["run", &bundle.id]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "0", "65534", "1", "coracle"]);
    });
}

#[test]
fn clocks_have_offsets_in_a_user_namespace_and_are_joined() {
    here(|bundle| {
        let bundle = in_user_namespace(bundle)
            .and("/linux/namespaces", json!({"type": "time"}))
            .with("/linux/timeOffsets", json!({"boottime": {"secs": 1337}, "monotonic": {"secs": 7881}}))
            .args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        let show = |bundle: &Bundle| {
            let seen =
                bundle.oci(&["exec", &bundle.id, "cat", "/proc/self/timens_offsets", "/proc/self/uid_map"]);
            seen.ok().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let offsets = ["monotonic", "7881", "0", "boottime", "1337", "0", "0", "100000", "65536"];
        assert_eq!(show(&bundle), offsets);
        // Another container in all of them but the mounts.
        let pid = bundle.state()["pid"].to_string();
        let mut other = in_user_namespace(bundle.another()).args(&["sleep", "1000"]);
        let kinds = KINDS.iter().copied().chain([("user", "user"), ("time", "time")]);
        let joined = kinds.map(|(kind, file)| match kind {
            "mount" => json!({"type": kind}),
            _ => json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}),
        });
        other.config["linux"]["namespaces"] = joined.collect();
        let linux = other.config["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
        other.config.as_object_mut().unwrap().remove("hostname");
        other.create();
        other.start();
        assert_eq!(show(&other), offsets);
    });
}

/// Devices are of the host's network, and end with the namespace that they were moved to.
#[test]
fn network_devices_are_moved_in_with_their_addresses() {
    // They are newer than the peers' versions.
    here(|bundle| {
        if !std::path::Path::new("/sbin/ip").exists() {
            println!("skipped: there is no iproute2 to make devices with");
            return;
        }
        let ip = |arguments: &str| {
            let ran = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
            assert!(ran.status.success(), "ip {arguments}: {ran:?}");
            String::from_utf8_lossy(&ran.stdout).into_owned()
        };
        let (device, peer) = (format!("dev{}", std::process::id()), format!("peer{}", std::process::id()));
        ip(&format!("link add {device} mtu 1400 type veth peer name {peer}"));
        ip(&format!("address add 192.0.2.77/29 dev {device}"));
        ip(&format!("address add 2001:db8::77/64 dev {device} nodad"));
        let bundle = bundle
            .script("ip address show dev inner0")
            .with("/linux/netDevices", json!({ &device: {"name": "inner0"} }));
        let shown = bundle.run().ok();
        for expected in ["192.0.2.77/29", "2001:db8::77/64", "mtu 1400", ",UP"] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        // The pair has ended with the container's namespace.
        let err = bundle.run().fails();
        assert!(
            err.contains(&format!("moving network device {device}")) && err.contains("does not exist"),
            "{err}"
        );
        let bad = bundle.with("/linux/netDevices", json!({ "lo": {"name": "a/b"} }));
        assert!(bad.run().fails().contains("\"a/b\" is not a name"));
    });
}
