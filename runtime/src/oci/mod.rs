//! Containers on their own, by the OCI runtime specification: `create`, `start`, `state`, `kill`, `delete` and
//! what runc has beside them.
//!
//! There is no keeper here: a container's process is a child of whoever calls, is left to the caller's caller
//! when the call ends (conmon, a shim, an init), and all that later calls must know lies in one small directory:
//!
//! ```text
//!   <root>/<id>/              locked by whoever changes the container
//!   <root>/<id>/state.json    what was made; written beside and renamed
//!   <root>/<id>/config.json   the configuration as it was then
//!   <root>/<id>/start.sock    the created process listens here; gone when it has been started
//! ```
//!
//! The state is never stored: whether a container is created, running, paused or stopped is asked of the kernel.
//!
//! ```text
//!   create                                the new process
//!   ┌──────────────────────────┐ clone3   ┌──────────────────────────────────────────┐
//!   │ config → plan (pure)     │─────────▶│ runs the plan up to `Listen`             │
//!   │ cgroups, bind sources    │ packets  │   maps wanted, hooks wanted, terminal,   │
//!   │ id maps, runtime hooks   │◀────────▶│   warnings, a failed step, ready         │
//!   └──────────────────────────┘          │                                          │
//!   start ─── connects to start.sock ────▶│ startContainer hooks, filter, execve     │
//!         ◀── failed step, or closed ─────│                                          │
//!                                         └──────────────────────────────────────────┘
//! ```
//!
//! The module re-exports the vocabulary of the specification.

pub use oci_spec::runtime::*;

mod attend;
mod checkpoint;
mod create;
mod criu;
mod document;
mod error;
mod exec;
mod features;
mod hooks;
mod launch;
mod lifecycle;
mod parent;
mod process_file;
mod record;
mod restore;
mod sockets;
mod sources;
mod template;
mod usage;

pub use attend::{Attended, attend, forward_signals};
pub use checkpoint::{CheckpointOptions, CriuOptions, ManageCgroups};
pub use create::{Console, CreateOptions, Created, GiveDevice, now};
pub use error::OciError;
pub use exec::{ExecOptions, Executed};
pub use features::features;
pub use lifecycle::{Listed, StateView, Status};
pub use process_file::{Overrides, exec_process};
pub use restore::RestoreOptions;
pub use template::{rootless_template, template};
pub use usage::usage;

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::cgroup::{Layout, Tree};
use crate::seal::Sealed;
use crate::sys::process::{self, Strings};

#[cfg(fuzzing)]
pub(crate) use record::fuzz_record;

/// The name under which our sealed copy knows itself.
const SEALED: &str = "coracle (sealed)";

/// The containers below one root directory.
#[derive(Debug, Clone)]
pub struct Engine {
    root: PathBuf,
}

impl Engine {
    /// The containers whose state lies in `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn tree(&self) -> Result<Tree, OciError> {
        Ok(Tree::new(Layout::detect().map_err(OciError::Cgroup)?, String::new()))
    }
}

/// Goes on in a copy of this program that containers cannot write; see `crate::seal` for the attack. To be called
/// first thing in a process that will make processes in containers, with `place` a directory for scratch.
pub fn continue_sealed(place: &Path) -> io::Result<()> {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| name == SEALED) {
        return Ok(());
    }
    let sealed = Sealed::new(Path::new("/proc/self/exe"), place)?;
    let text = |value: std::ffi::OsString| CString::new(value.into_vec()).map_err(io::Error::from);
    let argv = std::iter::once(Ok(c"coracle (sealed)".to_owned())).chain(arguments.map(text));
    let env = std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        text(key)
    });
    let argv = Strings::new(argv.collect::<io::Result<_>>()?);
    let env = Strings::new(env.collect::<io::Result<_>>()?);
    let program = CString::new(sealed.path().into_os_string().into_vec())?;
    Err(process::execve(&program, &argv, &env).into())
}

/// Most descriptors after the standard ones that a container can get.
const MAX_PRESERVED: u32 = 1 << 16;

/// Closes what our caller has left open beyond the descriptors that a container is to get. To be called before
/// anything is opened. Gives how many descriptors after the standard ones a container gets: up to the last of
/// `preserved` that is open.
///
/// What is not open among them is taken by something that ends with execve; what we open ourselves would take its
/// number, and go to the container.
pub fn close_leaked(preserved: u32) -> io::Result<u32> {
    let preserved = preserved.min(MAX_PRESERVED);
    process::close_from(3 + preserved)?;
    let open = |number: &u32| process::is_open(*number);
    let last = (3..3 + preserved).rev().find(open).unwrap_or(2);
    if let Some(first) = (3..last).find(|number| !open(number)) {
        // It has the first of the free numbers itself, and keeps it.
        let null = std::mem::ManuallyDrop::new(std::fs::File::open("/dev/null")?);
        for number in (first..last).filter(|number| !open(number)) {
            process::take_number(null.as_fd(), number)?;
        }
    }
    Ok(last - 2)
}
