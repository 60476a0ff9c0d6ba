//! `coracle archive`: the little of `tar` and `test` that copying files takes, run by the node in containers that may have
//! neither. It is an ordinary process of the container, so that users, links and mounts are the container's.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use image::transfer::{self, Options};

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Job {
    /// Write what is at a path to standard output.
    Send(PathBuf),
    /// Put standard input below a directory.
    Receive { directory: PathBuf, owners: bool },
    /// Say whether a path is a directory.
    Test(PathBuf),
}

pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(job) = parse(words) else {
        eprintln!("not one of the commands that the node brings along");
        return ExitCode::from(127);
    };
    let done: anyhow::Result<bool> = match job {
        Job::Test(path) => Ok(path.is_dir()),
        Job::Send(path) => send(&path).map(|()| true),
        Job::Receive { directory, owners } => receive(&directory, owners).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", crate::error_line(&error));
            ExitCode::from(2)
        }
    }
}

fn send(path: &Path) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    transfer::send(path, &mut out)?;
    out.flush()?;
    Ok(())
}

fn receive(directory: &Path, owners: bool) -> anyhow::Result<()> {
    let options = Options { owners, foreign_links: true, ..Options::default() };
    transfer::receive(io::stdin().lock(), directory, &options, &mut |warning| {
        eprintln!("warning: {warning}")
    })?;
    Ok(())
}

/// The forms that clients use; nothing else is a command.
fn parse(words: impl Iterator<Item = OsString>) -> Option<Job> {
    let words: Vec<OsString> = words.collect();
    let text: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or("")).collect();
    let last = || words.last().map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
    match text.as_slice() {
        ["test", "-d", _] => Some(Job::Test(last()?)),
        ["tar", "cf", "-", _] => Some(Job::Send(last()?)),
        ["tar", "-xmf", "-", "-C", _] => Some(Job::Receive { directory: last()?, owners: true }),
        ["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-", "-C", _] => {
            Some(Job::Receive { directory: last()?, owners: false })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_copying_takes() {
        let check = |line: &str, expected: Option<Job>| {
            assert_eq!(parse(line.split(' ').map(OsString::from)), expected, "{line}");
        };
        check("tar cf - /var/log", Some(Job::Send("/var/log".into())));
        check("tar -xmf - -C /", Some(Job::Receive { directory: "/".into(), owners: true }));
        check(
            "tar --no-same-permissions --no-same-owner -xmf - -C /tmp",
            Some(Job::Receive { directory: "/tmp".into(), owners: false }),
        );
        check("test -d /x", Some(Job::Test("/x".into())));
        for line in ["", "up", "tar cf x /", "tar xf - -C /", "test -e /x", "sh -c true", "tar cf - "] {
            check(line, None);
        }
    }
}
