//! The node agent: manifest sources, pod sync, probes, volumes, status.

mod access;
pub mod clock;
pub mod context;
pub mod disk;
pub mod downward;
pub mod env;
pub mod etc;
pub mod events;
pub mod eviction;
#[cfg(test)]
mod fixture;
pub mod hooks;
pub mod images;
pub mod inotify;
pub mod logs;
pub mod machine;
pub mod names;
pub mod node;
pub mod objects;
pub mod pod;
pub mod pods;
pub mod probe;
pub mod resources;
mod run;
pub mod server;
pub mod sources;
pub mod spec;
mod stats;
pub mod users;
pub mod volume;

pub use access::Access;
pub use run::{Config, Error, ManifestUrl, Serve, run};
