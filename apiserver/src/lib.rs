//! The Kubernetes API over resource rows: REST, watch, admission, discovery.
//!
//! [`ApiServer`] answers requests over a [`store::Store`], for sockets and for callers in the same process alike.
//!
//! - `request/` reads paths, parameters and media types;
//! - `registry/` has a row per resource, with the hooks that make kinds differ;
//! - `handlers/` are the verbs, written once over rows;
//! - `write/` is the loop that decides and commits;
//! - `watch_cache/` is what every read is served from: bytes that were encoded once, when the object was written.

mod admission;
mod advertise;
mod authorize;
mod body;
mod bootstrap;
mod certificates;
mod compress;
mod config;
pub mod discovery;
mod encode;
mod error;
mod fields;
mod flow_control;
mod handlers;
mod health;
mod housekeeping;
mod identity;
mod impersonate;
mod metrics;
mod node_proxy;
mod object;
pub mod openapi;
mod ownership;
pub mod patch;
pub mod pki;
pub mod protobuf;
mod quota;
mod random;
mod rbac;
mod registry;
mod render;
mod request;
mod routes;
mod serve;
mod server;
pub mod table;
mod token;
mod usage;
mod watch_cache;
mod write;

pub use body::{Body, BodyError};
pub use config::Config;
pub use identity::Identity;
pub use serve::serve;
pub use token::{TokenKey, TokenKeyError};

pub use server::{ApiServer, StartError};
