//! The plan of a further process in a running container.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process};

use super::container::{Context, exists, has_namespace, own_streams};
use super::step::{CapabilityBits, Plan, Program, Step};
use super::{Refusal, path_text, process, refuse};
use crate::spec::{ContainerSpec, ExecSpec};

/// Plans an exec. The process joins the container's cgroups before its namespaces, because afterwards the
/// host's files are out of reach; everything else it does inside.
pub(crate) fn exec(
    container: &ContainerSpec,
    exec: &ExecSpec,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let no_linux = Linux::default();
    let linux = container.spec.linux().as_ref().unwrap_or(&no_linux);
    let no_process = Process::default();
    let init = container.spec.process().as_ref().unwrap_or(&no_process);
    let user = exec.user.as_ref().unwrap_or(init.user());
    let cwd = exec.cwd.as_ref().unwrap_or(init.cwd());
    if !cwd.is_absolute() {
        return refuse("cwd", "is not an absolute path");
    }

    let users = context.sandbox.users;
    if let Some(users) = users {
        exists(user, users)?;
    }
    let mut steps = Vec::with_capacity(16);
    if exec.own_program {
        steps.push(Step::OpenOwnProgram);
    }
    if !context.cgroups.tasks.is_empty() {
        let tasks = context.cgroups.tasks.iter().map(|path| path_text("cgroup", path));
        steps.push(Step::JoinCgroups { tasks: tasks.collect::<Result<_, _>>()? });
    }
    steps.push(Step::OomScoreAdj { value: init.oom_score_adj().unwrap_or(0) });
    // The pid namespace is entered by being born in it; network, IPC and UTS are the keeper's own.
    let cgroup = if has_namespace(linux, LinuxNamespaceType::Cgroup) { libc::CLONE_NEWCGROUP } else { 0 };
    steps.push(Step::JoinContainer { namespaces: u32::try_from(libc::CLONE_NEWNS | cgroup).unwrap_or(0) });
    steps.push(Step::NewSession);
    if users.is_none() {
        steps.push(Step::NewKeyring);
    }
    if exec.tty {
        steps.push(Step::Terminal { size: exec.window, console: false });
    } else if !exec.stdin {
        steps.push(Step::NullInput);
    }
    steps.push(own_streams(user, users));
    steps.extend(process::limits(init)?);
    if users.is_some() {
        steps.push(Step::EnterUsers { own_mounts: false });
        steps.push(Step::NewKeyring);
    }
    steps.push(Step::WorkingDirectory { path: path_text("cwd", cwd)? });
    let (capabilities, no_new_privileges, filter) = if exec.privileged {
        let all = u64::MAX >> (63 - context.last_capability.min(63));
        let sets =
            CapabilityBits { bounding: all, effective: all, permitted: all, inheritable: 0, ambient: 0 };
        (sets, false, None)
    } else {
        (
            process::capability_bits(init.capabilities().as_ref(), context.last_capability),
            init.no_new_privileges().unwrap_or(false),
            process::filter(linux.seccomp().as_ref())?,
        )
    };
    steps.extend(process::rights(user, capabilities, no_new_privileges, filter, Vec::new(), Vec::new()));

    let env = exec.env.as_deref().or(init.env().as_deref()).unwrap_or_default();
    Ok(Plan {
        namespaces: 0,
        cgroup: match &context.cgroups.unified {
            Some(path) => Some(path_text("cgroup", path)?),
            None => None,
        },
        steps,
        program: Program {
            own: exec.own_program,
            ..process::program("argv", &exec.argv, env, context.home)?
        },
    })
}
