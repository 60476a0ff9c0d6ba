//! Mounts in their rarer forms: order, sources within the container, propagation, permissions, places that are
//! links.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Bundle, everywhere, here};

/// The mounts of a container by their places, in the order in which the kernel lists them.
const PLACES: &str = "cut -d' ' -f5 /proc/self/mountinfo";

fn bind(source: &std::path::Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

#[test]
fn mounts_are_listed_in_their_order() {
    everywhere(|bundle| {
        fs::create_dir(bundle.path("source")).unwrap();
        let source = bundle.path("source");
        let tmpfs = json!({"destination": "/one", "type": "tmpfs", "source": "tmpfs"});
        let mut bundle = bundle.and("/mounts", tmpfs);
        let places = ["/two", "/three", "/four", "/five"];
        for (place, option) in places.iter().zip(["shared", "slave", "rprivate", "ro"]) {
            bundle = bundle.and("/mounts", bind(&source, place, &["rbind", option]));
        }
        let seen = bundle.script(PLACES).run().ok();
        let seen: Vec<&str> = seen.lines().filter(|line| *line == "/one" || places.contains(line)).collect();
        assert_eq!(seen, ["/one", "/two", "/three", "/four", "/five"]);
    });
}

#[test]
fn a_source_may_lie_in_what_was_mounted_before() {
    here(|bundle| {
        fs::create_dir_all(bundle.path("source/below")).unwrap();
        fs::write(bundle.path("source/below/file"), "found").unwrap();
        let (source, root) = (bundle.path("source"), bundle.root());
        let place = root.join("final").display().to_string();
        let bundle = bundle
            .and("/mounts", bind(&source, "/data/mounted", &["rbind"]))
            .and("/mounts", bind(&root.join("data/mounted/below"), &place, &["rbind"]));
        assert_eq!(bundle.args(&["cat", "/final/file"]).run().ok(), "found");
    });
}

#[test]
fn a_source_in_the_container_may_have_its_ids_mapped() {
    here(|bundle| {
        let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1000}]);
        let mut mount = bind(&bundle.root().join("data"), "/mapped", &["rbind", "idmap"]);
        mount["uidMappings"] = ids.clone();
        mount["gidMappings"] = ids;
        let bundle = bundle.and("/mounts", mount).args(&["stat", "-c", "%u", "/data", "/mapped"]);
        assert_eq!(bundle.run().ok(), "0\n1000\n");
    });
}

#[test]
fn a_tmpfs_has_the_permissions_of_what_it_covers() {
    here(|bundle| {
        let place = bundle.root().join("data");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o710)).unwrap();
        let tmpfs = |place: &str, options: &[&str]| json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options});
        let bundle = bundle
            .and("/mounts", tmpfs("/data", &["nosuid"]))
            .and("/mounts", tmpfs("/etc", &["mode=1500"]))
            .and("/mounts", tmpfs("/new/place", &["ro"]));
        let bundle = bundle.args(&["stat", "-c", "%a", "/data", "/etc", "/new/place"]);
        assert_eq!(bundle.run().ok(), "710\n1500\n1777\n");
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o7777, 0o710);
    });
}

#[test]
fn a_path_is_masked_once() {
    here(|bundle| {
        let masked = json!(["/data", "/data", "/data/", "/etc"]);
        let bundle = bundle.with("/linux/maskedPaths", masked).script(PLACES);
        let seen = bundle.run().ok();
        assert_eq!(seen.lines().filter(|line| *line == "/data").count(), 1, "{seen}");
    });
}

#[test]
fn proc_is_not_mounted_where_a_link_leads() {
    everywhere(|bundle| {
        let _ = fs::remove_dir_all(bundle.root().join("proc"));
        fs::create_dir(bundle.root().join("elsewhere")).unwrap();
        symlink("/elsewhere", bundle.root().join("proc")).unwrap();
        if bundle.runtime.name == "crun" {
            return;
        }
        let error = bundle.run().fails();
        assert!(error.contains("must be mounted on ordinary directory"), "{error}");
    });
}

/// Runs the container where every mount is shared, in a mount namespace that goes with it.
fn run_among_shared_mounts(bundle: &Bundle) -> String {
    bundle.write();
    let inner = bundle.command(&["run", &bundle.id]);
    let mut command = std::process::Command::new("unshare");
    command.args([
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        "mount --make-rshared / && exec \"$@\"",
        "sh",
    ]);
    command.arg(inner.get_program()).args(inner.get_args());
    let output = command.current_dir(bundle.path("")).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_slave_root_goes_on_receiving_mounts() {
    here(|bundle| {
        let bundle = bundle.args(&["grep", " / / ", "/proc/self/mountinfo"]);
        let root = |bundle: &Bundle| {
            let table = run_among_shared_mounts(&bundle.another().script("cat /proc/self/mountinfo"));
            table.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap().to_owned()
        };
        assert!(!root(&bundle).contains("master:"));
        let slave = bundle.another().with("/linux/rootfsPropagation", json!("slave"));
        let slave = slave.script("cat /proc/self/mountinfo");
        let table = run_among_shared_mounts(&slave);
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(line.contains("master:") && !line.contains("shared:"), "{line}");
    });
}

#[test]
fn a_moved_root_leaves_no_bare_proc_behind() {
    here(|bundle| {
        let all = json!(["CAP_SETFCAP", "CAP_SYS_ADMIN"]);
        let sets = json!({"bounding": all, "permitted": all, "effective": all});
        let bundle = bundle.with("/process/capabilities", sets).args(&[
            "busybox",
            "unshare",
            "-Urmpf",
            "sh",
            "-c",
            "mount -t proc none /data && echo mounted",
        ]);
        bundle.write();
        let ran = bundle.oci(&["run", "--no-pivot", &bundle.id]);
        assert!(ran.code != 0 && !ran.out.contains("mounted"), "{ran:?}");
    });
}

#[test]
fn a_container_may_share_the_mount_namespace() {
    here(|bundle| {
        let namespaces = json!([{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}]);
        let bundle = bundle.with("/linux/namespaces", namespaces).args(&["sleep", "1000"]);
        let directory = bundle.path("").display().to_string();
        let directory = directory.trim_end_matches('/').to_owned();
        let mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap().matches(&directory).count();
        bundle.create();
        bundle.start();
        assert!(mounted() > 3);
        assert_eq!(
            bundle.oci(&["exec", &bundle.id, "readlink", "/proc/self/ns/mnt"]).ok().trim(),
            fs::read_link("/proc/self/ns/mnt").unwrap().to_str().unwrap()
        );
        let names = bundle.oci(&["exec", &bundle.id, "ls", "/"]).ok();
        assert!(
            names.contains("data\n") && !names.contains("boot\n"),
            "an exec sees the container's root: {names}"
        );
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
        bundle.becomes("stopped");
        bundle.oci(&["delete", &bundle.id]).ok();
        assert_eq!(mounted(), 0);
        // The same when the creation fails half-way.
        let broken = bundle.another().args(&["nothing"]);
        let broken = broken.with("/linux/namespaces", bundle.config["linux"]["namespaces"].clone());
        broken.run().fails();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(broken.root().to_str().unwrap()), "{table}");
    });
}
