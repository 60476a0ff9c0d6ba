//! Lifecycle hooks: commands, requests or a pause, after a container's start and before its end.

use std::sync::Arc;
use std::time::Duration;

use manifests::k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use manifests::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::Sandbox;
use tokio::net::TcpStream;

use crate::machine::{self, PodSandbox};
use crate::probe::{self, HttpProber, resolve_port};

/// A hook that hangs is given up some time; its container's grace period is usually over long before.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// The container that a hook belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// Where it runs.
    pub sandbox: &'a dyn PodSandbox,
    /// Its definition.
    pub container: &'a Container,
    /// Its id.
    pub id: &'a str,
    /// The pod's address.
    pub address: &'a str,
    /// For requests.
    pub http: &'a HttpProber,
}

/// A container's preStop hook with all that it needs: ports are numbers, and requests know their host. As text, to be kept
/// with the container.
pub(crate) fn keep(container: &Container, address: &str) -> Option<String> {
    let mut hook = container.lifecycle.as_ref()?.pre_stop.clone()?;
    let number = |port: &IntOrString| match resolve_port(port, container) {
        Some(number) => IntOrString::Int(i32::from(number)),
        None => port.clone(),
    };
    let host = |host: &mut Option<String>| {
        if host.as_ref().is_none_or(String::is_empty) {
            *host = Some(address.to_owned());
        }
    };
    if let Some(action) = &mut hook.http_get {
        action.port = number(&action.port);
        host(&mut action.host);
    }
    if let Some(action) = &mut hook.tcp_socket {
        action.port = number(&action.port);
        host(&mut action.host);
    }
    serde_json::to_string(&hook).ok()
}

/// Runs a hook that was kept with its container, for somebody who knows nothing of the pod.
pub async fn run_kept(kept: &str, sandbox: &Arc<Sandbox>, id: &str) -> Result<(), String> {
    let hook: LifecycleHandler = serde_json::from_str(kept).map_err(|error| error.to_string())?;
    let http = HttpProber::new().map_err(|error| error.to_string())?;
    let (sandbox, container) = (machine::real::sandbox(sandbox.clone()), Container::default());
    run(&hook, Target { sandbox: &*sandbox, container: &container, id, address: "", http: &http }).await
}

/// Runs a hook to its end.
pub(crate) async fn run(hook: &LifecycleHandler, target: Target<'_>) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let argv = exec.command.clone().unwrap_or_default();
        let shown = argv.join(" ");
        return match target.sandbox.run(target.id, argv, TIMEOUT).await {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => Err(format!(
                "command '{shown}' exited with {}: {}, message: {:?}",
                output.code,
                String::from_utf8_lossy(&output.output),
                String::from_utf8_lossy(&output.output)
            )),
            Err(error) => Err(format!("command '{shown}': {}", client::ErrorChain(&error))),
        };
    }
    if let Some(action) = &hook.http_get {
        let request = probe::http_request(action, target.container, target.address)?;
        return target.http.get(&request, TIMEOUT).await.map_err(|error| error.to_string());
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &hook.tcp_socket {
        let port = resolve_port(&action.port, target.container)
            .ok_or_else(|| "invalid port of a tcpSocket hook".to_owned())?;
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.address);
        return TcpStream::connect((host, port)).await.map(drop).map_err(|error| error.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[track_caller]
    fn check(hook: &str, expected: Option<&str>) {
        let pod = fixture::pod(&format!(
            "containers: [{{name: a, image: i, ports: [{{name: web, containerPort: 8080}}], {hook}}}]"
        ));
        let container = &pod.spec.unwrap().containers[0];
        assert_eq!(keep(container, "10.0.0.7").as_deref(), expected, "{hook}");
    }

    #[test]
    fn a_kept_hook_needs_nothing_else() {
        check("tty: false", None);
        check("lifecycle: {preStop: {exec: {command: [a, b]}}}", Some(r#"{"exec":{"command":["a","b"]}}"#));
        check("lifecycle: {preStop: {sleep: {seconds: 3}}}", Some(r#"{"sleep":{"seconds":3}}"#));
        check(
            "lifecycle: {preStop: {httpGet: {port: web, path: /x}}}",
            Some(r#"{"httpGet":{"host":"10.0.0.7","path":"/x","port":8080,"scheme":"HTTP"}}"#),
        );
        check(
            "lifecycle: {preStop: {tcpSocket: {port: 90, host: h}}}",
            Some(r#"{"tcpSocket":{"host":"h","port":90}}"#),
        );
    }
}
