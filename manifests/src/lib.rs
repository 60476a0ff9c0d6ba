//! The vocabulary of coracle: Kubernetes types and everything about them that needs no I/O.
//!
//! Everything here is a pure function of its arguments and total: no input makes it panic, and what comes from outside
//! is read within bounds. Other crates get the types from here, at the one version feature that is chosen here.

pub use k8s_openapi;

pub mod cron;
pub mod decode;
pub mod default;
pub mod encode;
pub mod expand;
pub mod field;
pub mod go;
pub mod hash;
pub mod json;
pub mod kinds;
pub mod names;
pub mod placement;
pub mod qos;
pub mod quantity;
pub mod resources;
pub mod selector;
pub mod service_env;
pub mod status;
pub mod strategic;
pub mod structure;
pub mod time;
pub mod validate;
pub mod volumes;
pub mod yaml;
