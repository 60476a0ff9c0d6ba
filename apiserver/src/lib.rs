//! The Kubernetes API over resource rows: REST, watch, admission, discovery.

pub mod discovery;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod table;
