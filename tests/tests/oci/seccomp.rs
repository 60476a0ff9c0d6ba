//! System call filters as processes meet them.

use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::process::receive;
use crate::support::{everywhere, here};

fn profile(action: &str, names: &[&str], more: Value) -> Value {
    let mut rule = json!({"names": names, "action": action});
    if let (Some(rule), Some(more)) = (rule.as_object_mut(), more.as_object()) {
        rule.extend(more.clone());
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
}

#[test]
fn calls_are_answered_as_the_profile_says() {
    for no_new_privileges in [true, false] {
        everywhere(|bundle| {
            let filter = profile("SCMP_ACT_ERRNO", &["mkdir", "mkdirat"], json!({"errnoRet": 28}));
            let bundle = bundle
                .with("/linux/seccomp", filter)
                .with("/process/noNewPrivileges", json!(no_new_privileges));
            let bundle = bundle.script("mkdir /x 2>&1; grep '^Seccomp:' /proc/self/status | cut -f2");
            assert_eq!(bundle.run().ok(), "mkdir: can't create directory '/x': No space left on device\n2\n");
        });
    }
}

#[test]
fn arguments_are_compared() {
    everywhere(|bundle| {
        let args = json!({"errnoRet": 1, "args": [{"index": 0, "value": 10, "op": "SCMP_CMP_EQ"}]});
        let bundle = bundle.with("/linux/seccomp", profile("SCMP_ACT_ERRNO", &["kill"], args));
        let bundle = bundle.script("kill -0 10 2>&1; kill -0 $$ && echo self");
        assert_eq!(bundle.run().ok(), "sh: can't kill pid 10: Operation not permitted\nself\n");
    });
}

#[test]
fn a_killing_filter_kills() {
    everywhere(|bundle| {
        let bundle =
            bundle.with("/linux/seccomp", profile("SCMP_ACT_KILL_PROCESS", &["mkdir", "mkdirat"], json!({})));
        // 128 and the number of SIGSYS, as a shell tells it.
        assert_eq!(bundle.script("(mkdir /x); echo $?").run().ok(), "159\n");
    });
}

#[test]
fn a_filter_need_not_know_what_the_runtime_does() {
    here(|bundle| {
        // Nothing but what a static program needs to begin and end.
        let names = [
            "execve",
            "exit_group",
            "exit",
            "brk",
            "arch_prctl",
            "set_tid_address",
            "mprotect",
            "mmap",
            "munmap",
            "prctl",
            "getuid",
            "readlink",
            "readlinkat",
            "set_robust_list",
            "rseq",
            "prlimit64",
            "getrandom",
            "newfstatat",
            "uname",
            "getpid",
            "capset",
            "capget",
        ];
        for no_new_privileges in [true, false] {
            let filter = json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
            });
            let bundle = bundle.another().with("/linux/seccomp", filter);
            let bundle = bundle.with("/process/noNewPrivileges", json!(no_new_privileges)).args(&["true"]);
            bundle.run().ok();
        }
    });
}

#[test]
fn a_listener_goes_to_the_agent() {
    everywhere(|bundle| {
        let listener = UnixListener::bind(bundle.path("agent")).unwrap();
        let mut filter = profile("SCMP_ACT_NOTIFY", &["mkdir", "mkdirat"], json!({}));
        filter["listenerPath"] = json!(bundle.path("agent"));
        filter["listenerMetadata"] = json!("about it");
        let bundle = bundle.with("/linux/seccomp", filter).args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        let (stream, _) = listener.accept().unwrap();
        let (message, fd) = receive(&stream);
        let state: Value = serde_json::from_slice(&message).unwrap();
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "about it");
        assert_eq!(state["state"]["id"], bundle.id.as_str());
        assert_eq!(state["pid"], bundle.state()["pid"]);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        assert_eq!(std::fs::read_link(path).unwrap().to_str(), Some("anon_inode:seccomp notify"));
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
    });
    here(|bundle| {
        let filter = profile("SCMP_ACT_NOTIFY", &["mkdir"], json!({}));
        assert!(bundle.with("/linux/seccomp", filter).run().fails().contains("listenerPath"));
    });
}

#[test]
fn a_hook_in_the_container_is_under_the_filter() {
    here(|bundle| {
        for no_new_privileges in [true, false] {
            let hooks =
                json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "mkdir /data/x"]}]});
            let filter = profile("SCMP_ACT_KILL_PROCESS", &["mkdir", "mkdirat"], json!({}));
            let bundle = bundle
                .another()
                .with("/linux/seccomp", filter)
                .with("/process/noNewPrivileges", json!(no_new_privileges))
                .with("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]))
                .with_hooks(hooks);
            let error = bundle.run().fails();
            assert!(error.contains("startContainer hook #0"), "{error}");
            assert!(!bundle.root().join("data/x").exists());
        }
    });
}
