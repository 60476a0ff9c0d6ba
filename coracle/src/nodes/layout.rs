//! What a cluster of nodes on one machine is made of. Written down once: the same nodes with the same addresses come back after a
//! stop, and after a reboot.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use apiserver::pki::write_private;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::instance::Instance;

/// Addresses of the nodes; the first one is the machine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layout {
    pub(crate) subnet: Ipv4Net,
    pub(crate) nodes: Vec<Place>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
}

impl Layout {
    /// The one that this instance has, if it has any.
    pub(crate) fn open(instance: &Instance) -> anyhow::Result<Option<Self>> {
        let path = file(instance);
        match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} does not describe nodes", path.display())),
        }
    }

    /// The one that this instance has, with as many nodes as are asked for. Nodes are added and never taken away: pods live on them.
    pub(crate) fn settle(
        instance: &Instance,
        present: Option<Self>,
        asked: Option<u8>,
        subnet: Option<Ipv4Net>,
    ) -> anyhow::Result<Self> {
        let mut layout = match (present, subnet) {
            (Some(layout), Some(subnet)) if layout.subnet != subnet.trunc() => {
                bail!(
                    "the nodes have addresses of {} already; --nodes-cidr cannot change that",
                    layout.subnet
                )
            }
            (Some(layout), _) => layout,
            (None, Some(subnet)) => Self { subnet: subnet.trunc(), nodes: Vec::new() },
            (None, None) => Self { subnet: free_subnet()?, nodes: Vec::new() },
        };
        let count = asked.map_or(layout.nodes.len(), usize::from);
        layout.grow(count)?;
        let text = serde_json::to_vec_pretty(&layout)?;
        crate::instance::create_private_directory(&instance.data_dir.join("nodes"))?;
        write_private(&file(instance), &text)?;
        Ok(layout)
    }

    fn grow(&mut self, count: usize) -> anyhow::Result<()> {
        if count < self.nodes.len() {
            bail!(
                "this cluster has {} nodes, and --nodes takes none away; `coracle down` and another --data-dir make another cluster",
                self.nodes.len()
            );
        }
        // The first ten addresses are the machine's and spare ones.
        let last = 9 + u32::try_from(count)?;
        if u32::from(self.subnet.network()) + last >= u32::from(self.subnet.broadcast()) {
            bail!("--nodes-cidr {} is too small for {count} nodes", self.subnet);
        }
        for number in self.nodes.len() + 1..=count {
            let address = Ipv4Addr::from(u32::from(self.subnet.network()) + 9 + u32::try_from(number)?);
            self.nodes.push(Place { name: format!("n{number}"), address });
        }
        Ok(())
    }

    /// The machine's own address on the nodes' network.
    pub(crate) fn host(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) + 1)
    }
}

impl Place {
    /// The node's own part of the instance's directories.
    pub(crate) fn instance(&self, cluster: &Instance) -> Instance {
        Instance {
            data_dir: cluster.data_dir.join("nodes").join(&self.name),
            run_dir: cluster.run_dir.join("nodes").join(&self.name),
        }
    }

    /// The node's control group.
    pub(crate) fn group(&self, cluster: &Instance) -> String {
        format!("{}-{}", cluster.kernel_names(None).group, self.name)
    }
}

fn file(instance: &Instance) -> PathBuf {
    instance.data_dir.join("nodes/cluster.json")
}

fn free_subnet() -> anyhow::Result<Ipv4Net> {
    for third in 0..=255 {
        let subnet = Ipv4Net::new_assert(Ipv4Addr::new(10, 45, third, 0), 24);
        if !network::host::is_in_use(subnet)? {
            return Ok(subnet);
        }
    }
    bail!(
        "every network from 10.45.0.0/24 to 10.45.255.0/24 is in use on this machine; give a free one with --nodes-cidr"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_added_and_keep_their_addresses() {
        let mut layout = Layout { subnet: "10.45.7.0/24".parse().unwrap(), nodes: Vec::new() };
        layout.grow(2).unwrap();
        let first = layout.nodes.clone();
        layout.grow(3).unwrap();
        assert_eq!(layout.nodes[..2], first);
        assert_eq!(layout.nodes[2], Place { name: "n3".into(), address: Ipv4Addr::new(10, 45, 7, 12) });
        assert_eq!(layout.host(), Ipv4Addr::new(10, 45, 7, 1));
        assert!(layout.grow(1).unwrap_err().to_string().contains("takes none away"));
    }

    #[test]
    fn a_network_that_is_too_small_is_refused() {
        let mut layout = Layout { subnet: "10.45.7.0/28".parse().unwrap(), nodes: Vec::new() };
        assert!(layout.grow(6).unwrap_err().to_string().contains("--nodes-cidr"));
        layout.grow(5).unwrap();
    }

    #[test]
    fn what_was_laid_out_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let instance =
            Instance { data_dir: directory.path().join("data"), run_dir: directory.path().join("run") };
        assert_eq!(Layout::open(&instance).unwrap(), None);
        let subnet = "10.45.9.0/24".parse().ok();
        let layout = Layout::settle(&instance, None, Some(3), subnet).unwrap();
        assert_eq!(Layout::open(&instance).unwrap().as_ref(), Some(&layout));
        // Without a number it is the same again.
        assert_eq!(Layout::settle(&instance, Some(layout.clone()), None, None).unwrap(), layout);
    }
}
