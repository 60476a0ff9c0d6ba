//! The service table: which entrance leads to which endpoints, and which name means what.
//!
//! `compile(services, slices) -> Table` and `diff(old, new) -> Vec<ListenerChange>` are pure. The table is
//! swapped whole; the last one is on disk, so that a proxy that starts without a server serves at once.

mod compile;
mod diff;
mod disk;
mod input;
#[cfg(test)]
pub(crate) mod tests_support;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use compile::{Context, compile};
pub use diff::{ListenerChange, diff};
pub use disk::{DiskError, load, save};
pub use input::{Endpoint, Service, ServiceKind, ServicePort, Slice, SliceKey, SlicePort};

/// A transport protocol that we carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Namespace and name of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// Where a listener's socket lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// In the service namespace.
    Services,
    /// On the node itself.
    Node,
}

/// An address and port that clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entrance {
    /// Where.
    pub place: Place,
    /// How.
    pub protocol: Protocol,
    /// The address; unspecified for every address of the node.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// What happens to those who come through an entrance. Never without backends: an entrance that leads nowhere is not
/// opened, so it refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Whose entrance it is.
    pub service: ServiceName,
    /// Ready endpoints, ordered, each once.
    pub backends: Vec<SocketAddr>,
    /// A client that comes again within so many seconds meets the same endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
}

/// What DNS says about a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Names {
    /// The name means the service's own addresses.
    Addresses {
        /// `spec.clusterIPs`.
        addresses: Vec<IpAddr>,
        /// Its named ports.
        ports: Vec<NamedPort>,
    },
    /// The name means every ready endpoint.
    Headless(Vec<NamedEndpoint>),
    /// The name means another name.
    External(String),
}

/// A port that SRV records tell of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name; may be empty for a service's only port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// An endpoint of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedEndpoint {
    /// Its host name, or its address with dashes.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its ports.
    pub ports: Vec<NamedPort>,
}

/// Everything that the proxy and DNS need to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Where connections go.
    #[serde(with = "pairs")]
    pub forwards: BTreeMap<Entrance, Forward>,
    /// What names mean.
    #[serde(with = "pairs")]
    pub names: BTreeMap<ServiceName, Names>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Entrance {
    /// Address and port to bind.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.socket_address())
    }
}

/// Maps whose keys are no strings, as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
