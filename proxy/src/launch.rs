//! Finding the running proxy, or starting one: for whoever needs it, at each start.

use std::io;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::control::{Control, Pong};

/// A new proxy must answer within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found or done.
#[derive(Debug)]
pub enum Launched {
    /// One of the right version was running; it was left alone.
    Found(Pong),
    /// A new one runs. Whoever started it reaps it; it goes on without its parent.
    Started(Pong, Child),
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Starting the process.
    #[error("starting the proxy")]
    Spawn(#[source] io::Error),
    /// It ended at once.
    #[error("the proxy ended with {status}")]
    Ended {
        /// How.
        status: std::process::ExitStatus,
    },
    /// It does not answer.
    #[error("the proxy did not answer within {PATIENCE:?}")]
    Silent,
}

/// Makes sure that a proxy of this version runs with this run directory: leaves a running one alone, and otherwise calls
/// `spawn` to start one, which takes over from one of another version. The caller makes it a session of
/// its own, so that it outlives the caller.
pub async fn ensure_running(
    run_dir: &Path,
    version: &str,
    spawn: impl FnOnce() -> io::Result<Child>,
) -> Result<Launched, LaunchError> {
    if let Some(pong) = find(run_dir).await
        && pong.version == version
    {
        return Ok(Launched::Found(pong));
    }
    let mut child = spawn().map_err(LaunchError::Spawn)?;
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(2);
    while Instant::now() < deadline {
        if let Some(pong) = find(run_dir).await
            && pong.pid == child.id()
        {
            return Ok(Launched::Started(pong, child));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(LaunchError::Ended { status });
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(LaunchError::Silent)
}

async fn find(run_dir: &Path) -> Option<Pong> {
    Control::connect(run_dir).await.ok()?.ping().await.ok()
}
