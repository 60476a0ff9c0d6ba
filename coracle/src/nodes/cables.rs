//! The nodes' network: a bridge on the machine, and for each node a network namespace with a cable to it.
//!
//! ```text
//!   machine: bridge (first address, the way out) ─┬─ cn<hash>-1 ══ eth0 in <run>/nodes/n1.net
//!                                                 ├─ cn<hash>-2 ══ eth0 in <run>/nodes/n2.net
//! ```
//!
//! All of it is the kernel's: a process that starts later finds it, and a pulled cable stays pulled.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;

use anyhow::Context;
use ipnet::Ipv4Net;
use network::{NetNs, Network, host};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::layout::{Layout, Place};
use crate::instance::Instance;

const INTERFACE: &str = "eth0";

/// The cables of an instance's nodes.
#[derive(Debug, Clone)]
pub(crate) struct Cables {
    instance: Instance,
    layout: Layout,
}

impl Cables {
    pub(crate) fn new(instance: &Instance, layout: &Layout) -> Self {
        Self { instance: instance.clone(), layout: layout.clone() }
    }

    /// The bridge, and the way out.
    pub(crate) async fn ensure_bridge(&self) -> anyhow::Result<()> {
        for warning in self.network()?.ensure().await? {
            tracing::warn!(%warning, "network of the nodes");
        }
        Ok(())
    }

    /// Takes the bridge away, and what is left of the cables.
    pub(crate) async fn remove_bridge(&self) -> anyhow::Result<()> {
        Ok(self.network()?.remove().await?)
    }

    /// Makes a node's namespace and cable, if they are not there. Blocks.
    pub(crate) fn connect(&self, place: &Place) -> anyhow::Result<NetNs> {
        let netns = match self.open(place) {
            Some(netns) => netns,
            None => {
                // The cable of a namespace that is gone leads nowhere.
                host::remove(&self.cable(place))?;
                self.create(place)?
            }
        };
        host::plug(&self.cable(place), &self.bridge(), netns.as_fd(), INTERFACE, place.address)?;
        let address = Ipv4Net::new(place.address, self.layout.subnet.prefix_len())?;
        let gateway = self.layout.host();
        netns.run(|| {
            host::set_up("lo")?;
            host::configure(INTERFACE, address, Some(gateway))
        })??;
        Ok(netns)
    }

    /// Takes a node's namespace and cable away. Blocks.
    pub(crate) fn disconnect(&self, place: &Place) -> anyhow::Result<()> {
        host::remove(&self.cable(place))?;
        let path = self.path(place);
        match unmount(&path, UnmountFlags::DETACH) {
            // It was no mount, or is not there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            result => result.with_context(|| format!("unmounting {}", path.display()))?,
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// A node's namespace, if it has one. Blocks.
    pub(crate) fn open(&self, place: &Place) -> Option<NetNs> {
        let netns = NetNs::open(&self.path(place)).ok()?;
        // A file that nothing is mounted on is no namespace.
        let kind = rustix::fs::fstatfs(netns.as_fd()).ok()?;
        (kind.f_type == NSFS).then_some(netns)
    }

    /// Pulls a node's cable, or plugs it in. Blocks.
    pub(crate) fn set(&self, place: &Place, plugged: bool) -> anyhow::Result<()> {
        let cable = self.cable(place);
        if plugged {
            host::join_bridge(&cable, &self.bridge())?;
        } else {
            host::leave_bridge(&cable)?;
        }
        Ok(())
    }

    /// Whether a node's cable is plugged in; none if it has none. Blocks.
    pub(crate) fn is_plugged(&self, place: &Place) -> anyhow::Result<Option<bool>> {
        Ok(host::is_plugged(&self.cable(place))?)
    }

    /// Makes the machine reach services by way of a node. Blocks.
    pub(crate) fn route_services(&self, services: Ipv4Net, place: &Place) -> anyhow::Result<()> {
        Ok(host::route(services, place.address, &self.bridge())?)
    }

    fn create(&self, place: &Place) -> anyhow::Result<NetNs> {
        let path = self.path(place);
        let netns = NetNs::create()?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        }
        fs::write(&path, "").with_context(|| format!("creating {}", path.display()))?;
        // It lives for as long as the mount: the node's processes may all be gone for a while.
        let own = format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd());
        mount_bind(own, &path)
            .with_context(|| format!("keeping a network namespace at {}", path.display()))?;
        Ok(netns)
    }

    fn path(&self, place: &Place) -> PathBuf {
        self.instance.run_dir.join("nodes").join(format!("{}.net", place.name))
    }

    fn bridge(&self) -> String {
        self.instance.kernel_names(None).bridge
    }

    fn cable(&self, place: &Place) -> String {
        let id = host::name_hash(&self.instance.run_dir) & 0x00ff_ffff;
        format!("cn{id:06x}-{}", &place.name[1..])
    }

    fn network(&self) -> anyhow::Result<Network> {
        let names = self.instance.kernel_names(None);
        Ok(Network::new(network::Config {
            bridge: names.bridge,
            pod_cidr: self.layout.subnet,
            cluster_cidr: self.layout.subnet,
            service_cidr: None,
            address: None,
            mtu: Some(1500),
            nft_table: names.group,
            state_dir: self.instance.run_dir.join("network"),
        })?)
    }
}

/// File system of namespaces (NSFS_MAGIC).
const NSFS: rustix::fs::FsWord = 0x6e73_6673;
