//! DNS for the cluster's names, answered from the service table; other names are asked of the host's resolvers.
//!
//! `zone.rs` says what names mean and `reply.rs` makes bytes of it, both without a socket; `forward.rs` asks others.

mod forward;
mod reply;
mod resolv_conf;
mod server;
mod zone;

pub(crate) use forward::Forwarder;
pub(crate) use resolv_conf::ResolvConf;
pub(crate) use server::Server;
pub use zone::BadDomain;
pub(crate) use zone::{Zone, ZoneConfig};
