//! What a node's pod network is made from.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// The longest interface name that Linux takes.
pub(crate) const INTERFACE_NAME_MAX: usize = 15;

/// What a node's pod network is made from. Instances on one machine differ in bridge, ranges, table and directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the bridge; at most 15 bytes.
    pub bridge: String,
    /// This node's range of pod addresses. The first address is the gateway (the bridge's), the last the
    /// service namespace's.
    pub pod_cidr: Ipv4Net,
    /// The ranges of all nodes: traffic to it keeps the pod's address.
    pub cluster_cidr: Ipv4Net,
    /// Service addresses, routed to the service namespace; `None` for a node without a proxy.
    pub service_cidr: Option<Ipv4Net>,
    /// The node's own address: its link carries what goes to other nodes. None where there is but one way out.
    pub address: Option<Ipv4Addr>,
    /// MTU of pods and bridge; by default that of the interface with the node's address, or else with the
    /// default route, or 1500.
    pub mtu: Option<u32>,
    /// Name of our nf_tables table (family ip).
    pub nft_table: String,
    /// Directory of the last address handed out and of the lock.
    pub state_dir: PathBuf,
}

/// The configuration cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Not a name that the kernel takes for an interface.
    #[error("bridge name {name:?} must have 1 to 15 bytes, without '/', ':' or white space")]
    BridgeName {
        /// The name.
        name: String,
    },
    /// Not a name that nft can show and delete again.
    #[error(
        "nf_tables table name {name:?} must consist of letters, digits, '_' and '-', starting with a letter"
    )]
    TableName {
        /// The name.
        name: String,
    },
    /// No room for a gateway, a service namespace and one pod.
    #[error("pod range {pod_cidr} must be /29 or larger")]
    PodCidrTooSmall {
        /// The node's range.
        pod_cidr: Ipv4Net,
    },
    /// The node's pods must be part of the cluster's.
    #[error("pod range {pod_cidr} is not within the cluster's {cluster_cidr}")]
    PodCidrOutsideCluster {
        /// The node's range.
        pod_cidr: Ipv4Net,
        /// The cluster's range.
        cluster_cidr: Ipv4Net,
    },
    /// Pods and services may not share addresses.
    #[error("service range {service_cidr} overlaps the pods' {cluster_cidr}")]
    ServiceCidrOverlaps {
        /// The service range.
        service_cidr: Ipv4Net,
        /// The cluster's pod range.
        cluster_cidr: Ipv4Net,
    },
}

impl Config {
    /// The bridge's address: the first of the node's range.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pod_cidr.network()) + 1)
    }

    /// The service namespace's address: the last of the node's range.
    pub fn service_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pod_cidr.broadcast()) - 1)
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if self.bridge.is_empty()
            || self.bridge.len() > INTERFACE_NAME_MAX
            || self.bridge.contains(bad)
            || self.bridge == "."
            || self.bridge == ".."
        {
            return Err(ConfigError::BridgeName { name: self.bridge.clone() });
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !self.nft_table.starts_with(|c: char| c.is_ascii_alphabetic())
            || !self.nft_table.chars().all(plain)
            || self.nft_table.len() > 64
        {
            return Err(ConfigError::TableName { name: self.nft_table.clone() });
        }
        if self.pod_cidr.prefix_len() > 29 {
            return Err(ConfigError::PodCidrTooSmall { pod_cidr: self.pod_cidr });
        }
        if !self.cluster_cidr.contains(&self.pod_cidr) {
            return Err(ConfigError::PodCidrOutsideCluster {
                pod_cidr: self.pod_cidr,
                cluster_cidr: self.cluster_cidr,
            });
        }
        match self.service_cidr {
            Some(service_cidr)
                if service_cidr.contains(&self.cluster_cidr) || self.cluster_cidr.contains(&service_cidr) =>
            {
                Err(ConfigError::ServiceCidrOverlaps { service_cidr, cluster_cidr: self.cluster_cidr })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            bridge: "coracle0".into(),
            pod_cidr: "10.42.7.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: Some("10.43.0.0/16".parse().unwrap()),
            address: None,
            mtu: None,
            nft_table: "coracle".into(),
            state_dir: "/run/coracle/network".into(),
        }
    }

    #[test]
    fn the_ends_of_the_range_are_ours() {
        let config = config();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.gateway(), Ipv4Addr::new(10, 42, 7, 1));
        assert_eq!(config.service_address(), Ipv4Addr::new(10, 42, 7, 254));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let check = |change: fn(&mut Config), words: &str| {
            let mut config = config();
            change(&mut config);
            let error = config.validate().expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        };
        check(|c| c.bridge = "sixteen-bytes-xx".into(), "bridge name");
        check(|c| c.bridge = "a b".into(), "bridge name");
        check(|c| c.nft_table = "a;b".into(), "table name");
        check(|c| c.pod_cidr = "10.42.7.0/30".parse().unwrap(), "must be /29 or larger");
        check(|c| c.pod_cidr = "10.41.7.0/24".parse().unwrap(), "is not within");
        check(|c| c.service_cidr = Some("10.42.128.0/17".parse().unwrap()), "overlaps");
        check(|c| c.service_cidr = Some("10.0.0.0/8".parse().unwrap()), "overlaps");
    }
}
