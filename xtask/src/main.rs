//! Repository chores: `cargo xtask bench`.

#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod bench;
mod load;
mod protobuf_table;
mod structure_table;

/// A client that waits for its allocator would measure itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("bench") => bench::run(),
        Some("bench-oci") => bench::oci::run(),
        Some("bench-nodes") => bench::nodes::run_alone(),
        Some("load") => load::run(arguments),
        Some("protobuf-table") => protobuf_table::run(arguments),
        Some("structure-table") => structure_table::run(arguments),
        _ => anyhow::bail!(
            "usage: cargo xtask bench | bench-oci | bench-nodes | load | protobuf-table API_DIR APIMACHINERY_DIR | \
             structure-table CLIENT_GO_DIR API_DIR"
        ),
    }
}
