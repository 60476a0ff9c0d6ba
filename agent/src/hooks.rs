//! Lifecycle hooks: commands, requests or a pause, after a container's start and before its end.

use std::time::Duration;

use manifests::k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use tokio::net::TcpStream;

use crate::machine::PodSandbox;
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
