//! A power cut of a node: everything that runs on it ends at once and says nothing to anybody, and what the kernel kept for it is gone,
//! as after a reboot. What is on disk stays.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vm::machine::ended_by;

use crate::instance::Instance;
use crate::up::down;

/// The kernel needs a moment to take a process apart; on a busy machine a long one.
const PATIENCE: Duration = Duration::from_secs(20);

/// Cuts the power of the node with this instance and control group. Blocks.
pub(crate) fn cut(node: &Instance, group: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Who is about to fork is found in the next round.
        let mut pids = down::processes_of_group(group)?;
        pids.extend(processes(&node.run_dir));
        if pids.is_empty() {
            break;
        }
        let handles: Vec<OwnedFd> = pids
            .iter()
            .filter_map(|pid| pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok())
            .collect();
        for handle in &handles {
            // It may have ended this very moment.
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
        for handle in &handles {
            if !ended_by(handle, deadline)? {
                bail!("a process does not end");
            }
        }
        if Instant::now() >= deadline {
            bail!("processes come as fast as they go: {pids:?}");
        }
    }
    down::remove_cgroups(group)?;
    down::unmount_below(&[&node.data_dir, &node.run_dir])?;
    match std::fs::remove_dir_all(&node.run_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", node.run_dir.display()))
        }
        _ => Ok(()),
    }
}

/// Agent, proxy and keepers of the run directory.
fn processes(run_dir: &Path) -> Vec<i32> {
    let run_dir = run_dir.as_os_str().as_encoded_bytes();
    let below = |word: &[u8]| {
        word.strip_prefix(run_dir).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    };
    let is_ours = |line: &[u8]| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1).is_some_and(|part| [&b"agent"[..], b"proxy", b"keeper"].contains(part))
            && words.iter().any(|word| below(word))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|process| std::fs::read(process.path().join("cmdline")).is_ok_and(|line| is_ours(&line)))
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .collect()
}
