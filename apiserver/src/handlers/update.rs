//! PUT of an object or of one of its parts.

use bytes::Bytes;
use http::StatusCode;
use manifests::field::{FieldError, Path};
use manifests::status::ApiError;

use super::create::decide as decide_create;
use super::{Call, Reply};
use crate::admission;
use crate::error::Error;
use crate::ownership::Account;
use crate::quota;
use crate::registry::{AnyObject, Env, Part, Row};
use crate::request::content;
use crate::request::params::{WriteParams, resource_version};
use crate::server::ApiServer;
use crate::write::decode::decode;
use crate::write::{Current, Decision, Outcome, metadata};

impl ApiServer {
    pub(crate) async fn update(&self, call: &Call, part: Part, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "UpdateOptions")?;
        let document =
            content::document(&call.headers, &body, (&call.row.kind.api_version(), call.row.kind.kind))?;
        drop(body);
        let decoded = decode(&call.row, document, write.field_validation)?;
        let mut object = decoded.object;
        check_name(object.meta().name.as_deref(), &call.path.name)?;
        object.meta_mut().name = Some(call.path.name.clone());
        metadata::match_namespace(object.meta_mut(), call.row.kind.namespaced, &call.path.namespace)?;
        let writer = call.writer(&write.manager);
        let written = self
            .write(&call.row, &call.key(), write.dry_run, |current| {
                decide(
                    &call.row,
                    part,
                    current,
                    object.boxed(),
                    &self.env_of(&call.identity, &self.policy()),
                    Account::Of(&writer),
                )
            })
            .await?;
        let code = if written.outcome == Outcome::Created { StatusCode::CREATED } else { StatusCode::OK };
        Ok(Reply::Object { code, json: written.json, warnings: decoded.warnings })
    }
}

pub(super) fn check_name(own: Option<&str>, requested: &str) -> Result<(), ApiError> {
    match own {
        None | Some("") => Err(ApiError::bad_request("name must be provided")),
        Some(own) if own != requested => Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({requested})"
        ))),
        Some(_) => Ok(()),
    }
}

/// The object after the update, if it is allowed.
pub(crate) fn decide(
    row: &Row,
    part: Part,
    current: &Current,
    mut new: Box<dyn AnyObject>,
    env: &Env<'_>,
    account: Account<'_>,
) -> Result<Decision, Error> {
    let name = new.meta().name.clone().unwrap_or_default();
    let traits = row.hooks.traits();
    let version = resource_version(new.meta().resource_version.as_deref().unwrap_or_default())?.unwrap_or(0);
    let Some(old) = &current.object else {
        if !traits.create_on_update || part != Part::Main {
            return Err(row.not_found(&name).into());
        }
        if version != 0 {
            return Err(row
                .conflict(&name, "StorageError: invalid object, the object does not exist")
                .into());
        }
        metadata::before_create(new.meta_mut(), row.kind.has_generation, env.now);
        return decide_create(row, current, &*new, env, account);
    };
    let uid = new.meta().uid.as_deref().unwrap_or_default();
    let have = old.meta().uid.as_deref().unwrap_or_default();
    if !uid.is_empty() && uid != have {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {have}");
        return Err(row.conflict(&name, &why).with_uid(have).into());
    }
    if version == 0 && !traits.unconditional_update {
        let path = Path::new("metadata").child("resourceVersion");
        let errors = [FieldError::invalid(&path, 0, "must be specified for an update")].into_iter().collect();
        return Err(ApiError::invalid(row.kind.plural, row.kind.group, &name, &errors).into());
    }
    if version != 0 && version != current.revision {
        return Err(ApiError::modified(row.kind.plural, row.kind.group, &name).into());
    }
    row.hooks.default(&mut *new);
    metadata::before_update(new.meta_mut(), old.meta());
    account.keep(&mut *new, Some(current), env.now)?;
    row.hooks.prepare_update(&mut *new, &**old, part, env)?;
    admission::admit(row, &*new, Some(&**old), part, env)?;
    let errors = row.hooks.validate_update(&*new, &**old, part);
    if !errors.is_empty() {
        return Err(ApiError::invalid(row.kind.kind, row.kind.group, &name, &errors).into());
    }
    if metadata::can_go(new.meta(), old.meta()) && !row.hooks.held(&*new) {
        let claims = row.hooks.claims(None, Some(&**old), env)?;
        return Ok(Decision::Delete(new, claims));
    }
    let mut claims = row.hooks.claims(Some(&*new), Some(&**old), env)?;
    // Of others a change never counts for more.
    let may_grow = part == Part::Resize
        || (part == Part::Main && ["services", "persistentvolumeclaims"].contains(&row.kind.plural));
    if may_grow {
        let counted =
            quota::claims(row, &*new, Some(&**old), env).map_err(|why| row.forbidden(&name, &why))?;
        claims.compare.extend(counted.compare);
        claims.ops.extend(counted.ops);
    }
    Ok(Decision::Put(new, claims))
}
