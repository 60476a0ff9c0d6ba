//! What makes a node: its name, its addresses, and the kernel objects that are its own. A pure function of the flags and the
//! machine's address, so that the node agent and the proxy process come to the same answer by themselves.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;

use super::range;
use crate::flags::{ClusterArgs, NodeArgs};
use crate::instance::{self, Instance, KernelNames};
use crate::join;

// What a cluster tells those who join, key by key.
const POD_CIDR: &str = "podCIDR";
const SERVICE_CIDR: &str = "serviceCIDR";
const DNS: &str = "clusterDNS";
const DOMAIN: &str = "clusterDomain";

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
    /// From the flags; where they say nothing, what the cluster has told its node; by default the usual ranges.
    pub(crate) fn new(args: &ClusterArgs, told: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let choose = |flag: &Option<String>, key: &str, usual: &str| {
            flag.as_ref().or_else(|| told.get(key)).map_or(usual, String::as_str).to_owned()
        };
        let range = |flag: &str, text: &str| -> anyhow::Result<Ipv4Net> {
            let range: Ipv4Net = text
                .parse()
                .with_context(|| format!("{flag} {text:?} is not a range such as 10.42.0.0/16"))?;
            Ok(range.trunc())
        };
        let (pods, services) = (
            range("--pod-cidr", &choose(&args.pod_cidr, POD_CIDR, "10.42.0.0/16"))?,
            range("--service-cidr", &choose(&args.service_cidr, SERVICE_CIDR, "10.43.0.0/16"))?,
        );
        if pods.contains(&services) || services.contains(&pods) {
            bail!("--pod-cidr {pods} and --service-cidr {services} overlap");
        }
        if pods.prefix_len() > NODE_PREFIX {
            bail!("--pod-cidr {pods} has no room for a node: each takes a /{NODE_PREFIX}");
        }
        let dns = args.cluster_dns.or_else(|| told.get(DNS)?.parse().ok());
        let dns = match dns {
            Some(dns) if services.contains(&dns) => dns,
            Some(dns) => bail!("--cluster-dns {dns} is not in --service-cidr {services}"),
            None => services
                .hosts()
                .nth(9)
                .with_context(|| format!("--service-cidr {services} has fewer than ten addresses"))?,
        };
        Ok(Self { pods, services, dns, domain: choose(&args.cluster_domain, DOMAIN, "cluster.local") })
    }

    /// What a machine that joins is told.
    pub(crate) fn facts(&self) -> BTreeMap<String, String> {
        let facts = [
            (POD_CIDR, self.pods.to_string()),
            (SERVICE_CIDR, self.services.to_string()),
            (DNS, self.dns.to_string()),
            (DOMAIN, self.domain.clone()),
        ];
        facts.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// How the pod addresses are divided.
    pub(crate) fn pod_ranges(&self) -> controllers::PodRanges {
        controllers::PodRanges { cluster: self.pods, node_prefix: NODE_PREFIX }
    }
}

impl Node {
    /// Without `--node-cidr` the node's range is the remembered one. It is a guess until [`range::ask`] has asked for it once,
    /// and everything but the range is right before.
    pub(crate) fn new(instance: &Instance, cluster: &ClusterArgs, args: &NodeArgs) -> anyhow::Result<Self> {
        let cluster = ClusterNetwork::new(cluster, &join::cluster_facts(instance))?;
        let names = instance.kernel_names(Some(args));
        let own = match &args.node_cidr {
            None => range::remembered(instance)
                .filter(|own| cluster.pods.contains(own))
                .or_else(|| cluster.pods.subnets(NODE_PREFIX).ok().and_then(|mut subnets| subnets.next())),
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

    /// A proxy of another version of this program, or of another address of this machine, is replaced.
    pub(crate) fn proxy_version(&self) -> String {
        format!("{} at {}", env!("CARGO_PKG_VERSION"), self.address)
    }

    /// What the proxy process of this node is made from.
    pub(crate) fn proxy_config(&self, instance: &Instance, source: proxy::Source) -> proxy::Config {
        proxy::Config {
            version: self.proxy_version(),
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
            pod_cidr: Some(pods.to_owned()),
            service_cidr: Some(services.to_owned()),
            cluster_dns: dns.map(|dns| dns.parse().unwrap()),
            cluster_domain: None,
        }
    }

    #[test]
    fn what_a_cluster_tells_counts_where_the_flags_say_nothing() {
        let all =
            ClusterNetwork::new(&args("10.1.0.0/16", "10.2.0.0/16", Some("10.2.0.53")), &BTreeMap::new());
        let all = all.unwrap();
        let nothing =
            ClusterArgs { pod_cidr: None, service_cidr: None, cluster_dns: None, cluster_domain: None };
        assert_eq!(ClusterNetwork::new(&nothing, &all.facts()).unwrap(), all);
        let one = ClusterArgs { pod_cidr: Some("10.3.0.0/16".to_owned()), ..nothing };
        assert_eq!(ClusterNetwork::new(&one, &all.facts()).unwrap().pods.to_string(), "10.3.0.0/16");
    }

    #[test]
    fn the_tenth_service_address_is_the_dns_server() {
        let network =
            ClusterNetwork::new(&args("10.42.0.0/16", "10.43.0.0/16", None), &BTreeMap::new()).unwrap();
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
            let error = ClusterNetwork::new(&wrong, &BTreeMap::new()).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
