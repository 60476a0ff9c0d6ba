//! Containers on the real kernel: what they see, what they may do, how they end.

mod support;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use runtime::oci::{
    Capability, LinuxDeviceBuilder, LinuxDeviceType, PosixRlimitBuilder, PosixRlimitType, UserBuilder,
};
use runtime::{
    ContainerSpec, ContainerStatus, NamespaceMode, NetworkMode, PidMode, Rootfs, SandboxEvent, Signal,
    StartContainerError,
};
use support::{Bench, add_mounts, eventually, mount, with_linux, with_process};

#[tokio::test]
async fn a_program_runs_and_its_exit_code_comes_back() {
    need_root!();
    let bench = Bench::new();
    assert_eq!(bench.run("echo hello; echo oops >&2; exit 7").await, (7, "hello\n".into(), "oops\n".into()));
    bench.finish();
}

#[tokio::test]
async fn an_exit_is_announced_and_recorded() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let mut events = sandbox.events();
    let started = sandbox.start(bench.shell("c", "sleep 1000")).await.unwrap();
    assert_eq!(started.labels["name"], "c");
    assert!(started.pid.is_some());
    sandbox.signal("c", Signal::KILL).await.unwrap();
    let event = events.recv().await.unwrap();
    let SandboxEvent::ContainerExited { id, exit } = event else { panic!("{event:?}") };
    assert_eq!((id.as_str(), exit.code, exit.signal, exit.oom_killed), ("c", 128 + 9, Some(9), false));
    assert!(exit.started_at <= exit.finished_at);
    let state = &sandbox.containers().await.unwrap()[0];
    assert_eq!(state.status, ContainerStatus::Exited(exit));
    assert_eq!(state.pid, None);
    let record = fs::read_to_string(bench.path("state/s0/containers/c/exit.json")).unwrap();
    assert!(record.contains("\"code\":137"), "{record}");
    // An id can be used again once it has been removed.
    assert!(matches!(sandbox.start(bench.shell("c", "true")).await, Err(StartContainerError::Exists(_))));
    sandbox.remove_container("c").await.unwrap();
    sandbox.remove_container("c").await.unwrap();
    sandbox.start(bench.shell("c", "exit 3")).await.unwrap();
    assert_eq!(sandbox.wait("c").await.unwrap().code, 3);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn signals_arrive() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let script = "trap 'echo term; exit 5' TERM; trap 'echo rt' 37; echo ready; while :; do sleep 0.01; done";
    sandbox.start(bench.shell("c", script)).await.unwrap();
    eventually("ready", || bench.output("c").contains("ready")).await;
    sandbox.signal("c", "SIGRTMIN+3".parse().unwrap()).await.unwrap();
    eventually("rt", || bench.output("c").contains("rt")).await;
    sandbox.signal("c", Signal::TERM).await.unwrap();
    let exit = sandbox.wait("c").await.unwrap();
    assert_eq!((exit.code, exit.signal), (5, None));
    assert!(sandbox.signal("c", Signal::TERM).await.is_err(), "it does not run any more");
    assert!(sandbox.signal("x", Signal::TERM).await.is_err());

    sandbox.start(bench.shell("k", "sleep 1000 & sleep 1000")).await.unwrap();
    sandbox.kill("k").await.unwrap();
    assert_eq!(sandbox.wait("k").await.unwrap().signal, Some(9));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_created_container_waits_to_be_started() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let created = sandbox.create(bench.shell("c", "echo started")).await.unwrap();
    assert_eq!(created.status, ContainerStatus::Created);
    assert_eq!(sandbox.containers().await.unwrap()[0].status, ContainerStatus::Created);
    assert!(!bench.output("c").contains("started"));
    let running = sandbox.start_created("c").await.unwrap();
    assert!(matches!(running.status, ContainerStatus::Running { .. }));
    assert_eq!(sandbox.wait("c").await.unwrap().code, 0);
    assert_eq!(bench.output("c"), "started\n");

    // One that is never started goes quietly; one whose program is not there says so when it is started.
    sandbox.create(bench.shell("d", "true")).await.unwrap();
    sandbox.remove_container("d").await.unwrap();
    sandbox.create(bench.container("e", &["/no/such"])).await.unwrap();
    assert!(matches!(sandbox.start_created("e").await, Err(StartContainerError::Exec { .. })));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_failure_names_its_step_and_leaves_nothing() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let fail = async |container: ContainerSpec| {
        let error = sandbox.start(container).await.unwrap_err();
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    };
    let text = fail(bench.container("c", &["no-such-program"])).await;
    assert_eq!(text, "exec: \"no-such-program\": executable file not found in $PATH");
    let text = fail(bench.container("c", &["/etc/passwd"])).await;
    assert_eq!(text, "exec: \"/etc/passwd\": permission denied");

    let mut container = bench.shell("c", "true");
    add_mounts(&mut container.spec, vec![mount("/data", "bind", "/no/such/path", &["rbind"])]);
    assert_eq!(
        fail(container).await,
        "opening /no/such/path for mounting: No such file or directory (os error 2)"
    );

    let mut container = bench.shell("c", "true");
    add_mounts(&mut container.spec, vec![mount("/data", "tmpfs", "tmpfs", &["colour=red"])]);
    let text = fail(container).await;
    assert!(text.starts_with("mounting tmpfs on /data: tmpfs: Unknown parameter 'colour': "), "{text}");

    let mut container = bench.shell("c", "true");
    container.rootfs = Rootfs::Directory(bench.path("nowhere"));
    assert!(fail(container).await.ends_with("/nowhere on /: No such file or directory (os error 2)"));

    let mut container = bench.shell("c", "true");
    with_process(&mut container, |process| {
        process.set_cwd("/etc/passwd".into());
    });
    assert!(fail(container).await.contains("/etc/passwd: Not a directory"));

    assert!(sandbox.containers().await.unwrap().is_empty());
    assert!(fs::read_dir(bench.path("state/s0/containers")).unwrap().next().is_none());
    // The sandbox is as good as new.
    sandbox.start(bench.shell("c", "exit 4")).await.unwrap();
    assert_eq!(sandbox.wait("c").await.unwrap().code, 4);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn namespaces_are_shared_within_a_sandbox_only() {
    need_root!();
    let bench = Bench::new();
    // They stay, as the numbers of namespaces are used again.
    let links =
        "for n in net ipc uts pid mnt cgroup; do readlink /proc/self/ns/$n; done; echo pid $$; hostname
                 sleep 1000";
    let (one, two) = (bench.sandbox().await, bench.sandbox().await);
    for (sandbox, id) in [(&one, "a"), (&one, "b"), (&two, "c")] {
        sandbox.start(bench.shell(id, links)).await.unwrap();
        eventually("it has told", || bench.output(id).contains("host-")).await;
    }
    let lines = |id: &str| bench.output(id).lines().map(str::to_owned).collect::<Vec<_>>();
    let (a, b, c) = (lines("a"), lines("b"), lines("c"));
    assert_eq!(a[..3], b[..3], "net, ipc and uts are the sandbox's");
    for n in 0..6 {
        assert_ne!(a[n], c[n]);
        let host =
            fs::read_link(format!("/proc/self/ns/{}", ["net", "ipc", "uts", "pid", "mnt", "cgroup"][n]));
        assert_ne!(a[n], host.unwrap().to_str().unwrap());
    }
    for n in 3..6 {
        assert_ne!(a[n], b[n], "pid, mnt and cgroup are the container's");
    }
    assert_eq!(a[6..], ["pid 1", "host-s0"]);
    one.remove().await.unwrap();
    two.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn the_hosts_namespaces_can_be_asked_for() {
    need_root!();
    let bench = Bench::new();
    let mut spec = bench.sandbox_spec("h");
    spec.network = NetworkMode::Host;
    spec.ipc = NamespaceMode::Host;
    spec.uts = NamespaceMode::Host;
    spec.pid = PidMode::Host;
    let sandbox = bench.runtime.create_sandbox(spec).await.unwrap();
    let script = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; sleep 1000 & exit 0";
    sandbox.start(bench.shell("c", script)).await.unwrap();
    sandbox.wait("c").await.unwrap();
    let host: Vec<_> = ["net", "ipc", "uts", "pid"]
        .map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_owned())
        .into();
    assert_eq!(bench.output("c").lines().collect::<Vec<_>>(), host);
    // There is no namespace that would take the background process along.
    sandbox.remove_container("c").await.unwrap();
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_shared_pid_namespace_has_a_reaper() {
    need_root!();
    let bench = Bench::new();
    let mut spec = bench.sandbox_spec("p");
    spec.pid = PidMode::Shared;
    let sandbox = bench.runtime.create_sandbox(spec).await.unwrap();
    // Each of the thousand is orphaned at once; number 1 of the namespace has to reap them.
    let script = "i=0; while [ $i -lt 1000 ]; do (true & ) ; i=$((i+1)); done; echo done; sleep 1000";
    sandbox.start(bench.shell("a", script)).await.unwrap();
    eventually("done", || bench.output("a").contains("done")).await;
    sandbox.start(bench.shell("b", "sleep 0.1; ps -o pid,stat,comm; echo me $$")).await.unwrap();
    sandbox.wait("b").await.unwrap();
    let seen = bench.output("b");
    assert!(seen.contains("coracle-init") && seen.contains("sleep"), "containers see each other: {seen}");
    assert!(!seen.lines().any(|line| line.contains(" Z")), "no zombies: {seen}");
    assert!(!seen.contains("me 1\n"));
    // A container's own processes end with it, the other container's do not.
    sandbox.kill("a").await.unwrap();
    assert_eq!(sandbox.wait("a").await.unwrap().signal, Some(9));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn orphans_of_a_host_pid_container_are_reaped_by_the_keeper() {
    need_root!();
    let bench = Bench::new();
    let mut spec = bench.sandbox_spec("o");
    spec.pid = PidMode::Host;
    let sandbox = bench.runtime.create_sandbox(spec).await.unwrap();
    let script = "i=0; while [ $i -lt 1000 ]; do (true & ) ; i=$((i+1)); done; echo done; sleep 1000";
    sandbox.start(bench.shell("a", script)).await.unwrap();
    eventually("done", || bench.output("a").contains("done")).await;
    let keeper = sandbox.keeper_pid().unwrap();
    let children =
        || fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
    eventually("only the container is left", || children().split_whitespace().count() == 1).await;
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn mounts_are_made_as_asked() {
    need_root!();
    let bench = Bench::new();
    let data = bench.path("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(data.join("file"), "from the host\n").unwrap();
    fs::write(bench.path("single"), "a single file\n").unwrap();
    let mut container = bench.shell(
        "c",
        "cat /data/file /etc/single; touch /data/new && echo written; touch /ro/x; touch /tmp/t && echo tmp
         for m in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys /sys/fs/cgroup /data /ro /tmp; do
           grep \" $m \" /proc/self/mountinfo | cut -d' ' -f5,6,7-9 | sed 's/ - / /'
         done
         ls /dev | tr '\\n' ' '; echo; for l in fd ptmx stdout; do readlink /dev/$l; done; stat -c %t:%T /dev/null
         stat -c %a /dev/shm; df -k /tmp | tail -1 | awk '{print $2}'",
    );
    add_mounts(
        &mut container.spec,
        vec![
            mount("/data", "bind", data.to_str().unwrap(), &["rbind", "nosuid"]),
            mount("/ro", "bind", data.to_str().unwrap(), &["bind", "ro"]),
            mount("/etc/single", "bind", bench.path("single").to_str().unwrap(), &["bind"]),
            mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "size=1024k"]),
        ],
    );
    let (code, out, err) = bench.run_container(container).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.starts_with("from the host\na single file\nwritten\ntmp\n"), "{out}");
    assert!(err.contains("/ro/x: Read-only file system"), "{err}");
    for expected in [
        "/proc rw,nosuid,nodev,noexec",
        "/dev rw,nosuid",
        "/dev/pts rw,nosuid,noexec",
        "/dev/shm rw,nosuid,nodev,noexec",
        "/dev/mqueue rw,nosuid,nodev,noexec",
        "/sys ro,nosuid,nodev,noexec",
        "/sys/fs/cgroup ro,nosuid,nodev,noexec",
        "/data rw,nosuid",
        "/ro ro",
        "/tmp rw,nosuid,nodev",
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
        "/proc/self/fd\npts/ptmx\n/proc/self/fd/1\n1:3\n1777\n1024\n",
    ] {
        assert!(out.contains(expected), "{expected:?} is not in {out}");
    }
    assert!(data.join("new").exists());
    bench.finish();
}

#[tokio::test]
async fn nothing_of_the_host_shines_through() {
    need_root!();
    let bench = Bench::new();
    let (code, out, err) = bench
        .run("cat /proc/self/mountinfo; echo --; ls /; echo --; ls -l /proc/1/fd | wc -l; cat /proc/1/environ; pwd")
        .await;
    assert_eq!((code, err.as_str()), (0, ""));
    let host = bench.dir.path().to_str().unwrap();
    let mounts = out.split("--").next().unwrap();
    // Only the overlay names its layers, as its options; no mount point of the host is left.
    for line in mounts.lines() {
        let point = line.split(' ').nth(4).unwrap();
        assert!(!point.starts_with(host) && !point.contains("coracle"), "{line}");
    }
    assert!(mounts.lines().count() < 35, "{mounts}");
    bench.finish();
}

#[tokio::test]
async fn propagation_goes_where_it_is_asked_to() {
    need_root!();
    let bench = Bench::new();
    let shared = bench.path("shared");
    fs::create_dir_all(shared.join("in")).unwrap();
    fs::create_dir_all(shared.join("out")).unwrap();
    // The host's side must be a shared mount.
    rustix::mount::mount_bind(&shared, &shared).unwrap();
    let flags = rustix::mount::MountPropagationFlags::SHARED;
    rustix::mount::mount_change(&shared, flags).unwrap();
    let source = shared.to_str().unwrap().to_owned();
    let sandbox = bench.sandbox().await;
    let script = "echo ready; until [ -e /v/in/seen ]; do sleep 0.01; done; echo seen; sleep 1000";
    for (id, option) in [("slave", "rslave"), ("private", "rprivate"), ("default", "nosuid")] {
        let mut container = bench.shell(id, script);
        add_mounts(&mut container.spec, vec![mount("/v", "bind", &source, &["rbind", option])]);
        sandbox.start(container).await.unwrap();
    }
    let mut both =
        bench.shell("both", "mount -t tmpfs out /v/out && touch /v/out/there && echo made; sleep 1000");
    add_mounts(&mut both.spec, vec![mount("/v", "bind", &source, &["rbind", "rshared"])]);
    with_process(&mut both, |process| {
        let mut capabilities = process.capabilities().clone().unwrap();
        for set in ["bounding", "effective", "permitted"] {
            let admin = std::collections::HashSet::from([Capability::SysAdmin]);
            match set {
                "bounding" => capabilities.set_bounding(Some(admin)),
                "effective" => capabilities.set_effective(Some(admin)),
                _ => capabilities.set_permitted(Some(admin)),
            };
        }
        process.set_capabilities(Some(capabilities));
    });
    with_linux(&mut both, |linux| {
        linux.set_seccomp(None);
    });
    sandbox.start(both).await.unwrap();
    eventually("all are ready", || {
        ["slave", "private", "default"].iter().all(|id| bench.output(id).contains("ready"))
    })
    .await;
    // The host's new mount is seen by the slave alone.
    rustix::mount::mount("tmpfs", shared.join("in"), "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    fs::write(shared.join("in/seen"), "").unwrap();
    eventually("the slave sees it", || bench.output("slave").contains("seen")).await;
    assert!(!bench.output("private").contains("seen") && !bench.output("default").contains("seen"));
    // And the sharer's reaches the host.
    eventually("it has mounted", || bench.output("both").contains("made")).await;
    assert!(shared.join("out/there").exists());
    sandbox.remove().await.unwrap();
    for place in ["in", "out"] {
        let _ = rustix::mount::unmount(shared.join(place), rustix::mount::UnmountFlags::DETACH);
    }
    rustix::mount::unmount(&shared, rustix::mount::UnmountFlags::DETACH).unwrap();
    bench.finish();
}

#[tokio::test]
async fn recursive_read_only_covers_what_lies_below() {
    need_root!();
    let bench = Bench::new();
    let data = bench.path("data");
    fs::create_dir_all(data.join("below")).unwrap();
    rustix::mount::mount("tmpfs", data.join("below"), "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    let mut container = bench.shell("c", "touch /a/x; touch /a/below/x; touch /b/x; touch /b/below/x");
    let source = data.to_str().unwrap();
    add_mounts(
        &mut container.spec,
        vec![
            mount("/a", "bind", source, &["rbind", "ro"]),
            mount("/b", "bind", source, &["rbind", "ro", "rro"]),
        ],
    );
    let (_, _, err) = bench.run_container(container).await;
    let refused: Vec<_> = err.lines().filter_map(|line| line.strip_prefix("touch: ")).collect();
    rustix::mount::unmount(data.join("below"), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(
        refused,
        ["/a/x: Read-only file system", "/b/x: Read-only file system", "/b/below/x: Read-only file system",]
    );
    bench.finish();
}

#[tokio::test]
async fn links_in_the_image_lead_nowhere_outside() {
    need_root!();
    let bench = Bench::new();
    let outside = bench.path("outside");
    fs::create_dir(&outside).unwrap();
    let image = bench.image();
    // Every way out that an image can have: absolute, by dots, through /proc, dangling.
    symlink(&outside, image.join("absolute")).unwrap();
    symlink("../../../../../../../../..", image.join("dots")).unwrap();
    symlink("/proc/1/root", image.join("magic")).unwrap();
    symlink(outside.join("dangling"), image.join("nowhere")).unwrap();
    fs::write(bench.path("file"), "mounted").unwrap();
    let file = bench.path("file");
    let file = file.to_str().unwrap();
    let script = format!("cat {o}/a {o}/dangling /tmp/d /m 2>&1 | sort | uniq -c", o = outside.display());
    let mut container = bench.shell("c", &script.replace("| sort | uniq -c", ""));
    let dots = format!("/dots{}", "/tmp/d");
    add_mounts(
        &mut container.spec,
        vec![
            mount("/absolute/a", "bind", file, &["bind"]),
            mount(&dots, "bind", file, &["bind"]),
            mount("/nowhere", "bind", file, &["bind"]),
            mount("/m", "bind", file, &["bind"]),
        ],
    );
    let (code, out, err) = bench.run_container(container).await;
    assert_eq!((code, out.as_str()), (0, "mountedmountedmountedmounted"), "{err}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");

    // A magic link is not followed at all.
    let sandbox = bench.sandbox().await;
    let mut container = bench.shell("c", "true");
    add_mounts(&mut container.spec, vec![mount("/magic/tmp/coracle-test-x", "bind", file, &["bind"])]);
    assert!(sandbox.start(container).await.is_err());
    assert!(!Path::new("/tmp/coracle-test-x").exists());

    // Nor is /proc mounted where a link leads.
    fs::create_dir(image.join("elsewhere")).unwrap();
    let _ = fs::remove_dir(image.join("proc"));
    symlink("elsewhere", image.join("proc")).unwrap();
    let error = sandbox.start(bench.shell("c", "true")).await.unwrap_err();
    assert_eq!(error.to_string(), "mounting proc on /proc: must be mounted on ordinary directory");
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn volume_paths_cannot_leave_their_volume() {
    need_root!();
    let bench = Bench::new();
    let volume = bench.path("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("sub/inside"), "inside").unwrap();
    fs::write(bench.path("secret"), "secret").unwrap();
    symlink("../secret", volume.join("dots")).unwrap();
    symlink(bench.path("secret"), volume.join("absolute")).unwrap();
    symlink("sub", volume.join("link")).unwrap();
    let beneath = format!("x-runtime.beneath={}", volume.display());
    let sandbox = bench.sandbox().await;
    let start = async |id: &str, source: &str| {
        let mut container = bench.shell(id, "cat /v/inside /v 2>/dev/null");
        add_mounts(&mut container.spec, vec![mount("/v", "bind", source, &["bind", &beneath])]);
        sandbox.start(container).await.map(|_| ())
    };
    start("good", "link").await.unwrap();
    sandbox.wait("good").await.unwrap();
    assert_eq!(bench.output("good"), "inside");
    for source in ["dots", "absolute", "../secret", "/../secret", "sub/../../secret"] {
        assert!(start("bad", source).await.is_err(), "{source}");
    }
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn masked_and_read_only_paths_hold() {
    need_root!();
    let bench = Bench::new();
    let (_, out, err) = bench
        .run(
            "wc -c < /proc/keys; wc -c < /proc/timer_list; ls /sys/firmware | wc -l; touch /sys/firmware/x
             echo x > /proc/sys/kernel/domainname; echo 1 > /proc/irq/default_smp_affinity
             cat /proc/sys/kernel/ostype",
        )
        .await;
    assert_eq!(out, "0\n0\n0\nLinux\n", "{err}");
    assert_eq!(err.matches("Read-only file system").count(), 3, "{err}");
    bench.finish();
}

#[tokio::test]
async fn a_read_only_root_is_read_only() {
    need_root!();
    let bench = Bench::new();
    let mut container = bench
        .shell("c", "touch /x; touch /etc/x; touch /tmp/x; touch /dev/shm/ok && echo shm; echo > /dev/null");
    container
        .spec
        .set_root(Some(runtime::oci::RootBuilder::default().path("/").readonly(true).build().unwrap()));
    let (_, out, err) = bench.run_container(container).await;
    assert_eq!(out, "shm\n");
    assert_eq!(err.matches("Read-only file system").count(), 3, "{err}");
    bench.finish();
}

#[tokio::test]
async fn writes_go_to_the_upper_layer_only() {
    need_root!();
    let bench = Bench::new();
    let container = bench.shell("c", "echo changed > /etc/passwd; rm /bin/true; echo new > /new");
    let Rootfs::Overlay { upper, .. } = container.rootfs.clone() else { panic!() };
    assert_eq!(bench.run_container(container).await.0, 0);
    assert_eq!(fs::read_to_string(upper.join("etc/passwd")).unwrap(), "changed\n");
    assert!(upper.join("new").exists());
    assert!(fs::read_to_string(bench.image().join("etc/passwd")).unwrap().contains("root"));
    assert!(bench.image().join("bin/true").symlink_metadata().is_ok());
    bench.finish();
}

#[tokio::test]
async fn many_layers_and_long_names() {
    need_root!();
    let bench = Bench::new();
    let deep = bench.path(&"d".repeat(200));
    let mut lower = Vec::new();
    for number in 0..120 {
        let layer = deep.join(format!("{}-{number}", "l".repeat(100)));
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join(format!("file{number}")), "").unwrap();
        fs::write(layer.join("top"), number.to_string()).unwrap();
        lower.push(layer);
    }
    lower.push(bench.image());
    let mut container = bench.shell("c", "ls / | grep -c file; cat /top");
    let Rootfs::Overlay { upper, work, .. } = container.rootfs.clone() else { panic!() };
    container.rootfs = Rootfs::Overlay { lower, upper, work };
    let (code, out, err) = bench.run_container(container).await;
    assert_eq!((code, out.as_str()), (0, "120\n0"), "{err}");
    bench.finish();
}

#[tokio::test]
async fn the_filter_denies_what_it_should() {
    need_root!();
    let bench = Bench::new();
    let (_, out, err) = bench
        .run(
            "mount -t tmpfs x /tmp; unshare -m true; unshare -U true; dmesg | head -1; hostname evil
             grep Seccomp: /proc/self/status; grep NoNewPrivs /proc/self/status",
        )
        .await;
    assert_eq!(out, "Seccomp:\t2\nNoNewPrivs:\t1\n");
    assert_eq!(
        err.matches("Operation not permitted").count() + err.matches("permission denied").count(),
        5,
        "{err}"
    );
    bench.finish();
}

#[tokio::test]
async fn capabilities_are_those_given() {
    need_root!();
    let bench = Bench::new();
    let show = "grep Cap /proc/self/status | tr -d '\\n\\t'; grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr '\\t\\n' '  '";
    let (_, out, _) = bench.run(show).await;
    let default = "00000000a80425fb";
    assert_eq!(
        out,
        format!(
            "CapInh:0000000000000000CapPrm:{default}CapEff:{default}CapBnd:{default}CapAmb:0000000000000000\
             Uid: 0 0 0 0 Gid: 0 0 0 0 Groups:   "
        )
    );

    // Another user keeps nothing but what is ambient.
    let mut container = bench.shell("c", show);
    with_process(&mut container, |process| {
        process.set_user(
            UserBuilder::default().uid(1000_u32).gid(1000_u32).additional_gids([2000, 3000]).build().unwrap(),
        );
        let mut capabilities = process.capabilities().clone().unwrap();
        let bind = std::collections::HashSet::from([Capability::NetBindService]);
        capabilities.set_ambient(Some(bind.clone()));
        capabilities.set_inheritable(Some(bind));
        process.set_capabilities(Some(capabilities));
    });
    let (_, out, _) = bench.run_container(container).await;
    let bind = "0000000000000400";
    assert!(
        out.starts_with(&format!("CapInh:{bind}CapPrm:{bind}CapEff:{bind}CapBnd:{default}CapAmb:{bind}")),
        "{out}"
    );
    assert!(out.contains("Uid: 1000 1000 1000 1000 Gid: 1000 1000 1000 1000 Groups: 2000 3000"), "{out}");
    bench.finish();
}

#[tokio::test]
async fn the_process_is_as_described() {
    need_root!();
    let bench = Bench::new();
    let mut container = bench.shell(
        "c",
        "pwd; umask; ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; env | sort; cat /proc/sys/net/ipv4/ip_unprivileged_port_start
         id -u; echo > /dev/stdout && echo can write; cat /dev/null; cat; ps | wc -l",
    );
    with_process(&mut container, |process| {
        process.set_cwd("/made/for/me".into());
        process.set_env(Some(vec!["PATH=/bin".into(), "A=1".into(), "B=with space".into()]));
        process
            .set_user(UserBuilder::default().uid(1000_u32).gid(1000_u32).umask(0o027_u32).build().unwrap());
        process.set_oom_score_adj(Some(500));
        let limit =
            |typ, soft, hard| PosixRlimitBuilder::default().typ(typ).soft(soft).hard(hard).build().unwrap();
        process.set_rlimits(Some(vec![
            limit(PosixRlimitType::RlimitNofile, 64_u64, 128_u64),
            limit(PosixRlimitType::RlimitCore, 0, 0),
            // More than we may have: a warning, and what there is.
            limit(PosixRlimitType::RlimitNproc, u64::MAX, u64::MAX),
        ]));
    });
    with_linux(&mut container, |linux| {
        linux.set_sysctl(Some(HashMap::from([("net.ipv4.ip_unprivileged_port_start".into(), "80".into())])));
    });
    let (code, out, err) = bench.run_container(container).await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..4], ["/made/for/me", "0027", "64", "0"]);
    assert_eq!(lines[4], "500");
    let env: Vec<_> = lines[5..].iter().take_while(|line| line.contains('=')).collect();
    for expected in ["A=1", "B=with space", "HOME=/home/app", "PATH=/bin"] {
        assert!(env.iter().any(|line| **line == expected), "{expected} is not in {env:?}");
    }
    assert!(lines.contains(&"80") && lines.contains(&"1000") && lines.contains(&"can write"), "{out}");
    bench.finish();
}

#[tokio::test]
async fn devices_are_made_and_guarded() {
    need_root!();
    let bench = Bench::new();
    let mut container = bench.shell(
        "c",
        "stat -c '%t:%T %a %u' /dev/mine; mknod /tmp/disk b 254 0 && echo made; cat /tmp/disk; head -c1 /dev/mine | wc -c",
    );
    with_linux(&mut container, |linux| {
        let device = LinuxDeviceBuilder::default()
            .path("/dev/mine")
            .typ(LinuxDeviceType::C)
            .major(1_i64)
            .minor(5_i64)
            .file_mode(0o640_u32)
            .uid(7_u32)
            .gid(7_u32)
            .build()
            .unwrap();
        linux.set_devices(Some(vec![device]));
    });
    let (_, out, err) = bench.run_container(container).await;
    assert_eq!(out, "1:5 640 7\nmade\n1\n");
    let guarded = bench.runtime.cgroup_layout().v1_of("devices").is_some();
    assert!(
        !guarded || err.contains("Operation not permitted"),
        "the devices cgroup guards what mknod makes: {err}"
    );
    bench.finish();
}

#[tokio::test]
async fn no_descriptor_leaks_in() {
    need_root!();
    let bench = Bench::new();
    // The caller's own descriptors that have lost their close-on-exec flag must not arrive either.
    let leak = fs::File::open("/etc/hostname").unwrap();
    let copy = rustix::io::dup(&leak).unwrap();
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("a", "sleep 1000")).await.unwrap();
    sandbox.start(bench.shell("c", "exec sleep 1000")).await.unwrap();
    let state = sandbox.containers().await.unwrap();
    let pid = state.iter().find(|one| one.id == "c").unwrap().pid.unwrap();
    let fds = |pid: u32| -> Vec<String> {
        let mut fds: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|entry| {
                // Closed since it was listed.
                let target = fs::read_link(entry.path()).ok()?;
                let target = target.to_str().unwrap().split(':').next().unwrap().to_owned();
                Some(format!("{} {target}", entry.file_name().to_str().unwrap()))
            })
            .collect();
        fds.sort();
        fds
    };
    assert_eq!(fds(pid), ["0 /dev/null", "1 pipe", "2 pipe"]);

    // The keeper holds what it needs and gives it back. It lets go of an exec a moment after it has told how
    // that ended, so the measure is what it holds before the first one.
    let keeper = sandbox.keeper_pid().unwrap();
    let before = fds(keeper);
    let mut exec = sandbox
        .exec("c", runtime::ExecSpec { argv: vec!["sleep".into(), "1000".into()], ..Default::default() })
        .await
        .unwrap();
    assert_eq!(fds(exec.pid()), ["0 /dev/null", "1 pipe", "2 pipe"]);
    exec.signal(Signal::KILL).await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), 137);

    for _ in 0..10 {
        sandbox.start(bench.shell("x", "true")).await.unwrap();
        sandbox.wait("x").await.unwrap();
        sandbox.remove_container("x").await.unwrap();
        let mut exec = sandbox
            .exec("c", runtime::ExecSpec { argv: vec!["true".into()], ..Default::default() })
            .await
            .unwrap();
        exec.wait().await.unwrap();
        assert!(sandbox.start(bench.container("x", &["/none"])).await.is_err());
    }
    // One that leaked in each round would be there ten times.
    let given_back = eventually("the rest is given back", || fds(keeper).len() <= before.len());
    let given_back = tokio::time::timeout(Duration::from_secs(5), given_back).await;
    assert!(given_back.is_ok(), "the keeper held {before:?} and still holds {:?}", fds(keeper));
    assert!(!fds(keeper).iter().any(|fd| fd.contains("hostname")));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn the_keepers_program_cannot_be_written_from_a_container() {
    need_root!();
    let bench = Bench::new();
    // The entry point is the runtime's own binary, as far as the image has a say in it.
    let sandbox = bench.sandbox().await;
    let mut container = bench.container("c", &["/proc/self/exe", "anything"]);
    container.log = None;
    // It runs (and complains that nobody has started it as a keeper), and its file is not the host's.
    let started = sandbox.start(container).await;
    if started.is_ok() {
        sandbox.wait("c").await.unwrap();
    }
    let keeper = sandbox.keeper_pid().unwrap();
    let exe = format!("/proc/{keeper}/exe");
    // Even the host's root, at this very file, cannot write to it, running or not.
    let copy = fs::File::open(&exe).unwrap();
    sandbox.remove().await.unwrap();
    eventually("it does not run", || !Path::new(&exe).exists() || fs::read_link(&exe).is_err()).await;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy));
    // A sealed copy in memory, where there is no overlay to be had, can be opened but takes nothing.
    if let Ok(mut file) = fs::OpenOptions::new().write(true).open(path) {
        assert!(std::io::Write::write(&mut file, b"x").is_err() && file.set_len(0).is_err());
    }
    bench.finish();
}

#[tokio::test]
async fn limits_bind_and_figures_are_told() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let mut container = bench
        .shell("c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=4 2>/dev/null; echo full; exec sleep 1000");
    let resources = serde_json::json!({
        "memory": {"limit": 64 << 20}, "pids": {"limit": 20}, "cpu": {"shares": 512, "quota": 50000, "period": 100000},
    });
    with_linux(&mut container, |linux| {
        linux.set_resources(Some(serde_json::from_value(resources).unwrap()));
    });
    sandbox.start(container).await.unwrap();
    eventually("the file is written", || bench.output("c").contains("full")).await;
    let stats = sandbox.stats("c").await.unwrap();
    assert!(stats.pids >= Some(1));
    assert_eq!(stats.memory_limit, Some(64 << 20));
    assert!(stats.memory_usage.unwrap() > 4 << 20 && stats.memory_working_set <= stats.memory_usage);
    assert!(stats.cpu_usage.unwrap() > Duration::ZERO);
    assert_eq!(stats.oom_kills, Some(0));
    let whole = sandbox.sandbox_stats().await.unwrap();
    // The file stays, whatever else has gone since the first reading.
    assert!(whole.memory_usage > Some(4 << 20) && whole.cpu_usage >= stats.cpu_usage, "{stats:?} {whole:?}");

    // Limits can be changed while it runs.
    let more =
        serde_json::from_value(serde_json::json!({"memory": {"limit": 128 << 20}, "cpu": {"quota": -1}}))
            .unwrap();
    sandbox.update("c", more).await.unwrap();
    assert_eq!(sandbox.stats("c").await.unwrap().memory_limit, Some(128 << 20));

    // More processes than allowed cannot be made.
    sandbox
        .start({
            let mut container =
                bench.shell("p", "i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; echo all");
            with_linux(&mut container, |linux| {
                let limit = serde_json::json!({"pids": {"limit": 5}});
                linux.set_resources(Some(serde_json::from_value(limit).unwrap()));
            });
            container
        })
        .await
        .unwrap();
    let exit = sandbox.wait("p").await.unwrap();
    assert_ne!(exit.code, 0);
    assert!(bench.errors("p").contains("fork"), "{}", bench.errors("p"));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_container_that_wants_too_much_memory_is_told_so() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let limited = |id: &str, script: &str| {
        let mut container = bench.shell(id, script);
        with_linux(&mut container, |linux| {
            let limit = serde_json::json!({"memory": {"limit": 16 << 20}});
            linux.set_resources(Some(serde_json::from_value(limit).unwrap()));
        });
        container
    };
    // tail keeps an endless line in memory.
    sandbox.start(limited("c", "exec tail /dev/zero")).await.unwrap();
    let exit = sandbox.wait("c").await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
    // A child of the first process: the container goes on and ends as it likes, but it is known.
    sandbox.start(limited("d", "tail /dev/zero; exit 3")).await.unwrap();
    let exit = sandbox.wait("d").await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (3, None, true));
    assert_eq!(sandbox.stats("d").await.unwrap().oom_kills, Some(1));
    // An ordinary kill is not one for want of memory.
    sandbox.start(limited("e", "kill -KILL $$; sleep 1000")).await.unwrap();
    sandbox.kill("e").await.ok();
    assert!(!sandbox.wait("e").await.unwrap().oom_killed);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_container_can_be_paused() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("c", "while :; do echo tick; sleep 0.01; done")).await.unwrap();
    eventually("it ticks", || bench.output("c").len() > 20).await;
    sandbox.pause("c").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = bench.output("c").len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.output("c").len(), before);
    sandbox.resume("c").await.unwrap();
    eventually("it ticks again", || bench.output("c").len() > before + 20).await;
    // A paused one can be removed.
    sandbox.pause("c").await.unwrap();
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_sandbox_can_be_paused_without_a_restart() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    for id in ["a", "b"] {
        sandbox.start(bench.shell(id, "while :; do echo tick; sleep 0.01; done")).await.unwrap();
    }
    let length = || bench.output("a").len() + bench.output("b").len();
    eventually("both tick", || bench.output("a").len() > 20 && bench.output("b").len() > 20).await;
    let before: Vec<_> = sandbox.containers().await.unwrap().iter().map(|one| one.pid).collect();
    sandbox.pause_sandbox().await.unwrap();
    let unified = support::cgroup_mounts().into_iter().map(|mount| mount.join(&bench.parent).join("pods/s0"));
    let events = unified.map(|path| path.join("cgroup.events")).find(|path| path.exists());
    if let Some(events) = events {
        eventually("all are frozen", || fs::read_to_string(&events).unwrap().contains("frozen 1")).await;
    }
    // What was written just before is still on its way through the keeper.
    eventually("nothing more comes", || {
        let seen = length();
        std::thread::sleep(Duration::from_millis(100));
        length() == seen
    })
    .await;
    let seen = length();
    sandbox.resume_sandbox().await.unwrap();
    eventually("both tick again", || length() > seen + 40).await;
    let after: Vec<_> = sandbox.containers().await.unwrap().iter().map(|one| one.pid).collect();
    assert_eq!(before, after);
    // A paused one can be removed.
    sandbox.pause_sandbox().await.unwrap();
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn shared_memory_is_shared_within_a_sandbox() {
    need_root!();
    let bench = Bench::new();
    let (one, two) = (bench.sandbox().await, bench.sandbox().await);
    one.start(bench.shell("a", "echo secret > /dev/shm/note")).await.unwrap();
    one.wait("a").await.unwrap();
    one.start(bench.shell("b", "cat /dev/shm/note")).await.unwrap();
    one.wait("b").await.unwrap();
    two.start(bench.shell("c", "cat /dev/shm/note")).await.unwrap();
    assert_ne!(two.wait("c").await.unwrap().code, 0);
    assert_eq!(bench.output("b"), "secret\n");
    one.remove().await.unwrap();
    two.remove().await.unwrap();
    bench.finish();
}

/// A program of one system call, whose exit code is the error number. No compiler, no libc.
#[cfg(target_arch = "x86_64")]
fn probe(number: u32, arguments: [u32; 3], thirty_two_bit: bool) -> Vec<u8> {
    let mut code = Vec::new();
    // mov edi, esi, edx (or ebx, ecx, edx); mov eax; then the call.
    let registers: [u8; 3] = if thirty_two_bit { [0xbb, 0xb9, 0xba] } else { [0xbf, 0xbe, 0xba] };
    for (register, argument) in registers.into_iter().zip(arguments).chain([(0xb8, number)]) {
        code.push(register);
        code.extend(argument.to_le_bytes());
    }
    code.extend(if thirty_two_bit { [0xcd, 0x80] } else { [0x0f, 0x05] });
    // neg eax; mov edi, eax; mov eax, 60 (exit); syscall.
    code.extend([0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]);

    let base = 0x40_0000_u64;
    let start = 64 + 56;
    let size = start + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| elf.extend_from_slice(bytes);
    put(&2_u16.to_le_bytes()); // executable
    put(&62_u16.to_le_bytes()); // x86_64
    put(&1_u32.to_le_bytes());
    put(&(base + start).to_le_bytes()); // entry
    put(&64_u64.to_le_bytes()); // program headers
    put(&0_u64.to_le_bytes());
    put(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        put(&half.to_le_bytes());
    }
    put(&1_u32.to_le_bytes()); // load
    put(&5_u32.to_le_bytes()); // read, execute
    for long in [0, base, base, size, size, 0x1000] {
        put(&long.to_le_bytes());
    }
    elf.extend(code);
    elf
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn the_filter_denies_by_number_on_every_abi() {
    need_root!();
    const EPERM: i32 = 1;
    const ENOSYS: i32 = 38;
    const X32: u32 = 0x4000_0000;
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let namespaces = 0x1000_0000; // CLONE_NEWUSER
    for (name, number, arguments, thirty_two_bit, expected) in [
        ("getpid", 39, [0; 3], false, Some(256 - 1)), // minus the pid, which is 1
        ("keyctl", 250, [0, 0xffff_fffd, 0], false, Some(EPERM)),
        ("add_key", 248, [0; 3], false, Some(EPERM)),
        ("mount", 165, [0; 3], false, Some(EPERM)),
        ("bpf", 321, [0; 3], false, Some(EPERM)),
        ("unshare", 272, [namespaces, 0, 0], false, Some(EPERM)),
        ("clone", 56, [namespaces | 17, 0, 0], false, Some(EPERM)),
        ("clone3", 435, [0; 3], false, Some(ENOSYS)),
        ("io_uring_setup", 425, [1, 0, 0], false, Some(EPERM)),
        ("kexec_load", 246, [0; 3], false, Some(EPERM)),
        ("open_by_handle_at", 304, [0; 3], false, Some(EPERM)),
        ("userfaultfd", 323, [0; 3], false, Some(EPERM)),
        ("socket(AF_ALG)", 41, [38, 5, 0], false, Some(EPERM)),
        ("socket(AF_VSOCK)", 41, [40, 1, 0], false, Some(EPERM)),
        ("a call of the future", 600, [0; 3], false, Some(ENOSYS)),
        ("keyctl as x32", 250 | X32, [0; 3], false, Some(EPERM)),
        ("mount as i386", 21, [0; 3], true, Some(EPERM)),
        ("keyctl as i386", 288, [0; 3], true, Some(EPERM)),
    ] {
        fs::write(bench.image().join("probe"), probe(number, arguments, thirty_two_bit)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(bench.image().join("probe"), mode).unwrap();
        sandbox.start(bench.container("c", &["/probe"])).await.unwrap();
        let exit = sandbox.wait("c").await.unwrap();
        assert_eq!((exit.signal, Some(exit.code)), (None, expected), "{name}");
        sandbox.remove_container("c").await.unwrap();
    }
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_layer_can_be_used_again() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let mut first = bench.shell("a", "echo kept > /file");
    let rootfs = first.rootfs.clone();
    sandbox.start(first.clone()).await.unwrap();
    sandbox.wait("a").await.unwrap();
    sandbox.remove_container("a").await.unwrap();
    first.spec = support::spec(&["cat", "/file"]);
    first.rootfs = rootfs;
    sandbox.start(first).await.unwrap();
    assert_eq!(sandbox.wait("a").await.unwrap().code, 0);
    assert_eq!(bench.output("a"), "kept\n");
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn twenty_at_once() {
    need_root!();
    let bench = std::sync::Arc::new(Bench::new());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let bench = std::sync::Arc::clone(&bench);
        tasks.spawn(async move {
            let sandbox =
                bench.runtime.create_sandbox(bench.sandbox_spec(&format!("p{number}"))).await.unwrap();
            let id = format!("c{number}");
            sandbox.start(bench.shell(&id, &format!("echo {number}; exit {number}"))).await.unwrap();
            let exit = sandbox.wait(&id).await.unwrap();
            assert_eq!((exit.code, bench.output(&id)), (number, format!("{number}\n")));
            sandbox.remove().await.unwrap();
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    std::sync::Arc::into_inner(bench).unwrap().finish();
}
