//! API server, scheduler and controllers together, in this process, with simulated nodes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what went wrong by panicking, and reports to standard output"
)]

mod boat;
mod deletion;
mod nodes;
mod placement;
mod storms;
mod workloads;
