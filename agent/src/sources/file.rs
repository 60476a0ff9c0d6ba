//! Pods from a directory of manifests, followed by inotify.
//!
//! A file that cannot be read keeps what it said last. A file that is gone takes its pods with it, but only
//! after `SETTLE`: editors remove a file and write it anew. Hidden files, backups of editors and subdirectories
//! are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::manifest::{self, Manifest, Origin};
use super::{Source, Wanted};
use crate::inotify::{ReadFlags, WatchFlags, Watcher};

/// How long a file may be missing before its pods are.
const SETTLE: Duration = Duration::from_millis(250);
/// How long to wait before looking again for a directory that cannot be watched.
const RETRY: Duration = Duration::from_secs(1);
/// Larger files are no manifests.
const MAX_SIZE: u64 = 16 << 20;

/// A manifest that could not be used, for events and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file or URL.
    pub place: String,
    /// What is wrong, with line and column.
    pub message: String,
}

/// Where and as whom a directory is read.
#[derive(Debug, Clone)]
pub struct FileSource {
    /// The directory.
    pub dir: PathBuf,
    /// This node.
    pub node: String,
}

/// What one file said.
#[derive(Debug, Default)]
struct FileState {
    good: Manifest,
    problem: Option<String>,
    /// The file is not there; its pods go at this time.
    goes_at: Option<Instant>,
}

impl FileSource {
    /// Reads the directory and follows it until told to stop. `report` hears of every broken file once per breakage.
    pub async fn run(
        self,
        wanted: watch::Sender<Wanted>,
        report: impl Fn(Problem) + Send,
        stop: CancellationToken,
    ) {
        let mut files: BTreeMap<PathBuf, FileState> = BTreeMap::new();
        loop {
            // The watch is set before the directory is read, so that no change falls between the two.
            let failure = match self.watch() {
                Ok(mut watcher) => {
                    match self.rescan(&mut files, &report) {
                        // What could not be read must not look as if nothing were wanted.
                        Err(error) => Some(error),
                        Ok(()) => {
                            publish(&files, &wanted);
                            tokio::select! {
                                () = stop.cancelled() => return,
                                error = self.follow(&mut watcher, &mut files, &wanted, &report) => error,
                            }
                        }
                    }
                }
                Err(error) => Some(error),
            };
            if let Some(error) = failure {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot watch the directory of manifests");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }

    fn watch(&self) -> io::Result<Watcher> {
        std::fs::create_dir_all(&self.dir)?;
        let watcher = Watcher::new()?;
        watcher.add(
            &self.dir,
            WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR,
        )?;
        Ok(watcher)
    }

    /// Handles changes until the directory has to be watched anew; says why if that is a failure.
    async fn follow(
        &self,
        watcher: &mut Watcher,
        files: &mut BTreeMap<PathBuf, FileState>,
        wanted: &watch::Sender<Wanted>,
        report: &(impl Fn(Problem) + Send),
    ) -> Option<io::Error> {
        loop {
            let goes_at = files.values().filter_map(|file| file.goes_at).min();
            let changes = tokio::select! {
                changes = watcher.next() => changes,
                () = sleep_until(goes_at.unwrap_or_else(Instant::now)), if goes_at.is_some() => Ok(Vec::new()),
            };
            let changes = match changes {
                Ok(changes) => changes,
                Err(error) => return Some(error),
            };
            let mut names = BTreeSet::new();
            for change in &changes {
                if change.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                    if let Err(error) = self.rescan(files, report) {
                        return Some(error);
                    }
                } else if change.flags.intersects(
                    ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT,
                ) {
                    return None;
                } else if !change.flags.contains(ReadFlags::ISDIR) {
                    names.insert(change.name.clone());
                }
            }
            for name in names.iter().filter(|name| is_manifest(name)) {
                self.read(&self.dir.join(name), files, report);
            }
            let now = Instant::now();
            files.retain(|_, file| file.goes_at.is_none_or(|at| at > now));
            publish(files, wanted);
        }
    }

    /// Reads everything; what is not there any more goes.
    fn rescan(&self, files: &mut BTreeMap<PathBuf, FileState>, report: &impl Fn(Problem)) -> io::Result<()> {
        let mut paths: BTreeSet<PathBuf> = files.keys().cloned().collect();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if is_manifest(&entry.file_name()) {
                paths.insert(entry.path());
            }
        }
        for path in paths {
            self.read(&path, files, report);
        }
        Ok(())
    }

    fn read(&self, path: &Path, files: &mut BTreeMap<PathBuf, FileState>, report: &impl Fn(Problem)) {
        let place = path.display().to_string();
        let origin = Origin { source: Source::File, place: &place, node: &self.node };
        let result = match load(path) {
            Ok(Some(bytes)) => {
                manifest::read(origin, &bytes, Timestamp::now()).map_err(|error| error.to_string())
            }
            Ok(None) => {
                if let Some(file) = files.get_mut(path) {
                    file.goes_at.get_or_insert_with(|| Instant::now() + SETTLE);
                }
                return;
            }
            Err(error) => Err(format!("{place}: {error}")),
        };
        let file = files.entry(path.to_owned()).or_default();
        file.goes_at = None;
        match result {
            Ok(manifest) => {
                file.good = manifest::keep_same(manifest, &file.good);
                file.problem = None;
            }
            Err(message) => {
                if file.problem.as_ref() != Some(&message) {
                    tracing::error!(%place, %message, "broken manifest; what it said before stays in effect");
                    report(Problem { place, message: message.clone() });
                    file.problem = Some(message);
                }
            }
        }
    }
}

fn publish(files: &BTreeMap<PathBuf, FileState>, wanted: &watch::Sender<Wanted>) {
    let (pods, left_out) = manifest::unique(files.values().map(|file| &file.good));
    let (objects, objects_left_out) = manifest::unique_objects(files.values().map(|file| &file.good));
    let next = Wanted { ready: true, pods, objects };
    wanted.send_if_modified(|old| {
        let changed = !old.is_same(&next);
        if changed {
            for name in left_out.iter().chain(&objects_left_out) {
                tracing::warn!(%name, "defined in several files; the first one counts");
            }
            *old = next;
        }
        changed
    });
}

/// Neither hidden (also what editors and volumes use for unfinished files) nor a backup.
fn is_manifest(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !name.is_empty() && !name.starts_with('.') && !name.ends_with('~') && !name.starts_with('#')
}

/// The content of a file; `None` if there is no such file.
fn load(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Before opening: a fifo would hang, and a directory is none of ours.
    let meta = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    if !meta.is_file() {
        return Ok(None);
    }
    if meta.len() > MAX_SIZE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 16 MiB"));
    }
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        content => content.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Running {
        dir: tempfile::TempDir,
        wanted: watch::Receiver<Wanted>,
        problems: Arc<Mutex<Vec<Problem>>>,
        _stop: tokio_util::sync::DropGuard,
    }

    fn start() -> Running {
        let dir = tempfile::tempdir().unwrap();
        let (sender, wanted) = watch::channel(Wanted::default());
        let problems = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let source = FileSource { dir: dir.path().to_owned(), node: "n".into() };
        let report = {
            let problems = problems.clone();
            move |problem| problems.lock().unwrap().push(problem)
        };
        tokio::spawn(source.run(sender, report, stop.clone()));
        Running { dir, wanted, problems, _stop: stop.drop_guard() }
    }

    impl Running {
        async fn expect(&mut self, names: &[&str]) {
            let found = |wanted: &Wanted| {
                let mut found: Vec<String> =
                    wanted.pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
                found.sort();
                wanted.ready && found == names
            };
            let waited =
                tokio::time::timeout(Duration::from_secs(1), self.wanted.wait_for(found)).await.is_ok();
            assert!(waited, "{names:?} did not come within a second: {:?}", self.wanted.borrow());
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }
    }

    fn web(name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: a, image: i}}]}}\n"
        )
    }

    #[tokio::test]
    async fn files_come_change_and_go() {
        let mut running = start();
        running.expect(&[]).await;
        running.write("a.yaml", &web("one"));
        running.expect(&["one-n"]).await;
        running.write("b.yaml", &format!("{}---\n{}", web("two"), web("three")));
        running.expect(&["one-n", "three-n", "two-n"]).await;
        running.write("b.yaml", &web("two"));
        running.expect(&["one-n", "two-n"]).await;
        std::fs::remove_file(running.dir.path().join("a.yaml")).unwrap();
        running.expect(&["two-n"]).await;
    }

    #[tokio::test]
    async fn broken_files_keep_what_they_said() {
        let mut running = start();
        running.write("a.yaml", &web("one"));
        running.expect(&["one-n"]).await;
        running.write("a.yaml", "apiVersion: v1\nkind: Pod\nspec: {containers: 3}\n");
        running.write("b.yaml", &web("two"));
        running.expect(&["one-n", "two-n"]).await;
        let problems = running.problems.lock().unwrap().clone();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains("a.yaml:3:"), "{problems:?}");
    }

    #[tokio::test]
    async fn editors_may_replace_files() {
        let mut running = start();
        running.write("a.yaml", &web("one"));
        running.expect(&["one-n"]).await;
        let path = running.dir.path().join("a.yaml");
        let mut seen_empty = running.wanted.clone();
        // vim: the old file becomes a backup, a new one is written, the backup goes.
        std::fs::rename(&path, running.dir.path().join("a.yaml~")).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        running.write("a.yaml", &web("two"));
        std::fs::remove_file(running.dir.path().join("a.yaml~")).unwrap();
        let gone = seen_empty.wait_for(|wanted| wanted.pods.is_empty());
        assert!(tokio::time::timeout(Duration::from_millis(400), gone).await.is_err(), "the pod went away");
        running.expect(&["two-n"]).await;
        // Others write beside and rename over.
        running.write(".a.yaml.tmp", &web("three"));
        std::fs::rename(running.dir.path().join(".a.yaml.tmp"), &path).unwrap();
        running.expect(&["three-n"]).await;
    }

    #[tokio::test]
    async fn what_is_no_manifest_is_ignored() {
        let mut running = start();
        std::fs::create_dir(running.dir.path().join("sub")).unwrap();
        running.write("sub/a.yaml", &web("sub"));
        running.write(".hidden.yaml", &web("hidden"));
        running.write("backup.yaml~", &web("backup"));
        running.write("a.yaml", &web("one"));
        running.expect(&["one-n"]).await;
    }

    #[tokio::test]
    async fn a_directory_that_went_away_is_made_again() {
        let mut running = start();
        running.write("a.yaml", &web("one"));
        running.expect(&["one-n"]).await;
        std::fs::remove_dir_all(running.dir.path()).unwrap();
        running.expect(&[]).await;
        running.write("b.yaml", &web("two"));
        running.expect(&["two-n"]).await;
    }
}
