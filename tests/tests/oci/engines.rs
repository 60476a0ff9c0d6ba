//! Container engines from Debian, with coracle as their runtime.

use std::process::{Child, Command, Output};

use crate::support::{Bundle, here};

/// Podman with everything of its own in one directory.
struct Podman {
    bundle: Bundle,
}

impl Podman {
    fn new(bundle: Bundle) -> Self {
        let runtime = bundle.path("runtime");
        let script = format!(
            "#!/bin/sh\nexec {} oci --root {} \"$@\"\n",
            tests::coracle().display(),
            bundle.path("state").display()
        );
        std::fs::write(&runtime, script).unwrap();
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(&runtime, mode).unwrap();
        let config = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        std::fs::write(bundle.path("containers.conf"), config).unwrap();
        let podman = Self { bundle };
        let archive = podman.bundle.path("image.tar");
        let packed = Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(podman.bundle.root())
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        podman.ok(&["import", archive.to_str().unwrap(), "box"]);
        podman
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.bundle.path("containers.conf"));
        command
            .arg("--root")
            .arg(self.bundle.path("podman"))
            .arg("--runroot")
            .arg(self.bundle.path("podman-run"));
        command.arg("--tmpdir").arg(self.bundle.path("podman-tmp"));
        command.args(["--storage-driver", "vfs", "--runtime"]).arg(self.bundle.path("runtime")).args(args);
        command.output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--all", "--force", "--time", "0"]);
    }
}

#[test]
fn podman_runs_containers() {
    if Command::new("podman").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "podman is not installed");
        println!("skipped: podman is not installed");
        return;
    }
    here(|bundle| {
        let parent = format!("/{}", bundle.id);
        let podman = Podman::new(bundle);
        assert_eq!(
            podman.ok(&[
                "run",
                "--cgroup-parent",
                &parent,
                "--rm",
                "--network",
                "none",
                "box",
                "sh",
                "-c",
                "echo in; id -u"
            ]),
            "in\n0"
        );
        let output = podman.run(&[
            "run",
            "--cgroup-parent",
            &parent,
            "--rm",
            "--network",
            "none",
            "box",
            "sh",
            "-c",
            "exit 42",
        ]);
        assert_eq!(output.status.code(), Some(42));
        let output =
            podman.run(&["run", "--cgroup-parent", &parent, "--rm", "--network", "none", "box", "nothing"]);
        assert_eq!(output.status.code(), Some(127), "{output:?}");

        podman.ok(&[
            "run",
            "--cgroup-parent",
            &parent,
            "--detach",
            "--name",
            "lives",
            "--network",
            "none",
            "--memory",
            "64m",
            "box",
            "sleep",
            "1000",
        ]);
        assert_eq!(podman.ok(&["exec", "lives", "sh", "-c", "cat /proc/1/cmdline | head -c 5"]), "sleep");
        assert_eq!(podman.run(&["exec", "lives", "sh", "-c", "exit 9"]).status.code(), Some(9));
        podman.ok(&["pause", "lives"]);
        assert_eq!(podman.ok(&["inspect", "--format", "{{.State.Status}}", "lives"]), "paused");
        podman.ok(&["unpause", "lives"]);
        assert_eq!(podman.ok(&["inspect", "--format", "{{.State.Status}}", "lives"]), "running");
        podman.ok(&["stop", "--time", "0", "lives"]);
        assert_eq!(podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", "lives"]), "137");
        podman.ok(&["start", "lives"]);
        podman.ok(&["rm", "--force", "--time", "0", "lives"]);
        assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
    });
}

/// containerd with everything of its own in one directory.
struct Containerd {
    bundle: Bundle,
    daemon: Child,
}

impl Containerd {
    fn start(bundle: Bundle) -> Self {
        let runtime = bundle.path("runtime");
        let script = format!("#!/bin/sh\nexec {} oci \"$@\"\n", tests::coracle().display());
        std::fs::write(&runtime, script).unwrap();
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(&runtime, mode).unwrap();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            bundle.path("containerd"),
            bundle.path("containerd-run"),
            bundle.path("sock"),
            bundle.path("sock.ttrpc"),
        );
        std::fs::write(bundle.path("containerd.toml"), config).unwrap();
        let log = std::fs::File::create(bundle.path("containerd.log")).unwrap();
        let mut daemon = Command::new("containerd")
            .arg("--config")
            .arg(bundle.path("containerd.toml"))
            .stderr(log)
            .spawn()
            .unwrap();
        // It has no way of saying that it listens.
        while std::os::unix::net::UnixStream::connect(bundle.path("sock")).is_err() {
            let ended = daemon.try_wait().unwrap();
            let log = || std::fs::read_to_string(bundle.path("containerd.log")).unwrap_or_default();
            assert!(ended.is_none(), "containerd has ended: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self { bundle, daemon }
    }

    fn ctr(&self, args: &[&str]) -> Output {
        Command::new("ctr").arg("--address").arg(self.bundle.path("sock")).args(args).output().unwrap()
    }

    /// `ctr run` of a program in the bundle's root file system.
    fn run(&self, flags: &[&str], id: &str, program: &[&str]) -> Output {
        let (runtime, state, root) =
            (self.bundle.path("runtime"), self.bundle.path("state"), self.bundle.root());
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let (runtime, state, root) = (path(&runtime), path(&state), path(&root));
        let mut args = vec!["run", "--runc-binary", &runtime, "--runc-root", &state, "--rootfs"];
        args.extend(flags);
        args.extend([root.as_str(), id]);
        args.extend(program);
        self.ctr(&args)
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in self.ok(&["containers", "list", "--quiet"]).lines() {
            let _ = self.ctr(&["task", "rm", "--force", id]);
            let _ = self.ctr(&["containers", "rm", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn containerd_runs_containers() {
    if Command::new("containerd").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "containerd is not installed");
        println!("skipped: containerd is not installed");
        return;
    }
    here(|bundle| {
        let id = |number: u32| format!("{}-{number}", bundle.id);
        let (short, failing, long) = (id(1), id(2), id(3));
        let containerd = Containerd::start(bundle);
        let output = containerd.run(&["--rm"], &short, &["sh", "-c", "echo in; id -u"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "in\n0\n", "{output:?}");
        let output = containerd.run(&["--rm"], &failing, &["sh", "-c", "exit 42"]);
        assert_eq!(output.status.code(), Some(42), "{output:?}");
        let output = containerd.run(&["--rm"], &failing, &["nothing"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("exec: \"nothing\": executable file not found in $PATH"), "{text}");

        let output = containerd.run(&["--detach", "--memory-limit", "67108864"], &long, &["sleep", "1000"]);
        assert!(output.status.success(), "{output:?}");
        let status = || {
            let list = containerd.ok(&["task", "list"]);
            let line = list.lines().find(|line| line.starts_with(&long)).unwrap_or_default().to_owned();
            line.split_whitespace().last().unwrap_or_default().to_owned()
        };
        assert_eq!(status(), "RUNNING");
        let script = "head -c 5 /proc/1/cmdline; exit 9";
        let output = containerd.ctr(&["task", "exec", "--exec-id", "e1", &long, "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "sleep");
        containerd.ok(&["task", "pause", &long]);
        assert_eq!(status(), "PAUSED");
        containerd.ok(&["task", "resume", &long]);
        assert_eq!(status(), "RUNNING");
        assert_eq!(containerd.ok(&["task", "ps", &long]).lines().count(), 2, "a header and one process");
        assert!(containerd.ok(&["task", "metrics", &long]).contains("memory"));
        containerd.ok(&["task", "rm", "--force", &long]);
        containerd.ok(&["containers", "rm", &long]);
    });
}
