//! Making a pod's sandbox, and its place in the network.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::ErrorChain;
use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::{Pod, PodSpec};
use manifests::k8s_openapi::api::node::v1::RuntimeClass;
use network::{HostPort, Protocol};
use runtime::{NamespaceMode, NetworkMode, PidMode, SandboxSpec, Users};

use super::super::decide::grace_period;
use super::super::observe::Failure;
use super::{Outcome, RETRY, failure};
use crate::context::Context;
use crate::etc;
use crate::machine::PodSandbox;
use crate::names::{self, label};
use crate::resources::{pod_cgroup, pod_limits_of};
use crate::users;

/// What a sandbox is made from.
#[derive(Debug)]
pub(in super::super) struct SandboxInput {
    pub(in super::super) context: Arc<Context>,
    pub(in super::super) pod: Arc<Pod>,
    pub(in super::super) attempt: u32,
    /// The dead one that has to go first.
    pub(in super::super) replaces: Option<Arc<dyn PodSandbox>>,
}

pub(in super::super) async fn create_sandbox(input: SandboxInput) -> Outcome {
    let SandboxInput { context, pod, attempt, replaces } = input;
    Outcome::Sandbox(create(&context, &pod, attempt, replaces).await.inspect_err(|failure| {
        let message = format!("Failed to create pod sandbox: {}", failure.message);
        context.events.warning(&pod, "FailedCreatePodSandBox", message);
    }))
}

async fn create(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    attempt: u32,
    replaces: Option<Arc<dyn PodSandbox>>,
) -> Result<(Arc<dyn PodSandbox>, Vec<String>), Failure> {
    if let Some(dead) = replaces {
        let message = "Pod sandbox changed, it will be killed and re-created.";
        context.events.normal(pod, "SandboxChanged", message);
        dead.remove().await.map_err(|error| failed(&error))?;
        context.machine.network.detach(dead.id()).await.map_err(|error| failed(&error))?;
    }
    check_handler(context, pod).await?;
    let users = users(context, pod).await?;
    let spec = sandbox_spec(context, pod, attempt, users)?;
    let sandbox = context.machine.sandboxes.create(spec).await.map_err(|error| failed(&error))?;
    match attach(context, pod, &*sandbox).await {
        Ok(addresses) => Ok((sandbox, addresses)),
        Err(failure) => {
            // Half a sandbox is none: the next attempt begins afresh.
            if let Err(error) = sandbox.remove().await {
                tracing::warn!(sandbox = sandbox.id(), error = %ErrorChain(&error), "removing a sandbox without network");
            }
            Err(failure)
        }
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    failure("FailedCreatePodSandBox", ErrorChain(error).to_string(), RETRY)
}

/// Attaches a sandbox to the pod network, or finds it attached; a pod on the host's network has the node's addresses.
pub(in super::super) async fn attach(
    context: &Context,
    pod: &Pod,
    sandbox: &dyn PodSandbox,
) -> Result<Vec<String>, Failure> {
    if pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false) {
        return Ok(context.node.addresses.clone());
    }
    let netns = sandbox.netns().map_err(|error| failed(&error))?;
    let attached = context.machine.network.attach(netns, sandbox.id(), &host_ports(pod)).await;
    attached.map_err(|error| failed(&error))
}

/// Names that classes may have for the one way in which this node runs pods.
pub(crate) const HANDLERS: [&str; 2] = ["coracle", "runc"];

/// Refuses a pod whose class asks for a handler that this node does not have.
async fn check_handler(context: &Context, pod: &Pod) -> Result<(), Failure> {
    let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
    let Some(class) = class.filter(|class| !class.is_empty()) else { return Ok(()) };
    let Some(client) = &context.client else { return Err(failed(&HandlerError::NoServer)) };
    let found = client.all::<RuntimeClass>().get(class).await.map_err(|error| failed(&error))?;
    match HANDLERS.contains(&found.handler.as_str()) {
        true => Ok(()),
        false => Err(failed(&HandlerError::Unknown(found.handler))),
    }
}

/// Why a pod's class is none for this node.
#[derive(Debug, thiserror::Error)]
enum HandlerError {
    /// There is nobody to ask what the class means.
    #[error("this node has no API server with RuntimeClasses")]
    NoServer,
    /// It means something that we do not do.
    #[error("no runtime for {0:?} is configured")]
    Unknown(String),
}

/// The ids that the pod's users have on the node, if they are not the node's own.
async fn users(context: &Arc<Context>, pod: &Arc<Pod>) -> Result<Option<Users>, Failure> {
    if !users::wanted(pod) {
        return Ok(None);
    }
    let (context, pod) = (Arc::clone(context), Arc::clone(pod));
    let assigned = tokio::task::spawn_blocking(move || context.users.assign(&context.layout, &pod)).await;
    match assigned {
        Ok(assigned) => assigned.map_err(|error| failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

fn sandbox_spec(
    context: &Context,
    pod: &Pod,
    attempt: u32,
    users: Option<Users>,
) -> Result<SandboxSpec, Failure> {
    let empty = PodSpec::default();
    let pod_spec = pod.spec.as_ref().unwrap_or(&empty);
    let is = |flag: Option<bool>| flag.unwrap_or(false);
    let uid = names::uid(pod);
    let name =
        etc::hostname(pod, &context.node.hostname, &context.dns.domain).map_err(|error| failed(&error))?;
    let mut spec = SandboxSpec::new(sandbox_id(uid, attempt), pod_cgroup(pod, uid));
    spec.labels = BTreeMap::from([
        (label::POD_UID.to_owned(), uid.to_owned()),
        (label::POD_NAME.to_owned(), names::name(pod).to_owned()),
        (label::POD_NAMESPACE.to_owned(), names::namespace(pod).to_owned()),
        (label::ATTEMPT.to_owned(), attempt.to_string()),
        (label::PRIORITY.to_owned(), pod_spec.priority.unwrap_or(0).to_string()),
        (label::GRACE.to_owned(), grace_period(pod_spec).as_secs().to_string()),
        (label::SANDBOX_CREATED.to_owned(), Timestamp::now().to_string()),
    ]);
    if is(pod_spec.host_network) {
        spec.network = NetworkMode::Host;
        spec.uts = NamespaceMode::Host;
    } else {
        spec.hostname = Some(name.hostname);
    }
    if is(pod_spec.host_ipc) {
        spec.ipc = NamespaceMode::Host;
    }
    if is(pod_spec.host_pid) {
        spec.pid = PidMode::Host;
    } else if is(pod_spec.share_process_namespace) {
        spec.pid = PidMode::Shared;
    }
    let sysctls = pod_spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    spec.sysctls =
        sysctls.into_iter().flatten().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect();
    spec.resources = Some(pod_limits_of(pod).to_oci());
    spec.users = users;
    Ok(spec)
}

/// uids are unique, but those of static pods may be anything that a file says.
fn sandbox_id(uid: &str, attempt: u32) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let uid: String = uid.chars().map(|c| if safe(c) { c } else { '_' }).take(100).collect();
    format!("{uid}-{attempt}")
}

/// The node's ports that lead to the pod.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.as_ref();
    let containers =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
            Some(HostPort {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_address: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip: &std::net::Ipv4Addr| !ip.is_unspecified()),
                host_port: number(port.host_port?)?,
                port: number(port.container_port)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn host_ports_of_all_containers() {
        let pod = fixture::pod(
            "containers: [{name: a, image: i, ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81}]}, \
             {name: b, image: i, ports: [{containerPort: 53, hostPort: 53, protocol: UDP, hostIP: 127.0.0.1}]}]",
        );
        let ports = host_ports(&pod);
        assert_eq!(ports.len(), 2);
        assert_eq!((ports[0].host_port, ports[0].port, ports[0].host_address), (8080, 80, None));
        assert_eq!((ports[1].protocol, ports[1].host_address), (Protocol::Udp, Some([127, 0, 0, 1].into())));
    }

    #[test]
    fn ids_are_safe() {
        assert_eq!(sandbox_id("a-b", 2), "a-b-2");
        assert_eq!(sandbox_id("../x", 0), ".._x-0");
    }
}
