//! The proxy: a process of its own that outlives everything here, and is started again if it should die.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use client::Backoff;
use proxy::{Control, Launched};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::node::Node;
use super::signals;
use crate::flags::ProxyArgs;
use crate::instance::Instance;

/// `coracle proxy`
pub(crate) fn run(args: ProxyArgs) -> anyhow::Result<()> {
    // A session of its own: what ends the terminal or the service that started it does not end the proxy. It fails
    // where the process leads a group already, and then there is nothing to leave.
    _ = rustix::process::setsid();
    let instance = Instance::new(&args.instance)?;
    instance.create_directories()?;
    super::raise_descriptor_limit();
    let node = Node::new(&instance, &args.cluster, &args.node)?;
    let config = node.proxy_config(&instance, proxy::Source::Kubeconfig(args.kubeconfig));
    let stop = CancellationToken::new();
    let _listener = signals::cancel_when_asked(stop.clone())?;
    proxy::run(config, &stop).context("the proxy failed")
}

/// Keeps a proxy of this version running.
pub(crate) async fn supervise(instance: Instance, node: Node, stop: CancellationToken) {
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut failures = 0;
    loop {
        let launched =
            proxy::ensure_running(&instance.proxy_dir(), &node.proxy_version(), || spawn(&instance, &node))
                .await;
        let (pid, child) = match launched {
            Ok(Launched::Found(pong)) => {
                info!(pid = pong.pid, "found the proxy of an earlier start");
                (pong.pid, None)
            }
            Ok(Launched::Started(pong, child)) => (pong.pid, Some(child)),
            Err(error) => {
                warn!(error = %client::ErrorChain(&error), log = %log_file(&instance).display(), "the proxy cannot be started; trying again");
                failures += 1;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.delay(failures)) => continue,
                }
            }
        };
        failures = 0;
        let ended = async {
            if let Ok(control) = Control::connect(&instance.proxy_dir()).await {
                control.ended().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = ended => warn!(pid, "the proxy has ended; starting it again"),
        }
        if let Some(mut child) = child {
            // It has closed its socket, so it is ending; nothing is lost if it takes a moment.
            _ = tokio::task::spawn_blocking(move || child.wait()).await;
        }
    }
}

fn log_file(instance: &Instance) -> std::path::PathBuf {
    instance.data_dir.join("proxy.log")
}

fn spawn(instance: &Instance, node: &Node) -> std::io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log_file(instance))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments(instance, node)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn()
}

/// The command line that makes a proxy process come to the same [`Node`].
fn arguments(instance: &Instance, node: &Node) -> Vec<OsString> {
    let cluster = &node.cluster;
    let mut arguments: Vec<OsString> = vec!["proxy".into(), "--log".into(), "warn".into()];
    let mut flag = |name: &str, value: OsString| {
        arguments.push(name.into());
        arguments.push(value);
    };
    flag("--data-dir", instance.data_dir.clone().into());
    flag("--run-dir", instance.run_dir.clone().into());
    flag("--kubeconfig", instance.proxy_kubeconfig().into());
    flag("--pod-cidr", cluster.pods.to_string().into());
    flag("--service-cidr", cluster.services.to_string().into());
    flag("--cluster-dns", cluster.dns.to_string().into());
    flag("--cluster-domain", cluster.domain.clone().into());
    flag("--node-name", node.name.clone().into());
    flag("--node-ip", node.address.to_string().into());
    flag("--node-cidr", node.network.pod_cidr.to_string().into());
    flag("--bridge", node.names.bridge.clone().into());
    flag("--cgroup-parent", node.names.group.clone().into());
    arguments
}
