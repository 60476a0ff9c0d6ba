//! Why a network operation failed, a variant per step.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::netlink::NetlinkError;
use crate::netns::NetNsError;

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("opening a netlink socket")]
    OpenNetlink(#[source] NetlinkError),
    /// Reading the kernel's list of links.
    #[error("listing links")]
    ListLinks(#[source] NetlinkError),
    /// Reading routes.
    #[error("listing routes")]
    ListRoutes(#[source] NetlinkError),
    /// Reading addresses.
    #[error("listing addresses")]
    ListAddresses(#[source] NetlinkError),
    /// Making the tunnel to nodes that share no link with this one.
    #[error("creating tunnel {tunnel} (VXLAN) to nodes on other links")]
    CreateTunnel {
        /// Its name.
        tunnel: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Telling the tunnel where a node is.
    #[error("setting the ends of tunnel {tunnel}")]
    TunnelEnd {
        /// Its name.
        tunnel: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Making the bridge.
    #[error("creating bridge {bridge}")]
    CreateBridge {
        /// Its name.
        bridge: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Somebody else's interface has the bridge's name.
    #[error("interface {name} exists and is not a bridge")]
    NotABridge {
        /// The name.
        name: String,
    },
    /// The bridge is missing: `ensure` has not run, or somebody removed it.
    #[error("bridge {bridge} does not exist")]
    NoBridge {
        /// Its name.
        bridge: String,
    },
    /// The interface is missing.
    #[error("interface {interface} does not exist")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// Making a veth pair.
    #[error("creating veth pair {host_interface} for {id}")]
    CreateVeth {
        /// The attachment.
        id: String,
        /// Name of the host side.
        host_interface: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Changing a link.
    #[error("setting up interface {interface}")]
    SetLink {
        /// Its name.
        interface: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Deleting a link.
    #[error("deleting interface {interface}")]
    DeleteLink {
        /// Its name.
        interface: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Adding or removing an address.
    #[error("changing address {address} of interface {interface}")]
    Address {
        /// The interface.
        interface: String,
        /// The address.
        address: Ipv4Net,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Adding or removing a route.
    #[error("changing the route to {destination}")]
    Route {
        /// Where it leads.
        destination: Ipv4Net,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// The namespace has an interface of that name that is not ours.
    #[error("the network namespace of {id} already has an interface {interface}")]
    InterfaceTaken {
        /// The attachment.
        id: String,
        /// The interface.
        interface: String,
    },
    /// The kernel keeps the port closed; the bridge may be down.
    #[error("bridge port {interface} does not open")]
    PortClosed {
        /// The host side.
        interface: String,
    },
    /// The id does not fit into an interface's alias.
    #[error("attachment id {id:?} is empty, longer than 200 bytes, or has white space or control characters")]
    BadId {
        /// The id.
        id: String,
    },
    /// Every address is taken.
    #[error("no free address in {pod_cidr}")]
    NoFreeAddress {
        /// The node's range.
        pod_cidr: Ipv4Net,
    },
    /// Host ports for an attachment that is not there.
    #[error("{id} is not attached")]
    NotAttached {
        /// The attachment.
        id: String,
    },
    /// An address in the wrong place.
    #[error("{address} is used by {interface}, which is not ours")]
    AddressTaken {
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        interface: String,
    },
    /// Changing the packet filter.
    #[error("changing nf_tables table {table}")]
    Firewall {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Reading the packet filter.
    #[error("reading nf_tables table {table}")]
    ReadFirewall {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Writing a kernel parameter.
    #[error("writing {path}")]
    Sysctl {
        /// The file below /proc/sys.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Entering or making a network namespace.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// A file of ours.
    #[error("writing {path}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The async runtime is ending.
    #[error("shutting down")]
    ShuttingDown,
}

/// Something that the network works without, less well.
#[derive(Debug, thiserror::Error)]
pub enum Warning {
    /// Pods reach this node and each other, but nothing beyond.
    #[error("IPv4 forwarding is off and cannot be switched on: pods will not reach other machines")]
    Forwarding(#[source] io::Error),
    /// Host ports do not answer on 127.0.0.1.
    #[error("route_localnet cannot be set on {bridge}: host ports will not answer on 127.0.0.1")]
    RouteLocalnet {
        /// The bridge.
        bridge: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No masquerading, no host ports.
    #[error("nf_tables is not usable: no masquerading, no host ports")]
    NfTables(#[source] NetlinkError),
    /// A chain of others may drop what we forward.
    #[error("cannot put accept rules into iptables' FORWARD chain: its policy may drop the pods' traffic")]
    ForwardChain(#[source] NetlinkError),
    /// Old iptables has tables of its own that we cannot write to.
    #[error("legacy iptables has a filter table: if its FORWARD chain drops, allow interface {bridge} there")]
    LegacyIptables {
        /// The bridge.
        bridge: String,
    },
}
