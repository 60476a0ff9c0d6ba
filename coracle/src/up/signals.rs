//! When to stop.

use std::thread::JoinHandle;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Resolves when somebody asks this process to end; says how.
pub(crate) fn asked_to_end() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// The same for a program that has no runtime of its own at hand: cancels the token.
pub(crate) fn cancel_when_asked(token: CancellationToken) -> anyhow::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("listening for signals")?;
    let wait = move || {
        let asked = runtime.block_on(async { Ok::<_, anyhow::Error>(asked_to_end()?.await) });
        if asked.is_ok() {
            token.cancel();
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .stack_size(64 << 10)
        .spawn(wait)
        .context("starting a thread")
}
