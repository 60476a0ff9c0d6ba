//! A real etcd for tests: free ports on loopback, a directory of its own, gone when dropped.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// One etcd server.
#[derive(Debug)]
pub struct RealEtcd {
    /// Where clients reach it.
    pub endpoint: String,
    arguments: Vec<String>,
    directory: PathBuf,
    child: Child,
}

impl RealEtcd {
    /// Start one and wait until it answers. Panics if it cannot be had.
    pub fn start() -> RealEtcd {
        RealEtcd::start_in(&std::env::temp_dir())
    }

    /// Start one with its data somewhere below a directory.
    pub fn start_in(directory: &Path) -> RealEtcd {
        RealEtcd::members_in(directory, 1).remove(0)
    }

    /// Start a cluster of several members and wait until all of them answer.
    pub fn cluster(members: usize) -> Vec<RealEtcd> {
        RealEtcd::members_in(&std::env::temp_dir(), members)
    }

    fn members_in(directory: &Path, members: usize) -> Vec<RealEtcd> {
        let peers: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let cluster: Vec<String> =
            peers.iter().enumerate().map(|(i, port)| format!("m{i}=http://127.0.0.1:{port}")).collect();
        let start = |i: usize| {
            let peer = format!("http://127.0.0.1:{}", peers[i]);
            let client = format!("http://127.0.0.1:{}", free_port());
            RealEtcd::launch(
                directory,
                client,
                &[
                    ("--name", &format!("m{i}")),
                    ("--listen-peer-urls", &peer),
                    ("--initial-advertise-peer-urls", &peer),
                    ("--initial-cluster", &cluster.join(",")),
                    // Elections in a fraction of a second: these tests are about what comes after.
                    ("--heartbeat-interval", "20"),
                    ("--election-timeout", "200"),
                ],
            )
        };
        let mut started: Vec<RealEtcd> = (0..members).map(start).collect();
        started.iter_mut().for_each(RealEtcd::wait_until_it_answers);
        started
    }

    /// Start one that serves clients over TLS: CA, certificate and key as PEM files.
    pub fn with_tls(ca: &Path, certificate: &Path, key: &Path) -> RealEtcd {
        let text = |path: &Path| path.display().to_string();
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut etcd = RealEtcd::launch(
            &std::env::temp_dir(),
            format!("https://127.0.0.1:{}", free_port()),
            &[
                ("--listen-peer-urls", &peer),
                ("--initial-advertise-peer-urls", &peer),
                ("--initial-cluster", &format!("default={peer}")),
                ("--trusted-ca-file", &text(ca)),
                ("--cert-file", &text(certificate)),
                ("--key-file", &text(key)),
                ("--client-cert-auth", "true"),
            ],
        );
        etcd.wait_until_it_answers();
        etcd
    }

    fn launch(parent: &Path, endpoint: String, options: &[(&str, &str)]) -> RealEtcd {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("coracle-etcd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = parent.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut arguments = vec![
            format!("--data-dir={}", directory.join("data").display()),
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            "--logger=zap".to_owned(),
        ];
        arguments.extend(options.iter().map(|(name, value)| format!("{name}={value}")));
        let child = spawn(&directory, &arguments);
        RealEtcd { endpoint, arguments, directory, child }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        // It may be dead already; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Start it again on its data.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.directory, &self.arguments);
        self.wait_until_it_answers();
    }

    /// Process id, for tests that stop it for a while.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_answers(&mut self) {
        let log = self.directory.join("log");
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            // "ready to serve client requests" comes after the election, so requests work at once.
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("serving client traffic") || said.contains("ready to serve client requests") {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("etcd ended with {status}:\n{said}");
            }
            assert!(Instant::now() < patience, "etcd is not ready after 20 s:\n{said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn spawn(directory: &Path, arguments: &[String]) -> Child {
    // Emptied at each start, so that what is said in it is about this start.
    let log = File::create(directory.join("log")).unwrap();
    let errors = log.try_clone().unwrap();
    match Command::new("etcd").args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            panic!("no etcd in PATH: install the Debian package etcd-server (apt-get install etcd-server)")
        }
        Err(error) => panic!("starting etcd: {error}"),
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
