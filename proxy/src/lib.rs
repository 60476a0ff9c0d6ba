//! Service proxy and DNS: a process of its own.
//!
//! ```text
//!                            control thread (host's namespace)          data thread (service namespace)
//!   Services, EndpointSlices ── observe ──▶ compile ──▶ diff ── steps ──▶ listeners, connections, flows
//!   agent: "this pod leaves" ── control ──▶    │  └──▶ table on disk
//!   questions ───────────────── dns ◀──────────┘ names
//! ```
//!
//! Guarantees: the death of server or agent touches nothing here; a change of endpoints touches no open connection;
//! when [`Control::leaving`] has returned, no new connection goes to that pod; without a server the
//! last table goes on being served.
//!
//! See `network` for the service namespace, where every service address is at home.

mod control;
mod data;
mod dns;
mod launch;
mod listen;
mod observe;
mod process;
mod state;
mod sys;
pub mod table;

pub use control::{Control, ControlError, Pong, Request, Response, socket_path};
pub use data::{Count, DataPlaneError, Metrics};
pub use dns::BadDomain;
pub use launch::{LaunchError, Launched, ensure_running};
pub use observe::Source;
pub use process::{Config, Error, run};
