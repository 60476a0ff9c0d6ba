//! The life of one pod: what is seen ([`observe`]), what to do next ([`decide`]), what to say about it ([`status`]).

mod admit;
mod apply;
pub mod backoff;
mod conditions;
pub mod decide;
pub mod hash;
pub mod observe;
pub mod resize;
mod runs;
pub mod status;
pub mod worker;

pub(crate) use apply::HANDLERS;
