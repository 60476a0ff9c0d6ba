//! The machine and the cluster that an end-to-end test runs in.
//!
//! A [`Machine`] is a fresh network namespace with a temporary directory: what one test does to bridges,
//! addresses and ports, no other test sees, nor the machine itself. A [`Cluster`] is the release binary
//! running in it. Both leave nothing behind, also when the test fails, and [`Machine::leftovers`] says
//! what would have been left.

#![allow(clippy::print_stdout, reason = "a test's output is its report")]

mod cluster;
mod guest;
mod machine;
mod network;
mod node;
pub mod promises;

pub use cluster::{BUSYBOX, Cluster, Options};
pub use guest::{Guest, Ran, guest_kernel};
pub use machine::{Machine, Output};
pub use network::Switch;
pub use node::Node;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The release binary that the tests drive.
///
/// # Panics
/// When it has not been built.
pub fn coracle() -> PathBuf {
    let path = std::env::var_os("CORACLE_BIN").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/coracle")),
        PathBuf::from,
    );
    assert!(path.exists(), "{} does not exist: run `make build` first", path.display());
    path
}

/// A stock kubectl of the given version (1.20, 1.32 or 1.36).
///
/// # Panics
/// When it cannot be fetched.
pub fn kubectl(version: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/kubectl");
    let output =
        std::process::Command::new(script).args(["path", version]).output().expect("hack/kubectl runs");
    assert!(output.status.success(), "hack/kubectl: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Looks again and again until `probe` has something, and returns it.
///
/// For conditions of the outside world that offer no event to a test. The limit is generous and only there
/// to end a test that would hang; nothing is asserted about how long it took.
///
/// # Panics
/// When it takes longer than a minute; the message is what `probe` last said.
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(reason) if begin.elapsed() > Duration::from_secs(60) => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
