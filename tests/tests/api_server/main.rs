//! The API server as a process of its own: killed, starved of disk, shared, attacked.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what went wrong by panicking, and reports to standard output"
)]

mod disk_full;
mod history;
mod hostile;
mod server;
mod stores;
