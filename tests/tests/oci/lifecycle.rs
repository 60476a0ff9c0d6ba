//! created, running, stopped: what each command does in each state.

use serde_json::json;

use crate::support::{everywhere, has_apparmor, here};

#[test]
fn a_container_lives_and_is_removed() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.write();
        let pid_file = bundle.path("pid");
        bundle.oci(&["create", "--pid-file", pid_file.to_str().unwrap(), &bundle.id]).ok();
        let state = bundle.state();
        assert_eq!(state["status"], "created");
        assert_eq!(state["id"], bundle.id.as_str());
        assert_eq!(state["annotations"], json!({"example.org/key": "kept"}));
        assert_eq!(std::path::Path::new(state["bundle"].as_str().unwrap()), pid_file.parent().unwrap());
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        assert_eq!(state["pid"].to_string(), pid);
        // Only our own code runs so far.
        let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!cmdline.contains("sleep"), "{cmdline}");
        bundle.start();
        assert_eq!(bundle.status(), "running");
        tests::eventually("the program", || {
            let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
            if cmdline == "sleep\u{0}1000\u{0}" { Ok(()) } else { Err(cmdline) }
        });
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
        bundle.becomes("stopped");
        bundle.oci(&["delete", &bundle.id]).ok();
        bundle.oci(&["state", &bundle.id]).fails();
    });
}

#[test]
fn commands_are_refused_where_they_make_no_sense() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.oci(&["state", &bundle.id]).fails();
        bundle.oci(&["start", &bundle.id]).fails();
        bundle.oci(&["kill", &bundle.id]).fails();
        bundle.oci(&["delete", &bundle.id]).fails();
        bundle.oci(&["delete", "--force", &bundle.id]).ok();
        bundle.create();
        bundle.oci(&["create", &bundle.id]).fails();
        assert_eq!(bundle.status(), "created", "a second create changes nothing");
        bundle.start();
        bundle.oci(&["start", &bundle.id]).fails();
        bundle.oci(&["delete", &bundle.id]).fails();
        assert_eq!(bundle.status(), "running");
        bundle.oci(&["kill", &bundle.id, "9"]).ok();
        bundle.becomes("stopped");
        bundle.oci(&["start", &bundle.id]).fails();
        bundle.oci(&["kill", &bundle.id, "TERM"]).fails();
        bundle.oci(&["exec", &bundle.id, "true"]).fails();
        bundle.oci(&["delete", &bundle.id]).ok();
    });
}

#[test]
fn a_created_container_can_be_deleted() {
    everywhere(|bundle| {
        bundle.create();
        bundle.oci(&["delete", "--force", &bundle.id]).ok();
        bundle.oci(&["state", &bundle.id]).fails();
    });
}

#[test]
fn what_changes_the_bundle_later_changes_nothing() {
    everywhere(|bundle| {
        let bundle = bundle.script("echo first > /data/which");
        bundle.create();
        std::fs::write(bundle.path("config.json"), "{}").unwrap();
        bundle.start();
        bundle.becomes("stopped");
        assert_eq!(std::fs::read_to_string(bundle.root().join("data/which")).unwrap(), "first\n");
        bundle.oci(&["delete", &bundle.id]).ok();
    });
}

#[test]
fn run_ends_as_the_program_does() {
    everywhere(|bundle| {
        let bundle = bundle.script("echo out; echo err >&2; exit 7");
        let ran = bundle.run();
        assert_eq!((ran.code, ran.out.as_str()), (7, "out\n"));
        assert!(ran.err.ends_with("err\n"), "{ran:?}");
        let bundle = bundle.script("kill -9 $$");
        assert!(bundle.run().code >= 0);
    });
}

#[test]
fn pause_stops_and_resume_goes_on() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        if bundle.runtime.name != "crun" {
            bundle.oci(&["resume", &bundle.id]).fails();
        }
        bundle.oci(&["pause", &bundle.id]).ok();
        assert_eq!(bundle.status(), "paused");
        if bundle.runtime.name != "crun" {
            bundle.oci(&["exec", &bundle.id, "true"]).fails();
        }
        bundle.oci(&["resume", &bundle.id]).ok();
        assert_eq!(bundle.status(), "running");
        bundle.oci(&["pause", &bundle.id]).ok();
        bundle.oci(&["delete", "--force", &bundle.id]).ok();
    });
}

#[test]
fn containers_are_listed() {
    everywhere(|bundle| {
        bundle.create();
        assert_eq!(bundle.oci(&["list", "--quiet"]).ok().trim(), bundle.id);
        let list: serde_json::Value =
            serde_json::from_str(&bundle.oci(&["list", "--format", "json"]).ok()).unwrap();
        assert_eq!((&list[0]["id"], &list[0]["status"]), (&json!(bundle.id), &json!("created")));
        assert!(bundle.oci(&["list"]).ok().contains("created"));
    });
}

#[test]
fn failures_are_one_line_that_names_step_and_object() {
    let says = |pointer: &str, value: serde_json::Value, words: &str| {
        here(|bundle| {
            let err = bundle.with(pointer, value.clone()).run().fails();
            assert_eq!(err.lines().count(), 1, "{err}");
            assert!(err.contains(words), "{err:?} does not contain {words:?}");
        });
    };
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!([{"destination": destination, "type": kind, "source": source, "options": options}]);
    says("/process/args", json!(["nothing"]), "\"nothing\": executable file not found in $PATH");
    says("/process/args", json!(["/etc"]), "\"/etc\": permission denied");
    says("/process/cwd", json!("relative"), "process.cwd");
    says("/mounts", mount("/x", "nofs", "x", &[]), "mounting nofs on /x: No such device");
    says(
        "/mounts",
        mount("/x", "tmpfs", "x", &["size=zz"]),
        "mounting tmpfs on /x: tmpfs: Bad value for 'size'",
    );
    says("/mounts", mount("/x", "bind", "/nowhere", &["bind"]), "mounting /nowhere on /x: No such file");
    says("/linux/sysctl", json!({"kernel.core_pattern": "|/x"}), "linux.sysctl[kernel.core_pattern]");
    says("/root/path", json!("nothing"), "nothing");
    says("/ociVersion", json!("3.0.0"), "ociVersion");
    let refused =
        if has_apparmor() { "the AppArmor profile \"exec strict\"" } else { "process.apparmorProfile" };
    says("/process/apparmorProfile", json!("strict"), refused);
    says("/process/selinuxLabel", json!("a:b:c:d"), "process.selinuxLabel");
}

#[test]
fn logs_are_written_for_engines() {
    here(|bundle| {
        let bundle = bundle.args(&["nothing"]);
        bundle.write();
        let log = bundle.path("log");
        let name = log.to_str().unwrap();
        bundle.oci(&["--log", name, "--log-format", "json", "create", &bundle.id]).fails();
        let text = std::fs::read_to_string(&log).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        assert!(line["msg"].as_str().unwrap().contains("executable file not found"), "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    });
}

#[test]
fn what_has_stopped_takes_no_signal() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["true"]);
        bundle.create();
        bundle.start();
        bundle.becomes("stopped");
        bundle.oci(&["kill", &bundle.id, "TERM"]).fails();
        if bundle.runtime.name == "coracle" {
            assert!(bundle.oci(&["kill", &bundle.id, "0"]).fails().contains("container not running"));
            // All of none is not an error.
            bundle.oci(&["kill", "--all", &bundle.id, "0"]).ok();
        }
    });
}

#[test]
fn a_missing_directory_of_states_is_told() {
    here(|bundle| {
        // The bundle's own has not been made yet.
        assert!(bundle.oci(&["list"]).fails().contains("No such file"));
    });
}

#[test]
fn everything_is_told_when_asked() {
    here(|bundle| {
        let bundle = bundle.args(&["true"]);
        bundle.write();
        let ran = bundle.oci(&["--debug", "run", &bundle.id]);
        assert!(ran.err.contains("level=debug msg=\"mounting proc on /proc\""), "{ran:?}");
        let ran = bundle.oci(&["--debug", "--log", "log", "--log-format", "json", "run", &bundle.id]);
        assert_eq!(ran.err, "");
        let log = std::fs::read_to_string(bundle.path("log")).unwrap();
        assert!(log.contains("\"level\":\"debug\""), "{log}");
        assert!(bundle.oci(&["-v"]).ok().contains("spec: 1."));
    });
}
