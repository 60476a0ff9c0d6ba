//! The process section: who runs what, with which rights and limits; and further processes.

use serde_json::json;

use crate::support::{everywhere, here};

#[test]
fn the_user_is_who_it_should_be() {
    everywhere(|bundle| {
        let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 63});
        let bundle = bundle.with("/process/user", user).script("id -u; id -g; id -G; umask; pwd; echo $NAME");
        assert_eq!(
            bundle.with("/process/cwd", json!("/tmp")).run().ok(),
            "1000\n1001\n1001 5 7\n0077\n/tmp\nvalue\n"
        );
    });
}

#[test]
fn capabilities_are_exactly_those() {
    everywhere(|bundle| {
        let show = "grep -E '^(Cap|NoNew)' /proc/self/status | cut -f2";
        let sets = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN"],
        });
        let bundle = bundle.with("/process/user", json!({"uid": 1000, "gid": 1000}));
        let out = bundle.with("/process/capabilities", sets).script(show).run().ok();
        let lines: Vec<u64> = out.lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect();
        // Inheritable, permitted, effective, bounding, ambient, and then no_new_privs. What the program has is
        // what execve leaves of it: for a user, the ambient set.
        assert_eq!(lines, [1, 1, 1, 0x421, 1, 1]);
    });
}

#[test]
fn limits_are_set() {
    everywhere(|bundle| {
        let limits = json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]);
        let bundle = bundle.with("/process/rlimits", limits).script("ulimit -n; ulimit -Hn; ulimit -c");
        assert_eq!(bundle.run().ok(), "100\n200\n0\n");
    });
    here(|bundle| {
        let twice = json!([
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]);
        assert!(bundle.with("/process/rlimits", twice).run().fails().contains("listed twice"));
    });
}

#[test]
fn scheduling_is_as_asked() {
    here(|bundle| {
        let bundle = bundle
            .with("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 3}))
            .with("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))
            .with("/linux/personality", json!({"domain": "LINUX32"}))
            .with("/process/oomScoreAdj", json!(500));
        let bundle = bundle.script(
            "cut -d' ' -f19,41 /proc/self/stat; busybox ionice -p 1; uname -m; cat /proc/self/oom_score_adj",
        );
        let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
        assert_eq!(bundle.run().ok(), format!("5 3\nbest-effort: prio 3\n{machine}\n500\n"));
    });
}

#[test]
fn an_exec_is_in_the_container() {
    everywhere(|bundle| {
        if bundle.runtime.name == "crun" {
            // A variable on its command line replaces all of the container's.
            return;
        }
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        let pid = bundle.state()["pid"].to_string();
        let script = "for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done; hostname; pwd; echo $NAME$X; exit 5";
        let ran = bundle.oci(&["exec", "--cwd", "/tmp", "-e", "X=y", &bundle.id, "sh", "-c", script]);
        assert_eq!(ran.code, 5, "{ran:?}");
        let mut expected: Vec<String> = ["pid", "net", "ipc", "uts", "mnt"]
            .iter()
            .map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string())
            .collect();
        expected.extend(["box", "/tmp", "valuey"].map(str::to_owned));
        assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected);
        let show = "grep -E '^(Cap|NoNew)' /proc/self/status";
        let init =
            bundle.oci(&["exec", &bundle.id, "sh", "-c", "grep -E '^(Cap|NoNew)' /proc/1/status"]).ok();
        assert_eq!(
            bundle.oci(&["exec", &bundle.id, "sh", "-c", show]).ok(),
            init,
            "no more rights than the container"
        );
        assert_eq!(bundle.oci(&["exec", "-u", "7:8", &bundle.id, "sh", "-c", "id -u; id -g"]).ok(), "7\n8\n");
        assert!(bundle.oci(&["exec", &bundle.id, "nothing"]).fails().contains("nothing"));
    });
}

#[test]
fn an_exec_is_in_the_containers_cgroup() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        let pid_file = bundle.path("exec.pid");
        bundle
            .oci(&["exec", "-d", "--pid-file", pid_file.to_str().unwrap(), &bundle.id, "sleep", "1000"])
            .ok();
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let memory = groups.lines().find(|line| line.contains(":memory:") || line.starts_with("0::"));
        assert!(memory.is_some_and(|line| line.ends_with(&bundle.id)), "{groups}");
        let pids: Vec<u32> =
            serde_json::from_str(&bundle.oci(&["ps", "-f", "json", &bundle.id]).ok()).unwrap();
        assert!(pids.len() == 2 && pids.contains(&pid.parse().unwrap()), "{pids:?}");
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
        bundle.becomes("stopped");
    });
}

#[test]
fn a_process_file_is_followed() {
    everywhere(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        bundle.start();
        let process = json!({
            "user": {"uid": 3, "gid": 4}, "cwd": "/data", "env": ["PATH=/bin", "A=b"],
            "args": ["sh", "-c", "id -u; id -g; pwd; echo $A; grep CapEff /proc/self/status | cut -f2"],
        });
        std::fs::write(bundle.path("process.json"), process.to_string()).unwrap();
        let ran = bundle.oci(&["exec", "--process", "process.json", &bundle.id]);
        assert_eq!(ran.ok(), "3\n4\n/data\nb\n0000000000000000\n");
    });
}

#[test]
fn descriptors_are_passed_on_and_others_are_not() {
    everywhere(|bundle| {
        let bundle = bundle.script("cat <&3; ls /proc/self/fd");
        bundle.write();
        std::fs::write(bundle.path("passed"), "passed on\n").unwrap();
        // The shell opens what a program in between could not keep open.
        let inner = bundle.command(&["run", "--preserve-fds", "1", &bundle.id]);
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg("exec 3<passed 4</etc/passwd; exec \"$@\"").arg("sh").arg(inner.get_program());
        command.args(inner.get_args()).current_dir(bundle.path("")).stdin(std::process::Stdio::null());
        let output = command.output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        // `ls` itself has one more, which it reads the directory with.
        assert!(out.starts_with("passed on\n0\n1\n2\n3\n4\n") && out.lines().count() <= 6, "{output:?}");
    });
}

#[test]
fn a_descriptor_that_is_not_there_is_not_passed_on() {
    everywhere(|bundle| {
        let bundle = bundle.script("ls /proc/self/fd");
        bundle.write();
        match bundle.runtime.name {
            // It goes on, and gives the container what it has opened itself.
            "crun" => return,
            "runc" => {
                let err = bundle.oci(&["run", "--preserve-fds", "100", &bundle.id]).fails();
                assert!(err.contains("preserved-fd"), "{err}");
                return;
            }
            _ => {}
        }
        // Whoever runs the tests may have left something open for us. Only some shells can close what has two digits.
        let shell = if std::path::Path::new("/bin/bash").exists() { "bash" } else { "sh" };
        const CLOSE: &str = r#"for fd in $(ls /proc/$$/fd); do [ $fd -lt 3 ] || eval "exec $fd>&-"; done"#;
        for (opens, there) in [("", ""), ("exec 6</etc/passwd;", "6\n")] {
            let inner = bundle.command(&["run", "--preserve-fds", "100", &bundle.id]);
            let mut command = std::process::Command::new(shell);
            command
                .arg("-c")
                .arg(format!("{CLOSE}; {opens} exec \"$@\""))
                .arg("bash")
                .arg(inner.get_program());
            command.args(inner.get_args()).current_dir(bundle.path("")).stdin(std::process::Stdio::null());
            let output = command.output().unwrap();
            let out = String::from_utf8_lossy(&output.stdout);
            // `ls` itself has one more, which it reads the directory with.
            assert_eq!(out, format!("0\n1\n2\n3\n{there}"), "{output:?}");
        }
    });
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    use std::os::unix::net::UnixListener;
    everywhere(|bundle| {
        let bundle = bundle
            .with("/process/terminal", json!(true))
            .script("tty; test -c /dev/console && echo console; read x");
        bundle.write();
        let listener = UnixListener::bind(bundle.path("console")).unwrap();
        bundle.oci(&["create", "--console-socket", "console", &bundle.id]).ok();
        let (stream, _) = listener.accept().unwrap();
        let terminal = receive_descriptor(&stream);
        bundle.start();
        let text = read_until(&terminal, "console\r\n");
        assert!(text.starts_with("/dev/pts/0\r\nconsole\r\n"), "{text:?}");
        bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
    });
}

/// The descriptor in the next message.
pub(crate) fn receive_descriptor(stream: &std::os::unix::net::UnixStream) -> rustix::fd::OwnedFd {
    receive(stream).1
}

pub(crate) fn receive(stream: &std::os::unix::net::UnixStream) -> (Vec<u8>, rustix::fd::OwnedFd) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; 65536];
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    let length = recvmsg(stream, &mut parts, &mut control, RecvFlags::empty()).unwrap().bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    buffer.truncate(length);
    (buffer, fd.expect("a descriptor comes with the message"))
}

fn read_until(terminal: &rustix::fd::OwnedFd, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(end) {
        let length = rustix::io::read(terminal, &mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    text
}

#[test]
fn a_terminal_in_the_foreground_adds_nothing() {
    // Debian's runc wants a terminal of its own for that, and crun leaves the carriage returns in.
    here(|bundle| {
        let bundle = bundle.with("/process/terminal", json!(true)).script("echo one; echo two");
        assert_eq!(bundle.run().ok(), "one\ntwo\n");
    });
}

#[test]
fn of_variables_with_one_name_the_last_counts() {
    here(|bundle| {
        std::fs::write(bundle.root().join("etc/passwd"), "app:x:7:7::/home/app:/bin/sh\n").unwrap();
        let env = json!(["PATH=/bin", "A=1", "HOME=/first", "B=", "A=2", "HOME="]);
        let user = json!({"uid": 7, "gid": 7});
        let bundle = bundle.with("/process/env", env).with("/process/user", user).args(&["env"]);
        let out = bundle.run().ok();
        let mut lines: Vec<&str> = out.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["A=2", "B=", "HOME=/home/app", "PATH=/bin"]);
    });
}

#[test]
fn capabilities_that_cannot_be_had_are_warned_about() {
    here(|bundle| {
        let sets = json!({
            "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_OF_TOMORROW"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL", "CAP_CHOWN"],
        });
        let bundle =
            bundle.with("/process/capabilities", sets).args(&["grep", "CapAmb", "/proc/self/status"]);
        let ran = bundle.run();
        assert!(ran.err.contains("CAP_OF_TOMORROW"), "{ran:?}");
        assert!(ran.err.contains("can't raise ambient capability CAP_CHOWN: "), "{ran:?}");
        assert_eq!(ran.ok(), "CapAmb:\t0000000000000020\n");
    });
}

#[test]
fn an_apparmor_profile_confines() {
    let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles");
    if !loaded.is_ok_and(|profiles| profiles.contains("coracle-test ")) {
        assert!(std::env::var_os("CORACLE_TEST_APPARMOR").is_none(), "the profile is to be loaded");
        println!("skipped: no AppArmor with the profile coracle-test, which guest.rs loads in a guest");
        return;
    }
    here(|bundle| {
        let script = "cat /proc/self/attr/current; echo x > /tmp/x && echo x > /etc/x";
        let bundle = bundle.with("/process/apparmorProfile", json!("coracle-test")).script(script);
        let ran = bundle.run();
        assert_eq!(ran.out, "coracle-test (enforce)\n");
        assert!(ran.err.contains("/etc/x: Permission denied"), "{ran:?}");
        // The same for a process that joins, which may have another profile.
        let bundle = bundle.another().args(&["sleep", "1000"]);
        bundle.write();
        bundle.oci(&["run", "--detach", &bundle.id]).ok();
        let label = |flags: &[&str]| {
            bundle.oci(&[&["exec"], flags, &[&bundle.id, "cat", "/proc/self/attr/current"]].concat()).ok()
        };
        assert_eq!(label(&[]), "unconfined\n");
        assert_eq!(label(&["--apparmor", "coracle-test"]), "coracle-test (enforce)\n");
    });
}
