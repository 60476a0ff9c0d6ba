//! Logs, exec, attach and terminals.

mod support;

use std::fs;
use std::time::Duration;

use runtime::oci::UserBuilder;
use runtime::{ExecError, ExecSpec, LogSpec, RequestError, Signal, WindowSize};
use support::{Bench, eventually, read_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

fn exec(argv: &[&str]) -> ExecSpec {
    ExecSpec { argv: argv.iter().map(|one| (*one).to_owned()).collect(), ..ExecSpec::default() }
}

fn shell(script: &str) -> ExecSpec {
    exec(&["sh", "-c", script])
}

#[tokio::test]
async fn logs_are_in_the_format_of_cri() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox
        .start(
            bench.shell(
                "c",
                "echo one; echo two >&2; printf 'no end'; sleep 0.05; printf ' yet\\n'; printf rest",
            ),
        )
        .await
        .unwrap();
    sandbox.wait("c").await.unwrap();
    let log = fs::read_to_string(bench.log_path("c")).unwrap();
    let mut lines: Vec<_> = log
        .lines()
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!((time.len(), &time[19..20], &time[29..]), (30, ".", "Z"), "{time}");
            rest
        })
        .collect();
    // The two streams have no order between them.
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F two", "stdout F no end yet", "stdout F one", "stdout P rest"]);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(bench.log_path("c")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn everything_that_was_written_is_in_the_log_when_the_exit_is_told() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let mut container = bench.shell("c", "seq 1 20000; echo last >&2");
    // Rotation happens all the while.
    container.log = Some(LogSpec { path: bench.log_path("c"), max_size: 50_000, max_files: 1000 });
    sandbox.start(container).await.unwrap();
    sandbox.wait("c").await.unwrap();
    let directory = bench.log_path("c").parent().unwrap().to_owned();
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.rotate_left(1);
    assert!(files.len() > 10, "{}", files.len());
    let all: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let numbers: Vec<u32> =
        all.lines().filter_map(|line| line.split_once(" stdout F ")?.1.parse().ok()).collect();
    assert_eq!(numbers, (1..=20_000).collect::<Vec<_>>());
    assert!(all.contains("stderr F last"));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn exec_runs_beside_the_container() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("c", "export FROM=init; sleep 1000")).await.unwrap();
    let mut run = sandbox
        .exec("c", shell("echo out; echo err >&2; pwd; hostname; readlink /proc/self/ns/pid; grep Seccomp: /proc/self/status; exit 9"))
        .await
        .unwrap();
    assert!(run.stdin.is_none());
    let (out, err) = (read_all(run.stdout.take()).await, read_all(run.stderr.take()).await);
    assert_eq!(run.wait().await.unwrap(), 9);
    assert_eq!(run.wait().await.unwrap(), 9, "it can be asked again");
    let pid = sandbox.containers().await.unwrap()[0].pid.unwrap();
    let namespace = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    let expected = format!("out\n/\nhost-s0\n{}\nSeccomp:\t2\n", namespace.display());
    assert_eq!((out.as_str(), err.as_str()), (expected.as_str(), "err\n"));

    // With its own environment, user and directory.
    let mut run = sandbox
        .exec("c", ExecSpec {
            env: Some(vec!["PATH=/bin".into(), "X=1".into()]),
            cwd: Some("/tmp".into()),
            user: Some(UserBuilder::default().uid(1000_u32).gid(1000_u32).build().unwrap()),
            ..shell("echo $X $HOME; pwd; id -u; id -g; grep CapEff /proc/self/status; echo > /dev/stdout && echo own")
        })
        .await
        .unwrap();
    let out = read_all(run.stdout.take()).await;
    assert_eq!(run.wait().await.unwrap(), 0);
    assert_eq!(out, "1 /home/app\n/tmp\n1000\n1000\nCapEff:\t0000000000000000\n\nown\n");

    // Its processes are in the container's cgroup.
    let mut run = sandbox.exec("c", exec(&["sleep", "1000"])).await.unwrap();
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", run.pid())).unwrap();
    for controller in ["memory", "cpu", "pids", "devices"] {
        let line = cgroup.lines().find(|line| line.contains(&format!(":{controller}:"))).unwrap();
        assert!(line.ends_with("/pods/s0/c"), "{line}");
    }
    assert!(cgroup.lines().any(|line| line.starts_with("0::") && line.ends_with("/pods/s0/c")), "{cgroup}");
    run.signal(Signal::TERM).await.unwrap();
    assert_eq!(run.wait().await.unwrap(), 128 + 15);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn exec_reads_its_input() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("c", "sleep 1000")).await.unwrap();
    let mut run = sandbox.exec("c", ExecSpec { stdin: true, ..exec(&["wc", "-c"]) }).await.unwrap();
    let mut stdin = run.stdin.take().unwrap();
    // More than any pipe holds, so that both ends have to move.
    let bytes = vec![b'x'; 3_000_000];
    stdin.write_all(&bytes).await.unwrap();
    drop(stdin);
    assert_eq!(read_all(run.stdout.take()).await, "3000000\n");
    assert_eq!(run.wait().await.unwrap(), 0);
    // And a lot comes back.
    let mut run = sandbox.exec("c", shell("head -c 5000000 /dev/zero")).await.unwrap();
    let mut all = Vec::new();
    run.stdout.take().unwrap().read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 5_000_000);
    assert_eq!(run.wait().await.unwrap(), 0);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_failing_exec_says_why() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("c", "sleep 1000")).await.unwrap();
    let error = sandbox.exec("c", exec(&["nothing"])).await.unwrap_err();
    assert_eq!(error.to_string(), "exec: \"nothing\": executable file not found in $PATH");
    let error = sandbox.exec("c", exec(&["/etc/passwd"])).await.unwrap_err();
    assert!(matches!(error, ExecError::Program { .. }), "{error:?}");
    let error = sandbox.exec("c", exec(&[])).await.unwrap_err();
    assert_eq!(error.to_string(), "argv: names no program");
    let nowhere = ExecSpec { cwd: Some("/nowhere".into()), ..exec(&["true"]) };
    let error = sandbox.exec("c", nowhere).await.unwrap_err();
    assert_eq!(error.to_string(), "changing to directory /nowhere");
    assert!(matches!(sandbox.exec("none", exec(&["true"])).await, Err(ExecError::NotFound(_))));
    assert!(matches!(sandbox.exec("../c", exec(&["true"])).await, Err(ExecError::NotFound(_))));
    sandbox.kill("c").await.unwrap();
    sandbox.wait("c").await.unwrap();
    assert!(matches!(sandbox.exec("c", exec(&["true"])).await, Err(ExecError::NotRunning(_))));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn exec_on_a_terminal() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("c", "sleep 1000")).await.unwrap();
    let spec = ExecSpec {
        tty: true,
        stdin: true,
        window: Some(WindowSize { columns: 90, rows: 20 }),
        ..shell("tty; stty size; read line; echo got $line; stty size; test -t 1 && test -t 2; exit $?")
    };
    let mut run = sandbox.exec("c", spec).await.unwrap();
    assert!(run.stderr.is_none());
    let (mut stdin, mut stdout) = (run.stdin.take().unwrap(), run.stdout.take().unwrap());
    let mut seen = String::new();
    let mut buffer = [0; 1000];
    while !seen.contains("20 90") {
        let count = timeout(Duration::from_secs(10), stdout.read(&mut buffer)).await.unwrap().unwrap();
        assert_ne!(count, 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert!(seen.starts_with("/dev/pts/0\r\n"), "{seen}");
    run.resize(WindowSize { columns: 100, rows: 30 }).unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "hello\r\ngot hello\r\n30 100\r\n");
    assert_eq!(run.wait().await.unwrap(), 0);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_fake_terminal_device_is_not_trusted() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    // The container puts something else where the terminals are.
    let mut container = bench
        .shell("c", "umount /dev/pts; mkdir -p /dev/pts; mknod /dev/pts/ptmx c 1 3; echo ready; sleep 1000");
    let mut mounts = container.spec.mounts().clone().unwrap();
    mounts.retain(|mount| mount.destination() != std::path::Path::new("/dev/pts"));
    container.spec.set_mounts(Some(mounts));
    sandbox.start(container).await.unwrap();
    eventually("ready", || bench.output("c").contains("ready")).await;
    let error = sandbox.exec("c", ExecSpec { tty: true, ..exec(&["sh"]) }).await.unwrap_err();
    assert_eq!(error.to_string(), "opening a terminal");
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn attach_sees_what_is_written_and_writes_what_is_read() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let mut container =
        bench.shell("c", "while read line; do echo \"got $line\"; echo \"err $line\" >&2; done; echo end");
    container.stdin = true;
    sandbox.start(container).await.unwrap();
    let mut one = sandbox.attach("c").await.unwrap();
    let mut two = sandbox.attach("c").await.unwrap();
    one.stdin.as_mut().unwrap().write_all(b"first\n").await.unwrap();
    let mut buffer = [0; 100];
    for stream in [one.stdout.as_mut().unwrap(), two.stdout.as_mut().unwrap()] {
        let count = timeout(Duration::from_secs(10), stream.read(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..count], b"got first\n");
    }
    let count = two.stderr.as_mut().unwrap().read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..count], b"err first\n");
    // One leaves, the other goes on; the container does not notice.
    drop(one);
    two.stdin.as_mut().unwrap().write_all(b"second\n").await.unwrap();
    let count = two.stdout.as_mut().unwrap().read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..count], b"got second\n");
    assert_eq!(bench.output("c"), "got first\ngot second\n");
    sandbox.remove().await.unwrap();
    // The end of the container is the end of the stream.
    assert_eq!(two.stdout.as_mut().unwrap().read(&mut buffer).await.unwrap(), 0);
    bench.finish();
}

#[tokio::test]
async fn input_for_one_client_ends_with_it() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let mut container = bench.shell("c", "cat; echo end");
    (container.stdin, container.stdin_once) = (true, true);
    sandbox.start(container).await.unwrap();
    let mut attached = sandbox.attach("c").await.unwrap();
    attached.stdin.as_mut().unwrap().write_all(b"all of it\n").await.unwrap();
    attached.stdin = None;
    assert_eq!(sandbox.wait("c").await.unwrap().code, 0);
    assert_eq!(bench.output("c"), "all of it\nend\n");
    assert!(matches!(sandbox.attach("c").await, Err(RequestError::NotRunning(_))));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_the_container_up() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let script = "read go; i=0; while [ $i -lt 300 ]; do head -c 10000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; echo end";
    let mut container = bench.shell("c", script);
    container.stdin = true;
    sandbox.start(container).await.unwrap();
    let mut attached = sandbox.attach("c").await.unwrap();
    attached.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!(timeout(Duration::from_secs(30), sandbox.wait("c")).await.unwrap().unwrap().code, 0);
    assert!(bench.output("c").ends_with("\nend\n"));
    assert_eq!(bench.output("c").len(), 300 * 10_001 + 4);
    // What was in the pipe is there, and then it ends.
    let mut all = Vec::new();
    attached.stdout.take().unwrap().read_to_end(&mut all).await.unwrap();
    assert!(!all.is_empty() && all.len() < 2_000_000, "{}", all.len());
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn a_container_on_a_terminal() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let mut container =
        bench.shell("c", "tty; stat -c %F /dev/console; read line; echo \"got $line\"; stty size; exit 6");
    container.tty = true;
    sandbox.start(container).await.unwrap();
    eventually("it has a terminal", || bench.output("c").contains("character")).await;
    let mut attached = sandbox.attach("c").await.unwrap();
    assert!(attached.stderr.is_none());
    attached.resize(WindowSize { columns: 70, rows: 15 }).unwrap();
    attached.stdin.as_mut().unwrap().write_all(b"hi\n").await.unwrap();
    let exit = sandbox.wait("c").await.unwrap();
    assert_eq!(exit.code, 6);
    let text = read_all(attached.stdout.take()).await;
    assert_eq!(text, "hi\r\ngot hi\r\n15 70\r\n");
    // The log has what the program wrote, without the terminal's carriage returns.
    assert_eq!(bench.output("c"), "/dev/pts/0\ncharacter special file\nhi\ngot hi\n15 70\n");
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn fifty_execs_at_once() {
    need_root!();
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    sandbox.start(bench.shell("c", "sleep 1000")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let sandbox = std::sync::Arc::clone(&sandbox);
        tasks.spawn(async move {
            let mut run = sandbox.exec("c", shell(&format!("echo {number}; exit {number}"))).await.unwrap();
            let out = read_all(run.stdout.take()).await;
            assert_eq!((run.wait().await.unwrap(), out), (number, format!("{number}\n")));
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    sandbox.remove().await.unwrap();
    bench.finish();
}
