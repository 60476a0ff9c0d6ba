//! POST to a collection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::status::ApiError;

use super::{Call, Reply};
use crate::admission::service_account::{self, DEFAULT};
use crate::admission::{self, namespace_lifecycle};
use crate::error::Error;
use crate::object::Object;
use crate::ownership::{Account, Writer};
use crate::quota;
use crate::registry::{AnyObject, Claims, Env, Part, Row, namespace_phase};
use crate::request::content;
use crate::request::params::WriteParams;
use crate::server::ApiServer;
use crate::write::decode::decode;
use crate::write::{Current, Decision, metadata};

/// With a generated name that is taken, another one is tried; so often.
const NAME_ATTEMPTS: usize = 8;
/// How long a new namespace may be without its account before its pods are refused.
const ACCOUNT: Duration = Duration::from_secs(1);

impl ApiServer {
    pub(crate) async fn create(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "CreateOptions")?;
        let document =
            content::document(&call.headers, &body, (&call.row.kind.api_version(), call.row.kind.kind))?;
        drop(body);
        let decoded = decode(&call.row, document, write.field_validation)?;
        let mut object = decoded.object;
        if object.meta().resource_version.as_ref().is_some_and(|version| !version.is_empty()) {
            return Err(
                ApiError::bad_request("resourceVersion should not be set on objects to be created").into()
            );
        }
        metadata::match_namespace(object.meta_mut(), call.row.kind.namespaced, &call.path.namespace)?;
        let writer = call.writer(&write.manager);
        let mut attempts = 0;
        let (written, warnings) = loop {
            attempts += 1;
            if !is_generated(&*object) {
                break self.create_once(call, object, &writer, write.dry_run).await?;
            }
            match self.create_once(call, object.boxed(), &writer, write.dry_run).await {
                Err(Error::Api(error)) if error.is_already_exists() && attempts < NAME_ATTEMPTS => {}
                done => break done?,
            }
        };
        let warnings = decoded.warnings.into_iter().chain(warnings).collect();
        Ok(Reply::Object { code: StatusCode::CREATED, json: written, warnings })
    }

    async fn create_once(
        &self,
        call: &Call,
        mut object: Box<dyn AnyObject>,
        writer: &Writer,
        dry_run: bool,
    ) -> Result<(Bytes, Vec<String>), Error> {
        metadata::before_create(object.meta_mut(), call.row.kind.has_generation, self.now());
        let name = object.meta().name.clone().unwrap_or_default();
        let key = call.row.relative_key(&call.path.namespace, &name);
        let mut warnings = Vec::new();
        self.await_account(&call.path.namespace, &*object).await?;
        let written = self
            .write(&call.row, &key, dry_run, |current| {
                let policy = self.policy();
                let env = self.env_of(&call.identity, &policy);
                let decision = decide(&call.row, current, &*object, &env, Account::Of(writer))?;
                if let Decision::Put(object, _) = &decision {
                    warnings = call.row.hooks.warnings(&**object);
                }
                Ok(decision)
            })
            .await?;
        Ok((written.json, warnings))
    }
}

impl ApiServer {
    /// A pod may come right after its namespace, sooner than the controller that makes the namespace's account. So it is
    /// waited for, for a moment.
    pub(super) async fn await_account(&self, namespace: &str, object: &dyn AnyObject) -> Result<(), Error> {
        let pod = object.as_any().downcast_ref::<Pod>();
        if pod.and_then(service_account::account_name).as_deref() != Some(DEFAULT) {
            return Ok(());
        }
        let env = self.env();
        let key = format!("{namespace}/{DEFAULT}");
        let there = || env.get("", "serviceaccounts", &key).is_some();
        if there() {
            return Ok(());
        }
        self.refresh().await?;
        let terminating = |namespace: Arc<Object>| namespace_phase(&namespace) == "Terminating";
        if env.get("", "namespaces", namespace).is_none_or(terminating) {
            return Ok(());
        }
        // What is still not there then is told to the client.
        let _ = tokio::time::timeout(ACCOUNT, self.caches.fresh.advanced_to(there)).await;
        Ok(())
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
    account: Account<'_>,
) -> Result<Decision, Error> {
    let mut object = object.boxed();
    let name = object.meta().name.clone().unwrap_or_default();
    let mut claims = Claims::default();
    if row.kind.namespaced {
        let namespace = object.meta().namespace.clone().unwrap_or_default();
        claims.compare.push(namespace_lifecycle::admit_create(env, row, &namespace, &name)?);
    }
    // Before the hooks: what they would give the new object, for example an address, the old one holds.
    if let Some(existing) = &current.object {
        return Err(exists(row, &name, &**existing, object.meta().generate_name.as_deref()).into());
    }
    row.hooks.default(&mut *object);
    account.keep(&mut *object, None, env.now)?;
    row.hooks.prepare_create(&mut *object, env)?;
    admission::admit(row, &*object, None, Part::Main, env)?;
    let errors = row.hooks.validate(&*object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(row.kind.kind, row.kind.group, &name, &errors).into());
    }
    let own = row.hooks.claims(Some(&*object), None, env)?;
    claims.compare.extend(own.compare);
    claims.ops.extend(own.ops);
    let counted = quota::claims(row, &*object, None, env).map_err(|why| row.forbidden(&name, &why))?;
    claims.compare.extend(counted.compare);
    claims.ops.extend(counted.ops);
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
