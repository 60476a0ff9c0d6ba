//! `coracle apiserver` on a port of its own, to be killed.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::Client;

/// A server process with its data; gone when dropped.
pub(crate) struct Server {
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    /// Comes before `coracle` on the command line.
    prefix: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts one on the embedded store, or on etcd, and waits until it is ready.
    pub(crate) fn start(etcd: &[String]) -> Server {
        Server::start_with(etcd, Vec::new())
    }

    /// The same with arguments; where it listens, if they do not say.
    pub(crate) fn start_with(etcd: &[String], more: Vec<String>) -> Server {
        Server::build(etcd, more, |_| Vec::new())
    }

    /// On the embedded store, by a command that `coracle` is given to.
    pub(crate) fn start_by(prefix: impl Fn(&Path) -> Vec<String>) -> Server {
        Server::build(&[], Vec::new(), prefix)
    }

    fn build(etcd: &[String], more: Vec<String>, prefix: impl Fn(&Path) -> Vec<String>) -> Server {
        let directory = tempfile::Builder::new().prefix("coracle-history-").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut arguments = vec!["apiserver".to_owned()];
        if !more.contains(&"--listen".to_owned()) {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            arguments.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
        }
        arguments.extend(["--data-dir".to_owned(), path("data"), "--run-dir".to_owned(), path("run")]);
        arguments.extend(["--log".to_owned(), "info".to_owned()]);
        if !etcd.is_empty() {
            arguments.extend(["--etcd-servers".to_owned(), etcd.join(",")]);
        }
        arguments.extend(more);
        std::fs::create_dir(directory.path().join("data")).unwrap();
        let prefix = prefix(directory.path());
        let mut server = Server { directory, arguments, prefix, child: None };
        server.launch();
        server
    }

    /// Starts it again.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut words = self.prefix.clone();
        words.push(tests::coracle().display().to_string());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A client of its own, once the kubeconfig is there.
    pub(crate) async fn client(&mut self) -> Client {
        let begin = Instant::now();
        loop {
            if let Ok(client) = Client::from_kubeconfig(self.path("data/kubeconfig")) {
                return client.with_deadline(Duration::from_secs(5));
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < Duration::from_secs(30), "{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A client of a server that is ready.
    pub(crate) async fn ready(&mut self) -> Client {
        let client = self.client().await;
        let begin = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(bytes::Bytes::new()).unwrap();
            if client.bytes(request).await.is_ok() {
                return client;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            child.wait().unwrap();
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // With a prefix, the child is the shell's replacement, so the signal reaches the server.
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("---- log of the server ----\n{}", self.log());
        }
    }
}
