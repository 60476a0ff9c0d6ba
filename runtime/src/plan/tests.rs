//! Plans as tables: from a specification to steps, without a machine.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder, Spec};
use serde_json::{Value, json};

use super::step::{Attributes, Plan, Step};
use super::{Context, container};
use crate::cgroup::{Placement, View};
use crate::spec::{ContainerSpec, ExecSpec, PidMode, Rootfs, SandboxSpec};

fn minimal() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["sh", "-c", "true"], "cwd": "/", "env": ["PATH=/a:/b"], "user": {"uid": 0, "gid": 0} },
        "root": { "path": "/" },
        "linux": {},
    })
}

/// `minimal` with something set, by JSON pointer.
fn with(changes: &[(&str, Value)]) -> ContainerSpec {
    let mut spec = minimal();
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[name] = value.clone();
    }
    ContainerSpec {
        id: "c".into(),
        labels: Default::default(),
        spec: serde_json::from_value::<Spec>(spec).unwrap(),
        rootfs: Rootfs::Overlay {
            lower: vec!["/l1".into(), "/l0".into()],
            upper: "/u".into(),
            work: "/w".into(),
        },
        log: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        join_pid: None,
    }
}

fn v1() -> Placement {
    Placement {
        tasks: vec!["/cg/cpu/c/tasks".into(), "/cg/memory/c/tasks".into()],
        unified: Some("/cg/unified/c".into()),
        views: vec![
            View { name: "cpu,cpuacct".into(), path: "/cg/cpu,cpuacct/c".into() },
            View { name: "memory".into(), path: "/cg/memory/c".into() },
        ],
        links: vec![("cpu".into(), "cpu,cpuacct".into())],
        ..Placement::default()
    }
}

fn v2() -> Placement {
    Placement { unified: Some(PathBuf::from("/sys/fs/cgroup/c")), ..Placement::default() }
}

fn plan_on(spec: &ContainerSpec, sandbox: &SandboxSpec, cgroups: &Placement) -> Result<Plan, String> {
    container(
        spec,
        Context {
            sandbox,
            cgroups,
            place: Path::new("/run/place"),
            last_capability: 40,
            home: Some("/root"),
            gate: false,
            separate_layers: true,
        },
    )
    .map_err(|refusal| refusal.to_string())
}

fn plan(spec: &ContainerSpec) -> Result<Plan, String> {
    plan_on(spec, &SandboxSpec::new("s", "pods/s"), &v1())
}

fn described(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).collect()
}

/// Where a step is; panics if it is not there.
fn at(plan: &Plan, wanted: impl Fn(&Step) -> bool) -> usize {
    plan.steps.iter().position(wanted).unwrap_or_else(|| panic!("not in {:#?}", described(plan)))
}

#[test]
fn a_minimal_container_is_planned_in_order() {
    let plan = plan(&with(&[])).unwrap();
    let steps = described(&plan);
    let expected = [
        "joining the container's cgroups",
        "making a session",
        "making a session keyring",
        "setting oom_score_adj to 0",
        "making mounts private",
        "mounting an overlay of 2 layers on /",
        "making device /dev/null",
        "linking /dev/fd to /proc/self/fd",
        "making directory /",
        "opening /dev/null",
        "changing the root",
        "giving standard streams to user 0",
        "changing to directory /",
        "setting the umask",
        "bounding capabilities",
        "becoming user 0, group 0",
        "setting capabilities",
    ];
    let found: Vec<_> = steps.iter().filter(|step| expected.contains(&step.as_str())).collect();
    assert_eq!(found, expected);
    assert_eq!(plan.namespaces, u64::try_from(libc::CLONE_NEWNS | libc::CLONE_NEWPID).unwrap());
    let candidates: Vec<_> = plan.program.candidates.iter().map(ToString::to_string).collect();
    assert_eq!(candidates, ["/a/sh", "/b/sh"]);
    assert!(plan.program.env.iter().any(|variable| variable.to_string() == "HOME=/root"));
}

#[test]
fn the_host_is_opened_before_it_is_left_and_hidden_after() {
    let spec = with(&[
        (
            "/mounts",
            json!([
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/data", "type": "bind", "source": "/host/data", "options": ["rbind", "ro", "rshared"]},
                {"destination": "/data/sub", "source": "vol", "options": ["bind", "x-runtime.beneath=/volumes/1"]},
            ]),
        ),
        ("/linux/maskedPaths", json!(["/proc/kcore"])),
        ("/linux/readonlyPaths", json!(["/proc/sys"])),
        ("/linux/rootfsPropagation", json!("rslave")),
        ("/root/readonly", json!(true)),
    ]);
    let plan = plan(&spec).unwrap();
    let open = at(&plan, |step| matches!(step, Step::OpenBind { source, .. } if source.beneath.is_some()));
    let private = at(&plan, |step| matches!(step, Step::PrivateMounts));
    let place = at(&plan, |step| matches!(step, Step::PlaceBind { opened: 1, .. }));
    let readonly = at(&plan, |step| matches!(step, Step::ReadOnly { .. }));
    let mask = at(&plan, |step| matches!(step, Step::Mask { .. }));
    let root = at(&plan, |step| matches!(step, Step::ReadOnlyRoot));
    let pivot = at(&plan, |step| matches!(step, Step::PivotRoot));
    let propagation = at(&plan, |step| matches!(step, Step::RootPropagation { .. }));
    let order = [open, private, place, readonly, mask, root, pivot, propagation];
    assert!(order.is_sorted(), "{order:?}");
    let Step::OpenBind { recursive, attributes, .. } = &plan.steps[open - 1] else { panic!() };
    assert!(recursive);
    assert_eq!(
        *attributes,
        Attributes {
            set: super::RDONLY,
            propagation: libc::MS_SHARED,
            recursive_propagation: true,
            ..Attributes::default()
        }
    );
}

#[test]
fn a_filter_comes_when_it_may() {
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let order = |no_new_privileges: bool| {
        let plan = plan(&with(&[
            ("/linux/seccomp", seccomp.clone()),
            ("/process/noNewPrivileges", json!(no_new_privileges)),
        ]))
        .unwrap();
        let filter = at(&plan, |step| matches!(step, Step::Seccomp { .. }));
        let drop = at(&plan, |step| matches!(step, Step::Capabilities(_)));
        (filter > drop, filter + 1 == plan.steps.len())
    };
    assert_eq!(order(true), (true, true), "with no_new_privs it is the very last");
    assert_eq!(order(false), (false, false), "without, it needs capabilities that are dropped after it");
}

#[test]
fn shared_memory_is_the_sandboxs() {
    let spec = with(&[(
        "/mounts",
        json!([{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=1m"]}]),
    )]);
    let mut sandbox = SandboxSpec::new("s", "pods/s");
    let shared = |sandbox: &SandboxSpec| {
        let plan = plan_on(&spec, sandbox, &v1()).unwrap();
        plan.steps.iter().any(|step| matches!(step, Step::PlaceShm { .. }))
    };
    assert!(shared(&sandbox));
    sandbox.ipc = crate::spec::NamespaceMode::Host;
    assert!(!shared(&sandbox), "a tmpfs of the container's own");
}

#[test]
fn pid_namespaces_follow_the_sandbox() {
    let mut sandbox = SandboxSpec::new("s", "pods/s");
    for (mode, expected) in [(PidMode::Private, true), (PidMode::Shared, false), (PidMode::Host, false)] {
        sandbox.pid = mode;
        let plan = plan_on(&with(&[]), &sandbox, &v2()).unwrap();
        assert_eq!(plan.namespaces & 0x2000_0000 != 0, expected, "{mode:?}");
    }
}

#[test]
fn cgroups_are_shown_as_the_machine_has_them() {
    let spec = with(&[(
        "/mounts",
        json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}]),
    )]);
    let sandbox = SandboxSpec::new("s", "pods/s");
    let steps = |cgroups: &Placement| -> Vec<String> {
        let plan = plan_on(&spec, &sandbox, cgroups).unwrap();
        described(&plan).into_iter().filter(|step| step.contains("cg") || step.contains("cpu")).collect()
    };
    assert_eq!(
        steps(&v1()),
        [
            "joining the container's cgroups",
            "opening /cg/cpu,cpuacct/c for mounting",
            "opening /cg/memory/c for mounting",
            "mounting tmpfs on /sys/fs/cgroup",
            "mounting on /sys/fs/cgroup/cpu,cpuacct",
            "mounting on /sys/fs/cgroup/memory",
            "linking /sys/fs/cgroup/cpu to cpu,cpuacct",
            "setting attributes of the mount on /sys/fs/cgroup",
        ]
    );
    assert_eq!(steps(&v2()), ["opening /sys/fs/cgroup/c for mounting", "mounting on /sys/fs/cgroup"]);
}

#[test]
fn a_foreign_dev_is_left_alone() {
    let spec = with(&[(
        "/mounts",
        json!([{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}]),
    )]);
    let plan = plan(&spec).unwrap();
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::Device { .. } | Step::Symlink { .. })));
}

#[test]
fn a_read_only_dev_is_closed_after_devices_are_made() {
    let spec = with(&[(
        "/mounts",
        json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "nosuid"]}]),
    )]);
    let plan = plan(&spec).unwrap();
    let device = at(&plan, |step| matches!(step, Step::Device { .. }));
    let closed = at(&plan, |step| matches!(step, Step::Attributes { .. }));
    let made = at(&plan, |step| matches!(step, Step::Mount { .. }));
    assert!(made < device && device < closed);
    let Step::Mount { attributes, .. } = &plan.steps[made] else { panic!() };
    assert_eq!(attributes.set & super::RDONLY, 0);
}

#[test]
fn what_cannot_be_done_is_refused_with_its_field() {
    let check = |pointer: &str, value: Value, expected: &str| {
        let message = plan(&with(&[(pointer, value)])).unwrap_err();
        assert!(message.starts_with(expected), "{message:?} does not begin with {expected:?}");
    };
    check("/process/args", json!([]), "process.args: names no program");
    check("/process/cwd", json!("tmp"), "process.cwd: is not an absolute path");
    check("/process/args", json!(["a\u{0}b"]), "process.args: contains a NUL byte");
    check("/process/apparmorProfile", json!("strict"), "process.apparmorProfile: is not supported");
    check("/linux/namespaces", json!([{"type": "user"}]), "linux.namespaces: user namespaces");
    check(
        "/linux/sysctl",
        json!({"kernel.core_pattern": "|/x"}),
        "linux.sysctl[kernel.core_pattern]: does not",
    );
    check("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation: \"sideways\"");
    check("/mounts", json!([{"destination": "/", "type": "tmpfs"}]), "mounts[0].destination: is the root");
    check("/mounts", json!([{"destination": "/x", "type": "bind"}]), "mounts[0].source: is missing");
    check("/mounts", json!([{"destination": "/x"}]), "mounts[0].type: is missing");
    check(
        "/mounts",
        json!([{"destination": "/x", "type": "tmpfs", "options": ["mand"]}]),
        "mounts[0].options: mand is not supported",
    );
    check(
        "/process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]),
        "process.rlimits: RLIMIT_NOFILE: the soft limit",
    );
    check("/hooks", json!({"prestart": []}), "hooks: is not supported");
    let mut spec = with(&[]);
    spec.rootfs = Rootfs::Overlay { lower: vec![], upper: "/u".into(), work: "/w".into() };
    assert_eq!(plan(&spec).unwrap_err(), "rootfs: has no layer");
}

#[test]
fn capabilities_become_bits() {
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding([Capability::Chown, Capability::CheckpointRestore])
        .effective([Capability::NetBindService])
        .permitted([Capability::SysAdmin])
        .inheritable([])
        .ambient([])
        .build()
        .unwrap();
    let bits = super::process::capability_bits(Some(&sets), 39);
    assert_eq!(bits.bounding, 1, "what the kernel does not know is left out");
    assert_eq!((bits.effective, bits.permitted), (1 << 10, 1 << 21));
    assert_eq!(super::process::capability_bits(None, 40).bounding, 0, "no section, no capability");
}

#[test]
fn an_exec_has_the_containers_rights() {
    let spec = with(&[
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"})),
        ("/linux/namespaces", json!([{"type": "cgroup"}])),
        ("/process/noNewPrivileges", json!(true)),
        ("/process/oomScoreAdj", json!(1000)),
    ]);
    let sandbox = SandboxSpec::new("s", "pods/s");
    let cgroups = v1();
    let plan_exec = |exec: &ExecSpec| {
        super::exec(
            &spec,
            exec,
            Context {
                sandbox: &sandbox,
                cgroups: &cgroups,
                place: Path::new("/run/place"),
                last_capability: 40,
                home: None,
                gate: false,
                separate_layers: true,
            },
        )
    };
    let plan = plan_exec(&ExecSpec { argv: vec!["/bin/ls".into()], ..ExecSpec::default() }).unwrap();
    let names = described(&plan);
    for step in ["setting oom_score_adj to 1000", "setting no_new_privs", "installing the seccomp filter"] {
        assert!(names.iter().any(|name| name == step), "{step}");
    }
    let Step::JoinContainer { namespaces } =
        plan.steps[at(&plan, |s| matches!(s, Step::JoinContainer { .. }))]
    else {
        panic!()
    };
    assert_eq!(i32::try_from(namespaces).unwrap(), libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP);
    assert!(
        at(&plan, |s| matches!(s, Step::JoinCgroups { .. }))
            < at(&plan, |s| matches!(s, Step::JoinContainer { .. }))
    );
    // The container's environment, where none is given.
    assert_eq!(plan.program.env[0].to_string(), "PATH=/a:/b");

    let privileged = ExecSpec { argv: vec!["ls".into()], privileged: true, ..ExecSpec::default() };
    let plan = plan_exec(&privileged).unwrap();
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::Seccomp { .. } | Step::NoNewPrivileges)));
    let Step::Bound { keep } = plan.steps[at(&plan, |s| matches!(s, Step::Bound { .. }))] else { panic!() };
    assert_eq!(keep, (1 << 41) - 1);
}
