//! Ways out of containers that have been found in other runtimes, tried on ours.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use serde_json::json;

use crate::support::here;

/// CVE-2019-5736: the program is the runtime itself, to be held on to and written later.
#[test]
fn the_runtimes_binary_cannot_be_written() {
    here(|bundle| {
        let everything = json!([
            "CAP_SYS_ADMIN",
            "CAP_DAC_OVERRIDE",
            "CAP_SYS_PTRACE",
            "CAP_FOWNER",
            "CAP_CHOWN",
            "CAP_DAC_READ_SEARCH",
        ]);
        let bundle = bundle
            .with(
                "/process/capabilities",
                json!({"bounding": everything, "permitted": everything, "effective": everything}),
            )
            .args(&["/proc/self/exe", "events", "nothing"]);
        let before = fs::metadata(tests::coracle()).unwrap();
        bundle.run();
        // What runs there is a copy on a file system that has nowhere to write to.
        let bundle = bundle.another().args(&["sleep", "1000"]);
        bundle.create();
        let pid = bundle.state()["pid"].to_string();
        let exe = format!("/proc/{pid}/exe");
        let error = fs::OpenOptions::new().write(true).open(&exe).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc_erofs) if libc_erofs == 30 || libc_erofs == 26),
            "{error}"
        );
        let real = fs::canonicalize(tests::coracle()).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_ne!(
            fs::metadata(&exe).unwrap().dev(),
            fs::metadata(&real).unwrap().dev(),
            "not the host's file"
        );
        let after = fs::metadata(tests::coracle()).unwrap();
        assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
    });
}

/// CVE-2024-21626: a working directory that is a leaked descriptor of the host.
#[test]
fn the_working_directory_is_inside() {
    here(|bundle| {
        for number in 3..12 {
            let cwd = format!("/proc/self/fd/{number}");
            let bundle = bundle.another().with("/process/cwd", json!(cwd)).script("ls ../../../..");
            bundle.write();
            let inner = bundle.command(&["run", &bundle.id]);
            let mut command = std::process::Command::new("sh");
            command
                .arg("-c")
                .arg("exec 7</ ; exec 8</sys/fs/cgroup; exec \"$@\"")
                .arg("sh")
                .arg(inner.get_program());
            command.args(inner.get_args()).current_dir(bundle.path("")).stdin(Stdio::null());
            let output = command.output().unwrap();
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(!output.status.success() || !out.contains("boot"), "{number}: {output:?}");
        }
    });
}

/// CVE-2019-16884, CVE-2019-19921: /proc is not procfs, so what is written to it never reaches the kernel.
#[test]
fn a_false_proc_is_refused() {
    here(|bundle| {
        fs::create_dir(bundle.root().join("elsewhere")).unwrap();
        symlink("elsewhere", bundle.root().join("proc")).unwrap();
        let err = bundle.run().fails();
        assert!(err.contains("mounting proc on /proc"), "{err}");
    });
}

/// CVE-2021-30465, CVE-2025-31133: mount targets and masked paths that are links to the host.
#[test]
fn links_of_the_image_stay_inside() {
    here(|bundle| {
        let outside = bundle.path("outside");
        fs::create_dir(&outside).unwrap();
        let root = bundle.root();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../outside", root.join("relative")).unwrap();
        symlink("/proc/1/root", root.join("magic")).unwrap();
        let mount = |destination: &str| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["size=4k"]});
        let bundle = bundle
            .and("/mounts", mount("/absolute/a"))
            .and("/mounts", mount("/relative/b"))
            .with("/linux/maskedPaths", json!(["/absolute", "/relative"]))
            .with("/linux/readonlyPaths", json!(["/absolute"]));
        bundle.run();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&outside.display().to_string()));
    });
}

/// CVE-2025-31133: the thing that masks is taken from the host, not from the image's /dev.
#[test]
fn a_false_null_does_not_unmask() {
    here(|bundle| {
        let devices = json!([]);
        fs::create_dir_all(bundle.root().join("dev")).unwrap();
        fs::write(bundle.root().join("dev/null"), "not null").unwrap();
        fs::write(bundle.root().join("etc/secret"), "secret").unwrap();
        let mut bundle =
            bundle.with("/linux/devices", devices).with("/linux/maskedPaths", json!(["/etc/secret"]));
        bundle.config["mounts"].as_array_mut().unwrap().retain(|one| one["destination"] != "/dev");
        bundle.config["mounts"].as_array_mut().unwrap().retain(|one| one["destination"] != "/dev/pts");
        let ran = bundle.script("cat /etc/secret").run();
        assert!(!ran.out.contains("secret"), "{ran:?}");
    });
}

/// CVE-2016-9962, CVE-2022-0811: processes that join cannot be traced, and parameters of the host not be set.
#[test]
fn a_joining_process_is_closed() {
    here(|bundle| {
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.create();
        let pid = bundle.state()["pid"].to_string();
        // Not dumpable: its files belong to root of the host, whatever user it has become.
        assert!(fs::read_link(format!("/proc/{pid}/ns/net")).is_ok());
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Seccomp:"), "{status}");
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let targets: Vec<String> = descriptors
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .map(|target| target.display().to_string())
            .collect();
        let outside =
            targets.iter().filter(|target| target.starts_with("/sys") || target.contains("/state/"));
        assert_eq!(outside.count(), 0, "a directory of the host is held open: {targets:?}");
    });
}
