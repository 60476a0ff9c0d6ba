//! The command line as it was typed. Defaults that depend on the machine are resolved in [`crate::instance`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::{commands, up};

/// Kubernetes for machines that are too small, too few or too far away for Kubernetes.
#[derive(Debug, Parser)]
#[command(
    name = "coracle",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "A first cluster:\n  coracle up &\n  coracle apply -f examples/hello\n  coracle get pods\n\n\
                  kubectl works too: export KUBECONFIG=/var/lib/coracle/kubeconfig"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// What to log: error, warn, info, debug, trace, or a filter such as `agent=debug,info`
    #[arg(long, global = true, env = "CORACLE_LOG", default_value = "info", hide_default_value = true)]
    pub(crate) log: String,

    /// How to log
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole one-node cluster: control plane, node agent, service proxy, DNS
    Up(UpArgs),
    /// Run the control plane: API server, scheduler, controllers
    Server(ServerArgs),
    /// Run the API server alone
    Apiserver(ServerArgs),
    /// Run a node: pods from an API server, or from a directory or URL of manifests with no server at all
    Agent(AgentArgs),
    /// Run the service proxy and DNS of a node (`up` and `agent` start it by themselves)
    Proxy(ProxyArgs),

    /// End all pods and parts of an instance, and leave the machine as it was; what is stored stays
    Down(up::down::DownArgs),

    /// Create or change objects from files
    Apply(commands::apply::ApplyArgs),
    /// Show objects
    Get(commands::get::GetArgs),
    /// Show one object with its events
    Describe(commands::describe::DescribeArgs),
    /// Delete objects
    Delete(commands::delete::DeleteArgs),
    /// Print the logs of a container
    Logs(commands::logs::LogsArgs),
    /// Run a command in a container
    Exec(commands::exec::ExecArgs),
    /// Copy files into a container and out of it
    Cp(commands::cp::CpArgs),
    /// Join a container's own process
    Attach(commands::attach::AttachArgs),
    /// Reach a port of a pod from this machine
    PortForward(commands::port_forward::PortForwardArgs),
    /// Follow, undo or repeat the rollout of a Deployment
    Rollout(commands::rollout::RolloutArgs),
    /// Show what nodes and pods use
    Top(commands::top::TopArgs),
    /// Show what has happened
    Events(commands::events::EventsArgs),
    /// Explain why something does not run, is not ready, or was restarted
    Why(commands::why::WhyArgs),
    /// Say where pods would run, without creating them
    Plan(commands::plan::PlanArgs),
    /// Change the number of replicas
    Scale(commands::scale::ScaleArgs),
    /// Wait until objects meet a condition or are gone
    Wait(commands::wait::WaitArgs),
    /// Cut the power or pull the cable of a node of `up --nodes`, and put it right again
    Node(commands::node::NodeArgs),
    /// Let other machines join as nodes
    Token(commands::token::TokenArgs),
    /// Work with the images of this machine
    Image(commands::image::ImageArgs),
    /// Run local clusters of virtual machines
    Vm(commands::vm::VmArgs),
    /// Run containers from OCI bundles, with runc's flags
    #[command(disable_help_flag = true)]
    Oci {
        /// See `coracle oci --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Copy everything that the API server keeps: to a file, from a file, from one store to another
    Store(commands::store::StoreArgs),
    /// Find out what this machine can do, and what is missing
    Check(commands::check::CheckArgs),
}

/// Which local instance a command means.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstanceArgs {
    /// Where everything that must survive a reboot is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle", env = "CORACLE_DATA_DIR")]
    pub(crate) data_dir: PathBuf,

    /// Where sockets and handles of the running system are kept
    #[arg(long, value_name = "DIR", default_value = "/run/coracle", env = "CORACLE_RUN_DIR")]
    pub(crate) run_dir: PathBuf,
}

/// An etcd to keep objects in.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EtcdArgs {
    /// Keep objects in etcd instead of the embedded store
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub(crate) etcd_servers: Vec<String>,

    /// CA certificate of the etcd servers
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    pub(crate) etcd_cafile: Option<PathBuf>,

    /// Client certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub(crate) etcd_certfile: Option<PathBuf>,

    /// Key of the client certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
}

/// The control plane.
#[derive(Debug, Clone, Args)]
pub(crate) struct ControlPlaneArgs {
    /// Address and port of the API server
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    pub(crate) listen: SocketAddr,

    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,

    /// Longest life of certificates that are signed on request
    #[arg(long, value_name = "TIME", value_parser = commands::wait::duration, default_value = "8760h")]
    pub(crate) cluster_signing_duration: Duration,

    /// More names or addresses for the API server's certificate
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,
}

impl ControlPlaneArgs {
    /// A control plane for this machine alone.
    pub(crate) fn local(port: u16) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            etcd: EtcdArgs::default(),
            cluster_signing_duration: Duration::from_secs(8760 * 3600),
            tls_san: Vec::new(),
        }
    }
}

/// Addresses that every part of one cluster must agree on.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    /// Addresses of pods; each node gets a /24 of it [default: 10.42.0.0/16, or what the joined cluster has]
    #[arg(long, value_name = "CIDR", alias = "cluster-cidr")]
    pub(crate) pod_cidr: Option<String>,

    /// Addresses of services [default: 10.43.0.0/16, or what the joined cluster has]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<String>,

    /// Address of the DNS server [default: the tenth address of the service CIDR]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) cluster_dns: Option<Ipv4Addr>,

    /// Domain of the cluster's names [default: cluster.local, or what the joined cluster has]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster_domain: Option<String>,
}

/// The node.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,

    /// Address at which other nodes reach this one [default: that of the default route's interface]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_ip: Option<Ipv4Addr>,

    /// This node's share of the pod addresses [default: a /24 that the cluster gives it]
    #[arg(long, value_name = "CIDR")]
    pub(crate) node_cidr: Option<String>,

    /// Run the manifests in this directory, and follow its files
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,

    /// Run the manifests at this URL, and follow its content
    #[arg(long, value_name = "URL")]
    pub(crate) manifest_url: Option<String>,

    /// Address and port of the node agent's own API [default: port 10250 on the node's address, or a free one]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) agent_listen: Option<SocketAddr>,

    /// Name of the bridge that pods are attached to [default: coracle0, or derived from the run directory]
    #[arg(long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,

    /// Control group under which pods live [default: coracle, or derived from the run directory]
    #[arg(long, value_name = "NAME")]
    pub(crate) cgroup_parent: Option<String>,

    /// What must be left on this node before pods have to go [default: memory.available<100Mi,
    /// nodefs.available<5% (2Gi at most), nodefs.inodesFree<5%, pid.available<10%]; empty for nothing
    #[arg(long, value_name = "SIGNAL<VALUE,…")]
    pub(crate) eviction_hard: Option<String>,

    /// What should be left on this node: pods have to go when there is less for longer than --eviction-soft-grace-period
    #[arg(long, value_name = "SIGNAL<VALUE,…", default_value = "")]
    pub(crate) eviction_soft: String,

    /// For how long there may be less than --eviction-soft says, for each signal
    #[arg(long, value_name = "SIGNAL=DURATION,…", default_value = "")]
    pub(crate) eviction_soft_grace_period: String,

    /// The most seconds that pods have to end when they go because of --eviction-soft
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) eviction_max_pod_grace_period: u64,

    /// Remove pulled images that nobody uses when so much of the disk is in use, in percent; 100 means never
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) image_gc_high_threshold: u8,

    /// Until no more than this is
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) image_gc_low_threshold: u8,

    /// How long a pulled image stays in any case
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) image_gc_min_age: u64,

    /// Size at which a container's log is rotated
    #[arg(long, value_name = "SIZE", default_value = "10Mi")]
    pub(crate) container_log_max_size: String,

    /// Files of a container's log that are kept, the one that is written to among them
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(crate) container_log_max_files: u32,

    /// Images are in this directory, which other nodes of this machine use too [default: images in the data directory]
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) image_dir: Option<PathBuf>,

    /// Most pods on this node
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub(crate) max_pods: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
    #[command(flatten)]
    pub(crate) control_plane: ControlPlaneArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) node: NodeArgs,

    /// Run so many nodes, each in a network namespace of its own, instead of this machine as the only one; a cluster that was started so
    /// keeps its nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) nodes: Option<u8>,

    /// Addresses of the nodes that --nodes makes, this machine's among them [default: a free one of 10.45.0.0/24 and up]
    #[arg(long, value_name = "CIDR")]
    pub(crate) nodes_cidr: Option<ipnet::Ipv4Net>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
    #[command(flatten)]
    pub(crate) control_plane: ControlPlaneArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) node: NodeArgs,

    /// Become a node of this API server's cluster, such as https://192.0.2.1:6443
    #[arg(long, value_name = "URL", conflicts_with = "kubeconfig")]
    pub(crate) server: Option<String>,

    /// What `coracle token create` has printed there; needed once
    #[arg(long, value_name = "TOKEN", env = "CORACLE_TOKEN", hide_env_values = true, requires = "server")]
    pub(crate) token: Option<String>,

    /// File that the token is in
    #[arg(long, value_name = "FILE", conflicts_with = "token", requires = "server")]
    pub(crate) token_file: Option<PathBuf>,

    /// Kubeconfig with which this node speaks to an API server; without it the node runs on its manifests alone
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) node: NodeArgs,

    /// Kubeconfig with which the proxy reads services and endpoints
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
}

/// Which API server a command speaks to, and in which namespace.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApiArgs {
    /// Kubeconfig [default: $KUBECONFIG, then that of the local instance]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Data directory of the local instance
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle", env = "CORACLE_DATA_DIR")]
    pub(crate) data_dir: PathBuf,

    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// Namespace
    #[arg(long, short, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}
