//! POST to a collection.

use bytes::Bytes;
use http::StatusCode;
use manifests::status::ApiError;

use super::{Call, Reply};
use crate::error::Error;
use crate::registry::{AnyObject, Env, Row};
use crate::request::content;
use crate::request::params::WriteParams;
use crate::server::ApiServer;
use crate::write::{Current, Decision, metadata};

/// With a generated name that is taken, another one is tried; so often.
const NAME_ATTEMPTS: usize = 8;

impl ApiServer {
    pub(crate) async fn create(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "CreateOptions")?;
        let value = content::value(&call.headers, &body)?;
        drop(body);
        let decoded = decode_as(&call.row, value, &write)?;
        let mut object = decoded.object;
        if object.meta().resource_version.as_ref().is_some_and(|version| !version.is_empty()) {
            return Err(
                ApiError::bad_request("resourceVersion should not be set on objects to be created").into()
            );
        }
        metadata::match_namespace(object.meta_mut(), call.row.kind.namespaced, &call.path.namespace)?;
        let mut attempts = 0;
        let (written, warnings) = loop {
            attempts += 1;
            match self.create_once(call, &*object, write.dry_run).await {
                Err(Error::Api(error))
                    if error.is_already_exists() && is_generated(&*object) && attempts < NAME_ATTEMPTS => {}
                done => break done?,
            }
        };
        let warnings = decoded.warnings.into_iter().chain(warnings).collect();
        Ok(Reply::Object { code: StatusCode::CREATED, json: written, warnings })
    }

    async fn create_once(
        &self,
        call: &Call,
        object: &dyn AnyObject,
        dry_run: bool,
    ) -> Result<(Bytes, Vec<String>), Error> {
        let mut object = object.boxed();
        metadata::before_create(object.meta_mut(), call.row.kind.has_generation, self.now());
        let name = object.meta().name.clone().unwrap_or_default();
        let key = call.row.relative_key(&call.path.namespace, &name);
        let mut warnings = Vec::new();
        let written = self
            .write(&call.row, &key, dry_run, |current| {
                let env = self.env(&call.identity);
                let decision = decide(&call.row, current, &*object, &env)?;
                if let Decision::Put(object, _) = &decision {
                    warnings = call.row.hooks.warnings(&**object);
                }
                Ok(decision)
            })
            .await?;
        Ok((written.json, warnings))
    }
}

fn is_generated(object: &dyn AnyObject) -> bool {
    let meta = object.meta();
    meta.name.as_deref().unwrap_or_default().is_empty()
        && meta.generate_name.as_deref().is_some_and(|base| !base.is_empty())
}

/// The new object, if it may be created. Its metadata has been filled in.
pub(crate) fn decide(
    row: &Row,
    current: &Current,
    object: &dyn AnyObject,
    env: &Env<'_>,
) -> Result<Decision, Error> {
    let mut object = object.boxed();
    let name = object.meta().name.clone().unwrap_or_default();
    row.hooks.default(&mut *object);
    row.hooks.prepare_create(&mut *object, env)?;
    let errors = row.hooks.validate(&*object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(row.kind.kind, row.kind.group, &name, &errors).into());
    }
    if let Some(existing) = &current.object {
        return Err(exists(row, &name, &**existing, object.meta().generate_name.as_deref()).into());
    }
    let claims = row.hooks.claims(Some(&*object), None, env)?;
    Ok(Decision::Put(object, claims))
}

fn exists(row: &Row, name: &str, existing: &dyn AnyObject, generate_name: Option<&str>) -> ApiError {
    let (resource, group) = (row.kind.plural, row.kind.group);
    if generate_name.is_some_and(|base| !base.is_empty()) {
        return ApiError::generate_name_conflict(resource, group, name, 1);
    }
    let error = ApiError::already_exists(resource, group, name);
    if existing.meta().deletion_timestamp.is_none() {
        return error;
    }
    let mut status = error.into_status();
    status.message = Some(format!("object is being deleted: {}", status.message.unwrap_or_default()));
    ApiError::from_status(status)
}

/// An object from a request.
pub(crate) struct Decoded {
    pub(crate) object: Box<dyn AnyObject>,
    pub(crate) warnings: Vec<String>,
}

/// Reads an object of the row's kind.
pub(crate) fn decode_as(row: &Row, mut value: serde_json::Value, _: &WriteParams) -> Result<Decoded, Error> {
    let expected = (row.kind.api_version(), row.kind.kind);
    let Some(fields) = value.as_object_mut() else {
        return Err(ApiError::bad_request("the body of the request is not an object").into());
    };
    let text =
        |value: Option<&serde_json::Value>| value.and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let (api_version, kind) = (text(fields.get("apiVersion")), text(fields.get("kind")));
    if !api_version.is_empty() && api_version != expected.0 {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.0
        ))
        .into());
    }
    if !kind.is_empty() && kind != expected.1 {
        let message =
            format!("{kind} in version \"{api_version}\" cannot be handled as a {}: converting", expected.1);
        return Err(ApiError::bad_request(message).into());
    }
    fields.insert("apiVersion".to_owned(), expected.0.into());
    fields.insert("kind".to_owned(), expected.1.into());
    let bytes = value.to_string();
    let object =
        row.hooks.from_json(bytes.as_bytes()).map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(Decoded { object, warnings: Vec::new() })
}
