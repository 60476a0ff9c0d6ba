//! Volumes: what a pod's volumes are ([`plan`]), what is in them ([`payload`]), and how they get there.

pub mod atomic;
pub mod mount;
pub mod owner;
pub mod payload;
pub mod persistent;
pub mod plan;
pub mod reclaim;
