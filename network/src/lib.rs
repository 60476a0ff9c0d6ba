//! Pod networking by netlink. Knows no pods: it attaches network namespaces to a bridge.
//!
//! ```text
//!            node                                   bridge (gateway address of the node's pod range)
//!   ┌─────────────────────┐    ┌───────────────────────┬──────────────────────┬─────────────────┐
//!   │ eth0 ── masquerade ─┼────┤ host side of veths:   │                      │                 │
//!   │ route SERVICES via ─┼──┐ │                       │                      │                 │
//!   └─────────────────────┘  │ └────────┬──────────────┴──────────┬───────────┴────────┬────────┘
//!                            │     eth0 │ attachment         eth0 │ attachment    eth0 │ service namespace
//!                            │     default via gateway       default via gateway       │ local SERVICES dev lo
//!                            └─────SERVICES via service ─────SERVICES via service ─────┘
//! ```
//!
//! **What is the truth.** The kernel. The host side of a veth pair is named after a hash of the attachment's id
//! and carries id and address in its alias; a host port is a rule that carries its owner in its comment. Taken
//! addresses are those that living links carry. So a `kill -9` at any instant leaves nothing that the next
//! [`Network::attach`] or [`Network::reconcile`] does not see, and when a network namespace dies the kernel takes
//! its veth pair, and with it the address, away. The one file, the last address handed out, only
//! spreads addresses so that one is not used again soon after its owner has gone; losing it does no harm.
//!
//! **Side by side.** Bridge name, ranges, table name and directory are parameters and nothing else is touched, with
//! two exceptions that routing needs: IPv4 forwarding is switched on in the host's namespace, and accept rules for
//! the bridge are put in front of iptables' `FORWARD` chain where one exists, because a drop there would
//! override any accept of ours.
//!
//! Every operation is one short series of netlink requests (a few milliseconds at most) on a blocking thread,
//! serialised by a lock within the process and a file lock between processes.

mod address;
mod attachment;
mod bridge;
mod changes;
mod config;
mod conntrack;
mod error;
mod firewall;
pub mod host;
mod host_port;
mod lock;
mod netlink;
mod netns;
mod nft;
mod node_routes;
mod service;
mod sys;
mod sysctl;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use ipnet::Ipv4Net;

pub use attachment::Attachment;
pub use changes::Changes;
pub use config::{Config, ConfigError};
pub use error::{Error, Warning};
pub use host_port::{HostPort, Protocol};
pub use netlink::NetlinkError;
pub use netns::{NetNs, NetNsError};

/// One node's pod network. Cheap to clone; clones share the lock.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    lock: lock::Lock,
}

impl Network {
    /// A network by this configuration. Touches nothing yet.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let lock = lock::Lock::new(config.state_dir.join("lock"));
        Ok(Self { inner: Arc::new(Inner { config, lock }) })
    }

    /// What this network was made from.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Makes bridge, addresses, forwarding, masquerading and accept rules what they should be. Running it again
    /// changes nothing, repairs what others removed, and keeps attachments and host ports.
    pub async fn ensure(&self) -> Result<Vec<Warning>, Error> {
        self.blocking(|inner| {
            let mut warnings = bridge::ensure(&inner.config)?;
            warnings.extend(firewall::ensure(&inner.config)?);
            Ok(warnings)
        })
        .await
    }

    /// Gives the network namespace an interface with an address of this node's range, a default route, and a route
    /// to the services. For an id that is attached to that namespace already, repairs what is missing and
    /// answers the same as before; an id that is attached to another namespace moves here.
    pub async fn attach(
        &self,
        netns: BorrowedFd<'_>,
        id: &str,
        interface: &str,
    ) -> Result<Attachment, Error> {
        let netns = self.duplicate(netns)?;
        let (id, interface) = (id.to_owned(), interface.to_owned());
        self.blocking(move |inner| attachment::attach(&inner.config, &netns, &id, &interface)).await
    }

    /// Takes the attachment and its host ports away. Nothing to do is fine.
    pub async fn detach(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        self.blocking(move |inner| {
            host_port::publish(&inner.config, &id, None, &[])?;
            attachment::detach(&inner.config, &id)
        })
        .await
    }

    /// The attachments that live, ordered by id; without the service namespace.
    pub async fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        self.blocking(|inner| attachment::list(&inner.config)).await
    }

    /// Makes exactly these host ports lead to the attachment `id`.
    pub async fn publish(&self, id: &str, ports: &[HostPort]) -> Result<(), Error> {
        let (id, ports) = (id.to_owned(), ports.to_vec());
        self.blocking(move |inner| {
            let found = attachment::list(&inner.config)?.into_iter().find(|a| a.id == id);
            host_port::publish(&inner.config, &id, found.map(|a| a.address), &ports)
        })
        .await
    }

    /// Detaches everything whose id is not in `live`, half-made attachments and orphaned host ports included.
    /// Answers the ids that went.
    pub async fn reconcile(&self, live: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let live = live.clone();
        self.blocking(move |inner| {
            let mut gone = host_port::reconcile(&inner.config, &live)?;
            gone.extend(attachment::reconcile(&inner.config, &live)?);
            Ok(gone.into_iter().collect())
        })
        .await
    }

    /// Makes the network namespace the node's service namespace: it gets [`Config::service_address`] and owns every
    /// address of the service range, and the host's route to the service range leads to it.
    pub async fn attach_service(&self, netns: BorrowedFd<'_>) -> Result<Attachment, Error> {
        let netns = self.duplicate(netns)?;
        self.blocking(move |inner| service::attach(&inner.config, &netns)).await
    }

    /// Makes the ways to the pods of other nodes these and no others: each node's pod range to its address. Neighbours on a link are
    /// reached by plain routes, others through a tunnel.
    pub async fn sync_node_routes(&self, nodes: BTreeMap<Ipv4Net, Ipv4Addr>) -> Result<(), Error> {
        self.blocking(move |inner| node_routes::sync(&inner.config, &nodes)).await
    }

    /// Removes everything: attachments, bridge, addresses, routes, rules, files. Forwarding stays on, as others may
    /// have come to rely on it.
    pub async fn remove(&self) -> Result<(), Error> {
        self.blocking(|inner| {
            firewall::remove(&inner.config)?;
            node_routes::sync(&inner.config, &BTreeMap::new())?;
            bridge::remove(&inner.config)?;
            address::forget(&inner.config)?;
            inner.lock.remove();
            Ok(())
        })
        .await
    }

    fn duplicate(&self, netns: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        netns.try_clone_to_owned().map_err(|source| Error::NetNs(NetNsError::Duplicate(source)))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.inner.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _guard = inner.lock.take()?;
            operation(&inner)
        });
        match task.await {
            Ok(result) => result,
            // The runtime only cancels blocking work that has not begun, at shutdown.
            Err(join) => match join.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::ShuttingDown),
            },
        }
    }
}
