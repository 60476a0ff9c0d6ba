//! The side of whoever makes a process: what it does while the process is being made.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{ContainerState, Hooks, Spec};
use rustix::termios::{OptionalActions, OutputModes};

use super::create::is_root;
use super::launch::{Parent, Words, follow, go};
use super::record::Record;
use super::sources::{OwnUser, mapping};
use super::{OciError, hooks, sockets};
use crate::plan::IdMap;

/// What the parent does while the process is being made.
pub(super) struct Helper<'a> {
    pub(super) record: &'a Record,
    pub(super) hooks: Option<&'a Hooks>,
    pub(super) user: OwnUser<'a>,
    /// Mappings that are asked for one after the other.
    pub(super) maps_late: &'a [IdMap],
    pub(super) console: Option<OwnedFd>,
    pub(super) terminal: Option<OwnedFd>,
    /// What a seccomp agent is told about the container.
    pub(super) status: ContainerState,
    /// The specification's seccomp section, for its listener.
    pub(super) seccomp: Option<&'a oci_spec::runtime::LinuxSeccomp>,
}

impl Parent for Helper<'_> {
    fn map_ids(&mut self) -> Result<(), OciError> {
        let OwnUser::New((uids, gids)) = self.user else { return Ok(()) };
        let pid = self.record.pid;
        let own = rustix::process::geteuid().as_raw();
        if !is_root() && (uids.lines().count() > 1 || !uids.contains(&format!(" {own} 1"))) {
            helper_program("newuidmap", pid, uids)?;
            return helper_program("newgidmap", pid, gids);
        }
        let write = |file: &str, text: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, text).map_err(|source| OciError::Step {
                step: format!("mapping ids: writing {:?} to {path}", text.trim().replace('\n', "; ")),
                source,
            })
        };
        if !is_root() {
            write("setgroups", "deny")?;
        }
        write("uid_map", uids)?;
        write("gid_map", gids)
    }

    fn map_mount(&mut self, mount: &OwnedFd) -> Result<(), OciError> {
        let failed = OciError::io("mapping the ids of a mount");
        let Some((map, rest)) = self.maps_late.split_first() else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        };
        self.maps_late = rest;
        let namespace = mapping(map, self.user)?;
        crate::sys::mount::map_ids(mount, namespace.as_fd(), map.recursive)
            .map_err(|errno| failed(errno.into()))
    }

    fn hooks(&mut self) -> Result<Vec<u8>, OciError> {
        let state = hooks::state_text(self.record, ContainerState::Creating, self.record.pid);
        if let Some(all) = self.hooks {
            hooks::run("prestart", all.prestart().as_deref(), &state)?;
            hooks::run("createRuntime", all.create_runtime().as_deref(), &state)?;
        }
        Ok(state)
    }

    fn terminal(&mut self, terminal: OwnedFd) -> Result<(), OciError> {
        match self.console.take() {
            Some(socket) => sockets::send(&socket, b"/dev/ptmx", terminal.as_fd())
                .map_err(OciError::io("sending the terminal to the console socket")),
            None => {
                // What the program writes is passed on as it is: without the carriage returns that a terminal
                // adds by default.
                if let Ok(mut modes) = rustix::termios::tcgetattr(&terminal) {
                    modes.output_modes.remove(OutputModes::ONLCR);
                    let _ = rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &modes);
                }
                self.terminal = Some(terminal);
                Ok(())
            }
        }
    }

    fn listener(&mut self, listener: OwnedFd) -> Result<(), OciError> {
        let Some(path) = self.seccomp.and_then(|seccomp| seccomp.listener_path().as_deref()) else {
            let reason = "is missing, and the profile notifies".to_owned();
            return Err(OciError::Invalid { field: "linux.seccomp.listenerPath".to_owned(), reason });
        };
        let metadata = self.seccomp.and_then(|seccomp| seccomp.listener_metadata().clone());
        let mut message = serde_json::json!({
            "ociVersion": self.record.oci_version,
            "fds": ["seccompFd"],
            "pid": self.record.pid,
            "state": hooks::state(self.record, self.status, self.record.pid),
        });
        if let Some(metadata) = metadata {
            message["metadata"] = metadata.into();
        }
        let message = serde_json::to_vec(&message).unwrap_or_default();
        sockets::connect(path)
            .and_then(|socket| sockets::send(&socket, &message, listener.as_fd()))
            .map_err(OciError::io(format!("failed to connect with seccomp agent at {}", path.display())))
    }
}

/// Maps ids by the set-user-id program that unprivileged users have for it.
fn helper_program(program: &str, pid: i32, lines: &str) -> Result<(), OciError> {
    let output = std::process::Command::new(program)
        .arg(pid.to_string())
        .args(lines.split_whitespace())
        .output()
        .map_err(OciError::io(format!("running {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(OciError::Io { what: format!("mapping ids by {program}"), source: io::Error::other(words) })
}

/// Opens the gate of a created process, and follows it to its program.
pub(super) fn open_gate(
    connection: &OwnedFd,
    record: &Record,
    spec: &Spec,
    warnings: &mut Vec<String>,
) -> Result<(), OciError> {
    let linux = spec.linux().as_ref();
    let mut helper = Helper {
        record,
        hooks: None,
        user: OwnUser::None,
        maps_late: &[],
        console: None,
        terminal: None,
        status: ContainerState::Created,
        seccomp: linux.and_then(|linux| linux.seccomp().as_ref()),
    };
    let step = |number: usize| {
        let late = number.checked_sub(record.late_from)?;
        record.late.get(late).map(|words| (words.clone(), false))
    };
    let words = Words { step: &step, program: &record.program };
    go(connection, &hooks::state_text(record, ContainerState::Created, record.pid))?;
    follow(connection, &words, &mut helper, warnings).map(drop)
}
