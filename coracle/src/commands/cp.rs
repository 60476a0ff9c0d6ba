//! `coracle cp`: files and directories into a container and out of it.
//!
//! The node brings what this takes along, so nothing has to be in the image; a server that does not know of that runs the
//! image's own `tar`, as `kubectl cp` does. What the user may do in the container is what `exec` may do there.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use image::transfer::{self, Options};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::exec::{CLOSE, ERROR, STDERR, STDIN, STDOUT, open, verdict};
use super::logs::{default_container, find_pod};
use super::resources::encode;
use super::{ExitStatus, Session};
use crate::flags::ApiArgs;

/// Bytes of a message.
const CHUNK: usize = 32 << 10;
/// Messages between the connection and the files.
const WAITING: usize = 8;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle cp web:/var/log ./log\n  coracle cp ./site web:/srv/site -c nginx\n  coracle cp other/web:/etc/passwd -\n\nA directory is copied with all that is in it. To a directory that exists, files are copied under their own names."
)]
pub(crate) struct CpArgs {
    /// PATH, or [NAMESPACE/]POD:PATH; - for standard input
    #[arg(value_name = "FROM")]
    from: String,
    /// PATH, or [NAMESPACE/]POD:PATH; - for standard output
    #[arg(value_name = "TO")]
    to: String,
    /// Container [default: the only one, or the first]
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
    /// Do not keep users and groups
    #[arg(long)]
    no_preserve: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Stream,
    Here(PathBuf),
    There { namespace: Option<String>, pod: String, path: String },
}

/// Reads an end as kubectl does: what has a colon is in a pod, unless a path says otherwise before it.
fn end(text: &str) -> anyhow::Result<End> {
    if text == "-" {
        return Ok(End::Stream);
    }
    let Some((pod, path)) = text.split_once(':') else { return Ok(End::Here(text.into())) };
    if pod.is_empty() || pod.starts_with(['/', '.']) {
        return Ok(End::Here(text.into()));
    }
    if path.is_empty() {
        bail!("filepath can not be empty");
    }
    let (namespace, pod) = match pod.split_once('/') {
        None => (None, pod),
        Some((namespace, pod)) if !namespace.is_empty() && !pod.is_empty() && !pod.contains('/') => {
            (Some(namespace.to_owned()), pod)
        }
        Some(_) => bail!("{text:?} is neither a path nor [NAMESPACE/]POD:PATH"),
    };
    Ok(End::There { namespace, pod: pod.to_owned(), path: path.to_owned() })
}

pub(crate) async fn run(args: CpArgs) -> anyhow::Result<()> {
    let (from, to) = (end(&args.from)?, end(&args.to)?);
    let mut session = Session::open(&args.api)?;
    let (namespace, pod) = match (&from, &to) {
        (End::There { .. }, End::There { .. }) => {
            bail!("one of FROM and TO must be a local file specification")
        }
        (End::There { namespace, pod, .. }, _) | (_, End::There { namespace, pod, .. }) => (namespace, pod),
        _ => bail!("one of FROM and TO must be [NAMESPACE/]POD:PATH"),
    };
    if let Some(namespace) = namespace {
        session.namespace.clone_from(namespace);
    }
    let found = find_pod(&session, pod).await?;
    let container = match &args.container {
        Some(container) => container.clone(),
        None => default_container(&found)?,
    };
    let name = found["metadata"]["name"].as_str().unwrap_or_default();
    let base = session.resource("pods").await?.object(&session.namespace, name);
    let remote = Remote { session: &session, base, container };
    match (from, to) {
        (End::There { path, .. }, here) => fetch(&remote, &path, here, !args.no_preserve).await,
        (here, End::There { path, .. }) => bring(&remote, here, &path, !args.no_preserve).await,
        _ => Ok(()),
    }
}

/// A container that commands are run in.
struct Remote<'a> {
    session: &'a Session,
    base: String,
    container: String,
}

impl Remote<'_> {
    /// Runs a command. What it says goes to `output`, what `input` gives goes to it. An error of the other side comes
    /// before one of ours, which is then only its consequence.
    async fn run(
        &self,
        command: &[&str],
        mut input: Option<mpsc::Receiver<Bytes>>,
        output: Option<mpsc::Sender<Bytes>>,
    ) -> anyhow::Result<()> {
        let mut path = format!(
            "{}/exec?container={}&builtin=true&stdout=true&stderr=true&stdin={}",
            self.base,
            encode(&self.container),
            input.is_some()
        );
        for word in command {
            path += &format!("&command={}", encode(word));
        }
        let (mut sink, mut stream) = open(self.session, path).await?.split();
        let mut errors = Vec::new();
        loop {
            let next = async {
                match &mut input {
                    Some(input) => input.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Cancel safe: a message that was received is returned.
                chunk = next => match chunk {
                    Some(chunk) => {
                        let mut message = Vec::with_capacity(chunk.len() + 1);
                        message.push(STDIN);
                        message.extend_from_slice(&chunk);
                        sink.send(Message::Binary(message.into())).await?;
                    }
                    None => {
                        input = None;
                        sink.send(Message::Binary(Bytes::from(vec![CLOSE, STDIN]))).await?;
                    }
                },
                message = stream.next() => match message {
                    Some(Ok(Message::Binary(data))) => match data.first() {
                        Some(&STDOUT) if data.len() > 1 => {
                            if let Some(output) = &output
                                && output.send(data.slice(1..)).await.is_err()
                            {
                                // Whoever reads has stopped, and says why.
                                return Ok(());
                            }
                        }
                        Some(&STDERR) => {
                            errors.extend_from_slice(&data[1..]);
                            errors.truncate(CHUNK);
                        }
                        Some(&ERROR) => return ended(verdict(&data[1..]), &errors),
                        _ => {}
                    },
                    Some(Ok(Message::Close(_))) | None => bail!("the connection ended before the copy did"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error).context("reading from the container"),
                },
            }
        }
    }

    async fn is_directory(&self, path: &str) -> anyhow::Result<bool> {
        match self.run(&["test", "-d", path], None, None).await {
            Ok(()) => Ok(true),
            Err(error) if error.is::<ExitStatus>() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// How the other side's command ended, with what it had to say.
fn ended(result: anyhow::Result<()>, errors: &[u8]) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(errors);
    let said = said.trim();
    match result {
        Ok(()) if said.is_empty() => Ok(()),
        Ok(()) => {
            eprintln!("{said}");
            Ok(())
        }
        Err(error) if said.is_empty() => Err(error),
        Err(_) => bail!("in the container: {}", said.strip_prefix("error: ").unwrap_or(said)),
    }
}

/// From the container to here.
async fn fetch(remote: &Remote<'_>, path: &str, to: End, owners: bool) -> anyhow::Result<()> {
    let clean = clean(path);
    let strip = transfer::name_of(Path::new(&clean));
    let (sender, receiver) = mpsc::channel(WAITING);
    let source = Pipe { chunks: receiver, rest: Bytes::new() };
    let writer = match to {
        End::Here(to) => {
            // Only root can give files to others.
            let owners = owners && rustix::process::geteuid().is_root();
            let directory = remote.is_directory(&clean).await?;
            let (base, prefix) = landing(&to, directory, Path::new(&clean))?;
            let options = Options { strip, prefix, owners, foreign_links: false };
            tokio::task::spawn_blocking(move || {
                let warn = &mut |warning: String| eprintln!("warning: {warning}");
                transfer::receive(source, &base, &options, warn).map(drop).map_err(anyhow::Error::from)
            })
        }
        _ => tokio::task::spawn_blocking(move || {
            transfer::print_file(source, &mut io::stdout().lock()).map_err(anyhow::Error::from)
        }),
    };
    let ran = remote.run(&["tar", "cf", "-", &clean], None, Some(sender)).await;
    let written = writer.await.context("writing files")?;
    ran?;
    written
}

/// Where a copy goes: the directory that it lies in, and its name there. A directory's content goes into one that exists.
fn landing(to: &Path, directory: bool, from: &Path) -> anyhow::Result<(PathBuf, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt as _;
    if to.is_dir() {
        let name = from.file_name().filter(|_| !directory).map(|name| name.as_bytes().to_owned());
        return Ok((to.to_owned(), name.unwrap_or_default()));
    }
    let name = to.file_name().with_context(|| format!("{} is not a name for a copy", to.display()))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if directory || parent.is_dir() {
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    Ok((parent.to_owned(), name.as_bytes().to_owned()))
}

/// From here to the container.
async fn bring(remote: &Remote<'_>, from: End, path: &str, owners: bool) -> anyhow::Result<()> {
    let mut target = clean(path);
    let named = match &from {
        End::Here(from) => {
            std::fs::metadata(from)
                .with_context(|| format!("{} doesn't exist in local filesystem", from.display()))?;
            std::fs::canonicalize(from)?.file_name().map(|name| name.to_string_lossy().into_owned())
        }
        _ => None,
    };
    if path.ends_with('/') || remote.is_directory(&target).await? {
        let name = named.with_context(|| format!("{path} is a directory: give the copy a name"))?;
        target = format!("{}/{name}", target.trim_end_matches('/'));
    }
    let (directory, name) = target.rsplit_once('/').unwrap_or((".", &target));
    let directory = if directory.is_empty() { "/" } else { directory };
    if name.is_empty() || name == ".." {
        bail!("{path:?} is not a name for a copy");
    }
    let (sender, receiver) = mpsc::channel(WAITING);
    let name = name.as_bytes().to_owned();
    let reader = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let mut out = io::BufWriter::with_capacity(CHUNK, Funnel(sender));
        match from {
            End::Here(from) => transfer::send_as(&from, &name, &mut out)?,
            _ => {
                // An archive says how long a file is before the file begins.
                let mut file = tempfile::tempfile().context("keeping standard input")?;
                io::copy(&mut io::stdin().lock(), &mut file).context("keeping standard input")?;
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
                transfer::send_as(Path::new(&path), &name, &mut out)?;
            }
        }
        out.flush()?;
        Ok(())
    });
    let command: &[&str] = match owners {
        true => &["tar", "-xmf", "-", "-C", directory],
        false => &["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-", "-C", directory],
    };
    let ran = remote.run(command, Some(receiver), None).await;
    let read = reader.await.context("reading files")?;
    match (ran, read) {
        // The other side stopped listening, and said why.
        (Err(error), Err(cause)) if is_broken_pipe(&cause) => Err(error),
        (_, Err(error)) => Err(error),
        (ran, Ok(())) => ran,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// A path without slashes at its end, and without `.`: `/` stays.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let joined = parts.join("/");
    match (path.starts_with('/'), joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// What comes over the connection, to be read where one may wait.
struct Pipe {
    chunks: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// What goes over the connection, written where one may wait.
struct Funnel(mpsc::Sender<Bytes>);

impl Write for Funnel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(CHUNK)];
        let sent = self.0.blocking_send(Bytes::copy_from_slice(chunk));
        sent.map(|()| chunk.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_as_kubectl_reads_them() {
        let there = |namespace: Option<&str>, pod: &str, path: &str| End::There {
            namespace: namespace.map(str::to_owned),
            pod: pod.to_owned(),
            path: path.to_owned(),
        };
        for (text, expected) in [
            ("-", Some(End::Stream)),
            ("web:/etc/passwd", Some(there(None, "web", "/etc/passwd"))),
            ("kube-system/web:log", Some(there(Some("kube-system"), "web", "log"))),
            ("./a:b", Some(End::Here("./a:b".into()))),
            ("/tmp/a:b", Some(End::Here("/tmp/a:b".into()))),
            ("plain", Some(End::Here("plain".into()))),
            ("web:", None),
            ("a/b/c:/x", None),
        ] {
            assert_eq!(end(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [("/", "/"), ("/a//b/", "/a/b"), ("a/./b", "a/b"), (".", "."), ("./", ".")] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn copies_land_where_people_expect_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("there")).unwrap();
        let from = Path::new("/var/log");
        assert_eq!(landing(&at("there"), true, from).unwrap(), (at("there"), b"".to_vec()));
        assert_eq!(landing(&at("there"), false, from).unwrap(), (at("there"), b"log".to_vec()));
        assert_eq!(landing(&at("new"), true, from).unwrap(), (dir.path().to_owned(), b"new".to_vec()));
        assert_eq!(landing(&at("deep/new"), true, from).unwrap(), (at("deep"), b"new".to_vec()));
        assert!(at("deep").is_dir());
        assert!(landing(Path::new(".."), false, from).is_ok_and(|(base, _)| base == Path::new("..")));
    }
}
