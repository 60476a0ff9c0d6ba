//! Decisions per second: `cargo run --release -p scheduler --example throughput [NODES] [PODS]`.

#![expect(clippy::print_stdout, reason = "the number is what this program is for")]

use std::sync::Arc;
use std::time::Instant;

use scheduler::pod_info::PodInfo;
use scheduler::{Snapshot, schedule};
use testkit::{node, pod};

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|text| text.parse::<usize>().ok());
    let nodes = arguments.next().unwrap_or(1000);
    let pods = arguments.next().unwrap_or(10_000);
    let mut snapshot = Snapshot::new();
    for n in 0..nodes {
        let zone = format!("zone-{}", n % 3);
        snapshot.set_node(Arc::new(node(&format!("node-{n:05}")).label("zone", &zone).build()));
    }
    let pending: Vec<_> = (0..pods)
        .map(|n| {
            let pod = pod(&format!("pod-{n}")).request("cpu", "100m").request("memory", "64Mi");
            if n % 4 == 0 { pod.prefer_node(10, "zone", "In", &["zone-1"]).build() } else { pod.build() }
        })
        .collect();
    let start = Instant::now();
    let mut placed = 0;
    for pod in &pending {
        if let Ok(placement) = schedule(&snapshot, pod) {
            snapshot.add_pod(&placement.node, Arc::new(PodInfo::of(pod)));
            placed += 1;
        }
    }
    let took = start.elapsed();
    let rate = f64::from(u32::try_from(pods).unwrap_or(u32::MAX)) / took.as_secs_f64();
    println!("{placed} of {pods} pods placed on {nodes} nodes in {took:?}: {rate:.0} pods/s");
}
