//! A machine's container runtime: opens, creates and finds sandboxes.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::cgroup::{CgroupError, Layout, Placement, Tree};
use crate::error::{CreateSandboxError, OpenError, RequestError};
use crate::keeper::template::Template;
use crate::link;
use crate::plan::sysctl::{self, Own};
use crate::plan::text::Text;
use crate::protocol::{self, Setup};
use crate::records::{Records, check_id, make_directory};
use crate::sandbox::{Keeper, Sandbox};
use crate::seal::Sealed;
use crate::spec::{Config, NamespaceMode, NetworkMode, PidMode, SandboxSpec};

/// How long a keeper may take to set a sandbox up, or to greet.
const PATIENCE: Duration = Duration::from_secs(20);

/// The size of `/dev/shm` where nothing else is said: what every other runtime gives.
const SHM_SIZE: u64 = 64 << 20;

/// The container runtime of one machine, or one of several that share it.
#[derive(Debug)]
pub struct Runtime {
    config: Config,
    pub(crate) records: Records,
    pub(crate) tree: Tree,
    pub(crate) last_capability: u32,
    sealed: OnceLock<Sealed>,
    /// What keepers are cloned from, once there is one.
    template: Mutex<Option<Template>>,
    /// Sandboxes that somebody holds, so that all holders share one connection.
    known: Mutex<HashMap<String, Weak<Sandbox>>>,
}

impl Runtime {
    /// Opens a runtime on its directories, which are created as needed. Blocks on a few file operations.
    pub fn open(config: Config) -> Result<Arc<Runtime>, OpenError> {
        if config.keeper_argv.is_empty() {
            return Err(OpenError::NoKeeper);
        }
        for path in [&config.run_dir, &config.state_dir] {
            make_directory(path).map_err(|source| OpenError::Directory { path: path.clone(), source })?;
        }
        let layout = Layout::detect().map_err(OpenError::Cgroups)?;
        let last_capability = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap");
        Ok(Arc::new(Self {
            records: Records::new(config.run_dir.clone(), config.state_dir.clone()),
            tree: Tree::new(layout, config.cgroup_parent.clone()),
            // Every kernel that has the mount API of 5.12 has at least these 41.
            last_capability: last_capability.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(40),
            sealed: OnceLock::new(),
            template: Mutex::new(None),
            known: Mutex::new(HashMap::new()),
            config,
        }))
    }

    /// What it was opened with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The machine's cgroups.
    pub fn cgroup_layout(&self) -> &Layout {
        self.tree.layout()
    }

    /// All sandboxes. Connects to those whose keeper lives; what a dead keeper has left running is killed and
    /// cleaned away, and its sandbox is given as [`SandboxState::Dead`](crate::SandboxState::Dead) until it is
    /// removed.
    pub async fn sandboxes(self: &Arc<Self>) -> Vec<Arc<Sandbox>> {
        let this = Arc::clone(self);
        let specs = blocking(move || this.records.sandboxes()).await;
        let mut sandboxes = Vec::with_capacity(specs.len());
        for spec in specs {
            if let Some(sandbox) = self.find_known(&spec.id) {
                sandboxes.push(sandbox);
                continue;
            }
            let this = Arc::clone(self);
            let id = spec.id.clone();
            let found = {
                let spec = spec.clone();
                blocking(move || this.find_keeper(&spec)).await
            };
            match found {
                Ok(keeper) => sandboxes.push(self.remember(Sandbox::new(self, spec, keeper))),
                Err(error) => tracing::warn!(sandbox = %id, %error, "cannot be reached"),
            }
        }
        sandboxes
    }

    /// Creates a sandbox: its cgroup, its namespaces and the keeper that holds them.
    pub async fn create_sandbox(
        self: &Arc<Self>,
        spec: SandboxSpec,
    ) -> Result<Arc<Sandbox>, CreateSandboxError> {
        check_id(&spec.id)?;
        let setup = self.setup(&spec)?;
        let this = Arc::clone(self);
        let for_keeper = spec.clone();
        let keeper = blocking(move || this.create(&for_keeper, setup)).await?;
        Ok(self.remember(Sandbox::new(self, spec, Some(keeper))))
    }

    /// Makes sure that a cgroup above the sandboxes (such as a class of pods) exists and has these limits.
    /// `path` is below the runtime's parent. Blocks on file operations.
    pub fn ensure_cgroup(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
        self.tree.ensure(path, resources)
    }

    /// Removes our cgroups as far as they are empty: for the end of the last sandbox's life. Blocks on file
    /// operations.
    pub fn remove_empty_cgroups(&self) {
        self.tree.remove_empty();
    }

    pub(crate) fn forget(&self, id: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn find_known(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.upgrade()
    }

    fn remember(&self, sandbox: Arc<Sandbox>) -> Arc<Sandbox> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, sandbox| sandbox.strong_count() > 0);
        known.insert(sandbox.id().to_owned(), Arc::downgrade(&sandbox));
        sandbox
    }

    /// What the keeper of a sandbox has to do.
    fn setup(&self, spec: &SandboxSpec) -> Result<Setup, CreateSandboxError> {
        let invalid = |field: &str, reason: &str| CreateSandboxError::Invalid {
            field: field.to_owned(),
            reason: reason.to_owned(),
        };
        let first = spec.cgroup.split('/').next().unwrap_or("");
        let plain = spec.cgroup.split('/').all(|part| check_id(part).is_ok());
        if !plain || first == crate::cgroup::KEEPERS {
            return Err(invalid("cgroup", "is not a relative path of plain names"));
        }
        let text = |field: &str, value: &Path| {
            let value = value.to_str().ok_or_else(|| invalid(field, "is not UTF-8"))?;
            Text::new(value).map_err(|error| invalid(field, &error.to_string()))
        };
        let own = Own {
            network: spec.network != NetworkMode::Host,
            ipc: spec.ipc == NamespaceMode::Private,
            uts: false,
        };
        let mut sysctls = Vec::with_capacity(spec.sysctls.len());
        for (key, value) in &spec.sysctls {
            let field = format!("sysctls[{key}]");
            let file = sysctl::file(&field, key, own).map_err(|refusal| CreateSandboxError::Invalid {
                field: refusal.field,
                reason: refusal.reason,
            })?;
            let value = Text::new(value.as_str()).map_err(|error| invalid(&field, &error.to_string()))?;
            sysctls.push((file, value));
        }
        let uts = spec.uts == NamespaceMode::Private;
        if spec.hostname.as_ref().is_some_and(|name| name.len() > 64 || name.contains('\0')) {
            return Err(invalid("hostname", "is longer than 64 bytes"));
        }
        if let Some(users) = spec.users {
            let last = users.first.checked_add(users.count);
            if users.first == 0 || users.count == 0 || last.is_none() {
                return Err(invalid("users", "is not a range of ids without the host's root"));
            }
            if spec.network == NetworkMode::Host || !own.ipc || spec.pid == PidMode::Host {
                return Err(invalid("users", "goes with namespaces of the sandbox's own only"));
            }
        }
        let flag = |own: bool, flag: i32| if own { flag } else { 0 };
        Ok(Setup {
            sandbox: spec.id.clone(),
            // Filled in when it is known that the cgroup exists.
            tasks: Vec::new(),
            unified: None,
            namespaces: flag(spec.network == NetworkMode::New, libc::CLONE_NEWNET)
                | flag(own.ipc, libc::CLONE_NEWIPC)
                | flag(uts, libc::CLONE_NEWUTS),
            network: match &spec.network {
                NetworkMode::Path(path) => Some(text("network", path)?),
                NetworkMode::New | NetworkMode::Host => None,
            },
            pid: spec.pid,
            hostname: spec.hostname.clone().filter(|_| uts),
            sysctls,
            shm_size: own.ipc.then(|| spec.shm_size.unwrap_or(SHM_SIZE)),
            shm_place: text("runDir", &self.records.shm_directory(&spec.id))?,
            users: spec.users,
        })
    }

    /// Creates a sandbox; cleans up what it has made if that fails.
    fn create(&self, spec: &SandboxSpec, setup: Setup) -> Result<Keeper, CreateSandboxError> {
        let path = self.records.state_directory(&spec.id);
        match self.records.create_sandbox(spec) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CreateSandboxError::Exists(spec.id.clone()));
            }
            result => result.map_err(|source| CreateSandboxError::Record { path, source })?,
        }
        let result = self.spawn(spec, setup);
        if result.is_err() {
            self.tree.kill_all(&spec.cgroup, None, Duration::from_secs(2));
            let _ = self.tree.remove(&spec.cgroup, None);
            let _ = self.records.remove_sandbox(&spec.id);
        }
        result
    }

    fn spawn(&self, spec: &SandboxSpec, mut setup: Setup) -> Result<Keeper, CreateSandboxError> {
        let run = self.records.run_directory(&spec.id);
        let record = |source| CreateSandboxError::Record { path: run.clone(), source };
        let lock = self.records.lock(&spec.id).map_err(record)?;
        let lock = lock.ok_or_else(|| CreateSandboxError::Exists(spec.id.clone()))?;
        let keepers = self.tree.create_keepers().map_err(CreateSandboxError::Cgroup)?;
        fill_in(&mut setup, &keepers);

        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|errno| CreateSandboxError::Spawn(errno.into()))?;
        let log = self.records.keeper_log(&spec.id).map_err(record)?;
        self.clone_keeper(&theirs, &lock, &log.into()).map_err(CreateSandboxError::Spawn)?;
        drop((theirs, lock));

        let greeted = rustix::net::sockopt::set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE))
            .map_err(io::Error::from)
            .and_then(|()| send_all(&ours, &protocol::frame(&setup)?));
        // While the keeper makes namespaces, we make the cgroup.
        let cgroup = self.tree.create_sandbox(&spec.cgroup, spec.resources.as_ref());
        let greeting = greeted.and_then(|()| link::greeting(&ours));
        let greeting = match greeting {
            Ok(Ok(greeting)) => greeting,
            Ok(Err(failure)) => {
                let source = failure.source();
                return Err(CreateSandboxError::Keeper { step: failure.step, source });
            }
            Err(error) => {
                // Whatever is wrong with it, the next keeper comes from a new one.
                self.template().take();
                return Err(CreateSandboxError::Spawn(self.explain(spec, error)));
            }
        };
        let keeper = Keeper::new(greeting, ours).map_err(CreateSandboxError::Spawn)?;
        if let Err(error) = cgroup {
            let _ = rustix::process::pidfd_send_signal(&keeper.pidfd, Signal::KILL);
            return Err(CreateSandboxError::Cgroup(error));
        }
        Ok(keeper)
    }

    /// Has a keeper cloned, by a template that is started with the first one. One that was killed is replaced.
    fn clone_keeper(&self, connection: &OwnedFd, directory: &OwnedFd, log: &OwnedFd) -> io::Result<()> {
        let mut template = self.template();
        if let Some(running) = template.as_ref()
            && running.clone_keeper(connection, directory, log).is_ok()
        {
            return Ok(());
        }
        let started = Template::start(&self.sealed()?.path(), &self.config.keeper_argv[1..])?;
        template.insert(started).clone_keeper(connection, directory, log)
    }

    fn template(&self) -> MutexGuard<'_, Option<Template>> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A keeper that dies without a word has perhaps left one in its log.
    fn explain(&self, spec: &SandboxSpec, error: io::Error) -> io::Error {
        let log = self.records.run_directory(&spec.id).join("keeper.log");
        match std::fs::read_to_string(log) {
            Ok(text) if !text.trim().is_empty() => {
                io::Error::new(error.kind(), format!("{error} ({})", text.trim().replace('\n', "; ")))
            }
            _ => error,
        }
    }

    /// The keeper of a sandbox that is described; `None` if it is dead, and then nothing of it is left.
    fn find_keeper(&self, spec: &SandboxSpec) -> Result<Option<Keeper>, RequestError> {
        let io_error = |what: &str| {
            let what = what.to_owned();
            move |source| RequestError::Io { what, source }
        };
        let start = std::time::SystemTime::now();
        loop {
            let lock = self.records.lock(&spec.id).map_err(io_error("locking the run directory"))?;
            if let Some(lock) = lock {
                self.clean_up(spec);
                drop(lock);
                return Ok(None);
            }
            // If nobody listens, it is only starting, or about to die.
            if let Ok(socket) = self.records.connect(&spec.id) {
                rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
                    .map_err(|errno| io_error("preparing a socket")(errno.into()))?;
                match link::greeting(&socket) {
                    Ok(Ok(greeting)) if greeting.protocol == protocol::VERSION => {
                        return Keeper::new(greeting, socket)
                            .map(Some)
                            .map_err(io_error("opening the keeper"));
                    }
                    Ok(Ok(greeting)) => {
                        return Err(RequestError::Protocol {
                            sandbox: spec.id.clone(),
                            reason: format!("it speaks version {} of the protocol", greeting.protocol),
                        });
                    }
                    // It is about to die: the lock will tell.
                    Ok(Err(_)) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                    Err(_) => return Err(RequestError::Timeout(spec.id.clone())),
                }
            }
            if start.elapsed().unwrap_or_default() > PATIENCE {
                return Err(RequestError::Timeout(spec.id.clone()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A new connection to a keeper that has closed the last one; `None` if it is dead.
    pub(crate) fn reconnect(&self, spec: &SandboxSpec) -> Result<Option<OwnedFd>, RequestError> {
        Ok(self.find_keeper(spec)?.map(|keeper| keeper.socket))
    }

    /// Ends what a dead keeper has left: processes, cgroups, mounts. Its namespaces end with the last process
    /// in them. Blocks.
    pub(crate) fn clean_up(&self, spec: &SandboxSpec) {
        let left = self.tree.kill_all(&spec.cgroup, None, Duration::from_secs(5));
        if left > 0 {
            tracing::warn!(sandbox = %spec.id, processes = left, "processes do not die");
        }
        if let Err(error) = self.tree.remove(&spec.cgroup, None) {
            tracing::warn!(sandbox = %spec.id, %error, "cannot remove its cgroup");
        }
        self.unmount_shm(&spec.id);
    }

    pub(crate) fn unmount_shm(&self, sandbox: &str) {
        let place = self.records.shm_directory(sandbox);
        if place.is_dir() {
            let _ = rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH);
        }
    }

    fn sealed(&self) -> io::Result<&Sealed> {
        if let Some(sealed) = self.sealed.get() {
            return Ok(sealed);
        }
        let sealed = Sealed::new(&PathBuf::from(&self.config.keeper_argv[0]), &self.config.run_dir)?;
        Ok(self.sealed.get_or_init(|| sealed))
    }
}

fn fill_in(setup: &mut Setup, keepers: &Placement) {
    let text = |path: &PathBuf| path.to_str().and_then(|path| Text::new(path).ok());
    setup.tasks = keepers.tasks.iter().filter_map(text).collect();
    setup.unified = keepers.unified.as_ref().and_then(text);
}

fn send_all(socket: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL)?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

impl Keeper {
    /// The keeper that has greeted on a connection.
    fn new(greeting: protocol::Greeting, socket: OwnedFd) -> io::Result<Self> {
        let pid = Pid::from_raw(greeting.pid).ok_or(io::ErrorKind::InvalidData)?;
        // The connection is open, so its other end lives, and the number is still its own.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, None)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { pid, pidfd, socket })
    }
}

/// Runs something that blocks, away from the threads that must not.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It panicked, or the runtime is shutting down: neither leaves anything to return.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}

/// Whether a process is alive, as its handle says.
pub(crate) fn is_alive(pidfd: &OwnedFd) -> bool {
    let mut polled = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(0))
}
