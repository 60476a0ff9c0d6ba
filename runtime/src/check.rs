//! Probes of what the kernel and the machine offer, for `coracle check`.

/// How a probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Ok,
    /// coracle works without it, but something is slower, weaker or missing.
    Warn,
    /// Containers cannot run without it.
    Missing,
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was tried.
    pub name: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do about it; empty if it works.
    pub advice: String,
}

/// Tries everything that the runtime needs. Blocks for some milliseconds.
pub fn run(_config: &crate::Config) -> Vec<Probe> {
    Vec::new()
}
