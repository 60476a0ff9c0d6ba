//! API server, scheduler and controllers together, in this process, with simulated nodes.

mod boat;
mod deletion;
mod nodes;
mod placement;
mod workloads;
