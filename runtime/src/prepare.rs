//! What a caller's side does before and after a container: descriptions, cgroups, plans. All of it blocks on
//! file operations.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{RemoveError, StartContainerError};
use crate::kernel;
use crate::plan::text::Text;
use crate::plan::{self, Context, Refusal};
use crate::protocol::{self, CgroupFiles, Create};
use crate::runtime::Runtime;
use crate::spec::{ContainerSpec, ExecSpec, Rootfs, SandboxSpec};
use crate::user;

/// Processes that have been killed can hang in the kernel for a while.
pub(crate) const END_PATIENCE: Duration = Duration::from_secs(30);

/// Everything before the clone: the description on disk, the cgroup, the plan. Blocks.
pub(crate) fn prepare(
    runtime: &Runtime,
    sandbox: &SandboxSpec,
    container: &ContainerSpec,
    gate: bool,
) -> Result<Create, StartContainerError> {
    let resources = container.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let directory = runtime.records.container_directory(&sandbox.id, &container.id);
    runtime
        .records
        .write_container(&sandbox.id, container)
        .map_err(|source| StartContainerError::Record { path: directory, source })?;
    if let Some(directory) = container.log.as_ref().and_then(|log| log.path.parent()) {
        std::fs::create_dir_all(directory)
            .map_err(|source| StartContainerError::Record { path: directory.to_owned(), source })?;
    }
    if let Rootfs::Overlay { work, .. } = &container.rootfs {
        // What an earlier use of the layer has left to say that it was never synced. The caller has been told
        // what that means.
        let _ = std::fs::remove_dir_all(work.join("work/incompat"));
    }
    if let (Rootfs::Overlay { upper, .. }, Some(users)) = (&container.rootfs, sandbox.users) {
        // It is the container's `/`. What lies in it has got its owners from the container already.
        std::os::unix::fs::chown(upper, Some(users.first), Some(users.first))
            .map_err(|source| StartContainerError::Record { path: upper.clone(), source })?;
    }
    let placement = runtime
        .tree
        .create_container(&sandbox.cgroup, &container.id, resources)
        .map_err(StartContainerError::Cgroup)?;
    let process = container.spec.process().as_ref();
    let home = home(
        process.and_then(|process| process.env().as_deref()),
        process.map(|p| p.user().uid()),
        container,
    );
    let place = runtime.records.run_directory(&sandbox.id);
    let plan = plan::container(
        container,
        Context {
            sandbox,
            cgroups: &placement,
            place: &place,
            last_capability: runtime.last_capability,
            home: home.as_deref(),
            gate,
            separate_layers: kernel::has_separate_layers(),
        },
    )
    .map_err(|refusal| StartContainerError::Invalid { field: refusal.field, reason: refusal.reason })?;
    let file =
        |path: Option<&PathBuf>| path.and_then(|path| path.to_str()).and_then(|path| Text::new(path).ok());
    let tty = process.and_then(|process| process.terminal()).unwrap_or(false);
    let record = runtime.records.exit_file(&sandbox.id, &container.id);
    Ok(Create {
        container: container.id.clone(),
        plan,
        log: container.log.clone(),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty || tty,
        join_pid: container.join_pid.clone(),
        record: file(Some(&record)).ok_or_else(|| StartContainerError::Invalid {
            field: "stateDir".to_owned(),
            reason: "is not UTF-8".to_owned(),
        })?,
        files: CgroupFiles {
            oom: file(placement.oom.as_ref()),
            kill: file(placement.kill.as_ref()),
            procs: file(placement.procs.as_ref()),
        },
    })
}

/// The home directory for an environment that does not name one, as its password file says.
fn home(env: Option<&[String]>, uid: Option<u32>, container: &ContainerSpec) -> Option<String> {
    if env.unwrap_or_default().iter().any(|variable| variable.starts_with("HOME=")) {
        return None;
    }
    Some(user::home(&container.rootfs, uid.unwrap_or(0)).unwrap_or_else(|_| "/".to_owned()))
}

/// A refusal on its way through an `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Refused(#[from] pub(crate) Refusal);

/// Everything before the clone of an exec. Blocks.
pub(crate) fn plan_exec(
    runtime: &Runtime,
    sandbox: &SandboxSpec,
    id: &str,
    spec: &ExecSpec,
) -> io::Result<protocol::Exec> {
    let container = runtime.records.container(&sandbox.id, id)?;
    let placement = runtime.tree.container(&sandbox.cgroup, id);
    let process = container.spec.process().as_ref();
    let env = spec.env.as_deref().or_else(|| process.and_then(|process| process.env().as_deref()));
    let uid =
        spec.user.as_ref().map(|user| user.uid()).or_else(|| process.map(|process| process.user().uid()));
    let home = home(env, uid, &container);
    let place = runtime.records.run_directory(&sandbox.id);
    let plan = plan::exec(
        &container,
        spec,
        Context {
            sandbox,
            cgroups: &placement,
            place: &place,
            last_capability: runtime.last_capability,
            home: home.as_deref(),
            gate: false,
            separate_layers: kernel::has_separate_layers(),
        },
    )
    .map_err(|refusal| io::Error::other(Refused(refusal)))?;
    Ok(protocol::Exec {
        container: id.to_owned(),
        plan,
        stdin: spec.stdin,
        tty: spec.tty,
        window: spec.window,
    })
}

/// Removes cgroup and files of a container whose process has ended. Blocks.
pub(crate) fn remove_traces(
    runtime: &Runtime,
    sandbox: &SandboxSpec,
    container: &str,
) -> Result<(), RemoveError> {
    let left = runtime.tree.kill_all(&sandbox.cgroup, Some(container), END_PATIENCE);
    if left > 0 {
        return Err(RemoveError::Alive { id: container.to_owned(), processes: left });
    }
    runtime
        .tree
        .remove(&sandbox.cgroup, Some(container))
        .map_err(|source| RemoveError::Cgroup { id: container.to_owned(), source })?;
    runtime.records.remove_container(&sandbox.id, container).map_err(|source| RemoveError::Files {
        path: runtime.records.container_directory(&sandbox.id, container),
        source,
    })
}
