//! Registries for tests: a real one, and one that misbehaves on command.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Debian's docker-registry on a free port of loopback.
pub(crate) struct RealRegistry {
    /// `127.0.0.1:port`
    pub(crate) address: String,
    child: Child,
}

impl RealRegistry {
    /// Start with more lines in the section `http`, and after it.
    pub(crate) fn start(directory: &Path, http: &str, more: &str) -> RealRegistry {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = directory.join("registry.yml");
        let storage = directory.join("registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {address}\n{http}\n{more}\n",
                storage.display()
            ),
        )
        .unwrap();
        let log = std::fs::File::create(directory.join("registry.log")).unwrap();
        let child = match Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
        {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                panic!("no docker-registry in PATH: apt-get install docker-registry")
            }
            Err(error) => panic!("docker-registry: {error}"),
        };
        let registry = RealRegistry { address, child };
        let patience = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.address).is_err() {
            let log = || std::fs::read_to_string(directory.join("registry.log")).unwrap_or_default();
            assert!(Instant::now() < patience, "docker-registry does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the fake registry was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The start of a `Range`.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range").strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Break the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, body: body.into(), ..Answer::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn cut(mut self, at: usize) -> Answer {
        self.cut = Some(at);
        self
    }
}

type Rule = dyn Fn(&Asked, Option<Answer>) -> Answer + Send + Sync;

/// Serves what is in an OCI layout directory, as far as its rule lets it.
pub(crate) struct FakeRegistry {
    pub(crate) address: String,
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeRegistry {
    /// `rule` gets every request with the answer of a good registry, and decides.
    pub(crate) fn start(
        layout: &Path,
        rule: impl Fn(&Asked, Option<Answer>) -> Answer + Send + Sync + 'static,
    ) -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let registry = FakeRegistry { address, stop: Arc::clone(&stop), asked: Arc::clone(&asked) };
        let (layout, rule): (_, Arc<Rule>) = (layout.to_owned(), Arc::new(rule));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (layout, rule, asked) = (layout.clone(), Arc::clone(&rule), Arc::clone(&asked));
                // A client that goes away is no problem of the registry's.
                std::thread::spawn(move || drop(serve(connection.unwrap(), &layout, &*rule, &asked)));
            }
        });
        registry
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

fn serve(stream: TcpStream, layout: &Path, rule: &Rule, log: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
                None => break,
            };
        }
        if let Some(length) = headers.get("content-length").and_then(|length| length.parse().ok()) {
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            headers.insert("body".to_owned(), String::from_utf8_lossy(&body).into_owned());
        }
        let asked = Asked { path, headers };
        log.lock().unwrap().push(asked.clone());
        let answer = rule(&asked, find(layout, &asked));
        let mut head = format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        writer.write_all(format!("{head}\r\n").as_bytes())?;
        if let Some(cut) = answer.cut.filter(|cut| *cut < answer.body.len()) {
            writer.write_all(&answer.body[..cut])?;
            return writer.shutdown(std::net::Shutdown::Both);
        }
        writer.write_all(&answer.body)?;
    }
}

/// As a good registry answers: manifests by tag (any is the first of the index) or digest, blobs, ranges.
fn find(layout: &Path, asked: &Asked) -> Option<Answer> {
    let last = asked.path.rsplit('/').next()?;
    let digest = if asked.path.contains("/manifests/") && !last.starts_with("sha256:") {
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        index["manifests"][0]["digest"].as_str()?.to_owned()
    } else {
        last.to_owned()
    };
    let body = std::fs::read(layout.join("blobs/sha256").join(digest.strip_prefix("sha256:")?)).ok()?;
    match asked.from() {
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
            Some(Answer::new(206, &body[from..]).header("content-range", range))
        }
        None => Some(Answer::new(200, body)),
    }
}
