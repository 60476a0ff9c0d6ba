//! What makes a node: its name, its addresses, and the kernel objects that are its own. A pure function of the flags and the
//! machine's address, so that the node agent and the proxy process come to the same answer by themselves.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;

use crate::flags::{ClusterArgs, NodeArgs};
use crate::instance::{self, Instance, KernelNames};

/// Each node has so many bits of the pod range.
const NODE_PREFIX: u8 = 24;

/// The addresses of a cluster, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterNetwork {
    pub(crate) pods: Ipv4Net,
    pub(crate) services: Ipv4Net,
    pub(crate) dns: Ipv4Addr,
    pub(crate) domain: String,
}

/// A node, resolved.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) names: KernelNames,
    pub(crate) cluster: ClusterNetwork,
    pub(crate) network: network::Config,
}

impl ClusterNetwork {
    pub(crate) fn new(args: &ClusterArgs) -> anyhow::Result<Self> {
        let range = |flag: &str, text: &str| -> anyhow::Result<Ipv4Net> {
            let range: Ipv4Net = text
                .parse()
                .with_context(|| format!("{flag} {text:?} is not a range such as 10.42.0.0/16"))?;
            Ok(range.trunc())
        };
        let (pods, services) =
            (range("--pod-cidr", &args.pod_cidr)?, range("--service-cidr", &args.service_cidr)?);
        if pods.contains(&services) || services.contains(&pods) {
            bail!("--pod-cidr {pods} and --service-cidr {services} overlap");
        }
        if pods.prefix_len() > NODE_PREFIX {
            bail!("--pod-cidr {pods} has no room for a node: each takes a /{NODE_PREFIX}");
        }
        let dns = match args.cluster_dns {
            Some(dns) if services.contains(&dns) => dns,
            Some(dns) => bail!("--cluster-dns {dns} is not in --service-cidr {services}"),
            None => services
                .hosts()
                .nth(9)
                .with_context(|| format!("--service-cidr {services} has fewer than ten addresses"))?,
        };
        Ok(Self { pods, services, dns, domain: args.cluster_domain.clone() })
    }
}

impl Node {
    pub(crate) fn new(instance: &Instance, cluster: &ClusterArgs, args: &NodeArgs) -> anyhow::Result<Self> {
        let cluster = ClusterNetwork::new(cluster)?;
        let names = instance.kernel_names(Some(args));
        let own = match &args.node_cidr {
            None => cluster.pods.subnets(NODE_PREFIX).ok().and_then(|mut subnets| subnets.next()),
            Some(text) => {
                let own: Ipv4Net = text
                    .parse()
                    .with_context(|| format!("--node-cidr {text:?} is not a range such as 10.42.1.0/24"))?;
                if !cluster.pods.contains(&own) {
                    bail!("--node-cidr {own} is not in --pod-cidr {}", cluster.pods);
                }
                Some(own.trunc())
            }
        };
        let mut network = network::Config {
            bridge: names.bridge.clone(),
            pod_cidr: own.with_context(|| format!("--pod-cidr {} has no room for a node", cluster.pods))?,
            cluster_cidr: cluster.pods,
            service_cidr: Some(cluster.services),
            address: None,
            mtu: None,
            nft_table: names.group.clone(),
            state_dir: instance.run_dir.join("network"),
        };
        // A machine without any network of its own still has its bridge.
        network.address = args.node_ip.or_else(instance::outbound_address);
        let address = network.address.unwrap_or_else(|| network.gateway());
        Ok(Self { name: instance::node_name(args.node_name.as_deref())?, address, names, cluster, network })
    }

    /// What the proxy process of this node is made from.
    pub(crate) fn proxy_config(&self, instance: &Instance, source: proxy::Source) -> proxy::Config {
        proxy::Config {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source,
            node_name: self.name.clone(),
            node_addresses: vec![
                self.address.into(),
                self.network.gateway().into(),
                Ipv4Addr::LOCALHOST.into(),
            ],
            run_dir: instance.proxy_dir(),
            table_file: instance.data_dir.join("proxy-table.json"),
            network: self.network.clone(),
            dns_address: self.cluster.dns,
            cluster_domain: self.cluster.domain.clone(),
            resolv_conf: "/etc/resolv.conf".into(),
            grace: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(pods: &str, services: &str, dns: Option<&str>) -> ClusterArgs {
        ClusterArgs {
            pod_cidr: pods.to_owned(),
            service_cidr: services.to_owned(),
            cluster_dns: dns.map(|dns| dns.parse().unwrap()),
            cluster_domain: "cluster.local".to_owned(),
        }
    }

    #[test]
    fn the_tenth_service_address_is_the_dns_server() {
        let network = ClusterNetwork::new(&args("10.42.0.0/16", "10.43.0.0/16", None)).unwrap();
        assert_eq!(network.dns, Ipv4Addr::new(10, 43, 0, 10));
    }

    #[test]
    fn ranges_that_cannot_work_are_refused_with_the_flag_to_change() {
        for (wrong, flag) in [
            (args("10.42.0.0/16", "10.42.7.0/24", None), "--service-cidr"),
            (args("10.42.0.0/28", "10.43.0.0/16", None), "--pod-cidr"),
            (args("10.42.0.0/16", "10.43.0.0/30", None), "--service-cidr"),
            (args("10.42.0.0/16", "10.43.0.0/16", Some("10.44.0.1")), "--cluster-dns"),
            (args("somewhere", "10.43.0.0/16", None), "--pod-cidr"),
        ] {
            let error = ClusterNetwork::new(&wrong).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
