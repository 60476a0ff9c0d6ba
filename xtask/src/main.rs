//! Repository chores: `cargo run --release -p xtask -- bench`.

#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod bench;
mod protobuf_table;
mod structure_table;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("bench") => bench::run(),
        Some("bench-oci") => bench::oci::run(),
        Some("protobuf-table") => protobuf_table::run(arguments),
        Some("structure-table") => structure_table::run(arguments),
        _ => anyhow::bail!(
            "usage: cargo run --release -p xtask -- bench | bench-oci | protobuf-table API_DIR APIMACHINERY_DIR | \
             structure-table CLIENT_GO_DIR API_DIR"
        ),
    }
}
