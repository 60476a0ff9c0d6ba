//! The steps that a new process takes, one after the other, until it is the container's.
//!
//! A step carries everything it needs, as the kernel wants it: the process that executes it makes no choices.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::Text;
use crate::spec::WindowSize;
use crate::sys::mount::Change;

/// What a new process does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    /// `CLONE_NEW*` for the clone that makes it.
    pub(crate) namespaces: u64,
    /// The cgroup of the v2 hierarchy to be cloned into, if there is such a hierarchy.
    pub(crate) cgroup: Option<Text>,
    /// What it does then.
    pub(crate) steps: Vec<Step>,
    /// What it becomes in the end.
    pub(crate) program: Program,
}

/// A program to be executed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Program {
    /// As asked for, for messages.
    pub(crate) name: String,
    /// Where to look for it, in order.
    pub(crate) candidates: Vec<Text>,
    pub(crate) argv: Vec<Text>,
    pub(crate) env: Vec<Text>,
    /// It is not looked for: it is what [`Step::OpenOwnProgram`] has opened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) own: bool,
}

/// Attributes of a mount, and of the mounts below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attributes {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) set: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) clear: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) recursive_set: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) recursive_clear: u64,
    /// `MS_PRIVATE` and its relatives; 0 for private.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) propagation: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) recursive_propagation: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Attributes {
    pub(crate) fn own(&self) -> Change {
        Change { set: self.set, clear: self.clear, propagation: 0 }
    }

    pub(crate) fn recursive(&self) -> Change {
        Change { set: self.recursive_set, clear: self.recursive_clear, propagation: 0 }
    }
}

/// What a container's `/` is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Root {
    /// `separately`: the kernel takes the layers one by one.
    Overlay { lower: Vec<Text>, upper: Text, work: Text, separately: bool },
    Directory {
        path: Text,
        /// The host's later mounts below it show up in the container.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        slave: bool,
    },
}

/// The kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum NodeKind {
    Character,
    Block,
    Fifo,
}

/// Where a bind mount's source is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Source {
    pub(crate) path: Text,
    /// The path is relative to this directory and cannot leave it, whatever symbolic links it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) beneath: Option<Text>,
}

/// The five sets, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CapabilityBits {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// One step. Paths of destinations are the container's, resolved within its root whatever symbolic links it
/// contains; all other paths are the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Step {
    /// Enter cgroups of v1 hierarchies through their `tasks` files.
    JoinCgroups { tasks: Vec<Text> },
    /// Wait until the parent has mapped the ids of our new user namespace.
    AwaitMapping,
    /// Become root in our user namespace.
    BecomeRoot,
    /// Open the file of our clocks' offsets, while it is still ours to write.
    OpenClocks,
    /// Enter a new time namespace with these offsets (lines for `timens_offsets`).
    NewTimeNamespace { offsets: Text },
    /// Bring the loopback interface of a new network namespace up.
    Loopback,
    /// Name the new UTS namespace.
    HostName { name: Text },
    /// Give the new UTS namespace a NIS domain.
    DomainName { name: Text },
    /// Ask for a security label that comes into force with the program. Written through the host's /proc, which
    /// the container has no say in.
    Label { what: Text, file: Text, value: Text },
    /// Open the program that we are a copy of, while the host's /proc is in reach.
    OpenOwnProgram,
    /// Enter the container's own namespaces (for exec): `CLONE_NEW*`.
    JoinContainer { namespaces: u32 },
    /// Make the cgroups that the process is in the roots of what it sees.
    NewCgroupNamespace,
    /// Become the leader of a new session.
    NewSession,
    /// Leave the keys of whoever started us behind.
    NewKeyring,
    /// How willingly the kernel kills the process when memory runs out.
    OomScoreAdj { value: i32 },
    /// Write a kernel parameter of our namespaces.
    Sysctl { path: Text, value: Text },
    /// Open what will be mounted, before the host's tree is out of reach; the next [`Step::PlaceBind`]s refer to
    /// these by their order.
    /// `mapped`: with the ids of the sandbox's users.
    OpenBind {
        source: Source,
        recursive: bool,
        attributes: Attributes,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        mapped: bool,
    },
    /// Keep our mounts to ourselves.
    PrivateMounts,
    /// The same, but go on receiving the host's.
    SlaveMounts,
    /// Mount the root file system on a directory that only serves as a place. `mapped`: with the ids of the sandbox's
    /// users.
    Root {
        root: Root,
        place: Text,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        mapped: bool,
    },
    /// Make files for these users from now on, with all rights that we have.
    ActAs { uid: u32, gid: u32 },
    /// Enter the sandbox's user namespace as its root. `own_mounts`: our mounts belong to it from then on.
    EnterUsers { own_mounts: bool },
    /// Mount a new file system.
    Mount {
        file_system: Text,
        source: Text,
        /// Names and values, or names alone.
        options: Vec<(Text, Option<Text>)>,
        attributes: Attributes,
        destination: Text,
        /// What the image has at that place is copied into it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        copy_up: bool,
        /// It gets the permissions of the directory that it covers.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        inherit_mode: bool,
    },
    /// Mount what was opened before. `fresh`: a copy of it that is younger than the mounts before it.
    PlaceBind {
        opened: usize,
        destination: Text,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fresh: bool,
    },
    /// Mount something that can still be reached. `within`: a path of the container, as its mounts are by now.
    /// `mapped`: the parent maps its ids.
    Bind {
        source: Source,
        within: bool,
        recursive: bool,
        attributes: Attributes,
        destination: Text,
        mapped: bool,
    },
    /// Mount the sandbox's shared memory.
    PlaceShm { destination: Text, attributes: Attributes },
    /// Make a device node.
    Device { path: Text, kind: NodeKind, major: u32, minor: u32, mode: u32, uid: u32, gid: u32 },
    /// Make a symbolic link.
    Symlink { target: Text, path: Text },
    /// Change the attributes of a mount that an earlier step made.
    Attributes { destination: Text, attributes: Attributes },
    /// Make a path unreadable, if it exists.
    Mask { path: Text },
    /// Make a path read-only, if it exists.
    ReadOnly { path: Text },
    /// Make the root read-only.
    ReadOnlyRoot,
    /// Read from the container's own `/dev/null`.
    NullInput,
    /// Open a terminal for standard input and output and send its other side to the keeper.
    Terminal { size: Option<WindowSize>, console: bool },
    /// Make the working directory, if it is missing.
    MakeDirectory { path: Text },
    /// Make the root the root, and let go of the host's tree.
    PivotRoot,
    /// The same where the root cannot be pivoted (an initial ramdisk): move the new root over the old one.
    MoveRoot,
    /// The same in a mount namespace that is not ours alone: for us only.
    ChangeRoot,
    /// Enter the root of a container that shares our mount namespace.
    EnterRoot { opened: usize },
    /// Let the parent run the hooks that belong outside, and learn the container's state from it.
    RuntimeHooks,
    /// Run a hook ourselves, with the state on its standard input.
    Hook {
        kind: Text,
        /// Which of its kind.
        number: usize,
        path: Text,
        argv: Vec<Text>,
        env: Option<Vec<Text>>,
        timeout: Option<u32>,
    },
    /// Look whether one of the program's candidates can be executed, while whoever creates us still listens.
    FindProgram,
    /// Execution domain.
    Personality { persona: u64 },
    /// Priority of block I/O.
    IoPriority { value: u32 },
    /// Scheduling policy.
    Scheduler {
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
        /// The container is bound to some CPUs, which not every policy goes together with.
        bound: bool,
    },
    /// CPUs to run on, as bits.
    Affinity { cpus: Vec<u64> },
    /// Where memory comes from.
    MemoryPolicy { mode: u32, nodes: Vec<u64> },
    /// Propagation of the root mount: `MS_*`.
    RootPropagation { flags: u64 },
    /// Give the pipes of standard input and output to the user, so that `/dev/stdout` can be opened.
    OwnStreams { uid: u32, gid: u32 },
    /// Bound a resource.
    Limit { resource: u32, name: Text, soft: u64, hard: u64 },
    /// Change to the working directory.
    WorkingDirectory { path: Text },
    /// Take capabilities out of the bounding set: what is not in `keep`.
    Bound { keep: u64 },
    /// Become the user.
    Identity { uid: u32, gid: u32, groups: Vec<u32> },
    /// Set the other four sets of capabilities.
    Capabilities(CapabilityBits),
    /// Rule out that a program gives more rights than its caller has.
    NoNewPrivileges,
    /// Filter system calls. The program is in hexadecimal digits.
    Seccomp { flags: u32, program: Hex },
    /// Which permissions new files do not get.
    Umask { mask: u32 },
    /// Wait until the container is started.
    Gate,
    /// The same, where whoever starts it connects to a socket that we listen on.
    Listen,
}

impl fmt::Display for Step {
    /// What the step does to what, so that `{step}: {error}` reads as a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JoinCgroups { .. } => write!(f, "joining the container's cgroups"),
            Self::JoinContainer { .. } => write!(f, "joining the container's namespaces"),
            Self::AwaitMapping => write!(f, "waiting for the user namespace to be mapped"),
            Self::BecomeRoot => write!(f, "becoming root in the user namespace"),
            Self::OpenClocks => write!(f, "opening timens_offsets"),
            Self::NewTimeNamespace { .. } => write!(f, "making a time namespace"),
            Self::Loopback => write!(f, "bringing the loopback interface up"),
            Self::HostName { name } => write!(f, "setting the host name to {name}"),
            Self::DomainName { name } => write!(f, "setting the domain name to {name}"),
            Self::Label { what, value, .. } => write!(f, "setting the {what} {value:?}"),
            Self::RuntimeHooks => write!(f, "waiting for the runtime's hooks"),
            Self::Hook { kind, number, path, .. } => {
                write!(f, "error running {kind} hook #{number}: {path}")
            }
            Self::FindProgram => write!(f, "looking for the program"),
            Self::Personality { .. } => write!(f, "setting the personality"),
            Self::IoPriority { .. } => write!(f, "setting the I/O priority"),
            Self::Scheduler { .. } => write!(f, "setting the scheduling policy"),
            Self::Affinity { .. } => write!(f, "choosing CPUs"),
            Self::MemoryPolicy { .. } => write!(f, "setting the memory policy"),
            Self::NewCgroupNamespace => write!(f, "making a cgroup namespace"),
            Self::NewSession => write!(f, "making a session"),
            Self::NewKeyring => write!(f, "making a session keyring"),
            Self::OomScoreAdj { value } => write!(f, "setting oom_score_adj to {value}"),
            Self::Sysctl { path, value } => write!(f, "writing {value:?} to {path}"),
            Self::OpenBind { source, .. } => match &source.beneath {
                Some(beneath) => write!(f, "opening {} in {beneath} for mounting", source.path),
                None => write!(f, "opening {} for mounting", source.path),
            },
            Self::PrivateMounts => write!(f, "making mounts private"),
            Self::SlaveMounts => write!(f, "making mounts slaves"),
            Self::Root { root: Root::Overlay { lower, .. }, .. } => {
                write!(f, "mounting an overlay of {} layers on /", lower.len())
            }
            Self::Root { root: Root::Directory { path, .. }, .. } => write!(f, "mounting {path} on /"),
            Self::Mount { file_system, destination, .. } => {
                write!(f, "mounting {file_system} on {destination}")
            }
            Self::Bind { source, destination, .. } => {
                write!(f, "mounting {} on {destination}", source.path)
            }
            Self::PlaceBind { destination, .. } => write!(f, "mounting on {destination}"),
            Self::PlaceShm { destination, .. } => write!(f, "mounting shared memory on {destination}"),
            Self::Device { path, .. } => write!(f, "making device {path}"),
            Self::Symlink { target, path } => write!(f, "linking {path} to {target}"),
            Self::Attributes { destination, .. } => {
                write!(f, "setting attributes of the mount on {destination}")
            }
            Self::Mask { path } => write!(f, "masking {path}"),
            Self::ReadOnly { path } => write!(f, "making {path} read-only"),
            Self::ReadOnlyRoot => write!(f, "making / read-only"),
            Self::NullInput => write!(f, "opening /dev/null"),
            Self::Terminal { .. } => write!(f, "opening a terminal"),
            Self::MakeDirectory { path } => write!(f, "making directory {path}"),
            Self::OpenOwnProgram => write!(f, "opening our own program"),
            Self::ActAs { uid, .. } => write!(f, "making files as user {uid}"),
            Self::EnterUsers { .. } => write!(f, "entering the sandbox's user namespace"),
            Self::PivotRoot | Self::MoveRoot | Self::ChangeRoot => write!(f, "changing the root"),
            Self::EnterRoot { .. } => write!(f, "entering the container's root"),
            Self::RootPropagation { .. } => write!(f, "setting the propagation of /"),
            Self::OwnStreams { uid, .. } => write!(f, "giving standard streams to user {uid}"),
            Self::Limit { name, .. } => write!(f, "setting limit {name}"),
            Self::WorkingDirectory { path } => write!(f, "changing to directory {path}"),
            Self::Bound { .. } => write!(f, "bounding capabilities"),
            Self::Identity { uid, gid, .. } => write!(f, "becoming user {uid}, group {gid}"),
            Self::Capabilities(_) => write!(f, "setting capabilities"),
            Self::NoNewPrivileges => write!(f, "setting no_new_privs"),
            Self::Seccomp { .. } => write!(f, "installing the seccomp filter"),
            Self::Umask { .. } => write!(f, "setting the umask"),
            Self::Gate | Self::Listen => write!(f, "waiting to be started"),
        }
    }
}

/// Bytes, as hexadecimal digits on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
        let text: String = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Hex;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hex, E> {
                let nibble =
                    |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let pairs = text.as_bytes().chunks(2);
                let bytes = pairs.map(|pair| match pair {
                    [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
                    _ => None,
                });
                bytes.collect::<Option<Vec<u8>>>().map(Hex).ok_or_else(|| E::custom("not hexadecimal digits"))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_survive_the_wire() {
        let text = |s: &str| Text::new(s).unwrap();
        let plan = Plan {
            namespaces: 5,
            cgroup: Some(text("/sys/fs/cgroup/x")),
            steps: vec![
                Step::NewSession,
                Step::Mount {
                    file_system: text("tmpfs"),
                    source: text("tmpfs"),
                    options: vec![(text("size"), Some(text("64k"))), (text("noswap"), None)],
                    attributes: Attributes { set: 6, ..Attributes::default() },
                    destination: text("/tmp/ä"),
                    copy_up: false,
                    inherit_mode: false,
                },
                Step::Seccomp { flags: 4, program: Hex(vec![0, 1, 0xab, 0xff]) },
            ],
            program: Program { name: "sh".into(), ..Program::default() },
        };
        let wire = serde_json::to_string(&plan).unwrap();
        assert!(wire.contains("\"0001abff\""), "{wire}");
        assert_eq!(serde_json::from_str::<Plan>(&wire).unwrap(), plan);
    }

    #[test]
    fn nul_and_bad_digits_are_refused() {
        assert!(serde_json::from_str::<Text>("\"a\\u0000b\"").is_err());
        assert!(serde_json::from_str::<Hex>("\"0\"").is_err());
        assert!(serde_json::from_str::<Hex>("\"zz\"").is_err());
    }
}
