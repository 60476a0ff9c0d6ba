//! Routes to the pods of other nodes on the same link: each node's range by way of that node's address, with no encapsulation.
//!
//! The routes carry a protocol number of their own in the kernel, by which the next start finds and corrects them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::config::Config;
use crate::error::Error;
use crate::netlink::RouteSocket;

/// Makes the routes to other nodes these and no others: pod range to node address. Answers the first that the kernel refused,
/// after having tried all. Blocks.
pub(crate) fn sync(config: &Config, wanted: &BTreeMap<Ipv4Net, Ipv4Addr>) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let mut present = socket.node_routes().map_err(Error::ListRoutes)?;
    // Another cluster's nodes are none of ours.
    present.retain(|destination, _| config.cluster_cidr.contains(destination));
    let mut failed = None;
    for destination in present.keys().filter(|destination| !wanted.contains_key(destination)) {
        if let Err(source) = socket.delete_node_route(*destination)
            && !source.is_not_found()
        {
            failed.get_or_insert(Error::Route { destination: *destination, source });
        }
    }
    for (destination, gateway) in wanted {
        if present.get(destination) == Some(gateway) {
            continue;
        }
        if let Err(source) = socket.replace_node_route(*destination, *gateway) {
            failed.get_or_insert(Error::Route { destination: *destination, source });
        }
    }
    failed.map_or(Ok(()), Err)
}
