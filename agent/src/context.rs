//! What every pod's worker needs and none of them owns.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Cache, Client};
use manifests::k8s_openapi::api::core::v1::{Node, Pod, Service};
use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use manifests::service_env::{self, Bounds};
use tokio::sync::watch;

use crate::downward::Facts;
use crate::etc::DnsSettings;
use crate::events::Events;
use crate::machine::Machine;
use crate::names::{Layout, namespace};
use crate::objects::ObjectSource;
use crate::pods::Registry;
use crate::probe::HttpProber;
use crate::users::Ranges;

/// How long a pod waits for the list of services, once.
const SERVICES_PATIENCE: Duration = Duration::from_secs(5);

/// Shared by all pods of a node.
#[derive(Debug)]
pub struct Context {
    /// The node.
    pub node: NodeFacts,
    /// Where things are on disk.
    pub layout: Layout,
    /// The machine.
    pub machine: Machine,
    /// ConfigMaps and Secrets.
    pub objects: ObjectSource,
    /// The server, if there is one.
    pub client: Option<Client>,
    /// All services, if there is a server.
    pub services: Option<Cache<Service>>,
    /// Where events go.
    pub events: Events,
    /// The cluster's DNS.
    pub dns: DnsSettings,
    /// The node's own resolver configuration.
    pub resolv_conf: PathBuf,
    /// For probes and hooks.
    pub http: HttpProber,
    /// Bounds of a container's log.
    pub logs: LogBounds,
    /// Ids of pods with user namespaces.
    pub users: Ranges,
    /// All pods of the node.
    pub registry: Registry,
    /// This node's object, once it is there.
    pub node_object: watch::Receiver<Option<Arc<Node>>>,
}

/// Bounds of a container's log.
#[derive(Debug, Clone, Copy)]
pub struct LogBounds {
    /// Bytes of a file before it is rotated.
    pub max_size: u64,
    /// Files of a run.
    pub max_files: u32,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5 }
    }
}

/// What pods may know of their node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Its name in the API.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// Its addresses, the primary one first.
    pub addresses: Vec<String>,
    /// Its memory in bytes.
    pub memory: i64,
    /// What pods may use.
    pub allocatable: BTreeMap<String, Quantity>,
}

impl Context {
    /// What the downward API knows about a pod with these addresses.
    pub fn downward(&self, pod_ips: &[String]) -> Facts {
        Facts {
            pod_ips: pod_ips.to_vec(),
            host_ips: self.node.addresses.clone(),
            allocatable: self.node.allocatable.clone(),
        }
    }

    /// Service variables for a pod, and the services that had no room. A pod may start without a server, so the
    /// list is not waited for for ever.
    pub async fn service_variables(&self, pod: &Pod) -> (BTreeMap<String, String>, Vec<String>) {
        let Some(services) = &self.services else { return Default::default() };
        if tokio::time::timeout(SERVICES_PATIENCE, services.wait_synced()).await.is_err() {
            let message = "the list of services could not be read yet; the environment has none of them";
            self.events.warning(pod, "ServicesUnknown", message);
        }
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let mut relevant = if links { services.in_namespace(namespace(pod)) } else { Vec::new() };
        if namespace(pod) != "default" || !links {
            relevant.extend(services.get(&client::ObjectKey::new("default", "kubernetes")));
        }
        let found = service_env::variables(
            relevant.iter().map(|service| &**service),
            namespace(pod),
            links,
            Bounds::default(),
        );
        (found.variables.into_iter().collect(), found.dropped)
    }
}
