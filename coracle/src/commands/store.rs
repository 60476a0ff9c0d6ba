//! `coracle store`: copies of everything that the API server keeps.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use client::Client;
use futures_util::{Stream, StreamExt, TryStreamExt as _};
use store::Store;
use store::archive::{self, Archive};
use store::embedded::{EmbeddedStore, OpenError};

use super::say;
use crate::flags::{EtcdArgs, InstanceArgs};
use crate::instance::Instance;
use crate::up::control_plane::open_etcd;

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Write a copy of everything into a file, while the cluster goes on
    #[command(
        after_help = "The copy is of one moment and has every object, Secrets included: the file is readable by its owner alone.\n\
                            Of this machine's embedded store: a running server is asked for it, a file at rest is read.\n\n\
                            coracle store backup monday.copy\n  \
                            coracle store backup monday.copy --etcd-servers http://10.0.0.1:2379"
    )]
    Backup {
        /// The file to write; one of that name is replaced when the copy is whole
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Make an empty store from a copy
    #[command(
        after_help = "The server must not run, and the store must be empty: move <data-dir>/store away first.\n\
                            The embedded store goes on with the revisions of the copy. etcd gives new ones, so clients list again.\n\n\
                            coracle store restore monday.copy"
    )]
    Restore {
        /// The file that `coracle store backup` wrote
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Copy one store into another, empty one: from the embedded store to etcd, or back
    #[command(
        after_help = "A place is a directory that holds an embedded store (<data-dir>/store), or the URLs of an etcd.\n\
                            Stop the server first: what it writes later is not in the copy.\n\n\
                            coracle store copy --from /var/lib/coracle/store --to http://10.0.0.1:2379,http://10.0.0.2:2379"
    )]
    Copy {
        /// Where to read: a directory, or the URLs of an etcd
        #[arg(long, value_name = "DIR|URL,…")]
        from: String,
        /// Where to write: a directory, or the URLs of an etcd
        #[arg(long, value_name = "DIR|URL,…")]
        to: String,
        #[command(flatten)]
        tls: EtcdTls,
    },
}

/// Which store is meant.
#[derive(Debug, Args)]
struct Place {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
}

/// How to reach an etcd over TLS.
#[derive(Debug, Args)]
struct EtcdTls {
    /// CA certificate of the etcd servers
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
}

impl EtcdTls {
    /// Flags for the etcd at these URLs.
    fn at(&self, urls: &str) -> EtcdArgs {
        EtcdArgs {
            etcd_servers: urls.split(',').map(str::to_owned).collect(),
            etcd_cafile: self.etcd_cafile.clone(),
            etcd_certfile: self.etcd_certfile.clone(),
            etcd_keyfile: self.etcd_keyfile.clone(),
        }
    }
}

/// Whether a place is an etcd and no directory.
fn is_etcd(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}

pub(crate) async fn run(args: StoreArgs) -> anyhow::Result<()> {
    match args.command {
        StoreCommand::Backup { file, place } => backup(&file, &place).await,
        StoreCommand::Restore { file, place } => {
            let count = if place.etcd.etcd_servers.is_empty() {
                let instance = Instance::new(&place.instance)?;
                restore_embedded(&instance.data_dir.join("store"), open_file(&file)?).await?
            } else {
                restore_etcd(&place.etcd, open_file(&file)?).await?
            };
            say(format!("restored {count} keys"))
        }
        StoreCommand::Copy { from, to, tls } => {
            let source =
                if is_etcd(&from) { open_etcd(&tls.at(&from)).await? } else { open_embedded(&from).await? };
            // By way of a file without a name: whole before a byte is written to the other store.
            let mut file = tempfile::tempfile().context("making a temporary file")?;
            write(&mut file, archive::stream(source).map_err(anyhow::Error::from)).await?;
            file.rewind()?;
            let count = if is_etcd(&to) {
                restore_etcd(&tls.at(&to), file).await?
            } else {
                restore_embedded(Path::new(&to), file).await?
            };
            say(format!("copied {count} keys"))
        }
    }
}

fn open_file(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

async fn open_embedded(directory: &str) -> anyhow::Result<Arc<dyn Store>> {
    let path = PathBuf::from(directory);
    if !path.join("store.redb").exists() {
        bail!("{directory} holds no store: the embedded store of an instance is in <data-dir>/store");
    }
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(path, Default::default()));
    Ok(Arc::new(opened.await?.context("opening the embedded store (stop its server first)")?))
}

async fn backup(path: &Path, place: &Place) -> anyhow::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .with_context(|| format!("creating {}", beside.display()))?;
    if let Err(error) = copy_into(&mut file, place).await {
        // Half a copy is of no use to anybody.
        _ = fs::remove_file(&beside);
        return Err(error);
    }
    file.sync_all().with_context(|| format!("syncing {}", beside.display()))?;
    let (revision, count) = Archive::open(BufReader::new(open_file(&beside)?))?.verify()?;
    fs::rename(&beside, path).with_context(|| format!("renaming to {}", path.display()))?;
    say(format!("{}: {count} keys at revision {revision}", path.display()))
}

async fn copy_into(file: &mut File, place: &Place) -> anyhow::Result<()> {
    if !place.etcd.etcd_servers.is_empty() {
        let etcd = open_etcd(&place.etcd).await?;
        return write(file, archive::stream(etcd).map_err(anyhow::Error::from)).await;
    }
    let instance = Instance::new(&place.instance)?;
    let directory = instance.data_dir.join("store");
    if !directory.join("store.redb").exists() {
        bail!("{} holds no store: is --data-dir right, or does this cluster use etcd?", directory.display());
    }
    let opened =
        tokio::task::spawn_blocking(move || EmbeddedStore::open(directory, Default::default())).await?;
    match opened {
        Ok(store) => write(file, archive::stream(Arc::new(store)).map_err(anyhow::Error::from)).await,
        // A server runs: it makes the copy.
        Err(OpenError::InUse { .. }) => {
            let client = Client::from_kubeconfig(instance.kubeconfig())?;
            let request = http::Request::get("/coracle/v1/backup").body(bytes::Bytes::new())?;
            let response = client.stream(request).await.context("asking the server for a copy")?;
            write(file, response.into_body().map_err(anyhow::Error::from)).await
        }
        Err(error) => Err(error).context("opening the embedded store"),
    }
}

async fn write(
    file: &mut File,
    pieces: impl Stream<Item = anyhow::Result<bytes::Bytes>>,
) -> anyhow::Result<()> {
    let mut out = BufWriter::new(file);
    let mut pieces = std::pin::pin!(pieces);
    while let Some(piece) = pieces.next().await {
        out.write_all(&piece.context("reading the store")?).context("writing the copy")?;
    }
    out.flush().context("writing the copy")
}

/// Checks that a copy is whole, and goes back to its start.
fn verified(mut file: File) -> anyhow::Result<Archive<BufReader<File>>> {
    Archive::open(BufReader::new(&mut file))?.verify()?;
    file.rewind()?;
    Ok(Archive::open(BufReader::new(file))?)
}

async fn restore_embedded(directory: &Path, file: File) -> anyhow::Result<u64> {
    let directory = directory.to_owned();
    let work = move || {
        let archive = verified(file)?;
        Ok(EmbeddedStore::restore(&directory, archive.revision, archive)?)
    };
    tokio::task::spawn_blocking(work).await?
}

async fn restore_etcd(etcd: &EtcdArgs, file: File) -> anyhow::Result<u64> {
    let archive = verified(file)?;
    Ok(archive::restore(&*open_etcd(etcd).await?, archive).await?)
}
