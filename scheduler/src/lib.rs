//! Which pod runs where: queue, snapshot, filters, scores, binding.
//!
//! [`schedule`](schedule::schedule) is a pure function over a [`Snapshot`] that is kept up to date
//! change by change. Its filters and scores live in [`plugins`], one file per upstream plugin, with
//! upstream's names and messages. What does not fit keeps the verdict of every filter on every node
//! ([`Unschedulable`]), and who could make room ([`preempt`]).
//!
//! [`run`] is the scheduler as a task.

pub mod plugins;
pub mod pod_info;
pub mod preempt;
pub mod queue;
pub mod resources;
mod run;
pub mod schedule;
pub mod snapshot;
pub mod unschedulable;

pub use preempt::Preemption;
pub use run::{Options, run};
pub use schedule::{Placement, schedule};
pub use snapshot::Snapshot;
pub use unschedulable::Unschedulable;
