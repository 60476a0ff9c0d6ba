//! NodePorts: two pods cannot have the same port of a host.

use super::{Plugin, Refusal, Request};
use crate::snapshot::{NodeFacts, NodeInfo};

pub(super) fn filter(request: &Request<'_>, _: &NodeFacts, info: &NodeInfo) -> Option<Refusal> {
    request.info.ports.iter().any(|port| info.port_taken(port)).then(|| {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        Refusal::because(Plugin::NodePorts, reason, true)
    })
}

#[cfg(test)]
mod tests {
    use testkit::{node, pod};

    use super::super::testing::refusal;

    #[test]
    fn taken_ports() {
        let holder = [pod("holder").host_port("", "TCP", 80).build()];
        let check = |protocol: &str, port, expected: bool| {
            let wanting = pod("p").host_port("", protocol, port).build();
            let refusal = refusal(super::filter, &wanting, node("n").build(), &holder);
            assert_eq!(refusal.is_none(), expected);
            if let Some((reasons, resolvable)) = refusal {
                assert_eq!(reasons, ["node(s) didn't have free ports for the requested pod ports"]);
                assert!(resolvable);
            }
        };
        check("TCP", 80, false);
        check("UDP", 80, true);
        check("TCP", 81, true);
    }
}
