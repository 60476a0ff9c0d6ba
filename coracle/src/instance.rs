//! One local instance: where its files are and what its bridge, control group and packet-filter table are called.
//!
//! Several instances run side by side on one machine. The run directory identifies an instance: the default one
//! has plain names, every other gets names derived from the directory, so nobody has to invent them.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use network::host::name_hash;

use crate::flags::{InstanceArgs, NodeArgs};

/// Where an instance keeps its things.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// Survives a reboot.
    pub(crate) data_dir: PathBuf,
    /// Sockets and handles of what runs now.
    pub(crate) run_dir: PathBuf,
}

/// Names in the kernel's global tables that belong to one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelNames {
    /// Control group below every hierarchy, and packet-filter table.
    pub(crate) group: String,
    /// Bridge of the pods; at most 15 characters.
    pub(crate) bridge: String,
}

impl Instance {
    /// The instance that the flags name, with absolute paths.
    pub(crate) fn new(args: &InstanceArgs) -> anyhow::Result<Self> {
        let absolute =
            |path: &Path| std::path::absolute(path).with_context(|| format!("resolving {}", path.display()));
        Ok(Self { data_dir: absolute(&args.data_dir)?, run_dir: absolute(&args.run_dir)? })
    }

    /// Creates the directories, readable by their owner only.
    pub(crate) fn create_directories(&self) -> anyhow::Result<()> {
        for directory in [&self.data_dir, &self.run_dir] {
            create_private_directory(directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        Ok(())
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Certificates and keys.
    pub(crate) fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    /// The proxy's kubeconfig: it may read services and endpoints.
    pub(crate) fn proxy_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("proxy.kubeconfig")
    }

    /// What the cluster has told this node about itself.
    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.data_dir.join("cluster.json")
    }

    /// This node's share of the pod addresses.
    pub(crate) fn node_cidr_file(&self) -> PathBuf {
        self.data_dir.join("node-cidr")
    }

    /// Images and unpacked layers.
    pub(crate) fn image_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// Handles of the running sandboxes.
    pub(crate) fn keeper_dir(&self) -> PathBuf {
        self.run_dir.join("keepers")
    }

    /// The proxy's sockets and its last table.
    pub(crate) fn proxy_dir(&self) -> PathBuf {
        self.run_dir.join("proxy")
    }

    /// Names in the kernel, from the flags where they are given.
    pub(crate) fn kernel_names(&self, node: Option<&NodeArgs>) -> KernelNames {
        let derived = derived_names(&self.run_dir);
        KernelNames {
            group: node.and_then(|node| node.cgroup_parent.clone()).unwrap_or(derived.group),
            bridge: node.and_then(|node| node.bridge.clone()).unwrap_or(derived.bridge),
        }
    }

    /// A port for a server that only this machine needs: the usual one for the default instance, one of its own for every
    /// other, so that it is the same after a restart; any free one if that is taken.
    pub(crate) async fn local_port(&self) -> u16 {
        let wanted = if self.run_dir == Path::new("/run/coracle") {
            6443
        } else {
            20_000 + (name_hash(&self.run_dir) % 10_000) as u16
        };
        let free = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).await.is_ok();
        if free { wanted } else { 0 }
    }

    /// Takes the locks that make this process the only one to run these parts of the instance.
    ///
    /// A lock is the kernel's: it goes away with the process, however that ends. Its file holds the
    /// process id, for `coracle down`.
    pub(crate) fn lock(&self, parts: &[Part]) -> anyhow::Result<Vec<PartLock>> {
        parts.iter().map(|part| self.lock_part(*part)).collect()
    }

    fn lock_part(&self, part: Part) -> anyhow::Result<PartLock> {
        let path = self.lock_file(part);
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let owner = fs::read_to_string(&path).unwrap_or_default();
                bail!(
                    "another coracle (process {}) runs the {part} of {}; end that one first, or give this one its own --data-dir and --run-dir",
                    owner.trim(),
                    self.data_dir.display(),
                );
            }
            Err(error) => return Err(error).with_context(|| format!("locking {}", path.display())),
        }
        file.set_len(0)
            .and_then(|()| fs::write(&path, std::process::id().to_string()))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(PartLock { _file: file })
    }

    /// Waits until nobody runs the part. Blocks.
    pub(crate) fn wait_for_lock(&self, part: Part) -> anyhow::Result<()> {
        let path = self.lock_file(part);
        let file = fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared)
            .with_context(|| format!("waiting for {}", path.display()))
    }

    /// The process that runs the part, if one does.
    pub(crate) fn owner(&self, part: Part) -> Option<i32> {
        let path = self.lock_file(part);
        let file = fs::File::open(&path).ok()?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => fs::read_to_string(&path).ok()?.trim().parse().ok(),
            _ => None,
        }
    }

    fn lock_file(&self, part: Part) -> PathBuf {
        self.data_dir.join(match part {
            Part::ControlPlane => "server.lock",
            Part::Node => "agent.lock",
        })
    }
}

/// What a process runs of an instance. `coracle up` runs both; `coracle server` and `coracle agent` share one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Store, API server, scheduler, controllers.
    ControlPlane,
    /// Node agent, and the proxy beside it.
    Node,
}

impl Part {
    pub(crate) const ALL: [Self; 2] = [Self::ControlPlane, Self::Node];
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ControlPlane => "control plane",
            Self::Node => "node agent",
        })
    }
}

/// Held for as long as this process runs the part.
#[derive(Debug)]
pub(crate) struct PartLock {
    _file: fs::File,
}

fn derived_names(run_dir: &Path) -> KernelNames {
    if run_dir == Path::new("/run/coracle") {
        return KernelNames { group: "coracle".to_owned(), bridge: "coracle0".to_owned() };
    }
    let name = format!("coracle-{:06x}", name_hash(run_dir) & 0x00ff_ffff);
    KernelNames { group: name.clone(), bridge: name }
}

/// Creates a directory and its parents; the directory itself is closed to everybody but its owner.
pub(crate) fn create_private_directory(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        }
        result => result,
    }
}

/// The node's name: as given, or the host's name as a DNS label.
pub(crate) fn node_name(given: Option<&str>) -> anyhow::Result<String> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => rustix::system::uname().nodename().to_string_lossy().trim().to_ascii_lowercase(),
    };
    let valid = !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.')
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !valid {
        bail!(
            "{name:?} cannot be the name of a node: give one with --node-name (lower-case letters, digits, '-' and '.')"
        );
    }
    Ok(name)
}

/// The address that this machine would use to speak to others, if it has one beyond loopback.
///
/// Connecting a UDP socket sends nothing; the kernel only picks route and source address.
pub(crate) fn outbound_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => Some(address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_instance_has_plain_names_and_others_have_their_own() {
        assert_eq!(derived_names(Path::new("/run/coracle")).bridge, "coracle0");
        let one = derived_names(Path::new("/tmp/one"));
        let two = derived_names(Path::new("/tmp/two"));
        assert_ne!(one, two);
        assert!(one.bridge.len() <= 15, "{one:?} does not fit into a link's name");
    }

    #[test]
    fn a_second_owner_is_refused_and_told_who_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let instance =
            Instance { data_dir: directory.path().to_owned(), run_dir: directory.path().join("run") };
        assert_eq!(instance.owner(Part::Node), None);
        let lock = instance.lock(&Part::ALL).unwrap();
        for part in Part::ALL {
            assert_eq!(instance.owner(part), Some(std::process::id() as i32));
            let refusal = instance.lock(&[part]).unwrap_err().to_string();
            assert!(
                refusal.contains(&format!("process {}", std::process::id()))
                    && refusal.contains(&part.to_string()),
                "{refusal}"
            );
        }
        drop(lock);
        // A server and an agent of one instance are neighbours.
        let _server = instance.lock(&[Part::ControlPlane]).unwrap();
        instance.lock(&[Part::Node]).unwrap();
        assert!(instance.lock(&Part::ALL).is_err());
    }

    #[test]
    fn names_that_kubernetes_would_refuse_are_refused_here() {
        for name in ["", "-a", "a_b", "Ä", &"a".repeat(64)] {
            assert!(node_name(Some(name)).is_err(), "{name:?}");
        }
        assert_eq!(node_name(Some("pi-3.attic")).unwrap(), "pi-3.attic");
    }
}
