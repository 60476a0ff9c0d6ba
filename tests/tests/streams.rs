//! Streams between stock clients and pods: exec, attach, cp and port-forward with kubectls of three ages. The oldest speaks SPDY, the younger
//! ones WebSocket, for port-forward with SPDY inside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};
use tests::{Cluster, eventually, kubectl};

const VERSIONS: [&str; 3] = ["1.20", "1.32", "1.36"];

const PODS: &str = r##"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: coracle.example/busybox:1
    command:
    - sh
    - -c
    - |
      mkdir -p /www && echo page > /www/index.html && httpd -p 8080 -h /www
      printf '#!/bin/sh\necho got $(wc -c)\n' > /count && chmod +x /count
      exec nc -ll -p 9000 -e /count
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: coracle.example/busybox:1
    command: [sh, -c, 'mkdir -p /www && echo host > /www/index.html && exec httpd -f -p 127.0.0.1:8099 -h /www']
---
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: cat, image: 'coracle.example/busybox:1', command: [cat], stdin: true}
---
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: sh, image: 'coracle.example/busybox:1', command: [sh], stdin: true, tty: true}
"##;

fn cluster_with_pods() -> Cluster {
    let cluster = Cluster::up();
    cluster.apply(PODS).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s"]).ok();
    cluster
}

/// A command that is still running, ended when the test ends.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A command with a terminal of its own.
struct Terminal {
    keyboard: File,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
    command: Background,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    fn of(cluster: &Cluster, version: &str, args: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let keyboard: OwnedFd = rustix::pty::openpt(flags | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::grantpt(&keyboard).unwrap();
        rustix::pty::unlockpt(&keyboard).unwrap();
        tcsetwinsize(&keyboard, size(80, 24)).unwrap();
        let name = rustix::pty::ptsname(&keyboard, Vec::new()).unwrap();
        let end = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        // The signal about a new size goes to whom the terminal belongs.
        let mut command: Command = cluster.machine.command("setsid");
        command.args(["--ctty", "--wait"]).arg(kubectl(version)).args(args);
        command.env("KUBECONFIG", cluster.kubeconfig()).env("TERM", "dumb");
        command.stdin(end()).stdout(end()).stderr(end());
        let command = Background(command.spawn().unwrap());
        let keyboard = File::from(keyboard);
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The terminal is gone when nobody has it open any more.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { keyboard, screen, seen: String::new(), command }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.keyboard, size(columns, rows)).unwrap();
    }

    fn shows(&mut self) -> &str {
        while let Ok(bytes) = self.screen.try_recv() {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        &self.seen
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        eventually(text, || {
            let seen = self.shows();
            if seen.contains(text) { Ok(()) } else { Err(format!("only this is there: {seen:?}")) }
        });
    }

    /// Asks for the size until it is the one that it should become.
    #[track_caller]
    fn wait_for_size(&mut self, text: &str) {
        eventually(text, || {
            self.types("stty size\n");
            std::thread::sleep(std::time::Duration::from_millis(50));
            let seen = self.shows();
            if seen.contains(text) { Ok(()) } else { Err(format!("only this is there: {seen:?}")) }
        });
    }

    fn ends(mut self) -> ExitStatus {
        eventually("the command ends", || match self.command.0.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err(self.shows().to_owned()),
        })
    }
}

/// Runs with input and returns exit code, output and errors.
fn with_input(cluster: &Cluster, version: &str, args: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
    let mut command = cluster.kubectl_command(version);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A command that ends early does not read everything.
        drop(stdin.write_all(&input));
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (output.status.code().unwrap(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn exec(cluster: &Cluster, version: &str) {
    let kubectl = |args: &[&str]| cluster.kubectl_version(version, args);
    let simple = kubectl(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((simple.code, simple.stdout.as_str()), (7, "out\n"), "{simple:?}");
    assert!(simple.stderr.contains("err\n"), "{simple:?}");
    assert!(kubectl(&["exec", "web", "--", "true"]).success);
    let missing = kubectl(&["exec", "web", "--", "no-such-program"]);
    assert!(!missing.success && missing.stderr.contains("no-such-program"), "{missing:?}");
    let nowhere = kubectl(&["exec", "web", "-c", "other", "--", "true"]);
    assert!(nowhere.stderr.contains("container other is not valid for pod web"), "{nowhere:?}");

    // More than all buffers on the way take, both ways; the oldest client ends its input when ours has ended, too.
    let megabytes: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    let (code, out, err) = with_input(cluster, version, &["exec", "-i", "web", "--", "cat"], &megabytes);
    assert!(code == 0 && out == megabytes, "{code} {} bytes {err}", out.len());
    let (code, out, _) =
        with_input(cluster, version, &["exec", "-i", "web", "--", "head", "-c", "3"], &megabytes);
    assert_eq!((code, out), (0, megabytes[..3].to_vec()));

    let mut terminal = Terminal::of(cluster, version, &["exec", "-it", "web", "--", "sh"]);
    terminal.types("stty size\n");
    terminal.wait_for("24 80");
    terminal.resize(100, 40);
    terminal.wait_for_size("40 100");
    terminal.types("exit 3\n");
    assert_eq!(terminal.ends().code(), Some(3));
}

fn attach(cluster: &Cluster, version: &str) {
    let mut command = cluster.kubectl_command(version);
    command.args(["attach", "-i", "echo"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut attached = Background(command.spawn().unwrap());
    let mut stdin = attached.0.stdin.take().unwrap();
    let line = format!("hello from {version}\n");
    stdin.write_all(line.as_bytes()).unwrap();
    let mut seen = BufReader::new(attached.0.stdout.take().unwrap()).lines();
    assert!(seen.any(|seen| seen.unwrap() == line.trim()), "the connection ended without an echo");
    drop((attached, stdin));

    let mut terminal = Terminal::of(cluster, version, &["attach", "-it", "shell"]);
    terminal.types(&format!("echo ${{HOSTNAME}}-{version}\n"));
    terminal.wait_for(&format!("shell-{version}"));
    terminal.resize(90, 30);
    terminal.wait_for_size("30 90");
}

fn copy(cluster: &Cluster, version: &str) {
    let content: String = (0..100_000).map(|number| format!("line {number}\n")).collect();
    let from = cluster.machine.write("sent", &content);
    let to = cluster.machine.path("received");
    let inside = format!("web:/tmp/{version}");
    cluster.kubectl_version(version, &["cp", from.to_str().unwrap(), &inside]).ok();
    cluster.kubectl_version(version, &["cp", &inside, to.to_str().unwrap()]).ok();
    assert!(std::fs::read_to_string(&to).unwrap() == content);
    std::fs::remove_file(to).unwrap();
}

#[test]
fn exec_attach_and_cp_with_kubectls_of_three_ages() {
    let cluster = cluster_with_pods();
    for version in VERSIONS {
        exec(&cluster, version);
        attach(&cluster, version);
        copy(&cluster, version);
    }
    // Nobody who may only read gets into a container, though a WebSocket begins with a GET.
    cluster.kubectl(["create", "clusterrole", "looks", "--verb=get", "--resource=pods,pods/exec"]).ok();
    cluster.kubectl(["create", "clusterrolebinding", "looks", "--clusterrole=looks", "--user=jane"]).ok();
    let refused = cluster.kubectl(["exec", "--as=jane", "web", "--", "true"]);
    let why = "User \"jane\" cannot create resource \"pods/exec\"";
    assert!(!refused.success && refused.stderr.contains(why), "{refused:?}");
}

/// A `kubectl port-forward` that runs.
struct Forward {
    port: u16,
    command: Background,
    errors: File,
}

impl Forward {
    fn to(cluster: &Cluster, version: &str, pod: &str, port: u16) -> Self {
        let path = cluster.machine.path("port-forward.errors");
        let mut command = cluster.kubectl_command(version);
        command.args(["port-forward", pod, &format!(":{port}")]).stdout(Stdio::piped());
        command.stderr(File::create(&path).unwrap());
        let mut command = Background(command.spawn().unwrap());
        let mut lines = BufReader::new(command.0.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap_or_else(|| Ok(std::fs::read_to_string(&path).unwrap())).unwrap();
        let local = first.strip_prefix("Forwarding from 127.0.0.1:").unwrap_or_else(|| panic!("{first:?}"));
        let local = local.split(' ').next().unwrap().parse().unwrap();
        // It writes a line for every connection, and must not wait for anybody to read them.
        std::thread::spawn(move || lines.for_each(drop));
        Self { port: local, command, errors: File::open(&path).unwrap() }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap()
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        std::io::Seek::rewind(&mut self.errors).unwrap();
        self.errors.read_to_string(&mut text).unwrap();
        text
    }
}

fn get(mut stream: TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn port_forward(cluster: &Cluster, version: &str) {
    let mut forward = Forward::to(cluster, version, "pod/web", 8080);
    // One that says nothing does not hold up the others, of which there are many over one session.
    let idle = forward.connect();
    let answers: Vec<_> = (0..40)
        .map(|_| {
            let stream = forward.connect();
            std::thread::spawn(move || get(stream))
        })
        .collect();
    for answer in answers {
        let answer = answer.join().unwrap();
        assert!(answer.ends_with("page\n"), "{version}: {answer:?}");
    }
    drop(idle);
    assert!(forward.command.0.try_wait().unwrap().is_none(), "{}", forward.errors());
    drop(forward);

    // Who has no more to say still hears: the pod counts until the end, and answers then.
    let forward = Forward::to(cluster, version, "web", 9000);
    let mut stream = forward.connect();
    let mut sender = stream.try_clone().unwrap();
    sender.write_all(&vec![b'x'; 3_000_000]).unwrap();
    sender.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got 3000000\n", "{version}");
    drop(forward);

    let forward = Forward::to(cluster, version, "pod/host", 8099);
    assert!(get(forward.connect()).ends_with("host\n"), "{version}");
    drop(forward);

    // Nothing listens there: the client learns why.
    let mut forward = Forward::to(cluster, version, "pod/web", 81);
    let mut stream = forward.connect();
    // Some close the connection, some reset it.
    drop(stream.read(&mut [0; 8]));
    eventually("the reason is told", || {
        let errors = forward.errors();
        let told = errors.contains("error forwarding port 81 to pod web")
            && errors.contains("connect: connection refused");
        if told { Ok(()) } else { Err(errors) }
    });
}

#[test]
fn ports_are_forwarded_with_kubectls_of_three_ages() {
    let cluster = cluster_with_pods();
    // Only this thread and those that it starts.
    cluster.machine.enter();
    for version in VERSIONS {
        port_forward(&cluster, version);
    }
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
";

#[test]
fn proxies_reach_pods_services_and_nodes() {
    let cluster = cluster_with_pods();
    cluster.apply(SERVICE).ok();
    let raw = |path: &str| cluster.kubectl(["get", "--raw", path]);
    eventually("the service has an endpoint", || {
        let answer = raw("/api/v1/namespaces/default/services/http:web:http/proxy/");
        if answer.stdout == "page\n" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    for path in ["pods/web:8080", "pods/http:web:8080", "services/web", "services/web:80"] {
        let path = format!("/api/v1/namespaces/default/{path}/proxy/index.html?a=b");
        assert_eq!(raw(&path).ok(), "page\n", "{path}");
    }
    let node = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let pods = raw(&format!("/api/v1/nodes/{node}/proxy/pods")).ok();
    assert!(pods.contains("\"PodList\"") && pods.contains("\"echo\""), "{pods}");

    let refused = raw("/api/v1/namespaces/default/pods/web:81/proxy/").err();
    assert!(refused.contains("connect: connection refused"), "{refused}");
    let nobody = raw("/api/v1/namespaces/default/services/nobody/proxy/").err();
    assert!(nobody.contains("no endpoints available for service \"nobody\""), "{nobody}");
    let missing = raw("/api/v1/namespaces/default/pods/missing/proxy/").err();
    assert!(missing.contains("not found"), "{missing}");

    // Through kubectl proxy, with clients of the web: a redirect to where the page's links work, other methods, the backend's own errors.
    let mut command = cluster.kubectl_command("1.36");
    command.args(["proxy", "--port=0"]).stdout(Stdio::piped());
    let mut proxy = Background(command.spawn().unwrap());
    let mut first = String::new();
    BufReader::new(proxy.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let port: u16 = first.trim().rsplit_once(':').unwrap().1.parse().unwrap();
    cluster.machine.enter();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let own = "/api/v1/namespaces/default/pods/web:8080/proxy";
        let request = request.replace("OWN", own);
        write!(stream, "{request}\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let moved = ask("GET OWN HTTP/1.1");
    assert!(moved.starts_with("HTTP/1.1 301") && moved.contains("/pods/web:8080/proxy/\r\n"), "{moved}");
    assert!(ask("GET OWN/ HTTP/1.1").ends_with("page\n"));
    assert!(ask("HEAD OWN/index.html HTTP/1.1").starts_with("HTTP/1.1 200"));
    assert!(ask("GET OWN/none HTTP/1.1").starts_with("HTTP/1.1 404"));
    let posted = ask("POST OWN/index.html HTTP/1.1\r\nContent-Length: 0");
    assert!(posted.starts_with("HTTP/1.1 501") || posted.starts_with("HTTP/1.1 404"), "{posted}");
    drop(proxy);

    // An exec whose WebSocket goes through the proxy of a node to its agent, and nobody without the permission.
    cluster.kubectl(["create", "clusterrole", "looks", "--verb=get", "--resource=pods,nodes"]).ok();
    cluster.kubectl(["create", "clusterrolebinding", "looks", "--clusterrole=looks", "--user=jane"]).ok();
    let path = format!("/api/v1/nodes/{node}/proxy/pods");
    let refused = cluster.kubectl(["get", "--as=jane", "--raw", &path]).err();
    assert!(refused.contains("nodes/proxy"), "{refused}");
}

const BUSY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: busy, labels: {app: busy}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: loop
    image: coracle.example/busybox:1
    command: [sh, -c, 'while :; do :; done']
    resources: {limits: {cpu: 200m}}
  - {name: idle, image: 'coracle.example/busybox:1', command: [sleep, '100000']}
";

/// A number with a unit, in the unit's base.
fn quantity(text: &str) -> f64 {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let factor = match &text[digits.len()..] {
        "n" => 1e-9,
        "m" => 1e-3,
        "Ki" => 1024.0,
        "Mi" => 1048576.0,
        "" => 1.0,
        other => panic!("{other}"),
    };
    digits.parse::<f64>().unwrap() * factor
}

#[test]
fn top_tells_what_is_used() {
    let cluster = Cluster::up();
    cluster.apply(BUSY).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/busy", "--timeout=60s"]).ok();
    let own = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/busy";
    let metrics = eventually("the loop is held to its limit", || {
        let text = cluster.kubectl(["get", "--raw", own]).ok();
        let metrics: serde_json::Value = serde_json::from_str(&text).unwrap();
        let used = quantity(metrics["containers"][1]["usage"]["cpu"].as_str().unwrap())
            + quantity(metrics["containers"][0]["usage"]["cpu"].as_str().unwrap());
        // The machine may be too busy to give it what it may have.
        if used > 0.01 && used < 0.25 { Ok(metrics) } else { Err(text) }
    });
    assert_eq!(
        (&metrics["kind"], &metrics["metadata"]["labels"]["app"]),
        (&"PodMetrics".into(), &"busy".into())
    );
    assert_eq!(metrics["containers"].as_array().unwrap().len(), 2);

    // What the kernel says, before and after: nothing that is cached or estimated.
    let uid = cluster.kubectl(["get", "pod", "busy", "-o", "jsonpath={.metadata.uid}"]).ok();
    let files = memory_files(&uid);
    assert!(!files.is_empty(), "no control group of the pod is found");
    eventually("memory is what the kernel says", || {
        let sum = || {
            files
                .iter()
                .map(|file| std::fs::read_to_string(file).unwrap().trim().parse::<f64>().unwrap())
                .sum::<f64>()
        };
        let before = sum();
        let text = cluster.kubectl(["get", "--raw", own]).ok();
        let after = sum();
        let metrics: serde_json::Value = serde_json::from_str(&text).unwrap();
        let containers = metrics["containers"].as_array().unwrap().clone();
        let told: f64 = containers.iter().map(|one| quantity(one["usage"]["memory"].as_str().unwrap())).sum();
        // The working set is the usage without what can be dropped at once, of which there is little here.
        let near = |kernel: f64| told <= kernel * 1.02 + 4096.0;
        if told > 0.0 && (near(before) || near(after)) {
            Ok(())
        } else {
            Err(format!("{before} {after} {text}"))
        }
    });

    for version in VERSIONS {
        let kubectl = |args: &[&str]| cluster.kubectl_version(version, args);
        let nodes = kubectl(&["top", "nodes"]).ok();
        assert!(nodes.starts_with("NAME") && nodes.lines().count() == 2 && nodes.contains('%'), "{nodes}");
        let pods = kubectl(&["top", "pods", "--containers", "-l", "app=busy"]).ok();
        assert!(pods.contains("loop") && pods.contains("idle"), "{pods}");
        assert!(!kubectl(&["top", "pod", "missing"]).success);
    }
}

/// The files with what the containers of a pod use of memory.
fn memory_files(uid: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<std::path::PathBuf> = vec!["/sys/fs/cgroup/memory".into(), "/sys/fs/cgroup".into()];
    folders.retain(|folder| folder.exists());
    folders.truncate(1);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if !path.is_dir() {
                continue;
            }
            let name = entry.file_name().to_string_lossy().replace('_', "-");
            if path.parent().is_some_and(|parent| parent.to_string_lossy().replace('_', "-").contains(uid))
                && !name.contains(uid)
            {
                let files = ["memory.usage_in_bytes", "memory.current"].map(|file| path.join(file));
                found.extend(files.into_iter().find(|file| file.exists()));
            }
            folders.push(path);
        }
    }
    found
}
