//! System call filters: an own compiler to classic BPF, and the default profile.
//!
//! Follows the seccomp section of the OCI runtime specification, with libseccomp's semantics.

mod compile;
mod default;
mod table;

pub use compile::SeccompError;
pub(crate) use compile::{asks, compile, notifies};
pub use default::default_profile;
