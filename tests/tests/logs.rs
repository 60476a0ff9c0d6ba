//! Logs that are rotated while somebody reads them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use tests::{Cluster, Machine, Options, eventually};

const LINES: usize = 20_000;

#[test]
fn a_follower_misses_nothing_when_the_log_is_rotated() {
    let args = ["--container-log-max-size=64Ki", "--container-log-max-files=3"];
    let options = Options { args: args.map(str::to_owned).to_vec(), ..Options::default() };
    let cluster = Cluster::with(Machine::new(), options);
    // It begins when it is told to, so that the follower is there, and waits a little now and then, as a reader that is slower
    // than all the rotations that are kept has to miss something.
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: talker}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - name: a\n    image: coracle.example/busybox:1\n    command: [sh, -c, 'until [ -e /go ]; do sleep 0.05; done; \
         i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i of the log; [ $((i % 200)) = 0 ] && sleep 0.05; done']\n"
    );
    cluster.apply(&yaml).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/talker", "--timeout=60s"]).ok();
    let mut kubectl = cluster.kubectl_command("1.36");
    let mut follower = kubectl.args(["logs", "-f", "talker"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    cluster.kubectl(["exec", "talker", "--", "touch", "/go"]).ok();
    let mut next = 1;
    for line in lines {
        assert_eq!(line.unwrap(), format!("line {next} of the log"));
        next += 1;
    }
    follower.wait().unwrap();
    assert_eq!(next - 1, LINES, "the follower ended early");

    // What is kept is bounded, and read from its oldest line to its newest.
    let logs = cluster.machine.path("data/logs");
    let files = || {
        let all = walk(&logs);
        if all.len() == 3 { Ok(all) } else { Err(format!("{all:?}")) }
    };
    let files = eventually("three files are kept", files);
    let size: u64 = files.iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert!(size < 4 * (64 << 10), "{size} bytes are kept in {files:?}");
    let kept = cluster.kubectl(["logs", "talker"]).ok();
    let last = format!("line {LINES} of the log");
    assert_eq!(kept.lines().last(), Some(last.as_str()));
    let numbers: Vec<usize> =
        kept.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert!(
        numbers.len() > 1000 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{} lines",
        numbers.len()
    );
    let tail = cluster.kubectl(["logs", "talker", "--tail=1500"]).ok();
    assert_eq!(tail.lines().count(), 1500, "the tail reaches into the file before");
    cluster.kubectl(["delete", "pod", "talker"]).ok();
}

/// All files below a directory.
fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(walk(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}
