//! One binary: flags, configuration, wiring, signals.
//!
//! [`flags`] is what was typed; [`instance`] is where this instance keeps its things; [`up`] builds the parts and
//! runs them; [`commands`] are the tools that a person types.

mod archive;
mod commands;
mod flags;
mod instance;
mod join;
mod logging;
mod nodes;
mod oci;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::flags::{Cli, Command};

/// musl's allocator takes one lock for all threads, and gives pages back with every large buffer: see
/// `docs/adr/0008-allocator.md` for what this one costs.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The hidden subcommand under which a pod's keeper runs.
const KEEPER: &str = "keeper";

/// The hidden subcommand that copies files into a container and out of it, from within.
const ARCHIVE: &str = "archive";

/// The subcommand that speaks runc's language.
const OCI: &str = "oci";

fn main() -> ExitCode {
    // A keeper is counted in kilobytes and lives as long as its pod: it starts before anything else exists.
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|first| first == KEEPER) {
        let rest: Vec<OsString> = arguments.collect();
        return ExitCode::from(u8::try_from(runtime::keeper::main(rest)).unwrap_or(1));
    }
    // So does a runtime command, which engines run several of for each container.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == OCI) {
        if oci::needs_sealing(std::env::args_os().skip(2))
            && let Err(error) = oci::seal()
        {
            eprintln!("{}", error_line(&error.into()));
            return ExitCode::FAILURE;
        }
        return oci::main(arguments);
    }
    // In a container there is nothing but this process.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == ARCHIVE) {
        return archive::main(arguments);
    }
    if vm::guest::is_init() {
        vm::guest::main();
    }
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<commands::Silent>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error_line(&error));
            ExitCode::from(error.downcast_ref::<commands::ExitStatus>().map_or(1, |status| status.0))
        }
    }
}

/// `error: what: why`, with every cause once.
pub(crate) fn error_line(error: &anyhow::Error) -> String {
    let mut line = String::from("error: ");
    let mut last = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Transparent wrappers repeat what is below them.
        if text == last || last.ends_with(&text) {
            continue;
        }
        if !last.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
        last = text;
    }
    line
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let daemon = matches!(
        cli.command,
        Command::Up(_) | Command::Server(_) | Command::Apiserver(_) | Command::Agent(_) | Command::Proxy(_)
    );
    if daemon {
        logging::start(&cli.log, cli.log_format)?;
    }
    match cli.command {
        Command::Up(args) => up::run_up(args),
        Command::Server(args) => up::run_server(args, true),
        Command::Apiserver(args) => up::run_server(args, false),
        Command::Agent(args) => up::run_agent(args),
        Command::Proxy(args) => up::proxy::run(args),
        Command::Down(args) => tool(up::down::run(args)),
        Command::Apply(args) => tool(commands::apply::run(args)),
        Command::Get(args) => tool(commands::get::run(args)),
        Command::Describe(args) => tool(commands::describe::run(args)),
        Command::Delete(args) => tool(commands::delete::run(args)),
        Command::Logs(args) => tool(commands::logs::run(args)),
        Command::Exec(args) => tool(commands::exec::run(args)),
        Command::Cp(args) => tool(commands::cp::run(args)),
        Command::Attach(args) => tool(commands::attach::run(args)),
        Command::PortForward(args) => tool(commands::port_forward::run(args)),
        Command::Rollout(args) => tool(commands::rollout::run(args)),
        Command::Top(args) => tool(commands::top::run(args)),
        Command::Events(args) => tool(commands::events::run(args)),
        Command::Why(args) => tool(commands::why::run(args)),
        Command::Plan(args) => tool(commands::plan::run(args)),
        Command::Scale(args) => tool(commands::scale::run(args)),
        Command::Wait(args) => tool(commands::wait::run(args)),
        Command::Node(args) => tool(commands::node::run(args)),
        Command::Token(args) => tool(commands::token::run(args)),
        Command::Image(args) => tool(commands::image::run(args)),
        Command::Vm(args) => tool(commands::vm::run(args)),
        Command::Store(args) => tool(commands::store::run(args)),
        Command::Check(args) => tool(commands::check::run(args)),
        Command::Oci { .. } => anyhow::bail!("`oci` must be the first argument"),
    }
}

/// Tools do one thing at a time: one thread is enough.
fn tool(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A read of standard input may still be under way on its thread; nobody waits for what it would bring.
    runtime.shutdown_background();
    result
}
