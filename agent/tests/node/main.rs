//! Agents on the real machine: real namespaces, cgroups, images and a real network, in a network namespace of their own.

mod bench;
mod lifecycle;
mod server;
mod users;

/// Skips a test where containers cannot run.
#[macro_export]
macro_rules! need_root {
    () => {
        if !$crate::bench::can_run() {
            return;
        }
    };
}
