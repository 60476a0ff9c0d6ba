//! A node whose address changes while it runs: a new lease, another network. Much is derived from the address (status, tunnel,
//! certificates, what the proxy takes for its own), so everything is derived anew: the process begins again in its place, with
//! the same number and the same flags. Pods, services and connections are kept by others, as at every start.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use network::Changes;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::instance;

/// A change comes in several parts: the old address goes, the new one comes, and then the way out.
const SETTLED: Duration = Duration::from_millis(500);

/// What ends the process's tasks, so that it can begin again.
#[derive(Debug, thiserror::Error)]
#[error("this machine's address has changed from {from} to {to}")]
pub(crate) struct AddressChanged {
    from: Ipv4Addr,
    to: Ipv4Addr,
}

/// Waits until this machine's address is another one. A machine that has none for a while is waited for.
pub(crate) async fn follow(own: Ipv4Addr, stop: CancellationToken) -> Result<(), AddressChanged> {
    let mut changes = match Changes::open() {
        Ok(changes) => changes,
        Err(error) => {
            warn!(error = %client::ErrorChain(&error), "a change of this machine's address is not noticed");
            stop.cancelled().await;
            return Ok(());
        }
    };
    loop {
        // What changed before this task began is seen now.
        if let Some(to) = instance::outbound_address().filter(|address| *address != own) {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(SETTLED) => {}
            }
            if instance::outbound_address() == Some(to) {
                return Err(AddressChanged { from: own, to });
            }
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = changes.next() => if let Err(error) = changed {
                warn!(error = %client::ErrorChain(&error), "a change of this machine's address is not noticed any more");
                stop.cancelled().await;
                return Ok(());
            }
        }
    }
}

/// Whether this is why a part has ended.
pub(crate) fn is_cause(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<AddressChanged>())
}

/// Begins again. Returns only if that fails.
pub(crate) fn begin_again(why: &anyhow::Error) -> anyhow::Error {
    info!(reason = %why.root_cause(), "beginning again; pods, services and DNS go on");
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    anyhow::Error::new(command.args(arguments).exec()).context("beginning again with another address")
}
