//! What fuzzers call: each decoder of bytes that come from outside, as a function of bytes.
//!
//! Built only for fuzzing (`make fuzz`). None of them may panic, hang, or take memory that is out of proportion to
//! its input; what they return does not matter.

use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, Process, Spec};

use crate::cgroup::Placement;
use crate::plan::{self, Context, Surroundings};
use crate::protocol::{self, Frames, Message, Setup};
use crate::spec::{ContainerSpec, Rootfs, SandboxSpec};

/// An OCI configuration, up to the plans of a container by itself and of one in a sandbox.
pub fn spec(bytes: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(bytes) else { return };
    let cgroups = Placement::default();
    let around = Surroundings {
        cgroups: &cgroups,
        rootfs: Path::new("/bundle/rootfs"),
        last_capability: 40,
        home: Some("/root"),
        keyring: true,
        pivot: true,
        listen: true,
        privileged: true,
        apparmor: true,
        selinux: true,
    };
    if let Ok(bundle) = plan::bundle(&spec, around) {
        // What was planned can be told to another process, and arrives as it was.
        let text = serde_json::to_vec(&bundle.plan).expect("a plan is strings and numbers");
        serde_json::from_slice::<plan::step::Plan>(&text).expect("what was written can be read");
    }
    let sandbox = SandboxSpec::new("s", "pods/s");
    let container = ContainerSpec {
        id: "c".to_owned(),
        spec,
        rootfs: Rootfs::Directory("/bundle/rootfs".into()),
        labels: std::collections::BTreeMap::new(),
        log: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        join_pid: None,
    };
    let context = Context {
        sandbox: &sandbox,
        cgroups: &cgroups,
        place: Path::new("/run/s"),
        last_capability: 40,
        home: None,
        gate: false,
        separate_layers: true,
    };
    let _ = plan::container(&container, context);
}

/// Everything that is read back from disk, and the description of a process to be run in a container.
pub fn state(bytes: &[u8]) {
    let _ = serde_json::from_slice::<crate::keeper::record::Record>(bytes);
    let _ = serde_json::from_slice::<SandboxSpec>(bytes);
    let _ = serde_json::from_slice::<ContainerSpec>(bytes);
    let _ = serde_json::from_slice::<Process>(bytes);
    crate::oci::fuzz_record(bytes);
}

/// A seccomp profile, up to the filter.
pub fn seccomp(bytes: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else { return };
    if let Ok(filter) = crate::seccomp::compile(&profile) {
        assert!(filter.program.len() <= 4096 * 8, "longer than the kernel takes");
    }
}

/// Both sides of the keeper's protocol: the first byte says how the others arrive.
pub fn protocol(bytes: &[u8]) {
    let Some((&step, mut rest)) = bytes.split_first() else { return };
    let mut frames = Frames::default();
    while !rest.is_empty() {
        let space = frames.space();
        let count = space.len().min(usize::from(step) + 1).min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        match frames.filled(count) {
            Ok(Some(frame)) => {
                let _ = protocol::call(&frame);
                let _ = serde_json::from_slice::<Message>(&frame);
                let _ = serde_json::from_slice::<Setup>(&frame);
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}
