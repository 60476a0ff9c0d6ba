//! What an API server is told about its cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::pki::Pki;
use crate::token::TokenKey;

/// Settings of the API server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Service addresses come from here.
    pub service_cidr: Ipv4Net,
    /// Node ports come from here.
    pub node_ports: RangeInclusive<u16>,
    /// Where other machines reach this server; the endpoints of the service `kubernetes`.
    pub advertise: (IpAddr, u16),
    /// Requests other than watches and streams are cut off after this.
    pub request_timeout: Duration,
    /// Request bodies are not longer than this.
    pub max_body: usize,
    /// At most this many requests other than watches and streams at a time.
    pub max_in_flight: usize,
    /// With which certificate this server asks the agents of nodes for logs and streams, and which CA they are known by.
    pub agent_tls: Option<Arc<rustls::ClientConfig>>,
    /// Watches without a timeout of their own end after between one and two of these.
    pub min_watch: Duration,
    /// Who tokens of service accounts say that they are from, and whom they are for unless somebody asks otherwise.
    pub issuer: String,
    /// Signs tokens of service accounts; without it they are good until the process ends.
    pub token_key: Option<Arc<TokenKey>>,
    /// Signs requested certificates; without it nobody here does.
    pub signer: Option<Arc<Pki>>,
    /// Longest life of a certificate that is signed on request.
    pub signing_duration: Duration,
    /// Host names of this server, which are nobody else's.
    pub server_names: Vec<String>,
    /// What a machine has to know of the cluster to be a node of it: the ConfigMap `coracle-cluster` of kube-system.
    pub cluster: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16),
            node_ports: 30000..=32767,
            advertise: (Ipv4Addr::LOCALHOST.into(), 6443),
            request_timeout: Duration::from_secs(60),
            max_body: 3 << 20,
            max_in_flight: 600,
            agent_tls: None,
            min_watch: Duration::from_secs(1800),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            token_key: None,
            signer: None,
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            server_names: Vec::new(),
            cluster: BTreeMap::new(),
        }
    }
}
