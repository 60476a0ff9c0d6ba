//! The root file system, mounts and devices.

use serde_json::json;

use crate::support::{everywhere, here};

#[test]
fn the_root_is_read_only_when_asked() {
    everywhere(|bundle| {
        let bundle = bundle.script("touch /x 2>/dev/null && echo written; touch /dev/x && echo dev");
        assert_eq!(bundle.run().ok(), "written\ndev\n");
        let bundle = bundle.with("/root/readonly", json!(true));
        std::fs::remove_file(bundle.root().join("x")).unwrap();
        assert_eq!(bundle.run().ok(), "dev\n");
    });
}

#[test]
fn default_devices_and_links_are_there() {
    everywhere(|bundle| {
        let bundle = bundle.script(
            "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done
             for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; echo x > /dev/null; head -c 2 /dev/zero | wc -c",
        );
        assert_eq!(
            bundle.run().ok(),
            "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n\
             /dev/tty 5:0 666\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n2\n"
        );
    });
}

#[test]
fn devices_are_made_as_described() {
    everywhere(|bundle| {
        let devices = json!([
            {"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        ]);
        let bundle = bundle.with("/linux/devices", devices);
        let bundle = bundle.script("stat -c '%t:%T %a %u:%g' /dev/own; stat -c '%F %a' /dev/pipe");
        assert_eq!(bundle.run().ok(), "1:5 640 7:8\nfifo 600\n");
    });
}

#[test]
fn bind_mounts_have_their_options() {
    everywhere(|bundle| {
        std::fs::create_dir_all(bundle.path("host/below")).unwrap();
        std::fs::write(bundle.path("host/file"), "from the host\n").unwrap();
        let source = bundle.path("host").display().to_string();
        let bundle = bundle
            .and("/mounts", json!({"destination": "/a", "type": "bind", "source": source, "options": ["rbind", "ro"]}))
            .and("/mounts", json!({"destination": "/b/c", "type": "none", "source": "host", "options": ["bind", "nosuid", "noexec"]}))
            .and("/mounts", json!({"destination": "/etc/one", "type": "bind", "source": format!("{source}/file"), "options": ["bind", "ro"]}));
        let bundle = bundle.script(
            "cat /a/file /etc/one; touch /a/x 2>/dev/null || echo ro; touch /b/c/x && echo rw
             grep ' /b/c ' /proc/self/mountinfo | cut -d' ' -f6 | grep -c nosuid.*noexec",
        );
        assert_eq!(bundle.run().ok(), "from the host\nfrom the host\nro\nrw\n1\n");
        assert!(bundle.path("host/x").exists());
    });
}

#[test]
fn recursive_read_only_reaches_below() {
    here(|bundle| {
        let bundle = bundle
            .and(
                "/mounts",
                json!({"destination": "/a", "type": "bind", "source": "/dev", "options": ["rbind", "rro"]}),
            )
            .script("grep ' /a' /proc/self/mountinfo | cut -d' ' -f6 | grep -vc ^ro; true");
        assert_eq!(bundle.run().ok(), "0\n");
    });
}

#[test]
fn a_tmpfs_can_begin_with_what_the_image_has() {
    for read_only in [false, true] {
        let case = |bundle: crate::support::Bundle| {
            let etc = bundle.root().join("etc");
            std::fs::write(etc.join("file"), "kept\n").unwrap();
            std::fs::create_dir(etc.join("below")).unwrap();
            std::os::unix::fs::symlink("file", etc.join("link")).unwrap();
            let options = if read_only { json!(["tmpcopyup", "ro"]) } else { json!(["tmpcopyup"]) };
            let mount =
                json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": options});
            let bundle = bundle.and("/mounts", mount);
            let bundle =
                bundle.script("ls /etc; cat /etc/link; touch /etc/new 2>/dev/null && echo written; true");
            let expected = if read_only { "" } else { "written\n" };
            assert_eq!(bundle.run().ok(), format!("below\nfile\nlink\nkept\n{expected}"));
            assert!(!etc.join("new").exists());
        };
        if read_only { here(case) } else { everywhere(case) }
    }
}

#[test]
fn paths_are_masked_and_read_only() {
    everywhere(|bundle| {
        std::fs::write(bundle.root().join("etc/secret"), "secret").unwrap();
        std::fs::write(bundle.root().join("data/secret"), "secret").unwrap();
        let bundle = bundle
            .with("/linux/maskedPaths", json!(["/etc/secret", "/data", "/not/there"]))
            .with("/linux/readonlyPaths", json!(["/tmp", "/proc/sys", "/not/there"]));
        let bundle = bundle.script(
            "cat /etc/secret; ls /data; touch /tmp/x 2>/dev/null || echo tmp; echo 1 > /proc/sys/net/ipv4/ip_forward || echo sys",
        );
        assert_eq!(bundle.run().ok(), "tmp\nsys\n");
    });
}

#[test]
fn ids_of_a_mount_can_be_mapped() {
    here(|bundle| {
        std::fs::create_dir(bundle.path("host")).unwrap();
        std::fs::write(bundle.path("host/file"), "").unwrap();
        let ids = json!([{"containerID": 0, "hostID": 1234, "size": 10}]);
        let mount = json!({
            "destination": "/m", "type": "bind", "source": "host", "options": ["rbind", "idmap"],
            "uidMappings": ids, "gidMappings": ids,
        });
        let bundle = bundle.and("/mounts", mount).script("stat -c %u:%g /m/file");
        assert_eq!(bundle.run().ok(), "1234:1234\n");
    });
}

#[test]
fn propagation_is_as_asked() {
    // runc 1.1 and crun differ on what "shared" and "unbindable" do to the root itself.
    here(|bundle| {
        for (propagation, field) in [("private", ""), ("shared", "shared:"), ("unbindable", "unbindable")] {
            let bundle = bundle.another().with("/linux/rootfsPropagation", json!(propagation));
            let bundle = bundle
                .script("grep ' / / ' /proc/self/mountinfo || grep ' / ' /proc/self/mountinfo | head -1");
            let out = bundle.run().ok();
            let fields = out.split(" - ").next().unwrap();
            let found = fields.contains(field) && (!field.is_empty() || !fields.contains("shared:"));
            assert!(found, "{propagation}: {out}");
        }
    });
}
