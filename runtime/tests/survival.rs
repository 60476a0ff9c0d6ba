//! What survives whom: callers, keepers, containers.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use runtime::{Config, ContainerStatus, ExecSpec, Runtime, SandboxEvent, SandboxState, Signal};
use support::{Bench, eventually, kill_keeper};

#[tokio::test]
async fn a_keeper_is_nobodys_child_and_small() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("c", "sleep 1000")).await.unwrap();
    let keeper = sandbox.keeper_pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    assert_ne!(field("PPid:"), std::process::id().to_string());
    assert_eq!(field("Threads:"), "1");
    let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
    assert_eq!((&fields[2], &fields[3]), (&keeper.to_string(), &keeper.to_string()), "own group and session");
    let cgroup = fs::read_to_string(format!("/proc/{keeper}/cgroup")).unwrap();
    assert!(cgroup.lines().all(|line| line.ends_with("/keepers")), "{cgroup}");
    // Its children see nothing of it.
    let mode = fs::metadata(format!("/proc/{keeper}/environ")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&mode), 0);
    let rollup = fs::read_to_string(format!("/proc/{keeper}/smaps_rollup")).unwrap();
    let dirty = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    let kilobytes: u64 = dirty.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kilobytes < 1024, "{kilobytes} kB of private memory");
    // The socket is root's alone.
    let socket = fs::metadata(bench.path("run/s0/keeper.sock")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&socket.permissions()) & 0o777, 0o600);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn keepers_outlive_what_they_were_cloned_from() {
    need_root!();
    let bench = Bench::new();
    let first = bench.runtime.create_sandbox(bench.sandbox_spec("first")).await.unwrap();
    first.start(bench.shell("c", "sleep 1000")).await.unwrap();
    let line = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line(first.keeper_pid().unwrap()).trim_end_matches('\0').ends_with("\0first"), "for ps");
    for round in 0..2 {
        let template = template_of(&bench).expect("a template");
        let template = rustix::process::Pid::from_raw(template).unwrap();
        rustix::process::kill_process(template, rustix::process::Signal::KILL).unwrap();
        rustix::process::waitid(
            rustix::process::WaitId::Pid(template),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .unwrap();
        let id = format!("next{round}");
        let next = bench.runtime.create_sandbox(bench.sandbox_spec(&id)).await.unwrap();
        next.start(bench.shell("c", "sleep 1000")).await.unwrap();
        next.remove().await.unwrap();
    }
    assert_eq!(first.state(), SandboxState::Ready);
    assert_eq!(first.containers().await.unwrap().len(), 1);
    first.remove().await.unwrap();
    bench.finish();
}

/// The process that this runtime's keepers are cloned from.
fn template_of(bench: &Bench) -> Option<i32> {
    let marker = bench.path("run").display().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut templates = processes.filter_map(|process| {
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        let line = fs::read_to_string(process.path().join("cmdline")).ok()?;
        (name == "keeper-template\n" && line.contains(&marker))
            .then(|| process.file_name().to_str()?.parse().ok())?
    });
    templates.next()
}

#[tokio::test]
async fn a_new_caller_finds_everything() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done";
    sandbox.start(bench.shell("runs", script)).await.unwrap();
    sandbox.start(bench.shell("ends", "exit 5")).await.unwrap();
    sandbox.wait("ends").await.unwrap();
    let keeper = sandbox.keeper_pid();
    let before = sandbox.containers().await.unwrap();
    drop(sandbox);

    let again = bench.reopened();
    let sandboxes = again.sandboxes().await;
    assert_eq!(sandboxes.len(), 1);
    let sandbox = &sandboxes[0];
    assert_eq!((sandbox.id(), sandbox.state()), ("s0", SandboxState::Ready));
    assert_eq!(sandbox.labels()["uid"], "uid-of-s0");
    assert_eq!(sandbox.spec(), &bench.sandbox_spec("s0"));
    assert_eq!(sandbox.keeper_pid(), keeper);
    assert_eq!(sandbox.containers().await.unwrap(), before);
    assert_eq!(before.iter().find(|one| one.id == "runs").unwrap().labels["name"], "runs");
    // The same object for everybody who asks.
    assert!(std::sync::Arc::ptr_eq(sandbox, &again.sandboxes().await[0]));
    let mut run =
        sandbox.exec("runs", ExecSpec { argv: vec!["true".into()], ..ExecSpec::default() }).await.unwrap();
    assert_eq!(run.wait().await.unwrap(), 0);
    sandbox.remove().await.unwrap();
    assert!(again.sandboxes().await.is_empty());
    bench.finish();
}

#[tokio::test]
async fn a_new_version_takes_over_without_a_restart() {
    need_root!();
    let bench = Bench::new();
    // The keepers' program as another build of it: a file of its own, with other bytes.
    let build = |name: &str| {
        let path = bench.path(name);
        fs::copy(env!("CARGO_BIN_EXE_runtime-keeper"), &path).unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, name.as_bytes()).unwrap();
        path
    };
    let this = build("keeper-1");
    let runtime = bench.reopened_with(&this);
    let old = runtime.create_sandbox(bench.sandbox_spec("old")).await.unwrap();
    let script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done";
    let runs = old.start(bench.shell("runs", script)).await.unwrap();
    old.start(bench.shell("waits", "until [ -e /end ]; do sleep 0.01; done; exit 9")).await.unwrap();
    let keeper = old.keeper_pid().unwrap();
    let program = |pid: Option<u32>| fs::read_link(format!("/proc/{}/exe", pid.unwrap())).unwrap();
    assert!(program(Some(keeper)).ends_with("keeper-1"), "{:?}", program(Some(keeper)));

    // As after an upgrade: the caller has ended, the file is gone, and another caller comes with another file.
    drop((old, runtime));
    fs::remove_file(&this).unwrap();
    let runtime = bench.reopened_with(&build("keeper-2"));
    let sandboxes = runtime.sandboxes().await;
    let old = sandboxes.iter().find(|one| one.id() == "old").expect("the old one's sandbox");
    assert_eq!((old.state(), old.keeper_pid()), (SandboxState::Ready, Some(keeper)));
    let listed = old.containers().await.unwrap();
    let still = listed.iter().find(|one| one.id == "runs").unwrap();
    assert_eq!(still.pid, runs.pid, "nor was its container");
    assert!(matches!(still.status, ContainerStatus::Running { .. }), "{still:?}");

    // Logs go on without a gap, processes can be run, exits come with their codes.
    let seen = bench.output("runs").lines().count();
    eventually("the log goes on", || bench.output("runs").lines().count() > seen + 20).await;
    let numbered = bench.output("runs");
    let without_gap = numbered.lines().enumerate().all(|(number, line)| line == format!("line {number}"));
    assert!(without_gap, "{numbered}");
    let spec = ExecSpec { argv: vec!["/bin/sh".into(), "-c".into(), "exit 6".into()], ..ExecSpec::default() };
    assert_eq!(old.exec("runs", spec).await.unwrap().wait().await.unwrap(), 6);
    let spec = ExecSpec { argv: vec!["touch".into(), "/end".into()], ..ExecSpec::default() };
    old.exec("waits", spec).await.unwrap();
    assert_eq!(old.wait("waits").await.unwrap().code, 9);
    // A container more in the old sandbox, by the old keeper; a new sandbox, by a new one.
    old.start(bench.shell("more", "exit 4")).await.unwrap();
    assert_eq!(old.wait("more").await.unwrap().code, 4);
    let new = runtime.create_sandbox(bench.sandbox_spec("new")).await.unwrap();
    new.start(bench.shell("fresh", "exit 3")).await.unwrap();
    assert_eq!(new.wait("fresh").await.unwrap().code, 3);
    assert!(program(new.keeper_pid()).ends_with("keeper-2"), "{:?}", program(new.keeper_pid()));
    assert_eq!(old.containers().await.unwrap().iter().find(|one| one.id == "runs").unwrap().pid, runs.pid);
    new.remove().await.unwrap();
    old.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_killed_caller_is_not_missed() {
    need_root!();
    let bench = Bench::new();
    // Another process is the caller, and is killed in the middle of it all.
    let mut caller = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "caller_to_be_killed", "--nocapture", "--include-ignored"])
        .env("CORACLE_TEST_DIR", bench.dir.path())
        .env("CORACLE_TEST_PARENT", &bench.parent)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = |id: &str| bench.output(id);
    let started = || output("ticks").contains("line 20") && output("waits").contains("ready");
    eventually("it has started containers", started).await;
    caller.kill().unwrap();
    caller.wait().unwrap();
    let seen = output("ticks").lines().count();
    eventually("the container goes on and its log as well", || output("ticks").lines().count() > seen + 20)
        .await;
    // One ends while nobody looks.
    fs::write(bench.path("go"), "").unwrap();
    let record = bench.path("state/k/containers/waits/exit.json");
    eventually("its exit is recorded", || record.exists()).await;

    let again = bench.reopened();
    let sandbox = again.sandboxes().await.into_iter().next().unwrap();
    let states = sandbox.containers().await.unwrap();
    let state = |id: &str| states.iter().find(|one| one.id == id).unwrap().clone();
    assert!(matches!(state("ticks").status, ContainerStatus::Running { .. }));
    let ContainerStatus::Exited(exit) = state("waits").status else { panic!() };
    assert_eq!(exit.code, 42);
    assert_eq!(output("waits"), "ready\ngone\n");
    let lines: Vec<String> = output("ticks").lines().map(str::to_owned).collect();
    let expected: Vec<String> = (0..lines.len()).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected, "not a line is missing");
    sandbox.remove().await.unwrap();
    bench.finish();
}

/// The other process of `a_killed_caller_is_not_missed`.
#[tokio::test]
#[ignore = "a part of another test"]
async fn caller_to_be_killed() {
    let Some(dir) = std::env::var_os("CORACLE_TEST_DIR").map(PathBuf::from) else { return };
    let parent = std::env::var("CORACLE_TEST_PARENT").unwrap();
    let runtime = Runtime::open(Config {
        run_dir: dir.join("run"),
        state_dir: dir.join("state"),
        cgroup_parent: parent,
        keeper_argv: vec![env!("CARGO_BIN_EXE_runtime-keeper").into()],
    })
    .unwrap();
    let sandbox = runtime.create_sandbox(runtime::SandboxSpec::new("k", "pods/k")).await.unwrap();
    let container = |id: &str, script: &str| {
        let (upper, work) = (dir.join(format!("{id}-u")), dir.join(format!("{id}-w")));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let mut spec = support::spec(&["/bin/sh", "-c", script]);
        let mut mounts = support::usual_mounts();
        mounts.push(support::mount("/host", "bind", dir.to_str().unwrap(), &["bind"]));
        spec.set_mounts(Some(mounts));
        runtime::ContainerSpec {
            id: id.to_owned(),
            labels: Default::default(),
            spec,
            rootfs: runtime::Rootfs::Overlay { lower: vec![dir.join("image")], upper, work },
            log: Some(runtime::LogSpec::new(dir.join("logs").join(id).join("0.log"))),
            stdin: false,
            stdin_once: false,
            tty: false,
            join_pid: None,
        }
    };
    let ticks = "i=0; while :; do echo line $i; i=$((i+1)); usleep 5000; done";
    sandbox.start(container("ticks", ticks)).await.unwrap();
    let waits = "echo ready; until [ -e /host/go ]; do usleep 5000; done; echo gone; exit 42";
    sandbox.start(container("waits", waits)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_start_that_a_caller_has_left_behind_is_listed() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.runtime.create_sandbox(bench.sandbox_spec("s")).await.unwrap();
    // What is started in a paused sandbox stays half way.
    sandbox.pause_sandbox().await.unwrap();
    let starting = tokio::spawn({
        let (sandbox, container) = (sandbox.clone(), bench.shell("c", "exec sleep 1000"));
        async move { sandbox.start(container).await }
    });
    let again = bench.reopened();
    let other = again.sandboxes().await.into_iter().next().unwrap();
    let keeper = other.keeper_pid().unwrap();
    let children = || fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    eventually("a process is there", || !children().is_empty()).await;
    let listed = tokio::time::timeout(Duration::from_millis(100), other.containers()).await;
    assert!(listed.is_err(), "an answer that nobody can know: {listed:?}");
    sandbox.resume_sandbox().await.unwrap();
    let listed = other.containers().await.unwrap();
    assert!(matches!(listed[..], [ref one] if one.id == "c" && one.status.is_alive()), "{listed:?}");
    starting.await.unwrap().unwrap();
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_dead_keeper_is_noticed_and_cleaned_up_after() {
    need_root!();
    let bench = Bench::new();
    let mut spec = bench.sandbox_spec("d");
    spec.pid = runtime::PidMode::Host;
    let sandbox = bench.runtime.create_sandbox(spec).await.unwrap();
    let mut events = sandbox.events();
    // Nothing ties these processes to the keeper: not its namespace, not its terminal.
    sandbox
        .start(bench.shell("c", "trap '' HUP TERM; (setsid sleep 1000 &); while :; do sleep 1; done"))
        .await
        .unwrap();
    sandbox.start(bench.shell("e", "exit 3")).await.unwrap();
    sandbox.wait("e").await.unwrap();
    let pid = sandbox.containers().await.unwrap().iter().find(|one| one.id == "c").unwrap().pid.unwrap();
    kill_keeper(sandbox.keeper_pid().unwrap());
    loop {
        match events.recv().await.unwrap() {
            SandboxEvent::KeeperDied => break,
            SandboxEvent::ContainerExited { id, .. } => assert_eq!(id, "e"),
        }
    }
    assert_eq!(sandbox.state(), SandboxState::Dead);
    assert_eq!(sandbox.keeper_pid(), None);
    eventually("its processes are gone", || !fs::exists(format!("/proc/{pid}")).unwrap()).await;
    let left: Vec<_> = support::cgroup_mounts()
        .into_iter()
        .map(|mount| mount.join(&bench.parent).join("pods/d"))
        .filter(|path| path.exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // What is known about its containers can still be read, by us and by others, also after a reboot.
    for sandbox in [sandbox.clone(), bench.reopened().sandboxes().await[0].clone()] {
        assert_eq!(sandbox.state(), SandboxState::Dead);
        let states = sandbox.containers().await.unwrap();
        let status = |id: &str| states.iter().find(|one| one.id == id).unwrap().status.clone();
        assert_eq!(status("c"), ContainerStatus::Unknown);
        assert!(matches!(status("e"), ContainerStatus::Exited(exit) if exit.code == 3));
        assert!(sandbox.signal("c", Signal::TERM).await.is_err());
        assert!(sandbox.start(bench.shell("n", "true")).await.is_err());
    }
    sandbox.remove().await.unwrap();
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_keeper_that_died_unseen_is_cleaned_up_after() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("c", "sleep 1000")).await.unwrap();
    let keeper = sandbox.keeper_pid().unwrap();
    let pid = sandbox.containers().await.unwrap()[0].pid.unwrap();
    drop(sandbox);
    // Give our side the time to let go, then kill it behind everybody's back.
    tokio::time::sleep(Duration::from_millis(50)).await;
    kill_keeper(keeper);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "containers do not die with their keeper");
    let again = bench.reopened();
    let sandbox = again.sandboxes().await[0].clone();
    assert_eq!(sandbox.state(), SandboxState::Dead);
    eventually("it is gone", || !fs::exists(format!("/proc/{pid}")).unwrap()).await;
    assert_eq!(sandbox.containers().await.unwrap()[0].status, ContainerStatus::Unknown);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn keepers_do_not_mind_strangers() {
    need_root!();
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let socket = bench.path("run/s0/keeper.sock");
    for bytes in [
        &b"garbage garbage garbage"[..],
        &[0xff; 64],
        &[0; 64],
        &[4, 0, 0, 0, b'n', b'u', b'l', b'l'],
        &[2, 0, 0, 0],
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(String::from_utf8_lossy(&answer).contains("\"protocol\":1"));
    }
    // A hundred that say nothing: some are turned away, and the sandbox is there for its own.
    let crowd: Vec<_> = (0..100).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    sandbox.start(bench.shell("c", "echo works")).await.unwrap();
    sandbox.wait("c").await.unwrap();
    drop(crowd);
    // Somebody else's user gets no answer, even if he can reach the socket.
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    fs::set_permissions(bench.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for path in ["run", "run/s0"] {
        fs::set_permissions(bench.path(path), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let copy = socket.clone();
    let answered = std::thread::spawn(move || {
        // This thread only.
        rustix::thread::set_thread_res_uid(
            rustix::process::Uid::from_raw(65534),
            rustix::process::Uid::from_raw(65534),
            rustix::process::Uid::from_raw(65534),
        )
        .unwrap();
        let mut stream = UnixStream::connect(copy).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.len()
    });
    assert_eq!(answered.join().unwrap(), 0);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_made_leaves_nothing() {
    need_root!();
    let bench = Bench::new();
    let mut spec = bench.sandbox_spec("x");
    spec.network = runtime::NetworkMode::Path(bench.path("no-such-namespace"));
    let error = bench.runtime.create_sandbox(spec).await.unwrap_err();
    assert!(error.to_string().starts_with("entering network namespace"), "{error}");
    let mut spec = bench.sandbox_spec("x");
    spec.sysctls.insert("net.ipv4.no_such_thing".into(), "1".into());
    let error = bench.runtime.create_sandbox(spec).await.unwrap_err();
    assert!(error.to_string().contains("no_such_thing"), "{error}");
    for (id, cgroup) in
        [("../x", "pods/x"), ("x", "../x"), ("x", "/x"), ("x", "keepers"), ("x", "a//b"), ("", "x")]
    {
        assert!(
            bench.runtime.create_sandbox(runtime::SandboxSpec::new(id, cgroup)).await.is_err(),
            "{id} {cgroup}"
        );
    }
    assert!(bench.runtime.sandboxes().await.is_empty());
    assert!(fs::read_dir(bench.path("state")).unwrap().next().is_none());
    assert!(fs::read_dir(bench.path("run")).unwrap().next().is_none());
    // The id is free.
    let sandbox = bench.runtime.create_sandbox(bench.sandbox_spec("x")).await.unwrap();
    assert!(bench.runtime.create_sandbox(bench.sandbox_spec("x")).await.is_err());
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_sandbox_has_its_network() {
    need_root!();
    let bench = Bench::new();
    let mut spec = bench.sandbox_spec("n");
    spec.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    spec.sysctls.insert("kernel.shmmax".into(), "12345678".into());
    let sandbox = bench.runtime.create_sandbox(spec).await.unwrap();
    let netns = sandbox.netns().unwrap();
    let inode = rustix::fs::fstat(&netns).unwrap().st_ino;
    let script = "readlink /proc/self/ns/net; ip addr show lo | grep -c 127.0.0.1; cat /proc/sys/kernel/shmmax \
                  /proc/sys/net/ipv4/ip_unprivileged_port_start; ip link | grep -c mtu";
    sandbox.start(bench.shell("c", script)).await.unwrap();
    sandbox.wait("c").await.unwrap();
    let out = bench.output("c");
    assert_eq!(out.lines().next().unwrap(), format!("net:[{inode}]"));
    assert_eq!(out.lines().skip(1).take(3).collect::<Vec<_>>(), ["1", "12345678", "0"], "{out}");

    // Another sandbox can be put into it by path.
    let path = PathBuf::from(format!("/proc/{}/ns/net", sandbox.keeper_pid().unwrap()));
    let mut spec = bench.sandbox_spec("m");
    spec.network = runtime::NetworkMode::Path(path);
    let other = bench.runtime.create_sandbox(spec).await.unwrap();
    assert_eq!(rustix::fs::fstat(other.netns().unwrap()).unwrap().st_ino, inode);
    other.remove().await.unwrap();
    sandbox.remove().await.unwrap();
    assert!(sandbox.netns().is_err());
    bench.finish();
}
