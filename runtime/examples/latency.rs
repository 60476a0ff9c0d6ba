//! How long things take: `cargo run -p runtime --release --example latency [keeper-binary]`.
//!
//! Prints p50 and p99 over 50 rounds of creating a sandbox, starting a container, exec and removal, with a pause
//! before each (what an event-driven caller sees) and back to back; then a container's whole life beside crun and
//! runc, where they are installed, with the same specification. Needs root. Memory of a keeper comes last.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it prints a table, and stops at whatever goes wrong"
)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::oci::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxMemoryBuilder,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResourcesBuilder, Mount, MountBuilder,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use runtime::{Config, ContainerSpec, ExecSpec, LogSpec, Rootfs, Runtime, SandboxSpec};

const ROUNDS: usize = 50;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, bundle, pause] = arguments.as_slice()
        && word == "peers"
    {
        return peers(Path::new(bundle), Duration::from_millis(pause.parse().unwrap_or(0)));
    }
    let keeper = arguments.first().map_or_else(
        || std::env::current_exe().unwrap().parent().unwrap().join("../runtime-keeper"),
        PathBuf::from,
    );
    let dir = tempfile::tempdir().unwrap();
    let parent = format!("coracle-latency-{}", std::process::id());
    let image = dir.path().join("image");
    make_image(&image);
    let runtime = Runtime::open(Config {
        run_dir: dir.path().join("run"),
        state_dir: dir.path().join("state"),
        cgroup_parent: parent.clone(),
        keeper_argv: vec![keeper.into()],
    })
    .unwrap();

    for pause in [30, 0] {
        let pause = Duration::from_millis(pause);
        println!("\npause of {pause:?} before each, {ROUNDS} rounds");
        println!("{:<44} {:>8} {:>8} {:>8}", "", "p50 ms", "p99 ms", "min ms");
        let mut create = Vec::new();
        let mut start = Vec::new();
        let mut exec = Vec::new();
        let mut second = Vec::new();
        let mut remove_container = Vec::new();
        let mut remove = Vec::new();
        for round in 0..ROUNDS {
            tokio::time::sleep(pause).await;
            let from = Instant::now();
            let sandbox = runtime
                .create_sandbox(SandboxSpec::new(format!("s{round}"), format!("pods/s{round}")))
                .await
                .unwrap();
            create.push(from.elapsed());
            tokio::time::sleep(pause).await;
            let container = container(dir.path(), &image, "c1", &["sleep", "1000"]);
            let from = Instant::now();
            sandbox.start(container).await.unwrap();
            start.push(from.elapsed());
            tokio::time::sleep(pause).await;
            let from = Instant::now();
            let spec = ExecSpec { argv: vec!["true".into()], ..ExecSpec::default() };
            let mut running = sandbox.exec("c1", spec).await.unwrap();
            assert_eq!(running.wait().await.unwrap(), 0);
            exec.push(from.elapsed());
            tokio::time::sleep(pause).await;
            let container = self::container(dir.path(), &image, "c2", &["true"]);
            let from = Instant::now();
            sandbox.start(container).await.unwrap();
            assert_eq!(sandbox.wait("c2").await.unwrap().code, 0);
            second.push(from.elapsed());
            tokio::time::sleep(pause).await;
            let from = Instant::now();
            sandbox.remove_container("c1").await.unwrap();
            remove_container.push(from.elapsed());
            tokio::time::sleep(pause).await;
            let from = Instant::now();
            sandbox.remove().await.unwrap();
            remove.push(from.elapsed());
        }
        row("create sandbox", &mut create);
        row("start container", &mut start);
        row("exec true, until its exit code", &mut exec);
        row("start true, until its exit is recorded", &mut second);
        row("kill and remove container", &mut remove_container);
        row("remove sandbox", &mut remove);

        let mut whole = Vec::new();
        for round in 0..ROUNDS {
            tokio::time::sleep(pause).await;
            let from = Instant::now();
            let sandbox = runtime
                .create_sandbox(SandboxSpec::new(format!("w{round}"), format!("pods/w{round}")))
                .await
                .unwrap();
            sandbox.start(container(dir.path(), &image, "c", &["true"])).await.unwrap();
            assert_eq!(sandbox.wait("c").await.unwrap().code, 0);
            sandbox.remove().await.unwrap();
            whole.push(from.elapsed());
        }
        row("sandbox + run true + remove all", &mut whole);

        let bundle = dir.path().join("bundle");
        let _ = fs::remove_dir_all(&bundle);
        fs::create_dir(&bundle).unwrap();
        make_image(&bundle.join("rootfs"));
        let spec = container(dir.path(), &image, "peer", &["true"]).spec;
        fs::write(bundle.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        // crun refuses a machine whose cgroup2 offers a controller beside v1, so it gets a view without it.
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" peers \"$1\" \"$2\"";
        let _ = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(&bundle)
            .arg(pause.as_millis().to_string())
            .status();
    }

    let sandbox = runtime.create_sandbox(SandboxSpec::new("m", "pods/m")).await.unwrap();
    memory("keeper, no container", sandbox.keeper_pid().unwrap());
    for number in 0..5 {
        sandbox
            .start(container(dir.path(), &image, &format!("c{number}"), &["sleep", "1000"]))
            .await
            .unwrap();
    }
    memory("keeper, five containers", sandbox.keeper_pid().unwrap());
    sandbox.remove().await.unwrap();
    runtime.remove_empty_cgroups();
}

fn row(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("{name:<44} {:>8.2} {:>8.2} {:>8.2}", at(50), at(99), at(0));
}

fn peers(bundle: &Path, pause: Duration) {
    let _ = fs::create_dir_all("/run/coracle-latency");
    for peer in ["crun", "runc"] {
        if Command::new(peer).arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("{peer} is not installed");
            continue;
        }
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            std::thread::sleep(pause);
            let id = format!("latency-{}-{round}", std::process::id());
            let from = Instant::now();
            let status = Command::new(peer)
                .args(["--root", "/run/coracle-latency", "run", "--bundle"])
                .arg(bundle)
                .arg(&id)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .status()
                .unwrap();
            times.push(from.elapsed());
            if !status.success() {
                println!("{peer} run: {status}");
                break;
            }
        }
        row(&format!("{peer} run true"), &mut times);
    }
    let _ = fs::remove_dir_all("/run/coracle-latency");
}

fn memory(name: &str, pid: u32) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let value = |key: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
    };
    println!(
        "{name:<30} Rss {} Pss {} Private_Dirty {} Private_Clean {} kB",
        value("Rss:"),
        value("Pss:"),
        value("Private_Dirty:"),
        value("Private_Clean:")
    );
}

fn make_image(image: &Path) {
    for directory in ["bin", "etc", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(image.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
    for applet in ["true", "sleep", "sh"] {
        std::os::unix::fs::symlink("busybox", image.join("bin").join(applet)).unwrap();
    }
    fs::write(image.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(if destination == "/dev/shm" { "shm" } else { kind })
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .unwrap()
}

/// The *full* container: every namespace, the usual mounts, limits on memory, CPU and processes, the default
/// filter.
fn container(dir: &Path, image: &Path, id: &str, argv: &[&str]) -> ContainerSpec {
    let capabilities: HashSet<Capability> = [
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fowner,
        Capability::Setgid,
        Capability::Setuid,
        Capability::Kill,
        Capability::NetBindService,
        Capability::AuditWrite,
    ]
    .into();
    let all: Vec<Capability> = capabilities.iter().copied().collect();
    let namespaces: Vec<_> = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ]
    .into_iter()
    .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap())
    .collect();
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let spec: Spec = SpecBuilder::default()
        .process(
            ProcessBuilder::default()
                .user(UserBuilder::default().uid(0_u32).gid(0_u32).build().unwrap())
                .args(texts(argv))
                .env(texts(&["PATH=/bin", "HOME=/"]))
                .cwd("/")
                .no_new_privileges(true)
                .capabilities(
                    LinuxCapabilitiesBuilder::default()
                        .bounding(capabilities.clone())
                        .effective(capabilities.clone())
                        .permitted(capabilities)
                        .inheritable(HashSet::new())
                        .ambient(HashSet::new())
                        .build()
                        .unwrap(),
                )
                .build()
                .unwrap(),
        )
        .root(RootBuilder::default().path("rootfs").readonly(true).build().unwrap())
        .hostname("latency")
        .mounts(vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ])
        .linux(
            LinuxBuilder::default()
                .namespaces(namespaces)
                .seccomp(runtime::seccomp::default_profile(&all))
                .resources(
                    LinuxResourcesBuilder::default()
                        .memory(LinuxMemoryBuilder::default().limit(128_i64 << 20).build().unwrap())
                        .cpu(
                            LinuxCpuBuilder::default()
                                .shares(512_u64)
                                .quota(100_000_i64)
                                .period(100_000_u64)
                                .build()
                                .unwrap(),
                        )
                        .pids(LinuxPidsBuilder::default().limit(100_i64).build().unwrap())
                        .build()
                        .unwrap(),
                )
                .masked_paths(texts(&["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]))
                .readonly_paths(texts(&["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]))
                .build()
                .unwrap(),
        )
        .build()
        .unwrap();
    let upper = dir.join(format!("upper-{id}"));
    let work = dir.join(format!("work-{id}"));
    for path in [&upper, &work] {
        let _ = fs::remove_dir_all(path);
        fs::create_dir(path).unwrap();
    }
    ContainerSpec {
        id: id.to_owned(),
        labels: Default::default(),
        spec,
        rootfs: Rootfs::Overlay { lower: vec![image.to_owned()], upper, work },
        log: Some(LogSpec::new(dir.join("logs").join(format!("{id}.log")))),
        stdin: false,
        stdin_once: false,
        tty: false,
        join_pid: None,
    }
}
