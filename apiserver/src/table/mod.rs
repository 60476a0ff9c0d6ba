//! What `kubectl get` shows: a `Table` with columns and rows, made by the server for every kind that it has.
//!
//! A printer is a list of columns and a function from an object to its cells; both follow upstream's printers, so that
//! people and scripts find the columns that they know. Columns of priority 1 show with `-o wide`.
//!
//! Rows are written one by one into a buffer, from the encoded object, so a table of many objects is never in memory
//! as a structure: see [`TableWriter`].

mod autoscaler;
mod column;
mod event;
mod human;
mod network;
mod node;
mod plain;
mod pod;
mod simple;
mod workload;

use manifests::k8s_openapi::jiff::Timestamp;
use manifests::kinds::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

pub use column::Column;
use column::RowCondition;

/// How much of the object goes into its row, beside the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata, as a `PartialObjectMetadata`: what `kubectl get -l`, `--show-labels` and `-w` work with.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`; the error is upstream's.
    pub fn parse(parameter: &str) -> Result<IncludeObject, String> {
        match parameter {
            "" | "Metadata" => Ok(IncludeObject::Metadata),
            "None" => Ok(IncludeObject::None),
            "Object" => Ok(IncludeObject::Object),
            other => Err(format!("unrecognized includeObject value: {}", manifests::go::quote(other))),
        }
    }
}

/// What one kind's rows look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    columns: &'static [Column],
    row: fn(&[u8], Timestamp) -> Result<Row, serde_json::Error>,
}

/// The cells of one object.
#[derive(Debug, PartialEq)]
struct Row {
    cells: Vec<Value>,
    conditions: &'static [RowCondition],
}

impl From<Vec<Value>> for Row {
    fn from(cells: Vec<Value>) -> Row {
        Row { cells, conditions: &[] }
    }
}

/// Decodes the object and hands it to the function that makes the cells.
fn print<T: for<'de> Deserialize<'de>>(
    object: &[u8],
    cells: impl FnOnce(&T) -> Row,
) -> Result<Row, serde_json::Error> {
    Ok(cells(&serde_json::from_slice(object)?))
}

fn printer(kind: &Kind) -> &'static Printer {
    match (kind.group, kind.kind) {
        ("", "Pod") => &pod::POD,
        ("", "Node") => &node::NODE,
        ("", "Service") => &network::SERVICE,
        ("", "Endpoints") => &network::ENDPOINTS,
        ("", "Event") => &event::EVENT,
        ("", "Namespace") => &simple::NAMESPACE,
        ("", "ConfigMap") => &simple::CONFIG_MAP,
        ("", "Secret") => &simple::SECRET,
        ("", "ServiceAccount") => &simple::SERVICE_ACCOUNT,
        ("apps", "Deployment") => &workload::DEPLOYMENT,
        ("apps", "ReplicaSet") => &workload::REPLICA_SET,
        ("apps", "DaemonSet") => &plain::DAEMON_SET,
        ("apps", "StatefulSet") => &plain::STATEFUL_SET,
        ("apps", "ControllerRevision") => &plain::CONTROLLER_REVISION,
        ("", "ReplicationController") => &plain::REPLICATION_CONTROLLER,
        ("", "ResourceQuota") => &plain::RESOURCE_QUOTA,
        ("", "LimitRange") => &plain::ROLE,
        ("", "PersistentVolume") => &plain::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => &plain::PERSISTENT_VOLUME_CLAIM,
        ("batch", "Job") => &plain::JOB,
        ("batch", "CronJob") => &plain::CRON_JOB,
        ("storage.k8s.io", "StorageClass") => &plain::STORAGE_CLASS,
        ("networking.k8s.io", "Ingress") => &plain::INGRESS,
        ("networking.k8s.io", "IngressClass") => &plain::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => &plain::NETWORK_POLICY,
        ("autoscaling", "HorizontalPodAutoscaler") => &autoscaler::HORIZONTAL_POD_AUTOSCALER,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &plain::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => {
            &plain::PRIORITY_LEVEL_CONFIGURATION
        }
        ("policy", "PodDisruptionBudget") => &plain::POD_DISRUPTION_BUDGET,
        ("node.k8s.io", "RuntimeClass") => &plain::RUNTIME_CLASS,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => &plain::ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &plain::ROLE_BINDING,
        ("certificates.k8s.io", "CertificateSigningRequest") => &plain::CERTIFICATE_SIGNING_REQUEST,
        ("autoscaling", "Scale") => &workload::SCALE,
        ("coordination.k8s.io", "Lease") => &simple::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => &network::ENDPOINT_SLICE,
        ("events.k8s.io", "Event") => &event::EVENTS_EVENT,
        ("scheduling.k8s.io", "PriorityClass") => &simple::PRIORITY_CLASS,
        _ => &simple::DEFAULT,
    }
}

/// Writes a table: [`open`](TableWriter::open), a [`row`](TableWriter::row) per object, [`close`](TableWriter::close).
#[derive(Debug)]
pub struct TableWriter {
    printer: &'static Printer,
    api_version: &'static str,
    include: IncludeObject,
    rows: usize,
}

impl TableWriter {
    /// A writer for tables of `kind`. `version` is that of `meta.k8s.io` which the client asked for: `v1beta1` for
    /// clients before 1.15, `v1` for all others.
    pub fn new(kind: &Kind, version: &str, include: IncludeObject) -> TableWriter {
        let api_version = if version == "v1beta1" { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" };
        TableWriter { printer: printer(kind), api_version, include, rows: 0 }
    }

    /// Begins a table. `metadata` is the JSON of its `ListMeta`; a watch sends the columns only with its first table.
    pub fn open(&mut self, out: &mut Vec<u8>, metadata: &str, columns: bool) {
        self.rows = 0;
        out.extend_from_slice(br#"{"kind":"Table","apiVersion":""#);
        out.extend_from_slice(self.api_version.as_bytes());
        out.extend_from_slice(br#"","metadata":"#);
        out.extend_from_slice(metadata.as_bytes());
        out.extend_from_slice(br#","columnDefinitions":"#);
        let columns = if columns { self.printer.columns } else { &[] };
        write(out, &columns);
        out.extend_from_slice(br#","rows":["#);
    }

    /// Writes the row of one encoded object as it looks at `now`.
    ///
    /// An object that its kind's type cannot read still has its row, with its name and nothing else: one broken object
    /// must not hide the others.
    pub fn row(&mut self, out: &mut Vec<u8>, object: &[u8], now: Timestamp) {
        let row = (self.printer.row)(object, now).unwrap_or_else(|_| {
            let name = serde_json::from_slice::<Named>(object)
                .map(|object| object.metadata.name)
                .unwrap_or_default();
            let unknown = self.printer.columns.iter().map(|column| {
                if column.name == "Name" { Value::from(name.as_str()) } else { Value::from("<unknown>") }
            });
            Row::from(unknown.collect::<Vec<_>>())
        });
        if self.rows > 0 {
            out.push(b',');
        }
        self.rows += 1;
        out.extend_from_slice(br#"{"cells":"#);
        write(out, &row.cells);
        if !row.conditions.is_empty() {
            out.extend_from_slice(br#","conditions":"#);
            write(out, &row.conditions);
        }
        out.extend_from_slice(br#","object":"#);
        self.object(out, object);
        out.push(b'}');
    }

    fn object(&self, out: &mut Vec<u8>, object: &[u8]) {
        match self.include {
            IncludeObject::None => out.extend_from_slice(b"null"),
            IncludeObject::Object => out.extend_from_slice(object),
            IncludeObject::Metadata => {
                let metadata = serde_json::from_slice::<Partial<'_>>(object)
                    .map_or("{}", |object| object.metadata.get());
                out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":""#);
                out.extend_from_slice(self.api_version.as_bytes());
                out.extend_from_slice(br#"","metadata":"#);
                out.extend_from_slice(metadata.as_bytes());
                out.push(b'}');
            }
        }
    }

    /// Ends a table.
    pub fn close(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"]}");
    }
}

fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    // A vector takes everything, and these values have string keys only, so nothing can fail.
    let _ = serde_json::to_writer(out, value);
}

#[derive(Deserialize)]
struct Partial<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    #[serde(default)]
    name: String,
}

#[cfg(test)]
mod tests;
