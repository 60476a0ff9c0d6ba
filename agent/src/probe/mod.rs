//! Probes: is a container started, alive, ready? Every probe has its own timer; nothing is polled on behalf of others.

mod grpc;
mod http;
mod result;
mod run;

pub use http::{HttpFailure, HttpProber, HttpRequest};
pub use result::{Counter, Outcome, Timing};
pub(crate) use run::http_request;
pub use run::{ProbeResult, ProbeTarget, Probing, probe_once, resolve_port};

/// What a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Has it begun its work? Asked first, and alone.
    Startup,
    /// Is it to be restarted?
    Liveness,
    /// Should it get traffic?
    Readiness,
}

impl Kind {
    /// As messages call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}
