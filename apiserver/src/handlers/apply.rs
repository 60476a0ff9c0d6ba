//! PATCH with a configuration: server-side apply.
//!
//! See [`crate::ownership`] for what it means. An object that does not exist is created.

use bytes::Bytes;
use http::StatusCode;
use manifests::decode::FieldValidation;
use manifests::json::Document;
use manifests::status::ApiError;
use serde_json::Value;

use super::update::{check_name, decide};
use super::{Call, Reply, create};
use crate::error::Error;
use crate::ownership::{Account, Applied, Writer, bare, identity, same_but_times, unmergeable};
use crate::registry::{AnyObject, Part, Row};
use crate::request::params::WriteParams;
use crate::server::ApiServer;
use crate::write::{Current, Outcome, Written, decode, metadata};

/// The media type of a configuration. It may be YAML or JSON, which is YAML as well.
pub(crate) const MEDIA_TYPE: &str = "application/apply-patch+yaml";

/// Reads a configuration.
pub(super) fn configuration(body: &[u8]) -> Result<Value, ApiError> {
    if let Ok(document) = manifests::json::read(body) {
        return Ok(document.value);
    }
    let mut documents = manifests::yaml::read("", body)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document.value),
        _ => Err(ApiError::bad_request("error decoding YAML: there must be one document")),
    }
}

/// Whether a configuration is of the row's kind.
fn check_kind(row: &Row, config: &Value) -> Result<(), ApiError> {
    let text = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version == row.kind.api_version() && kind == row.kind.kind {
        return Ok(());
    }
    let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
    Err(ApiError::bad_request(format!("invalid object type: {version}, Kind={kind}")))
}

impl ApiServer {
    pub(crate) async fn apply(&self, call: &Call, part: Part, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse_apply(&call.params)?;
        let config = configuration(&body)?;
        check_kind(&call.row, &config)?;
        if !config["metadata"]["managedFields"].is_null() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil").into());
        }
        check_fields(&call.row, &config)?;
        let written = self.apply_to(call, part, &write, &config, part == Part::Main).await?;
        let code = if written.outcome == Outcome::Created { StatusCode::CREATED } else { StatusCode::OK };
        Ok(Reply::Object { code, json: written.json, warnings: Vec::new() })
    }

    /// Applies a configuration that is of the row's kind.
    pub(super) async fn apply_to(
        &self,
        call: &Call,
        part: Part,
        write: &WriteParams,
        config: &Value,
        may_create: bool,
    ) -> Result<Written, Error> {
        let row = &call.row;
        let mut writer = call.writer(&write.manager);
        if row.view.is_some() {
            writer = Writer::new(writer.name, row.kind, writer.subresource);
        }
        let uid = config["metadata"]["uid"].as_str().unwrap_or_default();
        if may_create && row.kind.kind == "Pod" && row.cache.get(&call.key()).is_none() {
            let document = Document { value: config.clone(), duplicates: Vec::new() };
            let wanted = decode::decode(row, document, FieldValidation::Ignore)?.object;
            self.await_account(&call.path.namespace, &*wanted).await?;
        }
        self.write(row, &call.key(), write.dry_run, |current| {
            let policy = self.policy();
            let env = self.env_of(&call.identity, &policy);
            let live = shown(row, current)?;
            if live.is_none() && !may_create {
                return Err(row.not_found(&call.path.name).into());
            }
            if live.is_none() && !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(row.conflict(&call.path.name, &why).into());
            }
            let kept = current.object.as_ref().and_then(|object| object.meta().managed_fields.as_deref());
            let Applied { object, managers } =
                writer.apply(live.as_ref(), config, kept, write.force, env.now).map_err(ApiError::from)?;
            let nothing_new = live.as_ref() == Some(&object);
            let document = Document { value: object, duplicates: Vec::new() };
            let mut object = decode::decode(row, document, FieldValidation::Ignore)?.object;
            check_name(object.meta().name.as_deref(), &call.path.name)?;
            metadata::match_namespace(object.meta_mut(), row.kind.namespaced, &call.path.namespace)?;
            let Some(old) = &current.object else {
                metadata::before_create(object.meta_mut(), row.kind.has_generation, env.now);
                return create::decide(row, current, &*object, &env, Account::Given(managers));
            };
            let managers = if same_but_times(managers.as_deref(), kept)
                && (nothing_new || same(row, &*object, &**old)?)
            {
                old.meta().managed_fields.clone()
            } else {
                managers
            };
            // What is not said to be newer is based on what is there.
            object.meta_mut().resource_version.get_or_insert(current.revision.to_string());
            decide(row, part, current, object, &env, Account::Given(managers))
        })
        .await
    }
}

/// The current object as the row shows it, without what changes with every write.
fn shown(row: &Row, current: &Current) -> Result<Option<Value>, Error> {
    if current.object.is_none() {
        return Ok(None);
    }
    if row.view.is_none() {
        return current.bare().map(Some);
    }
    let value = serde_json::from_slice(&row.shown(&current.json))
        .map_err(|source| Error::Stored { key: String::new(), source })?;
    Ok(Some(bare(value)))
}

/// Whether defaults make an object what it was before.
fn same(row: &Row, new: &dyn AnyObject, old: &dyn AnyObject) -> Result<bool, Error> {
    let mut new = new.boxed();
    row.hooks.default(&mut *new);
    metadata::before_update(new.meta_mut(), old.meta());
    let value = |object: &dyn AnyObject| {
        object.to_value().map(bare).map_err(|source| Error::Encode { key: String::new(), source })
    };
    Ok(value(&*new)? == value(old)?)
}

/// Refuses fields that the kind does not have: nobody can own them.
fn check_fields(row: &Row, config: &Value) -> Result<(), ApiError> {
    let mut value = config.clone();
    if let Some(view) = &row.view {
        view.to_stored(&mut value);
    }
    let document = Document { value, duplicates: Vec::new() };
    let (_, warnings) = row
        .hooks
        .decode(&document, FieldValidation::Warn)
        .map_err(|error| ApiError::bad_request(error.for_kind(&row.kind.api_version(), row.kind.kind)))?;
    let unknown: Vec<String> = warnings
        .iter()
        .filter_map(|warning| warning.strip_prefix("unknown field \"")?.strip_suffix('"'))
        .map(|path| format!(".{path}: field not declared in schema"))
        .collect();
    match &unknown[..] {
        [] => Ok(()),
        [one] => {
            Err(unmergeable(format!("failed to create typed patch object ({}): {one}", identity(config))))
        }
        several => Err(unmergeable(format!(
            "failed to create typed patch object ({}): errors:\n  {}",
            identity(config),
            several.join("\n  ")
        ))),
    }
}
