//! `coracle image`

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use image::oci_spec::image::{Config, ConfigBuilder};
use image::{Auth, Image, ImageStore, Progress, PullOptions, Reference};

use super::output::align;
use super::{print, say};
use crate::flags::InstanceArgs;
use crate::instance::Instance;

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Take images from a file: an OCI layout (folder or archive) or what `docker save` wrote; - is standard input
    Import(ImportArgs),
    /// Fetch an image from its registry
    Pull(PullArgs),
    /// Show the images of this machine
    List(ListArgs),
    /// Take a name away; content that no name and no pod needs goes
    Remove(RemoveArgs),
    /// Write an image as an OCI archive
    Export(ExportArgs),
    /// Make an image of one layer from a folder or an archive with a root file system
    BuildRootfs(BuildArgs),
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// File, folder, or - for standard input
    source: PathBuf,
    /// Name for the image, instead of that in the file
    #[arg(long, value_name = "REFERENCE")]
    name: Option<String>,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct PullArgs {
    /// Such as nginx, registry.example/app:1 or app@sha256:…
    reference: String,
    /// USER:PASSWORD for the registry; without it ~/.docker/config.json is looked into
    #[arg(long, value_name = "USER:PASSWORD", env = "CORACLE_REGISTRY_CREDENTIALS", hide_env_values = true)]
    credentials: Option<String>,
    /// Speak to this registry without TLS; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    plain_http: Vec<String>,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// One JSON object per image
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Name or id
    name: String,
    /// The archive to write; - is standard output
    target: PathBuf,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// Folder or tar archive with a root file system
    rootfs: PathBuf,
    /// Name for the image
    #[arg(long, value_name = "REFERENCE")]
    name: String,
    /// Argument of the image's entrypoint; repeat for more
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// Argument of the image's command; repeat for more
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// Environment variable NAME=VALUE; repeat for more
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// User, or user:group, by name or number
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    instance: InstanceArgs,
}

pub(crate) async fn run(args: ImageArgs) -> anyhow::Result<()> {
    match args.command {
        ImageCommand::Import(args) => import(args),
        ImageCommand::Pull(args) => pull(args).await,
        ImageCommand::List(args) => list(args),
        ImageCommand::Remove(args) => remove(args),
        ImageCommand::Export(args) => export(args),
        ImageCommand::BuildRootfs(args) => build(args),
    }
}

fn open(args: &InstanceArgs) -> anyhow::Result<Arc<ImageStore>> {
    let instance = Instance::new(args)?;
    let directory = instance.image_dir();
    ImageStore::open(&directory).with_context(|| format!("opening the images in {}", directory.display()))
}

fn announce(verb: &str, image: &Image) -> anyhow::Result<()> {
    let name = image.names.first().cloned().unwrap_or_else(|| image.id.to_string());
    say(format_args!(
        "{verb} {name} ({}, {} layers, {})",
        short(image),
        image.layers.len(),
        human(image.size)
    ))
}

fn import(args: ImportArgs) -> anyhow::Result<()> {
    let name = args.name.as_deref().map(Reference::from_str).transpose()?;
    let store = open(&args.instance)?;
    let images = if args.source == Path::new("-") {
        store.import_stream(std::io::stdin().lock(), name.as_ref())
    } else {
        store.import(&args.source, name.as_ref())
    };
    let images = images.with_context(|| format!("importing {}", args.source.display()))?;
    images.iter().try_for_each(|image| announce("imported", image))
}

async fn pull(args: PullArgs) -> anyhow::Result<()> {
    let reference = Reference::from_str(&args.reference)?;
    let store = open(&args.instance)?;
    let options = PullOptions {
        auth: auth(&args, &reference)?,
        plain_http: args.plain_http.clone(),
        ..PullOptions::default()
    };
    let progress = Progress::default();
    let shown = rustix::termios::isatty(rustix::stdio::stderr());
    let pull = store.pull(&reference, &options, &progress);
    tokio::pin!(pull);
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let image = loop {
        tokio::select! {
            image = &mut pull => break image,
            _ = ticks.tick(), if shown => {
                let now = progress.now();
                eprint!("\r{}: {} of {}, {} of {} layers   ", args.reference, human(now.bytes), human(now.total_bytes), now.layers, now.total_layers);
            }
        }
    };
    if shown {
        eprint!("\r\x1b[K");
    }
    announce("pulled", &image?)
}

/// Who we are at the registry: as said on the command line, or as Docker's configuration says.
fn auth(args: &PullArgs, reference: &Reference) -> anyhow::Result<Auth> {
    if let Some(credentials) = &args.credentials {
        let Some((user, password)) = credentials.split_once(':') else {
            bail!("--credentials is not USER:PASSWORD")
        };
        return Ok(Auth::Basic { user: user.to_owned(), password: password.to_owned() });
    }
    let Some(home) = std::env::var_os("HOME") else { return Ok(Auth::default()) };
    let path = PathBuf::from(home).join(".docker/config.json");
    let mut json = Vec::new();
    match std::fs::File::open(&path) {
        Ok(file) => file
            .take(1 << 20)
            .read_to_end(&mut json)
            .with_context(|| format!("reading {}", path.display()))?,
        Err(_) => return Ok(Auth::default()),
    };
    let found =
        Auth::from_docker_config(&json, reference).with_context(|| format!("reading {}", path.display()))?;
    Ok(found.unwrap_or_default())
}

fn list(args: ListArgs) -> anyhow::Result<()> {
    let images = open(&args.instance)?.list()?;
    if args.json {
        for image in &images {
            let layers: Vec<_> = image.layers.iter().map(|layer| layer.display().to_string()).collect();
            say(
                serde_json::json!({"id": image.id.to_string(), "digest": image.manifest.to_string(), "names": image.names,
                                   "size": image.size, "layers": layers}),
            )?;
        }
        return Ok(());
    }
    let mut rows = vec![["NAME", "ID", "LAYERS", "SIZE"].map(str::to_owned).to_vec()];
    for image in &images {
        let names = if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names.clone() };
        rows.extend(
            names
                .into_iter()
                .map(|name| vec![name, short(image), image.layers.len().to_string(), human(image.size)]),
        );
    }
    print(&align(&rows))
}

fn remove(args: RemoveArgs) -> anyhow::Result<()> {
    let store = open(&args.instance)?;
    let mut missing = Vec::new();
    for name in &args.names {
        match store.remove(name)? {
            Some(removed) => removed.names.iter().try_for_each(|name| say(format_args!("removed {name}")))?,
            None => missing.push(name.as_str()),
        }
    }
    if !missing.is_empty() {
        bail!("no such image: {}", missing.join(", "));
    }
    Ok(())
}

fn export(args: ExportArgs) -> anyhow::Result<()> {
    let store = open(&args.instance)?;
    if args.target == Path::new("-") {
        return Ok(store.export_to(&args.name, std::io::stdout().lock())?);
    }
    store.export(&args.name, &args.target)?;
    say(format_args!("wrote {}", args.target.display()))
}

fn build(args: BuildArgs) -> anyhow::Result<()> {
    let name = Reference::from_str(&args.name)?;
    let config = config(&args)?;
    let image = open(&args.instance)?.build_rootfs(&args.rootfs, &name, config);
    announce("built", &image.with_context(|| format!("building from {}", args.rootfs.display()))?)
}

fn config(args: &BuildArgs) -> anyhow::Result<Config> {
    let mut env = args.env.clone();
    if let Some(wrong) = env.iter().find(|variable| !variable.contains('=')) {
        bail!("--env {wrong:?} is not NAME=VALUE");
    }
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.insert(0, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    let mut builder = ConfigBuilder::default().env(env);
    if !args.entrypoint.is_empty() {
        builder = builder.entrypoint(args.entrypoint.clone());
    }
    if !args.cmd.is_empty() {
        builder = builder.cmd(args.cmd.clone());
    }
    if let Some(directory) = &args.workdir {
        builder = builder.working_dir(directory.clone());
    }
    if let Some(user) = &args.user {
        builder = builder.user(user.clone());
    }
    builder.build().context("building the image's configuration")
}

fn short(image: &Image) -> String {
    image.id.to_string().trim_start_matches("sha256:").chars().take(12).collect()
}

/// Bytes as people read them.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
