//! Container engines from Debian, with coracle as their runtime.

use std::process::{Command, Output};

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
