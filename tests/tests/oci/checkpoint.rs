//! Keeping a container's whole state, and going on from it: with CRIU where it works, and clear words where not.
//!
//! `CORACLE_TEST_CRIU` says that it works here: that is in a guest, with Debian's CRIU and the kernel that it is for.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::support::{Bundle, here};

/// Counts in memory alone, and tells how far it is. It may be stopped between any two system calls, so that a file
/// which is emptied before it is written could stay empty.
const COUNTING: &str = "n=0; while :; do n=$((n + 1)); echo $n >> /data/counts; echo $n; sleep 0.05; done";

fn works() -> bool {
    let works = std::env::var_os("CORACLE_TEST_CRIU").is_some();
    if !works {
        println!("skipped: CRIU is tried in a guest, with a kernel that Debian's version knows");
    }
    works
}

fn count(bundle: &Bundle) -> u64 {
    let text = fs::read_to_string(bundle.root().join("data/counts")).unwrap_or_default();
    text.lines().last().map_or(0, |last| last.parse().unwrap())
}

/// CRIU's way with networks takes more than its guest has.
fn in_the_hosts_network(mut bundle: Bundle) -> Bundle {
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    bundle
}

/// Starts the container with an output of its own, which is a file outside of it.
#[track_caller]
fn begin(bundle: &Bundle) {
    bundle.write();
    let file = fs::File::create(bundle.path("first.out")).unwrap();
    let mut command = bundle.command(&["create", &bundle.id]);
    assert!(command.stderr(file.try_clone().unwrap()).stdout(file).status().unwrap().success());
    bundle.start();
}

#[track_caller]
fn counts_beyond(bundle: &Bundle, number: u64) {
    tests::eventually("counting", || match count(bundle) {
        now if now > number => Ok(()),
        now => Err(now.to_string()),
    });
}

fn restore(bundle: &Bundle, arguments: &[&str]) -> std::process::Output {
    let mut command = bundle.command(&["restore"]);
    // A file outside must be as long as it was: the same one.
    let log = fs::OpenOptions::new().append(true).open(bundle.path("first.out")).unwrap();
    command.args(arguments).arg(&bundle.id);
    command.stdin(Stdio::null()).stdout(log).stderr(fs::File::create(bundle.path("restored.err")).unwrap());
    command.output().unwrap()
}

#[track_caller]
fn restored(bundle: &Bundle, arguments: &[&str]) {
    let output = restore(bundle, arguments);
    assert!(
        output.status.success(),
        "{}\n{}",
        fs::read_to_string(bundle.path("restored.err")).unwrap_or_default(),
        fs::read_to_string(bundle.path("images/restore.log")).unwrap_or_default(),
    );
}

#[track_caller]
fn kept(bundle: &Bundle, arguments: &[&str]) {
    let mut all = vec!["checkpoint"];
    all.extend(arguments);
    all.push(&bundle.id);
    let ran = bundle.oci(&all);
    let logs = ["images/dump.log", "work/dump.log", "after/dump.log"];
    let log: String = logs.iter().filter_map(|log| fs::read_to_string(bundle.path(log)).ok()).collect();
    assert_eq!(ran.code, 0, "{ran:?}\n{log}");
}

#[test]
fn a_container_goes_on_where_it_was() {
    here(|bundle| {
        if !works() {
            return;
        }
        let outside = bundle.path("outside");
        fs::create_dir(&outside).unwrap();
        let bundle = bundle.script(&format!("echo first > /tmp/here; {COUNTING}")).and(
            "/mounts",
            json!({ "destination": "/outside", "type": "bind", "source": outside, "options": ["rbind"] }),
        );
        let bundle = in_the_hosts_network(bundle);
        begin(&bundle);
        counts_beyond(&bundle, 10);
        kept(&bundle, &["--image-path", "images"]);
        let at = count(&bundle);
        assert!(at > 10);
        // It is gone, as runc's is.
        bundle.oci(&["state", &bundle.id]).fails();
        restored(&bundle, &["--detach", "--image-path", "images", "--pid-file", "pid"]);
        assert_eq!(bundle.status(), "running");
        counts_beyond(&bundle, at + 5);
        // It went on from the very number, and with its output, whose other end is given anew.
        let said = fs::read_to_string(bundle.path("first.out")).unwrap();
        for (number, line) in (1..).zip(said.lines()) {
            assert_eq!(line, number.to_string(), "{said}");
        }
        assert!(said.lines().count() as u64 > at, "{said}");
        let pid = fs::read_to_string(bundle.path("pid")).unwrap();
        assert_eq!(bundle.state()["pid"].to_string(), pid);
        // It is a container like others: with its limits, to be entered, paused and removed.
        let inside = bundle.oci(&["exec", &bundle.id, "sh", "-c", "touch /outside/touched; cat /tmp/here"]);
        assert_eq!(inside.ok(), "first\n");
        assert!(outside.join("touched").exists());
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroup.contains(&bundle.id), "{cgroup}");
        bundle.oci(&["pause", &bundle.id]).ok();
        assert_eq!(bundle.status(), "paused");
        bundle.oci(&["delete", "--force", &bundle.id]).ok();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    });
}

#[test]
fn a_container_may_go_on_after_its_state_was_kept() {
    here(|bundle| {
        if !works() {
            return;
        }
        let bundle = in_the_hosts_network(bundle.script(COUNTING));
        begin(&bundle);
        counts_beyond(&bundle, 3);
        kept(&bundle, &["--leave-running", "--image-path", "images", "--work-path", "work"]);
        assert_eq!(bundle.status(), "running");
        counts_beyond(&bundle, count(&bundle));
        assert!(bundle.path("work/dump.log").exists());
        // Memory first, while it goes on; then what has changed since.
        bundle.oci(&["checkpoint", "--pre-dump", "--image-path", "before", &bundle.id]).ok();
        assert_eq!(bundle.status(), "running");
        kept(&bundle, &["--image-path", "after", "--parent-path", "../before"]);
        let at = count(&bundle);
        restored(&bundle, &["--detach", "--image-path", "after"]);
        counts_beyond(&bundle, at);
        bundle.oci(&["delete", "--force", &bundle.id]).ok();
    });
}

#[test]
fn a_restored_container_is_waited_for() {
    here(|bundle| {
        if !works() {
            return;
        }
        let bundle = in_the_hosts_network(bundle)
            .script("touch /data/ready; until [ -e /data/end ]; do sleep 0.05; done; exit 7");
        begin(&bundle);
        tests::eventually("the program", || {
            if bundle.root().join("data/ready").exists() { Ok(()) } else { Err("not there".to_owned()) }
        });
        kept(&bundle, &["--image-path", "images"]);
        fs::write(bundle.root().join("data/end"), "").unwrap();
        let output = restore(&bundle, &["--image-path", "images"]);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        bundle.oci(&["state", &bundle.id]).fails();
    });
}

#[test]
fn without_criu_nothing_changes_and_the_words_are_clear() {
    here(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.oci(&["checkpoint", &bundle.id]).fails();
        bundle.create();
        let told = bundle.oci(&["checkpoint", &bundle.id]).fails();
        assert!(told.contains("container cannot be checkpointed in created state"), "{told}");
        bundle.start();
        let told = bundle.oci(&["--criu", "/nonexistent/criu", "checkpoint", &bundle.id]).fails();
        let expected = "starting /nonexistent/criu, which checkpoint and restore need: No such file";
        assert!(told.contains(expected), "{told}");
        // One that gives up at once: what it has written to its log is told.
        let script =
            "#!/bin/sh\necho '(00.1) Error (criu/x.c:7): kernel too new' > checkpoint/dump.log\nexit 1\n";
        let false_criu = bundle.path("criu");
        fs::write(&false_criu, script).unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&false_criu, permissions).unwrap();
        let told = bundle.oci(&["--criu", false_criu.to_str().unwrap(), "checkpoint", &bundle.id]).fails();
        assert!(told.contains("criu: kernel too new (its log: checkpoint/dump.log)"), "{told}");
        assert_eq!(bundle.status(), "running");
        bundle.oci(&["delete", "--force", &bundle.id]).ok();
        // And a restore that fails leaves nothing.
        bundle.oci(&["restore", "--image-path", "nothing", &bundle.id]).fails();
        bundle.oci(&["state", &bundle.id]).fails();
        assert!(!bundle.path("state").join(&bundle.id).exists());
    });
}
