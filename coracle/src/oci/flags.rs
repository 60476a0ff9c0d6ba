//! runc's command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run containers from OCI bundles, with runc's flags
#[derive(Debug, Parser)]
#[command(
    name = "coracle",
    version = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0"),
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct OciCli {
    /// Directory for the state of containers (should be on a tmpfs)
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,

    /// Append log lines to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,

    /// How to write log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,

    /// Log more
    #[arg(long)]
    pub(super) debug: bool,

    /// Let systemd make cgroups (refused: coracle makes them itself)
    #[arg(long)]
    pub(super) systemd_cgroup: bool,

    /// Accepted as runc does: whether cgroups are optional is found out by trying
    #[arg(long, value_name = "true|false|auto", hide = true)]
    pub(super) rootless: Option<String>,

    /// The criu program that checkpoint and restore use
    #[arg(long, value_name = "PATH", default_value = "criu")]
    pub(super) criu: PathBuf,

    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a container from a bundle
    Create(ContainerArgs),
    /// Run the program of a created container
    Start {
        #[arg(value_name = "CONTAINER")]
        id: String,
    },
    /// Create and start a container, and stay with it
    Run(ContainerArgs),
    /// Show the state of a container
    State {
        #[arg(value_name = "CONTAINER")]
        id: String,
    },
    /// Send a signal (SIGTERM) to a container's first process
    Kill {
        /// To all of its processes
        #[arg(long, short)]
        all: bool,
        #[arg(value_name = "CONTAINER")]
        id: String,
        #[arg(value_name = "SIGNAL", allow_hyphen_values = true)]
        signal: Option<String>,
    },
    /// Remove what a container holds
    Delete {
        /// Kill it first if it runs; no error if there is none
        #[arg(long, short)]
        force: bool,
        #[arg(value_name = "CONTAINER")]
        id: String,
    },
    /// Run a process in a container
    Exec(Box<ExecArgs>),
    /// Show the processes of a container
    Ps {
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        format: Format,
        #[arg(value_name = "CONTAINER")]
        id: String,
        /// For ps(1)
        #[arg(value_name = "PS OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Freeze all processes of a container
    Pause {
        #[arg(value_name = "CONTAINER")]
        id: String,
    },
    /// Thaw a container
    Resume {
        #[arg(value_name = "CONTAINER")]
        id: String,
    },
    /// Change limits of a container
    Update(Box<UpdateArgs>),
    /// Show what a container uses
    Events {
        /// Once, and end
        #[arg(long)]
        stats: bool,
        /// Time between figures
        #[arg(long, default_value = "5s", value_name = "DURATION")]
        interval: String,
        #[arg(value_name = "CONTAINER")]
        id: String,
    },
    /// Show all containers
    List {
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        format: Format,
        /// Names only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Write a configuration to begin with
    Spec {
        /// Where
        #[arg(long, short, value_name = "DIR")]
        bundle: Option<PathBuf>,
        /// For an unprivileged user
        #[arg(long)]
        rootless: bool,
    },
    /// Show what this runtime can do
    Features,
    /// Keep a running container's whole state on disk, by CRIU
    Checkpoint(Box<CheckpointArgs>),
    /// Go on from a state that was kept
    Restore(Box<RestoreArgs>),
}

#[derive(Debug, Args)]
pub(super) struct ContainerArgs {
    /// The bundle (default: the current directory)
    #[arg(long, short, value_name = "DIR")]
    pub(super) bundle: Option<PathBuf>,

    /// Socket to send the terminal to
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,

    /// Socket to send a pidfd of the container's first process to
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,

    /// File to write the process's number to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,

    /// How many descriptors beyond the standard ones to pass on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,

    /// Change the root by moving a mount (for initial ramdisks)
    #[arg(long)]
    pub(super) no_pivot: bool,

    /// Stay with the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,

    /// Do not stay with the container (run only)
    #[arg(long, short)]
    pub(super) detach: bool,

    /// Do not delete the container when it has ended (run only)
    #[arg(long)]
    pub(super) keep: bool,

    /// Accepted as runc does
    #[arg(long, hide = true)]
    pub(super) no_subreaper: bool,

    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CgroupsMode {
    Soft,
    Full,
    Strict,
    Ignore,
}

/// Namespaces that may be made empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EmptyNamespace {
    Network,
}

/// What checkpoint and restore have in common.
#[derive(Debug, Args)]
pub(super) struct CriuArgs {
    /// Directory of the images (default: ./checkpoint)
    #[arg(long, value_name = "DIR")]
    pub(super) image_path: Option<PathBuf>,

    /// Directory for criu's log
    #[arg(long, value_name = "DIR")]
    pub(super) work_path: Option<PathBuf>,

    /// Keep established TCP connections
    #[arg(long)]
    pub(super) tcp_established: bool,

    /// Allow unix sockets whose other end is outside
    #[arg(long)]
    pub(super) ext_unix_sk: bool,

    /// Allow a terminal of somebody else's
    #[arg(long)]
    pub(super) shell_job: bool,

    /// Keep locks of files
    #[arg(long)]
    pub(super) file_locks: bool,

    /// What to do with cgroups that the container has made
    #[arg(long, value_enum, value_name = "MODE", default_value_t = CgroupsMode::Soft)]
    pub(super) manage_cgroups_mode: CgroupsMode,

    /// Make a namespace anew, without what was in it
    #[arg(long, value_enum, value_name = "NAMESPACE")]
    pub(super) empty_ns: Vec<EmptyNamespace>,

    /// Drop from older images what newer ones have
    #[arg(long)]
    pub(super) auto_dedup: bool,

    /// Bring memory back when it is used
    #[arg(long)]
    pub(super) lazy_pages: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckpointArgs {
    #[command(flatten)]
    pub(super) criu: CriuArgs,

    /// Images of an earlier --pre-dump, relative to the image directory
    #[arg(long, value_name = "DIR")]
    pub(super) parent_path: Option<PathBuf>,

    /// Let the container go on
    #[arg(long)]
    pub(super) leave_running: bool,

    /// Give up TCP connections that are being made
    #[arg(long)]
    pub(super) tcp_skip_in_flight: bool,

    /// Allow unlinked files to be linked for a moment
    #[arg(long)]
    pub(super) link_remap: bool,

    /// Descriptor to write a zero byte to when lazy pages can be had
    #[arg(long, value_name = "FD")]
    pub(super) status_fd: Option<u32>,

    /// Send memory to this server
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) page_server: Option<String>,

    /// Keep memory only, and let the container go on
    #[arg(long)]
    pub(super) pre_dump: bool,

    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub(super) criu: CriuArgs,

    /// Profile in place of the one that it had
    #[arg(long, value_name = "TYPE:NAME")]
    pub(super) lsm_profile: Option<String>,

    /// Context of mounts in place of theirs
    #[arg(long, value_name = "CONTEXT")]
    pub(super) lsm_mount_context: Option<String>,

    #[command(flatten)]
    pub(super) container: ContainerArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Socket to send the terminal to
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,

    /// Socket to send a pidfd of the process to
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,

    /// Join a cgroup below the container's
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    pub(super) cgroup: Vec<String>,

    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<PathBuf>,

    /// Another variable, NAME=value
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,

    /// On a terminal
    #[arg(long, short)]
    pub(super) tty: bool,

    /// User, as uid or uid:gid
    #[arg(long, short, value_name = "UID[:GID]")]
    pub(super) user: Option<String>,

    /// Another group
    #[arg(long, short = 'g', value_name = "GID")]
    pub(super) additional_gids: Vec<u32>,

    /// File with the process section
    #[arg(long, short, value_name = "FILE")]
    pub(super) process: Option<PathBuf>,

    /// Do not stay with the process
    #[arg(long, short)]
    pub(super) detach: bool,

    /// File to write the process's number to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,

    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(super) process_label: Option<String>,

    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(super) apparmor: Option<String>,

    /// Set no_new_privs
    #[arg(long)]
    pub(super) no_new_privs: bool,

    /// Another capability
    #[arg(long, short, value_name = "CAPABILITY")]
    pub(super) cap: Vec<String>,

    /// How many descriptors beyond the standard ones to pass on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,

    /// Also in a paused container
    #[arg(long)]
    pub(super) ignore_paused: bool,

    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// File with the resources section, or - for standard input
    #[arg(long, short, value_name = "FILE")]
    pub(super) resources: Option<PathBuf>,
    #[arg(long, value_name = "WEIGHT")]
    pub(super) blkio_weight: Option<u16>,
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_period: Option<u64>,
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_burst: Option<u64>,
    #[arg(long, value_name = "SHARES", alias = "cpu-shares")]
    pub(super) cpu_share: Option<u64>,
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_rt_period: Option<u64>,
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(super) cpu_rt_runtime: Option<i64>,
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    pub(super) cpu_idle: Option<i64>,
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Option<String>,
    /// Bytes, with k, m or g
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory: Option<String>,
    /// Bytes, with k, m or g
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_reservation: Option<String>,
    /// Memory and swap together
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}
