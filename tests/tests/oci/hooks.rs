//! The six hooks: when they run, where, what they are told, and what their failure means.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bundle, everywhere, here};

/// A hook that notes its name and the status it is told in a file of the host.
fn note(bundle: &Bundle, name: &str) -> Value {
    let file = bundle.path("notes").display().to_string();
    let script = format!("state=$(cat); echo \"{name} $state\" >> {file}");
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
}

#[test]
fn hooks_run_in_order_with_the_state() {
    everywhere(|bundle| {
        let mut hooks = json!({});
        for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            hooks[name] = note(&bundle, name);
        }
        // This one runs inside, where the file of the host is not.
        hooks["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /data/state"]}]);
        let bundle = bundle.with_hooks(hooks).args(&["sleep", "1000"]);
        bundle.create();
        let pid = bundle.state()["pid"].clone();
        let names = |bundle: &Bundle| -> Vec<String> {
            let notes = fs::read_to_string(bundle.path("notes")).unwrap();
            notes.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&bundle)[..3], ["prestart", "createRuntime", "createContainer"]);
        // runc 1.1 does not wait with the next one for the start.
        assert!(bundle.runtime.name == "runc" || names(&bundle).len() == 3);
        assert!(!bundle.root().join("data/state").exists());
        bundle.start();
        assert_eq!(names(&bundle)[3..], ["poststart"]);
        let inside: Value =
            serde_json::from_slice(&fs::read(bundle.root().join("data/state")).unwrap()).unwrap();
        assert_eq!(inside["id"], bundle.id.as_str());
        assert!(bundle.runtime.name != "coracle" || inside["status"] == "created", "{inside}");
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
        bundle.becomes("stopped");
        bundle.oci(&["delete", &bundle.id]).ok();
        assert_eq!(names(&bundle)[4..], ["poststop"]);
        let notes = fs::read_to_string(bundle.path("notes")).unwrap();
        let state = |name: &str| -> Value {
            let line = notes.lines().find(|line| line.starts_with(name)).unwrap();
            serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()
        };
        for (name, status) in
            [("createRuntime", "creating"), ("poststart", "running"), ("poststop", "stopped")]
        {
            let state = state(name);
            assert_eq!(state["id"], bundle.id.as_str());
            // Peers differ on what a container is while these hooks run.
            assert!(bundle.runtime.name != "coracle" || state["status"] == status, "{name}: {state}");
            assert_eq!(state["annotations"], json!({"example.org/key": "kept"}));
        }
        assert_eq!(state("prestart")["pid"], pid);
    });
}

#[test]
fn a_failing_hook_ends_the_creation() {
    for name in ["prestart", "createRuntime", "createContainer"] {
        everywhere(|bundle| {
            let mut hooks = json!({});
            hooks[name] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no good >&2; exit 3"]}]);
            let bundle = bundle.with_hooks(hooks);
            bundle.write();
            let err = bundle.oci(&["create", &bundle.id]).fails();
            if bundle.runtime.name == "coracle" {
                assert!(
                    err.contains(&format!("running {name} hook #0: /bin/sh: exit status 3: no good")),
                    "{err}"
                );
                assert!(bundle.cgroups().is_empty());
            }
            bundle.oci(&["state", &bundle.id]).fails();
        });
    }
}

#[test]
fn a_slow_hook_is_ended() {
    everywhere(|bundle| {
        let hooks =
            json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]});
        let bundle = bundle.with_hooks(hooks);
        bundle.write();
        bundle.oci(&["create", &bundle.id]).fails();
        bundle.oci(&["state", &bundle.id]).fails();
    });
}

#[test]
fn the_environment_of_a_hook_is_its_own() {
    everywhere(|bundle| {
        let file = bundle.path("env").display().to_string();
        let script = format!("env | sort > {file}");
        let hooks = json!({"createRuntime": [
            {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin", "OWN=1"]},
        ]});
        let bundle = bundle.with_hooks(hooks);
        bundle.run().ok();
        let env = fs::read_to_string(file).unwrap();
        // Shells add variables of theirs.
        let shells = ["PWD=", "SHLVL=", "_="];
        let names: Vec<&str> =
            env.lines().filter(|line| !shells.iter().any(|own| line.starts_with(own))).collect();
        assert_eq!(names, ["OWN=1", "PATH=/usr/bin:/bin"]);
    });
}

#[test]
fn hooks_see_the_containers_mounts_before_the_root_changes() {
    here(|bundle| {
        let file = bundle.path("mounts").display().to_string();
        let root = bundle.root().display().to_string();
        let script = format!("grep -c ' {root}/proc ' /proc/self/mountinfo > {file}");
        let hooks = json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        let bundle = bundle.with_hooks(hooks);
        bundle.run().ok();
        assert_eq!(fs::read_to_string(file).unwrap(), "1\n");
    });
}

#[test]
fn a_failing_hook_is_told_by_its_number() {
    here(|bundle| {
        for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
            let hooks = json!({kind: [{"path": "/bin/true"}, {"path": "/bin/false"}]});
            let error = bundle.another().with_hooks(hooks).run().fails();
            assert!(error.contains(&format!("error running {kind} hook #1: /bin/false")), "{error}");
        }
    });
}

#[test]
fn a_hook_in_the_container_has_the_programs_environment() {
    here(|bundle| {
        let script = "echo \"$NAME $HOME\" > /data/seen";
        let hooks = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        let bundle = bundle.with_hooks(hooks);
        bundle.run().ok();
        assert_eq!(fs::read_to_string(bundle.root().join("data/seen")).unwrap(), "value /\n");
    });
}

#[test]
fn a_hook_before_the_change_of_root_starts_in_the_new_one() {
    // As runc does since 1.2; crun starts it in the bundle.
    here(|bundle| {
        let hooks =
            json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "touch ./data/here"]}]});
        let bundle = bundle.with_hooks(hooks);
        let ran = bundle.run();
        assert!(bundle.root().join("data/here").exists(), "{ran:?}");
    });
}
