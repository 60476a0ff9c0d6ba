//! Further processes: what they take from the container, from a file and from the command line.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::process::receive;
use crate::support::{Bundle, everywhere, here};

fn running(bundle: Bundle) -> Bundle {
    let bundle = bundle.args(&["sleep", "1000"]);
    bundle.create();
    bundle.start();
    bundle
}

/// Puts a shell before the command, which does what a program in between could not.
fn through_shell(bundle: &Bundle, script: &str, args: &[&str]) -> std::process::Output {
    let inner = bundle.command(args);
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(script).arg("sh").arg(inner.get_program()).args(inner.get_args());
    command.current_dir(bundle.path("")).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_process_file_may_be_a_descriptor_and_need_not_name_a_user() {
    here(|bundle| {
        let bundle = running(bundle);
        let process = json!({"cwd": "/", "args": ["sh", "-c", "id -u; echo $HOME"], "env": ["PATH=/bin"]});
        std::fs::write(bundle.path("process.json"), process.to_string()).unwrap();
        let script = "exec 9<process.json; exec \"$@\"";
        let output = through_shell(&bundle, script, &["exec", "-p", "/dev/fd/9", &bundle.id]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n/\n", "{output:?}");
    });
}

#[test]
fn an_added_capability_is_ambient_where_the_container_has_inheritable_ones() {
    here(|bundle| {
        let sets = json!({
            "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SYSLOG"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"], "inheritable": ["CAP_CHOWN", "CAP_SYSLOG"], "ambient": ["CAP_CHOWN"],
        });
        let bundle = running(bundle.with("/process/capabilities", sets));
        let show = ["grep", "CapAmb", "/proc/self/status"];
        let plain = [&["exec", &bundle.id], &show[..]].concat();
        assert_eq!(bundle.oci(&plain).ok(), "CapAmb:\t0000000000000001\n");
        let more = [&["exec", "--cap", "CAP_SYSLOG", &bundle.id], &show[..]].concat();
        assert_eq!(bundle.oci(&more).ok(), "CapAmb:\t0000000400000001\n");
    });
}

#[test]
fn the_execution_domain_is_the_containers() {
    here(|bundle| {
        let bundle = running(bundle.with("/linux/personality", json!({"domain": "LINUX32"})));
        let machine = if cfg!(target_arch = "x86_64") { "i686\n" } else { "armv8l\n" };
        assert_eq!(bundle.oci(&["exec", &bundle.id, "uname", "-m"]).ok(), machine);
    });
}

#[test]
fn the_callers_cpus_are_not_the_containers() {
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = all.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned() + "\n";
    if !all.contains(['-', ',']) {
        println!("skipped: this takes two CPUs");
        return;
    }
    here(|bundle| {
        let bundle = running(bundle);
        let show = ["grep", "Cpus_allowed_list", "/proc/self/status"];
        let exec = [&["exec", &bundle.id], &show[..]].concat();
        let output = through_shell(&bundle, "exec taskset -c 0 \"$@\"", &exec);
        assert_eq!(String::from_utf8_lossy(&output.stdout), all, "{output:?}");
        let other = bundle.another().args(&show);
        other.write();
        let output = through_shell(&other, "exec taskset -c 0 \"$@\"", &["run", &other.id]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), all, "{output:?}");
    });
}

#[test]
fn what_cannot_be_executed_is_told_by_its_reason() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["/script"]);
        std::fs::write(bundle.root().join("script"), "#!/no/such/shell\n").unwrap();
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(bundle.root().join("script"), mode).unwrap();
        let error = bundle.run().fails();
        let expected = "exec /script: no such file or directory";
        assert!(bundle.runtime.name != "coracle" || error.contains(expected), "{error}");
    });
}

#[test]
fn a_capability_that_overrides_permissions_counts_for_the_program() {
    here(|bundle| {
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o744);
        std::fs::set_permissions(bundle.root().join("bin/busybox"), mode).unwrap();
        let bundle = bundle.with("/process/user", json!({"uid": 1000, "gid": 1000})).args(&["true"]);
        assert!(bundle.run().fails().contains("permission denied"));
        let all = json!(["CAP_DAC_OVERRIDE"]);
        let sets = json!({
            "bounding": all, "permitted": all, "effective": all, "inheritable": all, "ambient": all,
        });
        bundle.with("/process/capabilities", sets).run().ok();
    });
}

#[test]
fn handles_on_processes_are_sent() {
    here(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.write();
        let listener = std::os::unix::net::UnixListener::bind(bundle.path("handles")).unwrap();
        bundle.oci(&["create", "--pidfd-socket", "handles", &bundle.id]).ok();
        let (name, init) = receive(&listener.accept().unwrap().0);
        assert_eq!(name, b"standard");
        bundle.start();
        let args = ["exec", "-d", "--pidfd-socket", "handles", &bundle.id, "sleep", "1000"];
        bundle.oci(&args).ok();
        let (name, exec) = receive(&listener.accept().unwrap().0);
        assert_eq!(name, b"setns");
        rustix::process::pidfd_send_signal(&exec, rustix::process::Signal::KILL).unwrap();
        assert_eq!(bundle.status(), "running");
        rustix::process::pidfd_send_signal(&init, rustix::process::Signal::KILL).unwrap();
        bundle.becomes("stopped");
    });
}

#[test]
fn a_created_container_ends_when_asked_to() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        bundle.oci(&["kill", &bundle.id, "TERM"]).ok();
        if bundle.runtime.name == "crun" {
            // Its first process of a pid namespace takes the default action, which is none.
            return;
        }
        bundle.becomes("stopped");
    });
}

#[test]
fn a_cgroup_below_the_containers_can_be_joined() {
    here(|bundle| {
        let bundle = running(bundle);
        let cgroups = bundle.cgroups();
        let memory = cgroups.iter().find(|path| path.starts_with("/sys/fs/cgroup/memory"));
        let own = memory.or(cgroups.first()).unwrap();
        std::fs::create_dir(own.join("below")).unwrap();
        let choice = if memory.is_some() { "memory:below" } else { "below" };
        let exec =
            |choice: &str| bundle.oci(&["exec", "--cgroup", choice, &bundle.id, "cat", "/proc/self/cgroup"]);
        let seen = exec(choice).ok();
        assert_eq!(seen.matches(&format!("{}/below", bundle.id)).count(), 1, "{seen}");
        assert!(exec("..").fails().contains("bad sub cgroup path"));
        assert!(exec("nothing").fails().contains("No such file or directory"));
        if memory.is_some() {
            assert!(exec("whatever:/").fails().contains("unknown controller whatever"));
        }
    });
}

/// Kernel documentation, Control Group v2: no processes beside controllers that those below have.
#[test]
fn an_exec_follows_the_container_below_its_cgroup() {
    here(|bundle| {
        let controllers = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers");
        let Ok(available) = std::fs::read_to_string(controllers) else {
            println!("skipped: this is for cgroup v2, as it is in a guest");
            return;
        };
        // What looks at its cgroup finds all controllers there.
        let looks =
            json!({"type": "cgroup", "source": "cgroup", "destination": "/sys/fs/cgroup", "options": ["rw"]});
        let bundle = running(bundle.and("/mounts", looks));
        let own = bundle.cgroups().remove(0);
        assert_eq!(std::fs::read_to_string(own.join("cgroup.controllers")).unwrap(), available);
        let seen = || bundle.oci(&["exec", &bundle.id, "cat", "/proc/self/cgroup"]).ok();
        assert!(seen().ends_with(&format!("/{}\n", bundle.id)));
        std::fs::create_dir(own.join("below")).unwrap();
        std::fs::write(own.join("below/cgroup.procs"), bundle.state()["pid"].to_string()).unwrap();
        assert!(seen().ends_with(&format!("/{}\n", bundle.id)), "as long as it can");
        std::fs::write(own.join("cgroup.subtree_control"), "+memory").unwrap();
        assert!(seen().ends_with(&format!("/{}/below\n", bundle.id)));
    });
}

#[test]
fn memory_policies_are_checked_and_followed() {
    here(|bundle| {
        let policy = |policy: Value| bundle.another().with("/linux/memoryPolicy", policy);
        let refused = |value: Value, words: &str| {
            let error = policy(value).run().fails();
            assert!(error.contains(words), "{error}");
        };
        refused(json!({}), "invalid memory policy mode");
        refused(json!({"mode": "BIND", "nodes": "0"}), "invalid memory policy mode");
        refused(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["x"]}), "invalid memory policy flag");
        refused(json!({"mode": "MPOL_BIND", "nodes": "0-9876543210"}), "invalid memory policy node");
        refused(json!({"mode": "MPOL_DEFAULT", "nodes": "0-7"}), "mode requires 0 nodes but got 8");
        if !std::path::Path::new("/proc/self/numa_maps").exists() {
            println!("skipped in part: this kernel has no memory policies");
            return;
        }
        let bundle = policy(json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}));
        let bundle = running(bundle);
        let show = ["exec", &bundle.id, "head", "-n", "1", "/proc/self/numa_maps"];
        let seen = bundle.oci(&show).ok();
        assert!(seen.contains(" interleave:0 "), "{seen}");
    });
}

#[test]
fn a_deadline_scheduler_needs_all_cpus_and_says_so() {
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        println!("skipped: this takes two CPUs");
        return;
    }
    here(|bundle| {
        let scheduler = json!({"policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000});
        let bundle = bundle
            .with("/process/scheduler", scheduler)
            .with("/linux/resources/cpu", json!({"cpus": "0", "mems": "0"}));
        let error = bundle.run().fails();
        assert!(error.contains("process scheduler can't be used together with AllowedCPUs"), "{error}");
    });
}
