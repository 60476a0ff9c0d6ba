//! `coracle oci`: containers on their own, with runc's command line, for Podman, containerd and people.
//!
//! Thin: [`flags`] is what was typed, [`runtime::oci`] does it, [`log`] is how failures are told. It is a program
//! that starts, does one thing and ends, often many times a second: no async runtime, no threads, and of the
//! whole program nothing else is set up.

mod checkpoint;
mod flags;
mod log;
mod show;
mod update;

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use runtime::Signal;
use runtime::oci::{
    self, Attended, Console, CreateOptions, Created, Engine, ExecOptions, OciError, Overrides, Process,
};

use self::flags::{Command, ContainerArgs, ExecArgs, OciCli, RestoreArgs};
use self::log::Log;

/// What an `exec` that could not be done ends with; a program's own code is below.
const EXEC_FAILED: u8 = 255;

/// Runs the command line that begins after `coracle oci`.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut cli = match OciCli::try_parse_from(std::iter::once("coracle oci".into()).chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    // A file of the caller's may be one that it has open for us.
    let process = match &cli.command {
        Command::Exec(args) => args.process.clone().map(|path| {
            let text = std::fs::read(&path);
            (path, text)
        }),
        _ => None,
    };
    // Before anything is opened: what our caller has left open is not for containers, nor for us.
    let asked = match &mut cli.command {
        Command::Create(args) | Command::Run(args) => Some(&mut args.preserve_fds),
        Command::Restore(args) => Some(&mut args.container.preserve_fds),
        Command::Exec(args) => Some(&mut args.preserve_fds),
        _ => None,
    };
    // From here on what a container really gets.
    let closed = asked.map_or(Ok(()), |preserved| {
        *preserved = oci::close_leaked(preserved.saturating_add(listen_fds()))?;
        Ok::<_, std::io::Error>(())
    });
    let log = match Log::open(cli.log.as_deref(), cli.log_format, cli.debug) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("error: opening the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    let failed = if matches!(cli.command, Command::Exec(_)) { EXEC_FAILED } else { 1 };
    match closed.context("closing descriptors").and_then(|()| run(cli, process, &log)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log.error(&error);
            ExitCode::from(failed)
        }
    }
}

/// Where state lies if nobody says: with the instance's other handles.
fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/coracle/oci");
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/tmp/coracle-{}", rustix::process::geteuid().as_raw())),
        PathBuf::from,
    );
    own.join("coracle/oci")
}

/// A process file and what was in it.
type ProcessFile = (PathBuf, std::io::Result<Vec<u8>>);

fn run(cli: OciCli, process: Option<ProcessFile>, log: &Log) -> anyhow::Result<u8> {
    if cli.systemd_cgroup {
        anyhow::bail!("--systemd-cgroup: coracle makes cgroups itself and does not ask systemd for them");
    }
    if let (Command::List { .. }, Some(root)) = (&cli.command, &cli.root) {
        // The usual one is made when the first container is; one that was asked for ought to be there.
        std::fs::read_dir(root).with_context(|| format!("reading {}", root.display()))?;
    }
    let engine = Engine::new(cli.root.unwrap_or_else(default_root));
    match cli.command {
        Command::Create(args) => {
            let options = options(&args, true, log);
            let created = log.collect(|warnings| engine.create(&args.id, &options, warnings))?;
            log.debug(&created.trace);
        }
        Command::Run(args) => return run_container(&engine, &args, log),
        Command::Start { id } => log.warnings(&engine.start(&id)?),
        Command::State { id } => show::state(&engine.state(&id)?)?,
        Command::Kill { all, id, signal } => {
            let signal = match signal.as_deref().unwrap_or("SIGTERM") {
                "0" => Signal::NONE,
                signal => signal.parse()?,
            };
            engine.kill(&id, signal, all)?;
        }
        Command::Delete { force, id } => log.warnings(&engine.delete(&id, force)?),
        Command::Exec(args) => return exec(&engine, &args, process, log),
        Command::Ps { format, id, arguments } => {
            show::processes(&engine.processes(&id)?, format, &arguments)?
        }
        Command::Pause { id } => engine.freeze(&id, true)?,
        Command::Resume { id } => engine.freeze(&id, false)?,
        Command::Update(args) => engine.update(&args.id, &update::resources(&args)?)?,
        Command::Events { stats, interval, id } => show::events(&engine, &id, stats, &interval)?,
        Command::List { format, quiet } => show::list(&engine.list()?, format, quiet)?,
        Command::Spec { bundle, rootless } => show::spec(bundle, rootless)?,
        Command::Features => show::json(&oci::features())?,
        Command::Checkpoint(args) => {
            log.warnings(&engine.checkpoint(&args.id, &checkpoint::options(&args, cli.criu)?)?);
        }
        Command::Restore(args) => return restore(&engine, &args, cli.criu, log),
    }
    Ok(0)
}

/// Sockets that systemd or somebody like it passes on.
fn listen_fds() -> u32 {
    std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn options(args: &ContainerArgs, detached: bool, log: &Log) -> CreateOptions {
    let passed = listen_fds();
    CreateOptions {
        bundle: args.bundle.clone().unwrap_or_else(|| PathBuf::from(".")),
        console: args.console_socket.clone().map_or(Console::Keep, Console::Socket),
        pid_file: args.pid_file.clone(),
        preserved: args.preserve_fds,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        detached,
        extra_env: if passed > 0 {
            vec![format!("LISTEN_FDS={passed}"), "LISTEN_PID=1".to_owned()]
        } else {
            Vec::new()
        },
        pidfd_socket: args.pidfd_socket.clone(),
        give_device: Some(give_device),
        trace: log.tells_all(),
    }
}

/// Moves a network device into a container.
fn give_device(device: &str, netns: BorrowedFd<'_>, name: &str) -> std::io::Result<()> {
    network::host::give(device, netns, name).map_err(std::io::Error::other)
}

/// `restore`: as `run`, from a state that was kept.
fn restore(engine: &Engine, args: &RestoreArgs, criu: PathBuf, log: &Log) -> anyhow::Result<u8> {
    let container = &args.container;
    let attended = if container.detach { None } else { Some(oci::forward_signals()?) };
    let created = options(container, container.detach, log);
    let options = checkpoint::restore_options(args, created, criu);
    let restored = log.collect(|warnings| engine.restore(&container.id, &options, warnings))?;
    let Some(attended) = attended else { return Ok(0) };
    stay(engine, container, &attended, restored, log)
}

/// Stays with a container to its end, and removes it.
fn stay(
    engine: &Engine,
    args: &ContainerArgs,
    attended: &Attended,
    created: Created,
    log: &Log,
) -> anyhow::Result<u8> {
    let code = oci::attend(attended, &created.pidfd, created.terminal);
    if !args.keep {
        log.warnings(&engine.delete(&args.id, true)?);
    }
    Ok(exit_code(code?))
}

/// `run`: create, start, stay, delete.
fn run_container(engine: &Engine, args: &ContainerArgs, log: &Log) -> anyhow::Result<u8> {
    let attended = if args.detach { None } else { Some(oci::forward_signals()?) };
    let options = options(args, args.detach, log);
    let created = log.collect(|warnings| engine.create(&args.id, &options, warnings))?;
    log.debug(&created.trace);
    let started = engine.start(&args.id).map(|warnings| log.warnings(&warnings));
    match (started, attended) {
        (Err(error), _) => {
            log.warnings(&engine.delete(&args.id, true).unwrap_or_default());
            Err(error.into())
        }
        (Ok(()), None) => Ok(0),
        (Ok(()), Some(attended)) => stay(engine, args, &attended, created, log),
    }
}

fn exec(engine: &Engine, args: &ExecArgs, file: Option<ProcessFile>, log: &Log) -> anyhow::Result<u8> {
    let file = match file {
        Some((path, text)) => {
            let text = text.with_context(|| format!("reading {}", path.display()))?;
            Some((path, text))
        }
        None => None,
    };
    let overrides = Overrides {
        args: args.command.clone(),
        env: args.env.clone(),
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        additional_gids: args.additional_gids.clone(),
        tty: args.tty,
        capabilities: args.cap.clone(),
        no_new_privileges: args.no_new_privs,
        apparmor: args.apparmor.clone(),
        process_label: args.process_label.clone(),
    };
    let file = file.as_ref().map(|(path, text)| (path.as_path(), text.as_slice()));
    let (mut process, warnings): (Process, _) = oci::exec_process(engine, &args.id, file, &overrides)?;
    log.warnings(&warnings);
    if args.tty {
        process.set_terminal(Some(true));
    }
    let attended: Option<Attended> = if args.detach { None } else { Some(oci::forward_signals()?) };
    let executed = engine.exec(
        &args.id,
        &process,
        &ExecOptions {
            console: args.console_socket.clone().map_or(Console::Keep, Console::Socket),
            pid_file: args.pid_file.clone(),
            preserved: args.preserve_fds,
            detached: args.detach,
            ignore_paused: args.ignore_paused,
            cgroups: args.cgroup.clone(),
            pidfd_socket: args.pidfd_socket.clone(),
            trace: log.tells_all(),
        },
    )?;
    log.debug(&executed.trace);
    log.warnings(&executed.warnings);
    match attended {
        None => Ok(0),
        Some(attended) => Ok(exit_code(oci::attend(&attended, &executed.pidfd, executed.terminal)?)),
    }
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(EXEC_FAILED)
}

/// Whether a command makes processes in containers, for which this program must not be within their reach.
pub(crate) fn needs_sealing(arguments: impl Iterator<Item = OsString>) -> bool {
    // The command is the first word that is neither a flag nor a flag's value.
    let mut value = false;
    for argument in arguments {
        let Some(text) = argument.to_str() else { return true };
        if value {
            value = false;
        } else if matches!(text, "--root" | "--log" | "--log-format" | "--criu" | "--rootless") {
            value = true;
        } else if !text.starts_with('-') {
            return matches!(text, "create" | "run" | "exec");
        }
    }
    false
}

/// Puts the program out of containers' reach; says so if that fails, because then nothing may be done.
pub(crate) fn seal() -> Result<(), OciError> {
    oci::continue_sealed(std::path::Path::new("/tmp")).map_err(|source| OciError::Io {
        what: "making a copy of this program that containers cannot write".into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_enter_containers_are_known() {
        let check = |line: &str, expected: bool| {
            assert_eq!(needs_sealing(line.split(' ').map(OsString::from)), expected, "{line}");
        };
        check("create x", true);
        check("--root /run/x --log=/l --log-format json exec -t x sh", true);
        check("--root create state x", false);
        check("state run", false);
        check("--debug run x", true);
        check("--help", false);
    }
}
