//! The node agent: manifest sources, pod sync, probes, volumes, status.

pub mod disk;
pub mod downward;
pub mod env;
pub mod etc;
#[cfg(test)]
mod fixture;
pub mod inotify;
pub mod names;
pub mod objects;
pub mod pod;
pub mod resources;
pub mod sources;
pub mod spec;
pub mod volume;
