//! `coracle attach`: the container's own process, over the same WebSocket as `exec`.

use anyhow::bail;
use clap::Args;
use rustix::termios;

use super::logs::{default_container, find_pod};
use super::resources::encode;
use super::{Session, exec};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coracle attach web\n  coracle attach -it shell\n\n\
                        Only what is written from now on is shown; `coracle logs` has what was written before.\n\
                        Input needs a container with `stdin: true`, a terminal one with `tty: true` as well.")]
pub(crate) struct AttachArgs {
    /// POD, or TYPE/NAME of something that has pods
    #[arg(value_name = "POD")]
    pod: String,
    /// Container [default: the only one, or the first]
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Standard input is a terminal, and so is the container's
    #[arg(long, short = 't')]
    tty: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: AttachArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let pod = find_pod(&session, &args.pod).await?;
    let container = match &args.container {
        Some(container) => container.clone(),
        None => default_container(&pod)?,
    };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let mut all = lists.iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let Some(defined) = all.find(|defined| defined["name"] == container.as_str()) else {
        bail!("container {container} is not valid for pod {name}");
    };
    let is = |field: &str| defined[field].as_bool().unwrap_or(false);
    if args.stdin && !is("stdin") {
        bail!("container {container} takes no input: its pod has to be created with `stdin: true`");
    }
    let mut tty = args.tty && termios::isatty(rustix::stdio::stdin());
    if tty && !is("tty") {
        eprintln!("Unable to use a TTY - container {container} did not allocate one");
        tty = false;
    }
    // A terminal has one stream for both, also for whoever only looks on.
    let stderr = !is("tty");
    let path = session.resource("pods").await?.object(&session.namespace, name)
        + &format!(
            "/attach?container={}&stdout=true&stderr={stderr}&stdin={}&tty={}",
            encode(&container),
            args.stdin,
            is("tty")
        );
    exec::stream(&session, path, args.stdin, tty).await
}
