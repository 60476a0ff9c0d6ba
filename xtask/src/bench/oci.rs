//! `coracle oci` beside crun and runc from Debian: the same bundle, strictly in turn, with a pause before each run
//! (what an event-driven engine sees) and back to back.
//!
//! crun refuses a version 2 hierarchy that offers a controller beside version 1, so all of them run in a mount
//! namespace without one.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::figures::Series;

/// How often everything is done.
const RUNS: usize = 60;
const PAUSE: Duration = Duration::from_millis(30);

/// Names of system calls, for a profile of the usual size.
const SYSCALLS: &str = include_str!("../../../runtime/src/seccomp/syscalls.tbl");

struct Runtime {
    name: &'static str,
    command: Vec<String>,
}

/// Runs the measurement as a process of its own, with mounts of its own.
pub(crate) fn in_private_mounts() -> anyhow::Result<()> {
    let script = "if [ -e /sys/fs/cgroup/unified/cgroup.controllers ]; then umount /sys/fs/cgroup/unified; fi; exec \"$@\"";
    let status = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe()?)
        .arg("bench-oci")
        .status()
        .context("unshare")?;
    if status.success() { Ok(()) } else { bail!("measuring OCI runtimes: {status}") }
}

/// The binary that is measured.
pub(super) fn binary() -> String {
    std::env::var("CORACLE_BIN").unwrap_or_else(|_| "target/release/coracle".to_owned())
}

/// Measures and prints.
pub(crate) fn run() -> anyhow::Result<()> {
    let binary = binary();
    let binary = fs::canonicalize(&binary).with_context(|| binary.clone())?.display().to_string();
    let mut runtimes = vec![Runtime { name: "coracle", command: vec![binary, "oci".to_owned()] }];
    for name in ["crun", "runc"] {
        match Command::new(name).arg("--version").output() {
            Ok(_) => runtimes.push(Runtime { name, command: vec![name.to_owned()] }),
            Err(_) => println!("{name} is not installed: not measured"),
        }
    }
    let place = tempfile::tempdir()?;
    bundle(place.path(), "true", &["/bin/true"])?;
    bundle(place.path(), "sleep", &["/bin/sleep", "1000"])?;
    println!(
        "{:<46} {:>12} {:>12} {:>12}",
        "OCI runtimes, full bundle, ms (median)", "coracle", "crun", "runc"
    );
    for (what, pause) in
        [("run /bin/true, 30 ms pause before each", PAUSE), ("run /bin/true, back to back", Duration::ZERO)]
    {
        let mut all: Vec<Series> = runtimes.iter().map(|_| Series::default()).collect();
        for round in 0..RUNS {
            for (runtime, series) in runtimes.iter().zip(&mut all) {
                pause_for(pause);
                series.add(timed(runtime, place.path(), &["run", "--bundle", "true", &format!("r{round}")])?);
            }
        }
        row(what, &all);
    }
    let steps = ["create", "start", "state", "exec /bin/true", "kill", "delete"];
    let mut all: Vec<Vec<Series>> =
        steps.iter().map(|_| runtimes.iter().map(|_| Series::default()).collect()).collect();
    for round in 0..RUNS {
        for (index, runtime) in runtimes.iter().enumerate() {
            pause_for(PAUSE);
            let id = format!("c{round}");
            let commands: [&[&str]; 6] = [
                &["create", "--bundle", "sleep", &id],
                &["start", &id],
                &["state", &id],
                &["exec", &id, "/bin/true"],
                &["kill", &id, "KILL"],
                &["delete", "--force", &id],
            ];
            for (step, command) in all.iter_mut().zip(commands) {
                step[index].add(timed(runtime, place.path(), command)?);
            }
        }
    }
    for (what, series) in steps.iter().zip(&all) {
        row(what, series);
    }
    let peaks: Vec<f64> =
        runtimes.iter().map(|runtime| peak_mib(runtime, place.path())).collect::<anyhow::Result<_>>()?;
    let cells: String = peaks.iter().map(|peak| format!(" {peak:>12.1}")).collect();
    println!("{:<46}{cells}   of its largest process", "peak memory of run, MiB");
    Ok(())
}

fn pause_for(pause: Duration) {
    if !pause.is_zero() {
        std::thread::sleep(pause);
    }
}

fn timed(runtime: &Runtime, place: &Path, arguments: &[&str]) -> anyhow::Result<Duration> {
    let mut command = Command::new(&runtime.command[0]);
    command
        .args(&runtime.command[1..])
        .arg("--root")
        .arg(place.join("state").join(runtime.name))
        .args(arguments);
    command.current_dir(place).stdin(Stdio::null()).stdout(Stdio::null());
    // A container that lives on would hold on to a pipe.
    command.stderr(fs::File::create(place.join("errors"))?);
    let begin = Instant::now();
    let status = command.status().with_context(|| runtime.name)?;
    let took = begin.elapsed();
    if !status.success() {
        bail!("{} {}: {}", runtime.name, arguments.join(" "), fs::read_to_string(place.join("errors"))?);
    }
    Ok(took)
}

/// Most memory that `run` had at a time, by time(1).
fn peak_mib(runtime: &Runtime, place: &Path) -> anyhow::Result<f64> {
    let report = place.join("peak");
    let status = Command::new("time")
        .args(["--format", "%M", "--output"])
        .arg(&report)
        .args(&runtime.command)
        .arg("--root")
        .arg(place.join("state").join(runtime.name))
        .args(["run", "--bundle", "true", "peak"])
        .current_dir(place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("time (Debian: time)")?;
    if !status.success() {
        bail!("{} run: {status}", runtime.name);
    }
    let kib: f64 = fs::read_to_string(&report)?.trim().parse().context("what time wrote")?;
    Ok(kib / 1024.0)
}

fn row(what: &str, series: &[Series]) {
    let cells: String = series.iter().map(|one| format!(" {:>12.2}", one.median_ms())).collect();
    let spread = series.first().map(|one| one.spread("ms", 1000.0)).unwrap_or_default();
    println!("{what:<46}{cells}   coracle: {spread}");
}

/// A bundle with everything that an engine asks for.
pub(super) fn bundle(place: &Path, name: &str, args: &[&str]) -> anyhow::Result<()> {
    let root = place.join(name).join("rootfs");
    for directory in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("/bin/busybox (Debian: busybox-static)")?;
    for applet in ["true", "sleep"] {
        fs::hard_link(root.join("bin/busybox"), root.join("bin").join(applet))?;
    }
    fs::write(place.join(name).join("config.json"), config(args).to_string())?;
    Ok(())
}

pub(super) fn config(args: &[&str]) -> Value {
    let names: Vec<&str> = SYSCALLS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !matches!(*name, "mount" | "umount2" | "reboot" | "kexec_load" | "init_module"))
        .collect();
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 134_217_728}, "pids": {"limit": 100},
                "cpu": {"shares": 512, "quota": 100_000, "period": 100_000},
            },
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
            },
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
