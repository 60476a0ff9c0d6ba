//! Repository chores: `cargo run --release -p xtask -- bench`.

#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod bench;

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("bench") => bench::run(),
        _ => anyhow::bail!("usage: cargo run --release -p xtask -- bench"),
    }
}
