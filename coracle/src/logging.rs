//! Where log lines go and how they look.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::flags::LogFormat;

/// Logs to standard error from now on.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is not a filter"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(rustix::termios::isatty(rustix::stdio::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
