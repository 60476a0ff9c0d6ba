//! What the cluster decides about a new object before its kind does.
//!
//! One file per upstream admission plugin, each a function over plain values; the hooks of a kind bring the values.

pub(crate) mod default_toleration_seconds;
pub(crate) mod namespace_lifecycle;
pub(crate) mod priority;
pub(crate) mod service_account;
