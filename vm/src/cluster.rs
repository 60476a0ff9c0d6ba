//! Several machines with one network, kept in a directory: the same machines with the same disks and addresses come back after
//! a stop, and after a reboot of the host.
//!
//! ```text
//!   <directory>/cluster.json      what the cluster is made of
//!   <directory>/initramfs         what all guests boot into
//!   <directory>/<node>/           crate::machine
//! ```

use std::fs;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipnet::Ipv4Net;
use network::Network;
use serde::{Deserialize, Serialize};

use crate::accel::Accelerator;
use crate::control::{self, ControlError, Hex, PART, Request, Response};
use crate::guest::{Config, DATA};
use crate::initramfs::{self, Init};
use crate::kernel::Kernel;
use crate::machine::{self, Machine, MachineError};
use crate::qmp::{Qmp, QmpError};
use crate::sys;

/// A guest that was asked to switch off has this long.
const SHUTDOWN: Duration = Duration::from_secs(30);
const STATE: &str = "cluster.json";
/// The guests' program, while their disks are made.
const PROGRAM: &str = "program";
/// The directory for it on a disk.
const PROGRAMS: &str = "guest";

/// What a cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Its name.
    pub name: String,
    /// Addresses of the machines; the first one is the host's.
    pub subnet: Ipv4Net,
    /// The bridge on the host, and the name of its packet-filter table.
    pub bridge: String,
    /// Kernel image of the guests.
    pub kernel: PathBuf,
    /// The kernel's modules.
    pub modules: Option<PathBuf>,
    /// Memory of each machine in MiB.
    pub memory: u32,
    /// Processors of each machine.
    pub cpus: u32,
    /// Name of the file on each disk that is the guests' program; none where they run it from memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The machines; the first one has the control plane.
    pub nodes: Vec<NodeState>,
}

/// One machine of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name, in the cluster and as its host name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The interface on the host that its network card is plugged into.
    pub tap: String,
}

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// How many machines.
    pub nodes: usize,
    /// Kernel of the guests.
    pub kernel: Kernel,
    /// Memory of each machine in MiB.
    pub memory: u32,
    /// Processors of each machine.
    pub cpus: u32,
}

/// Why a cluster does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there.
    #[error("there is no cluster of virtual machines named {name:?}")]
    NoCluster {
        /// The name.
        name: String,
    },
    /// It has no such machine.
    #[error("cluster {cluster} has no node {node:?}; it has {known}")]
    NoNode {
        /// The cluster.
        cluster: String,
        /// The name.
        node: String,
        /// Those that it has.
        known: String,
    },
    /// The machine is off.
    #[error("node {node} is not running")]
    NotRunning {
        /// The machine.
        node: String,
    },
    /// A guest says no.
    #[error("{node}: {words}")]
    Guest {
        /// The machine.
        node: String,
        /// Its words.
        words: String,
    },
    /// The file on this machine.
    #[error("copying")]
    Copy(#[source] io::Error),
    /// Every range is in use.
    #[error("every network from 10.44.0.0/24 to 10.44.255.0/24 is in use on this machine")]
    NoSubnet,
    /// A file of the cluster.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state file.
    #[error("{path} is not the state of a cluster")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Making a disk.
    #[error("making the disk {path}: {words}")]
    Disk {
        /// The disk.
        path: PathBuf,
        /// What mkfs.ext4 says.
        words: String,
    },
    /// Making the interface of a machine.
    #[error("making interface {tap}")]
    Tap {
        /// Its name.
        tap: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host's network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The network's configuration.
    #[error(transparent)]
    NetworkConfig(#[from] network::ConfigError),
    /// The initramfs.
    #[error(transparent)]
    Initramfs(#[from] initramfs::Error),
    /// A machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A guest.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// QEMU.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// A cluster of machines.
#[derive(Debug)]
pub struct Cluster {
    /// Its directory.
    pub directory: PathBuf,
    /// What it is made of.
    pub state: State,
}

impl Cluster {
    /// Lays a cluster out; nothing runs yet. Blocks.
    pub fn create(directory: &Path, plan: &Plan) -> Result<Self, Error> {
        let subnet = (0..=255)
            .map(|third| Ipv4Net::new_assert(Ipv4Addr::new(10, 44, third, 0), 24))
            .find_map(|subnet| match network::host::is_in_use(subnet) {
                Ok(true) => None,
                Ok(false) => Some(Ok(subnet)),
                Err(error) => Some(Err(error)),
            })
            .ok_or(Error::NoSubnet)??;
        let id = network::host::name_hash(directory) & 0x00ff_ffff;
        let nodes = (1..=plan.nodes).map(|number| NodeState {
            name: if plan.name == "default" {
                format!("n{number}")
            } else {
                format!("{}-n{number}", plan.name)
            },
            address: Ipv4Addr::from(u32::from(subnet.network()) + 9 + number as u32),
            tap: format!("cvm{id:06x}-{number}"),
        });
        let state = State {
            name: plan.name.clone(),
            subnet,
            bridge: format!("cvm-{id:06x}"),
            kernel: plan.kernel.image.clone(),
            modules: plan.kernel.modules.clone(),
            memory: plan.memory,
            cpus: plan.cpus,
            program: None,
            nodes: nodes.collect(),
        };
        let cluster = Self { directory: directory.to_owned(), state };
        for node in &cluster.state.nodes {
            let path = cluster.node_directory(node);
            fs::create_dir_all(&path).map_err(|source| Error::File { path, source })?;
        }
        Ok(cluster)
    }

    /// Writes down what the cluster is made of: from now on it exists. Blocks.
    pub fn save(&self) -> Result<(), Error> {
        let path = self.directory.join(STATE);
        let fail = |source| Error::File { path: path.clone(), source };
        let beside = path.with_extension("new");
        let text = serde_json::to_vec_pretty(&self.state).map_err(|error| fail(error.into()))?;
        fs::write(&beside, text).and_then(|()| fs::rename(&beside, &path)).map_err(fail)
    }

    /// Finds a cluster. Blocks.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(STATE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(Error::NoCluster { name });
            }
            result => result.map_err(|source| Error::File { path: path.clone(), source })?,
        };
        let state = serde_json::from_slice(&text).map_err(|source| Error::Malformed { path, source })?;
        Ok(Self { directory: directory.to_owned(), state })
    }

    /// All clusters below a directory. Blocks.
    pub fn list(parent: &Path) -> Result<Vec<Self>, Error> {
        let entries = match fs::read_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(|source| Error::File { path: parent.to_owned(), source })?,
        };
        let mut directories: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.join(STATE).is_file()).collect();
        directories.sort();
        directories.iter().map(|directory| Self::open(directory)).collect()
    }

    /// A machine by its name.
    pub fn node(&self, name: &str) -> Result<&NodeState, Error> {
        self.state.nodes.iter().find(|node| node.name == name).ok_or_else(|| Error::NoNode {
            cluster: self.state.name.clone(),
            node: name.to_owned(),
            known: self.state.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// A machine's files.
    pub fn node_directory(&self, node: &NodeState) -> PathBuf {
        self.directory.join(&node.name)
    }

    /// The host's address on the machines' network.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.state.subnet.network()) + 1)
    }

    /// Makes a machine's disk with the content of a folder, and the guests' program. Blocks.
    pub fn make_disk(&self, node: &NodeState, content: &Path, bytes: u64) -> Result<(), Error> {
        let path = self.node_directory(node).join("disk.img");
        if let Some(name) = &self.state.program {
            let to = content.join(name);
            let linked = fs::create_dir_all(content.join(PROGRAMS))
                .and_then(|()| fs::hard_link(self.directory.join(PROGRAM), &to));
            linked.map_err(|source| Error::File { path: to, source })?;
        }
        let size = format!("{}k", bytes / 1024);
        let output = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"])
            .arg(content)
            .arg(&path)
            .arg(size)
            .output()
            .map_err(|error| Error::Disk {
                path: path.clone(),
                words: format!("mkfs.ext4 (Debian: e2fsprogs): {error}"),
            })?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Disk { path, words: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
    }

    /// Writes what all guests boot into, and what goes onto their disks. Blocks.
    pub fn write_program(&mut self, binary: &Path) -> Result<(), Error> {
        let program = initramfs::read_program(binary)?;
        let name = format!("{PROGRAMS}/coracle");
        let on_disk = format!("{DATA}/{name}");
        let init = Init::OnDisk(&on_disk);
        initramfs::write_base(&self.directory.join("initramfs"), init, self.state.modules.as_deref())?;
        let path = self.directory.join(PROGRAM);
        let fail = |source| Error::File { path: path.clone(), source };
        fs::write(&path, &program).map_err(fail)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(fail)?;
        self.state.program = Some(name);
        Ok(())
    }

    /// Removes what only new disks need. Blocks.
    pub fn forget_program(&self) -> Result<(), Error> {
        let path = self.directory.join(PROGRAM);
        fs::remove_file(&path).map_err(|source| Error::File { path, source })
    }

    /// The machines' network on the host: bridge, the way out, and nothing that is not there already.
    pub async fn ensure_network(&self) -> Result<(), Error> {
        let network = self.network()?;
        for warning in network.ensure().await? {
            tracing::warn!(%warning, "network of the virtual machines");
        }
        for node in &self.state.nodes {
            // A machine that runs holds its interface.
            if !self.is_running(node) {
                sys::create_tap(&node.tap).map_err(|source| Error::Tap { tap: node.tap.clone(), source })?;
            }
            network::host::join_bridge(&node.tap, &self.state.bridge)?;
        }
        Ok(())
    }

    /// Takes the network away.
    pub async fn remove_network(&self) -> Result<(), Error> {
        for node in &self.state.nodes {
            network::host::remove(&node.tap)?;
        }
        Ok(self.network()?.remove().await?)
    }

    fn network(&self) -> Result<Network, network::ConfigError> {
        Network::new(network::Config {
            bridge: self.state.bridge.clone(),
            pod_cidr: self.state.subnet,
            cluster_cidr: self.state.subnet,
            service_cidr: None,
            address: None,
            mtu: Some(1500),
            nft_table: self.state.bridge.clone(),
            state_dir: self.directory.join("network"),
        })
    }

    /// Switches a machine on; one that runs stays as it is. Blocks.
    pub fn start(&self, node: &NodeState, config: &Config, accelerator: Accelerator) -> Result<(), Error> {
        let directory = self.node_directory(node);
        if machine::running(&directory).is_some() {
            return Ok(());
        }
        let (own, whole) = (directory.join("own"), directory.join("initramfs"));
        initramfs::write_own(&own, config, &[])?;
        initramfs::join(&whole, &[&self.directory.join("initramfs"), &own])?;
        let [.., c, d] = node.address.octets();
        let machine = Machine {
            directory,
            kernel: self.state.kernel.clone(),
            initramfs: whole,
            memory: self.state.memory,
            cpus: self.state.cpus,
            disk: true,
            // Locally administered, and different on every machine of every cluster.
            network: Some((node.tap.clone(), [0x02, 0xc0, 0x4a, 0x1e, c, d])),
            accelerator,
            parameters: Vec::new(),
        };
        Ok(machine.start()?)
    }

    /// Switches a machine off in order. Blocks.
    pub fn stop(&self, node: &NodeState) -> Result<(), Error> {
        let directory = self.node_directory(node);
        if machine::running(&directory).is_none() {
            return Ok(());
        }
        if control::ask(&directory.join("control.sock"), &Request::PowerOff, SHUTDOWN).is_err() {
            // One that does not listen yet, or not any more, has nothing to lose that its journal does not keep.
            return Ok(machine::cut(&directory)?);
        }
        if !machine::wait_off(&directory, SHUTDOWN)? {
            machine::cut(&directory)?;
        }
        Ok(())
    }

    /// Cuts a machine's power. Blocks.
    pub fn kill(&self, node: &NodeState) -> Result<(), Error> {
        Ok(machine::cut(&self.node_directory(node))?)
    }

    /// Whether a machine runs.
    pub fn is_running(&self, node: &NodeState) -> bool {
        machine::running(&self.node_directory(node)).is_some()
    }

    /// Runs a command in a guest. Blocks.
    pub fn run(&self, node: &NodeState, argv: &[String], patience: Duration) -> Result<Response, Error> {
        self.must_run(node)?;
        let socket = self.node_directory(node).join("control.sock");
        Ok(control::ask(&socket, &Request::Run { argv: argv.to_vec() }, patience)?)
    }

    /// Copies a file into a guest. Blocks.
    pub fn write_file(
        &self,
        node: &NodeState,
        from: &mut impl Read,
        to: &str,
        mode: u32,
    ) -> Result<(), Error> {
        let mut offset = 0;
        loop {
            let mut part = Vec::new();
            from.by_ref().take(PART).read_to_end(&mut part).map_err(Error::Copy)?;
            if part.is_empty() && offset > 0 {
                return Ok(());
            }
            let length = part.len() as u64;
            let request = Request::Write { path: to.to_owned(), offset, mode, data: Hex(part) };
            match self.ask(node, &request)? {
                Response::Failed(words) => return Err(Error::Guest { node: node.name.clone(), words }),
                _ if length == 0 => return Ok(()),
                _ => offset += length,
            }
        }
    }

    /// Copies a file out of a guest. Blocks.
    pub fn read_file(&self, node: &NodeState, from: &str, to: &mut impl Write) -> Result<(), Error> {
        let mut offset = 0;
        loop {
            match self.ask(node, &Request::Read { path: from.to_owned(), offset })? {
                Response::Data(Hex(part)) if part.is_empty() => return Ok(()),
                Response::Data(Hex(part)) => {
                    to.write_all(&part).map_err(Error::Copy)?;
                    offset += part.len() as u64;
                }
                Response::Failed(words) => return Err(Error::Guest { node: node.name.clone(), words }),
                _ => return Ok(()),
            }
        }
    }

    fn ask(&self, node: &NodeState, request: &Request) -> Result<Response, Error> {
        self.must_run(node)?;
        Ok(control::ask(&self.node_directory(node).join("control.sock"), request, SHUTDOWN)?)
    }

    /// Pulls a machine's network cable, or plugs it in. Blocks.
    pub fn set_cable(&self, node: &NodeState, plugged: bool) -> Result<(), Error> {
        self.must_run(node)?;
        Ok(Qmp::connect(&self.node_directory(node).join("qmp.sock"))?.set_link(plugged)?)
    }

    fn must_run(&self, node: &NodeState) -> Result<(), Error> {
        if self.is_running(node) { Ok(()) } else { Err(Error::NotRunning { node: node.name.clone() }) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::guest::answer_file;

    #[test]
    fn files_go_into_a_guest_and_out_of_it_part_by_part() {
        let directory = tempfile::tempdir().unwrap();
        let node = NodeState { name: "n1".into(), address: Ipv4Addr::LOCALHOST, tap: "tap0".into() };
        let cluster = Cluster {
            directory: directory.path().to_owned(),
            state: State {
                name: "default".into(),
                subnet: "10.44.0.0/24".parse().unwrap(),
                bridge: "b".into(),
                kernel: "/k".into(),
                modules: None,
                memory: 1,
                cpus: 1,
                program: None,
                nodes: vec![node.clone()],
            },
        };
        let home = cluster.node_directory(&node);
        fs::create_dir(&home).unwrap();
        // What stands for QEMU: a process that names the directory, and the guest's side of the line.
        let mut process = Command::new("sh")
            .args(["-c", "read wait"])
            .arg(&home)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        fs::write(home.join("pid"), process.id().to_string()).unwrap();
        // Between the start of a program and its first instruction there is a moment in which it has no command line.
        while !cluster.is_running(&node) {
            std::thread::yield_now();
        }
        let listener = UnixListener::bind(home.join("control.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = io::BufReader::new(stream.try_clone().unwrap()).lines();
                for line in lines.map_while(Result::ok).filter(|line| !line.is_empty()) {
                    let response = answer_file(serde_json::from_str(&line).unwrap()).unwrap();
                    writeln!(stream, "{}", serde_json::to_string(&response).unwrap()).unwrap();
                }
            }
        });

        let path = directory.path().join("inside").display().to_string();
        for length in [0, 1, PART as usize, 2 * PART as usize + 7] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            cluster.write_file(&node, &mut content.as_slice(), &path, 0o640).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content, "{length} bytes in");
            let mut back = Vec::new();
            cluster.read_file(&node, &path, &mut back).unwrap();
            assert_eq!(back, content, "{length} bytes out");
        }
        let error = cluster.read_file(&node, "/nowhere", &mut Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("n1: /nowhere: No such file"), "{error}");
        drop(process.stdin.take());
        process.wait().unwrap();
        assert!(matches!(cluster.read_file(&node, &path, &mut Vec::new()), Err(Error::NotRunning { .. })));
    }
}
