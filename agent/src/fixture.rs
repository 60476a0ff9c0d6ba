//! Short ways to write objects in tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::{Pod, PodSpec};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::context::{Context, LogBounds, NodeFacts};
use crate::etc::DnsSettings;
use crate::events::Events;
use crate::machine::fake::FakeMachine;
use crate::names::Layout;
use crate::objects::ObjectSource;
use crate::pods::Registry;
use crate::probe::HttpProber;

/// A defaulted pod `default/web` with uid `u1` and this spec, in YAML.
pub(crate) fn pod(spec: &str) -> Pod {
    let spec: PodSpec = serde_yaml::from_str(spec).expect("a pod spec in YAML");
    let mut pod = Pod { spec: Some(spec), ..Pod::default() };
    pod.metadata.name = Some("web".into());
    pod.metadata.namespace = Some("default".into());
    pod.metadata.uid = Some("u1".into());
    manifests::default::pod(&mut pod);
    pod
}

/// A node without a server, on a machine that lives in memory.
pub(crate) fn context(dir: &TempDir, machine: &Arc<FakeMachine>) -> Arc<Context> {
    Arc::new(Context {
        node: NodeFacts {
            name: "n".into(),
            hostname: "n".into(),
            addresses: vec!["192.0.2.1".into()],
            memory: 4 << 30,
            allocatable: BTreeMap::new(),
        },
        layout: Layout::new(dir.path()),
        machine: machine.machine(),
        objects: ObjectSource::new(None, dir.path().join("objects")),
        client: None,
        services: None,
        events: Events::default(),
        dns: DnsSettings::default(),
        resolv_conf: "/etc/resolv.conf".into(),
        http: HttpProber::new().unwrap(),
        logs: LogBounds::default(),
        users: Default::default(),
        registry: Registry::default(),
        node_object: watch::channel(None).1,
    })
}
