//! The life of one pod: what is seen ([`observe`]), what to do next ([`decide`]), what to say about it ([`status`]).

pub mod backoff;
mod conditions;
pub mod decide;
pub mod hash;
pub mod observe;
pub mod status;
