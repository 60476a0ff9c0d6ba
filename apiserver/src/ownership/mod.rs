//! Who owns which fields of an object, and server-side apply.
//!
//! Every write records in `metadata.managedFields` which fields its manager has changed. Who applies says which fields it
//! wants to own: they are merged into the object, those that it owned before and does not name any more go (if nobody
//! else owns them), and one that somebody else owns with another value is a conflict, unless it is forced.
//!
//! ```text
//! create, update, patch:   live ┐ compare ─▶ changed fields ─▶ theirs: taken out of everybody else's
//!                           new ┘
//! apply:   live ┐ merge ─▶ prune what is no longer applied ─▶ compare with live ─▶ conflicts, or the new object
//!        config ┘
//! ```
//!
//! Follows `k8s.io/apimachinery/pkg/util/managedfields` and `sigs.k8s.io/structured-merge-diff/merge`. All of it is pure.

mod bare;
mod light;
mod managers;
mod set;
mod walk;

#[cfg(test)]
mod tests;

use http::HeaderMap;
use http::header::USER_AGENT;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    ManagedFieldsEntry, Status, StatusCause, StatusDetails,
};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::status::ApiError;
use manifests::structure::{self, Type};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::registry::AnyObject;
use crate::write::Current;

pub(crate) use self::bare::without_owners;
use self::managers::{Manager, Managers, Operation, Owned};
use self::set::Set;
use self::walk::{compare, field_set, merge, with_structs, without};

/// What client-side `kubectl apply` keeps in an object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that is `kubectl apply --server-side`.
const KUBECTL: &str = "kubectl";
/// Who owns the fields that were there before anybody kept account.
const BEFORE: &str = "before-first-apply";
/// Annotations of an object are not longer than this in sum.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// Names of managers are not longer than this.
const MAX_NAME: usize = 128;

/// The manager that a request names, or the program that its `User-Agent` names.
pub(crate) fn manager_name(given: &str, headers: &HeaderMap) -> String {
    if !given.is_empty() {
        return given.to_owned();
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut name = String::new();
    for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        name.push(c);
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Who writes, what, and through which door.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) name: String,
    pub(crate) api_version: String,
    /// Empty for the object itself.
    pub(crate) subresource: &'static str,
    /// The type of the object.
    pub(crate) of: &'static Type,
    /// What cannot be changed through this door, and so is not owned by who tries.
    pub(crate) reset: Set,
}

/// Fields that belong to the server.
fn stripped() -> Set {
    let mut set = Set::default();
    for field in ["apiVersion", "kind", "metadata"] {
        set.extend(Set::of_fields(&[field]));
    }
    for field in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.extend(Set::of_fields(&["metadata", field]));
    }
    set
}

/// A type for kinds that the table does not have: all of their fields are leaves.
static UNKNOWN: Type = Type { name: "", fields: &[] };

impl Writer {
    pub(crate) fn new(name: String, kind: &manifests::kinds::Kind, subresource: &'static str) -> Writer {
        let type_name = manifests::strategic::type_name(kind.group, kind.version, kind.kind);
        let mut reset = Set::default();
        for path in reset_fields(kind.kind, subresource) {
            reset.extend(Set::of_fields(path));
        }
        Writer {
            name,
            api_version: kind.api_version(),
            subresource,
            of: structure::type_named(&type_name).unwrap_or(&UNKNOWN),
            reset,
        }
    }

    fn manager(&self, operation: Operation) -> Manager {
        Manager {
            name: self.name.clone(),
            operation,
            api_version: self.api_version.clone(),
            subresource: self.subresource.to_owned(),
        }
    }

    /// The owners after an update. `live` is nothing when the object is created; `sent` are the entries that came with the
    /// new object, `kept` those of the live one.
    pub(crate) fn updated(
        &self,
        live: Option<&Value>,
        new: &Value,
        sent: Option<&[ManagedFieldsEntry]>,
        kept: Option<&[ManagedFieldsEntry]>,
        now: Timestamp,
    ) -> Option<Vec<ManagedFieldsEntry>> {
        let as_kept = sent.is_none() || !self.subresource.is_empty() || sent == kept;
        if let (Some(live), Some(kept), true) = (live, kept, as_kept)
            && let Some(entries) = self.updated_lightly(live, new, kept, now)
        {
            return Some(entries);
        }
        self.updated_wholly(live, new, sent, kept, now)
    }

    /// The same, for all cases: every entry is decoded and encoded again.
    fn updated_wholly(
        &self,
        live: Option<&Value>,
        new: &Value,
        sent: Option<&[ManagedFieldsEntry]>,
        kept: Option<&[ManagedFieldsEntry]>,
        now: Timestamp,
    ) -> Option<Vec<ManagedFieldsEntry>> {
        let managers = self.starting_point(sent, kept);
        // An object that nobody keeps account of stays so until somebody applies.
        if managers.0.is_empty() && live.is_some() {
            return None;
        }
        self.update(live.unwrap_or(&Value::Null), new, managers, now).encode()
    }

    fn starting_point(
        &self,
        sent: Option<&[ManagedFieldsEntry]>,
        kept: Option<&[ManagedFieldsEntry]>,
    ) -> Managers {
        let kept = || Managers::decode(kept.unwrap_or_default()).unwrap_or_default();
        match sent {
            // A client may rewrite the account with the object, and close it by sending an empty one.
            Some(sent) if self.subresource.is_empty() => {
                let closed =
                    sent.is_empty() || matches!(sent, [one] if *one == ManagedFieldsEntry::default());
                if closed {
                    return Managers::default();
                }
                Managers::decode(sent).ok().filter(|managers| !managers.0.is_empty()).unwrap_or_else(kept)
            }
            _ => kept(),
        }
    }

    fn update(&self, live: &Value, new: &Value, mut managers: Managers, now: Timestamp) -> Managers {
        let empty = Value::Object(Map::new());
        let live = if live.is_null() { &empty } else { live };
        let changes = compare(live, new, self.of).without(&self.reset);
        if changes.is_same() {
            managers.drop_empty();
            return managers;
        }
        let mut own = changes.modified;
        own.extend(changes.added);
        for owned in managers.0.iter_mut().filter(|owned| owned.manager.api_version == self.api_version) {
            owned.fields.remove(&own);
            owned.fields.remove(&changes.removed);
        }
        managers.drop_empty();
        own.remove(&stripped());
        if !own.is_empty() {
            let manager = self.manager(Operation::Update);
            if let Some(before) = managers.get(&manager) {
                own.extend(before.fields.clone());
            }
            managers.set(Owned { manager, fields: own, time: Some(now) });
        }
        managers.cap();
        managers
    }

    /// Applies a configuration.
    pub(crate) fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        kept: Option<&[ManagedFieldsEntry]>,
        force: bool,
        now: Timestamp,
    ) -> Result<Applied, ApplyError> {
        let identity = identity(config);
        walk::check(config, self.of).map_err(|why| {
            ApplyError::Config(format!("failed to create typed patch object ({identity}): {why}"))
        })?;
        let mut managers = Managers::decode(kept.unwrap_or_default())
            .map_err(|why| ApplyError::Config(format!("failed to decode managed fields: {why}")))?;
        if let Some(live) = live.filter(|_| managers.0.is_empty()) {
            let before = Writer { name: BEFORE.to_owned(), ..self.clone() };
            managers = before.update(&Value::Null, live, managers, now);
        }
        let applied = match self.merge(live, config, managers.clone(), force, now) {
            Err(ApplyError::Conflicts(conflicts)) if self.name == KUBECTL => {
                // Who moves from client-side to server-side apply owns what it applied last, as long as nobody has changed it.
                let allowed = live.map(|live| self.last_applied(live)).unwrap_or_default();
                let mut left = conflicts;
                for conflict in &mut left.0 {
                    conflict.1.remove(&allowed);
                }
                left.0.retain(|(_, fields)| !fields.is_empty());
                if !left.0.is_empty() {
                    return Err(ApplyError::Conflicts(left));
                }
                self.merge(live, config, managers, true, now)?
            }
            applied => applied?,
        };
        Ok(applied)
    }

    fn merge(
        &self,
        live: Option<&Value>,
        config: &Value,
        mut managers: Managers,
        force: bool,
        now: Timestamp,
    ) -> Result<Applied, ApplyError> {
        let empty = Value::Object(Map::new());
        let live = live.unwrap_or(&empty);
        let merged = merge(live, config, self.of);
        let manager = self.manager(Operation::Apply);
        let mut fields = field_set(config, self.of);
        fields.remove_all_below(&self.reset);
        let last = managers.get(&manager).cloned();
        let time = last.as_ref().and_then(|last| last.time);
        managers.set(Owned { manager: manager.clone(), fields, time });
        let mut merged = match last.filter(|last| last.manager.api_version == self.api_version) {
            Some(last) if !last.fields.is_empty() => self.prune(merged, &managers, &last.fields),
            _ => merged,
        };
        let changes = compare(live, &merged, self.of).without(&self.reset);
        let mut changed = changes.modified;
        changed.extend(changes.added);
        let others =
            |owned: &&mut Owned| !owned.manager.is(&manager) && owned.manager.api_version == self.api_version;
        let mut conflicts = Conflicts::default();
        for owned in managers.0.iter_mut().filter(others) {
            let taken = owned.fields.common(&changed);
            owned.fields.remove(&taken);
            owned.fields.remove(&changes.removed);
            if !taken.is_empty() {
                conflicts.0.push((owned.manager.clone(), taken));
            }
        }
        if !force && !conflicts.0.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        let differs = *live != merged;
        if let Some(own) = managers.0.iter_mut().find(|owned| owned.manager.is(&manager)) {
            own.fields.remove(&stripped());
            if differs {
                own.time = Some(now);
            }
        }
        managers.drop_empty();
        if self.name == KUBECTL {
            keep_last_applied(&mut merged, config);
        }
        Ok(Applied { object: merged, managers: managers.encode() })
    }

    /// Takes out what the manager applied before and does not apply any more, as far as nobody else owns it.
    fn prune(&self, merged: Value, managers: &Managers, last: &Set) -> Value {
        let structs = |set: &Set| with_structs(set, self.of);
        let whole = structs(&field_set(&merged, self.of));
        let pruned = without(merged.clone(), &structs(last), self.of);
        // What others own comes back.
        let mut kept = structs(&field_set(&pruned, self.of));
        for owned in &managers.0 {
            kept.extend(structs(&owned.fields));
        }
        let mut gone = whole.clone();
        gone.remove(&kept);
        let pruned = without(merged.clone(), &gone, self.of);
        // So does what was only below something that the manager had applied.
        let mut gone = whole;
        gone.remove(&structs(&field_set(&pruned, self.of)));
        without(merged, &gone.common(&structs(last)), self.of)
    }

    /// The fields that client-side apply set last and that are still as it set them.
    fn last_applied(&self, live: &Value) -> Set {
        let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
        let Ok(config) = serde_json::from_str::<Value>(text) else { return Set::default() };
        if config["apiVersion"].as_str() != Some(&self.api_version) || walk::check(&config, self.of).is_err()
        {
            return Set::default();
        }
        let mut fields = field_set(&config, self.of);
        let changes = compare(&config, live, self.of);
        for changed in [&changes.modified, &changes.added, &changes.removed] {
            fields.remove(changed);
        }
        fields
    }
}

/// Whose account an object's owners come from.
#[derive(Debug)]
pub(crate) enum Account<'a> {
    /// They follow from what a writer changes.
    Of(&'a Writer),
    /// The same, where the state before is at hand as a value, without what changes with every write.
    From(&'a Writer, Value),
    /// They are known.
    Given(Option<Vec<ManagedFieldsEntry>>),
}

impl Account<'_> {
    /// Sets the owners of a new object's fields. `current` is its state before, if there is one.
    pub(crate) fn keep(
        self,
        new: &mut dyn AnyObject,
        current: Option<&Current>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (writer, live) = match self {
            Account::Given(owners) => {
                new.meta_mut().managed_fields = owners;
                return Ok(());
            }
            Account::Of(writer) => (writer, current.map(Current::bare).transpose()?),
            Account::From(writer, live) => (writer, Some(live)),
        };
        let sent = new.meta_mut().managed_fields.take();
        let name = || new.meta().name.clone().unwrap_or_default();
        let value = new.to_value().map_err(|source| Error::Encode { key: name(), source })?;
        let kept = current
            .and_then(|current| current.object.as_ref())
            .and_then(|object| object.meta().managed_fields.as_deref());
        let owners = writer.updated(live.as_ref(), &bare(value), sent.as_deref(), kept, now);
        new.meta_mut().managed_fields = owners;
        Ok(())
    }
}

/// An object without what changes with every write.
pub(crate) fn bare(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
    object
}

/// What an object becomes.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) object: Value,
    pub(crate) managers: Option<Vec<ManagedFieldsEntry>>,
}

/// Fields that others own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Conflicts(Vec<(Manager, Set)>);

/// Why a configuration was not applied.
#[derive(Debug)]
pub(crate) enum ApplyError {
    /// It cannot be merged.
    Config(String),
    /// It would take fields from others.
    Conflicts(Conflicts),
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> ApiError {
        match error {
            ApplyError::Config(message) => unmergeable(message),
            ApplyError::Conflicts(conflicts) => conflicts.into_error(),
        }
    }
}

/// The answer to a configuration that does not fit its type. Upstream gives it no reason.
pub(crate) fn unmergeable(message: String) -> ApiError {
    ApiError::from_status(Status {
        status: Some("Failure".to_owned()),
        message: Some(message),
        code: Some(500),
        ..Status::default()
    })
}

impl Conflicts {
    fn into_error(self) -> ApiError {
        let mut all: Vec<(String, Vec<String>)> =
            self.0.iter().map(|(manager, fields)| (readable(manager), fields.paths())).collect();
        all.sort();
        let message = match &all[..] {
            [(manager, fields)] if fields.len() == 1 => {
                format!("Apply failed with 1 conflict: conflict with {manager}: {}", fields[0])
            }
            _ => {
                let count: usize = all.iter().map(|(_, fields)| fields.len()).sum();
                let lines: Vec<String> = all
                    .iter()
                    .flat_map(|(manager, fields)| {
                        let fields = fields.iter().map(|field| format!("- {field}"));
                        [format!("conflicts with {manager}:")].into_iter().chain(fields)
                    })
                    .collect();
                format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
            }
        };
        let causes = all.iter().flat_map(|(manager, fields)| {
            fields.iter().map(move |field| StatusCause {
                reason: Some("FieldManagerConflict".to_owned()),
                message: Some(format!("conflict with {manager}")),
                field: Some(field.clone()),
            })
        });
        ApiError::from_status(Status {
            status: Some("Failure".to_owned()),
            reason: Some("Conflict".to_owned()),
            code: Some(409),
            details: Some(StatusDetails { causes: Some(causes.collect()), ..StatusDetails::default() }),
            message: Some(message),
            ..Status::default()
        })
    }
}

fn readable(manager: &Manager) -> String {
    let mut text = manifests::go::quote(&manager.name);
    if !manager.subresource.is_empty() {
        text = format!("{text} with subresource {}", manifests::go::quote(&manager.subresource));
    }
    if manager.operation == Operation::Update {
        text = format!("{text} using {}", manager.api_version);
    }
    text
}

/// What an object says of itself, as upstream's messages have it.
pub(crate) fn identity(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let version = if version.contains('/') { version } else { format!("/{version}") };
    format!(
        "{}/{}; {version}, Kind={}",
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"]),
        text(&object["kind"])
    )
}

/// Keeps the annotation of client-side apply in step, so that one can go back to it.
fn keep_last_applied(object: &mut Value, config: &Value) {
    let Some(annotations) = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    if !annotations.contains_key(LAST_APPLIED) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.to_owned(), Value::String(format!("{config}\n")));
    let length = |value: &Value| value.as_str().map_or(0, str::len);
    if annotations.iter().map(|(key, value)| key.len() + length(value)).sum::<usize>() > MAX_ANNOTATIONS {
        annotations.remove(LAST_APPLIED);
    }
}

/// Whether two accounts differ in nothing but times.
pub(crate) fn same_but_times(a: Option<&[ManagedFieldsEntry]>, b: Option<&[ManagedFieldsEntry]>) -> bool {
    let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
    let timeless = |entry: &ManagedFieldsEntry| ManagedFieldsEntry { time: None, ..entry.clone() };
    // Times decide the order.
    a.len() == b.len() && a.iter().all(|entry| b.iter().any(|other| timeless(entry) == timeless(other)))
}

/// Fields of a kind that a request through this door does not change.
fn reset_fields(kind: &str, subresource: &str) -> &'static [&'static [&'static str]] {
    match (kind, subresource) {
        ("Pod", "status") => {
            &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
        }
        ("Pod", "ephemeralcontainers" | "resize") => &[&["status"]],
        ("Deployment", "status") => &[&["spec"], &["metadata", "labels"]],
        ("CertificateSigningRequest", "approval") => &[&["spec"], &["metadata"]],
        (_, "status") => &[&["spec"]],
        ("CertificateSigningRequest", "") => &[&["status"], &["spec"]],
        (
            "Pod"
            | "Node"
            | "Namespace"
            | "Service"
            | "Deployment"
            | "ReplicaSet"
            | "DaemonSet"
            | "StatefulSet"
            | "Job"
            | "CronJob"
            | "HorizontalPodAutoscaler"
            | "PodDisruptionBudget"
            | "Ingress"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "ReplicationController"
            | "ResourceQuota"
            | "VolumeAttachment"
            | "FlowSchema"
            | "PriorityLevelConfiguration"
            | "NetworkPolicy",
            "" | "scale",
        ) => &[&["status"]],
        _ => &[],
    }
}
