//! One probe of one container: its timer, its question, its verdicts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use manifests::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::grpc;
use super::http::HttpRequest;
use super::result::{Counter, Outcome, Timing};
use super::{HttpProber, Kind};
use crate::events::Events;
use crate::machine::{PodSandbox, RunError};

/// A new verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// The container's id.
    pub container: String,
    /// Which probe.
    pub kind: Kind,
    /// What it says.
    pub success: bool,
}

/// What is probed.
#[derive(Debug, Clone)]
pub struct ProbeTarget {
    /// The pod, for events.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// Its id.
    pub id: String,
    /// Where it runs.
    pub sandbox: Arc<dyn PodSandbox>,
    /// The pod's address.
    pub address: String,
    /// When it was started.
    pub started_at: Timestamp,
}

/// A probe at work. Dropping it ends it.
#[derive(Debug)]
pub struct Probing {
    task: JoinHandle<()>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probing {
    /// Begins to probe; verdicts go to `results`.
    pub fn start(
        target: ProbeTarget,
        kind: Kind,
        probe: Probe,
        http: HttpProber,
        events: Events,
        results: mpsc::Sender<ProbeResult>,
    ) -> Self {
        Self { task: tokio::spawn(run(target, kind, probe, http, events, results)) }
    }
}

async fn run(
    target: ProbeTarget,
    kind: Kind,
    probe: Probe,
    http: HttpProber,
    events: Events,
    results: mpsc::Sender<ProbeResult>,
) {
    let timing = Timing::of(&probe);
    let mut counter = Counter::of(&probe);
    let age = Duration::try_from(Timestamp::now().duration_since(target.started_at)).unwrap_or_default();
    let mut next = Instant::now() + timing.initial_delay.saturating_sub(age);
    loop {
        tokio::time::sleep_until(next).await;
        let outcome = probe_once(&target, &probe, timing.timeout, &http).await;
        let success = outcome == Outcome::Success;
        if let Outcome::Failure(message) = outcome {
            let text = format!("{} probe failed: {message}", kind.as_str());
            events.container_warning(&target.pod, &target.container.name, "Unhealthy", text);
        }
        if let Some(success) = counter.count(success) {
            let result = ProbeResult { container: target.id.clone(), kind, success };
            if results.send(result).await.is_err() {
                return;
            }
            // The startup probe is over with its first success, and a failure ends the container.
            if kind == Kind::Startup {
                return;
            }
        }
        next = (next + timing.period).max(Instant::now());
    }
}

/// Asks once.
pub async fn probe_once(
    target: &ProbeTarget,
    probe: &Probe,
    timeout: Duration,
    http: &HttpProber,
) -> Outcome {
    if let Some(exec) = &probe.exec {
        let argv = exec.command.clone().unwrap_or_default();
        return match target.sandbox.run(&target.id, argv, timeout).await {
            Ok(output) if output.code == 0 => Outcome::Success,
            Ok(output) => Outcome::Failure(String::from_utf8_lossy(&output.output).into_owned()),
            Err(RunError::Timeout(timeout)) => {
                Outcome::Failure(format!("command timed out after {}s", timeout.as_secs()))
            }
            Err(error) => Outcome::Failure(client::ErrorChain(&error).to_string()),
        };
    }
    if let Some(action) = &probe.http_get {
        let request = match http_request(action, &target.container, &target.address) {
            Ok(request) => request,
            Err(message) => return Outcome::Failure(message),
        };
        return match http.get(&request, timeout).await {
            Ok(()) => Outcome::Success,
            Err(error) => Outcome::Failure(error.to_string()),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let Some(port) = resolve_port(&action.port, &target.container) else {
            return Outcome::Failure(no_port(&action.port));
        };
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.address);
        return tcp(host, port, timeout).await;
    }
    if let Some(action) = &probe.grpc {
        let Some(port) = u16::try_from(action.port).ok().filter(|port| *port > 0) else {
            return Outcome::Failure(no_port(&IntOrString::Int(action.port)));
        };
        let service = action.service.as_deref().unwrap_or_default();
        return grpc::check(&target.address, port, service, timeout).await;
    }
    Outcome::Success
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Outcome {
    let failed = |reason: &str| Outcome::Failure(format!("dial tcp {host}:{port}: {reason}"));
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            failed("connect: connection refused")
        }
        Ok(Err(error)) => failed(&error.to_string()),
        Err(_) => failed("i/o timeout"),
    }
}

/// The request of a probe or a hook; also used for lifecycle handlers.
pub(crate) fn http_request(
    action: &HTTPGetAction,
    container: &Container,
    address: &str,
) -> Result<HttpRequest, String> {
    let port = resolve_port(&action.port, container).ok_or_else(|| no_port(&action.port))?;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let headers = action.http_headers.iter().flatten();
    Ok(HttpRequest {
        scheme: given(&action.scheme).unwrap_or_else(|| "http".to_owned()),
        host: given(&action.host).unwrap_or_else(|| address.to_owned()),
        port,
        path: given(&action.path).unwrap_or_else(|| "/".to_owned()),
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    })
}

fn no_port(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port {name:?}"),
    }
}

/// A port by number, or by name among the container's.
pub fn resolve_port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            match named {
                Some(port) => u16::try_from(port.container_port).ok(),
                None => name.parse().ok(),
            }
        }
    };
    number.filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn ports_have_numbers_or_names() {
        let pod =
            fixture::pod("containers: [{name: a, image: i, ports: [{name: http, containerPort: 8080}]}]");
        let container = &pod.spec.as_ref().unwrap().containers[0];
        for (port, expected) in [
            (IntOrString::Int(80), Some(80)),
            (IntOrString::Int(0), None),
            (IntOrString::Int(70_000), None),
            (IntOrString::String("http".into()), Some(8080)),
            (IntOrString::String("90".into()), Some(90)),
            (IntOrString::String("none".into()), None),
        ] {
            assert_eq!(resolve_port(&port, container), expected, "{port:?}");
        }
    }

    #[tokio::test]
    async fn tcp_probes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(1)).await, Outcome::Success);
        drop(listener);
        let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(1)).await, Outcome::Failure(expected));
    }
}
