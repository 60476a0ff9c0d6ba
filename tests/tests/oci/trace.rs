//! What a container's first process does between giving up its rights and becoming the program, by strace.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Bundle, here};

/// Calls that need no right: talking to the runtime, looking at the program, memory, closing descriptors.
const HARMLESS: [&str; 20] = [
    "access",
    "faccessat2",
    "newfstatat",
    "stat",
    "fstat",
    "sendmsg",
    "recvmsg",
    "accept4",
    "read",
    "write",
    "mmap",
    "munmap",
    "brk",
    "rt_sigaction",
    "fcntl",
    "close",
    "close_range",
    "prctl",
    "capget",
    "execve",
];

/// The calls of the process that becomes `program`, in their order, until it has become that.
fn calls(bundle: &Bundle, program: &str, arguments: &[&str]) -> Vec<String> {
    bundle.write();
    let trace = bundle.path("trace");
    let traced = bundle.command(arguments);
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        .arg(traced.get_program())
        .args(traced.get_args())
        .current_dir(bundle.path(""))
        .output()
        .expect("strace is installed by hack/install");
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(trace).unwrap();
    let lines: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(char::is_whitespace)).collect();
    let wanted = format!("execve(\"{program}\"");
    let (end, (pid, _)) = lines
        .iter()
        .enumerate()
        .find(|(_, (_, call))| call.trim_start().starts_with(&wanted))
        .unwrap_or_else(|| panic!("nothing becomes {program}: {text}"));
    lines[..=end]
        .iter()
        .filter(|(of, call)| of == pid && !call.contains("resumed>"))
        .map(|(_, call)| call.trim_start().to_owned())
        .collect()
}

fn name(call: &str) -> &str {
    call.split('(').next().unwrap_or_default()
}

/// Position after the last call that begins so.
fn after(calls: &[String], beginning: &str) -> usize {
    let last = calls.iter().rposition(|call| call.starts_with(beginning));
    last.unwrap_or_else(|| panic!("no {beginning}: {calls:#?}")) + 1
}

fn filter() -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]})
}

fn confined(bundle: Bundle, no_new_privileges: bool) -> Bundle {
    bundle
        .with("/linux/seccomp", filter())
        .with("/process/noNewPrivileges", json!(no_new_privileges))
        .with("/process/user", json!({"uid": 1000, "gid": 1000}))
        .args(&["/bin/true"])
}

#[test]
fn under_the_filter_there_is_nothing_but_the_program() {
    here(|bundle| {
        let bundle = confined(bundle, true);
        let calls = calls(&bundle, "/bin/true", &["run", &bundle.id]);
        let rest = &calls[after(&calls, "seccomp(SECCOMP_SET_MODE_FILTER")..];
        assert_eq!(rest.iter().map(|call| name(call)).collect::<Vec<_>>(), ["execve"], "{rest:#?}");
    });
}

#[test]
fn without_rights_nothing_is_tried_that_needs_them() {
    for no_new_privileges in [true, false] {
        here(|bundle| {
            let bundle = confined(bundle, no_new_privileges);
            let calls = calls(&bundle, "/bin/true", &["run", &bundle.id]);
            let rest = &calls[after(&calls, "capset(")..];
            let allowed = |call: &&String| {
                HARMLESS.contains(&name(call))
                    // With no new privileges the filter needs no right, and comes last.
                    || no_new_privileges && name(call) == "seccomp"
            };
            let needs: Vec<_> = rest.iter().filter(|call| !allowed(call)).collect();
            assert!(needs.is_empty(), "{needs:#?}");
            let refused: Vec<_> = rest
                .iter()
                .filter(|call| call.contains("= -1 EPERM") || call.contains("= -1 EACCES"))
                .collect();
            assert!(refused.is_empty(), "{refused:#?}");
        });
    }
}

#[test]
fn a_process_that_joins_is_confined_in_the_same_order() {
    here(|bundle| {
        let bundle = confined(bundle, true).args(&["/bin/sleep", "1000"]);
        bundle.write();
        bundle.oci(&["run", "--detach", &bundle.id]).ok();
        let calls = calls(&bundle, "/bin/true", &["exec", &bundle.id, "/bin/true"]);
        let rest = &calls[after(&calls, "seccomp(SECCOMP_SET_MODE_FILTER")..];
        assert_eq!(rest.iter().map(|call| name(call)).collect::<Vec<_>>(), ["execve"], "{rest:#?}");
    });
}
