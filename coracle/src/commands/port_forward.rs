//! `coracle port-forward`: connections to ports of this machine go on to ports of a pod, over one SPDY session.
//!
//! The session belongs to the pod; the listeners do not. When a session ends (the pod was replaced, the server restarted), the next connection
//! looks for a pod again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use client::Upgraded;
use http::Request;
use serde_json::Value;
use spdy::{Headers, Limits, OpenError, Opened, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::logs::find_pod;
use super::{Session, exec, say};
use crate::flags::ApiArgs;

/// What goes wrong in a pod is told in fewer bytes.
const LONGEST_ERROR: u64 = 64 << 10;
/// A listener that cannot accept (no descriptors left, mostly) tries again after this.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle port-forward web 8080\n  coracle port-forward service/web 8080:80 9090:metrics\n  \
                        coracle port-forward deployment/web :80\n\n\
                        A port is LOCAL:REMOTE; alone it is both, and an empty LOCAL picks a free one. REMOTE may be the name of a port.\n\
                        When the pod is replaced, new connections go to its successor."
)]
pub(crate) struct PortForwardArgs {
    /// POD, or TYPE/NAME of something that has pods
    #[arg(value_name = "POD")]
    target: String,
    /// LOCAL:REMOTE…
    #[arg(value_name = "PORT", required = true)]
    ports: Vec<String>,
    /// Addresses of this machine to listen on
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', default_value = "127.0.0.1")]
    address: Vec<IpAddr>,
    #[command(flatten)]
    api: ApiArgs,
}

/// One port as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Typed {
    /// 0 is any.
    local: u16,
    remote: String,
}

fn parse(text: &str) -> anyhow::Result<Typed> {
    let number = |text: &str| {
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        port.with_context(|| format!("{text:?} is not a port from 1 to 65535"))
    };
    let (local, remote) = match text.split_once(':') {
        Some(("", remote)) => (0, remote),
        Some((local, remote)) => (number(local)?, remote),
        // A name says nothing about this machine.
        None => (text.parse().unwrap_or(0), text),
    };
    if remote.is_empty() || remote.parse::<i64>().is_ok_and(|port| !(1..=65535).contains(&port)) {
        bail!("{text:?} is no port to forward: give LOCAL:REMOTE, such as 8080:80");
    }
    Ok(Typed { local, remote: remote.to_owned() })
}

/// The number of a container's port.
fn of_pod(pod: &Value, port: &str) -> anyhow::Result<u16> {
    if let Ok(number) = port.parse() {
        return Ok(number);
    }
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let found =
        ports.find(|defined| defined["name"] == port).and_then(|defined| defined["containerPort"].as_u64());
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    found
        .and_then(|port| u16::try_from(port).ok())
        .with_context(|| format!("pod {name} does not have a named port '{port}'"))
}

/// The pod's port behind a port of a service.
fn of_service(service: &Value, pod: &Value, port: &str) -> anyhow::Result<u16> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let found = ports.find(|defined| {
        defined["name"] == port || defined["port"].as_u64().is_some_and(|number| number.to_string() == port)
    });
    let found = found.with_context(|| format!("Service {name} does not have a service port {port}"))?;
    match &found["targetPort"] {
        Value::Number(number) => of_pod(pod, &number.to_string()),
        Value::String(target) => of_pod(pod, target),
        _ => of_pod(pod, &found["port"].to_string()),
    }
}

/// Where connections go.
struct Forward {
    session: Session,
    target: String,
    open: Mutex<Option<spdy::Session>>,
}

pub(crate) async fn run(args: PortForwardArgs) -> anyhow::Result<()> {
    let typed = args.ports.iter().map(|port| parse(port)).collect::<anyhow::Result<Vec<_>>>()?;
    let session = Session::open(&args.api)?;
    let forward = Arc::new(Forward { session, target: args.target, open: Mutex::new(None) });
    let (pod, service) = forward.find().await?;
    let mut listeners = Vec::new();
    for port in typed {
        let remote = match &service {
            Some(service) => of_service(service, &pod, &port.remote)?,
            None => of_pod(&pod, &port.remote)?,
        };
        for address in &args.address {
            let listener = TcpListener::bind((*address, port.local)).await;
            let listener = listener.with_context(|| format!("listening on {address}:{}", port.local))?;
            listeners.push((listener, remote));
        }
    }
    // Whether it works at all is better known before anybody connects.
    forward.connect(&pod).await?;
    let mut tasks = JoinSet::new();
    for (listener, remote) in listeners {
        say(format_args!("Forwarding from {} -> {remote}", listener.local_addr()?))?;
        tasks.spawn(accept(Arc::clone(&forward), listener, remote));
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn accept(forward: Arc<Forward>, listener: TcpListener, remote: u16) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let forward = Arc::clone(&forward);
                    connections.spawn(async move {
                        if let Err(error) = forward.carry(stream, remote).await {
                            eprintln!("{}", crate::error_line(&error));
                        }
                    });
                }
                Err(error) => {
                    eprintln!("error: accepting a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Forward {
    /// The pod, and the service if one was named.
    async fn find(&self) -> anyhow::Result<(Value, Option<Value>)> {
        let pod = find_pod(&self.session, &self.target).await?;
        let (kind, name) = self.target.split_once('/').unwrap_or(("pods", &self.target));
        let resource = self.session.resource(kind).await?;
        let service = match resource.kind.as_str() {
            "Service" => Some(self.session.get(&resource.object(&self.session.namespace, name)).await?),
            _ => None,
        };
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        if phase != "Running" {
            bail!("unable to forward port because pod is not running. Current status={phase}");
        }
        Ok((pod, service))
    }

    async fn connect(&self, pod: &Value) -> anyhow::Result<spdy::Session> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let path =
            self.session.resource("pods").await?.object(&self.session.namespace, name) + "/portforward";
        let request = Request::post(path)
            .header(http::header::CONNECTION, "Upgrade")
            .header(http::header::UPGRADE, "SPDY/3.1")
            .header("x-stream-protocol-version", "portforward.k8s.io")
            .body(())
            .context("building the request")?;
        let connection = match self.session.client.upgrade(request).await? {
            Upgraded::Switched(_, connection) => connection,
            Upgraded::Refused(response) => return Err(exec::refusal(response).await),
        };
        let Opened { session, incoming: _, driver } =
            spdy::session(connection, Role::Client, Limits::default());
        // Detached: it ends with the connection, and this process with its last listener.
        tokio::spawn(driver.run());
        *self.open.lock().await = Some(session.clone());
        Ok(session)
    }

    /// Opens both streams of a connection, over a new session if the old one has ended.
    async fn open(&self, port: u16) -> anyhow::Result<(spdy::Stream, spdy::Stream)> {
        let known = self.open.lock().await.clone();
        if let Some(session) = known {
            match streams(&session, port).await {
                Ok(streams) => return Ok(streams),
                Err(OpenError::Refused) => bail!("the pod's node takes no more connections"),
                Err(OpenError::Ended) => {
                    eprintln!("The connection to the pod was lost; looking for {} again", self.target)
                }
            }
        }
        let (pod, _) = self.find().await?;
        let session = self.connect(&pod).await?;
        streams(&session, port).await.map_err(|error| anyhow!(error))
    }

    async fn carry(&self, local: TcpStream, port: u16) -> anyhow::Result<()> {
        local.set_nodelay(true)?;
        let (error, data) = self.open(port).await?;
        let (mut from_local, mut to_local) = local.into_split();
        let (mut from_pod, mut to_pod) = tokio::io::split(data);
        let told = async {
            let mut text = String::new();
            _ = error.take(LONGEST_ERROR).read_to_string(&mut text).await;
            if text.is_empty() {
                // Nothing went wrong; what the pod has sent may still be on its way.
                std::future::pending::<()>().await;
            }
            text
        };
        // Each direction ends by itself. When either breaks off, so does the connection.
        let moved = async {
            let out = async {
                tokio::io::copy(&mut from_local, &mut to_pod).await?;
                to_pod.shutdown().await
            };
            let back = async {
                tokio::io::copy(&mut from_pod, &mut to_local).await?;
                to_local.shutdown().await
            };
            tokio::select! {
                // First, as it is told before the end of the data.
                biased;
                text = told => return text,
                _ = async { tokio::try_join!(out, back) } => {}
            }
            String::new()
        };
        let text = moved.await;
        if text.is_empty() {
            return Ok(());
        }
        // Perhaps the pod has gone, which its node's session outlives: the next connection looks for it again.
        self.open.lock().await.take();
        bail!("{text}")
    }
}

async fn streams(session: &spdy::Session, port: u16) -> Result<(spdy::Stream, spdy::Stream), OpenError> {
    // Unique in its session; nobody else numbers there.
    static REQUESTS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let request = REQUESTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let headers = |kind: &str| {
        let headers = Headers::new().with("streamType", kind).with("port", port.to_string());
        headers.with("requestID", request.to_string())
    };
    let mut error = session.open(headers("error")).await?;
    // Nothing is said there from this side.
    _ = error.shutdown().await;
    Ok((error, session.open(headers("data")).await?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        let check = |text: &str, expected: Option<(u16, &str)>| {
            let found = parse(text).ok();
            assert_eq!(
                found,
                expected.map(|(local, remote)| Typed { local, remote: remote.to_owned() }),
                "{text}"
            );
        };
        check("8080", Some((8080, "8080")));
        check("8080:80", Some((8080, "80")));
        check(":80", Some((0, "80")));
        check("9090:metrics", Some((9090, "metrics")));
        check("metrics", Some((0, "metrics")));
        for wrong in ["", "8080:", "x:80", "0:80", "8080:70000", "8080:0"] {
            check(wrong, None);
        }
    }

    #[test]
    fn names_and_services_lead_to_the_pods_port() {
        let pod = json!({"metadata": {"name": "web-1"}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "ports": [{"name": "http", "containerPort": 8080}]}]}});
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [
            {"name": "main", "port": 80, "targetPort": "http"}, {"port": 90, "targetPort": 9090}, {"port": 70}]}});
        assert_eq!(of_pod(&pod, "http").unwrap(), 8080);
        assert_eq!(
            of_pod(&pod, "none").unwrap_err().to_string(),
            "pod web-1 does not have a named port 'none'"
        );
        for (port, expected) in [("80", 8080), ("main", 8080), ("90", 9090), ("70", 70)] {
            assert_eq!(of_service(&service, &pod, port).unwrap(), expected, "{port}");
        }
        let error = of_service(&service, &pod, "81").unwrap_err();
        assert_eq!(error.to_string(), "Service web does not have a service port 81");
    }
}
