//! PATCH of an object or of one of its parts.
//!
//! The patch is applied to the newest known state and the result goes the way of an update. When the state changes in
//! between, the patch is applied again; only a patch that names a resourceVersion can conflict.

use bytes::Bytes;
use manifests::json::Document;
use manifests::status::ApiError;
use serde_json::Value;

use super::apply::MEDIA_TYPE;
use super::update::{check_name, decide};
use super::{Call, Reply};
use crate::error::Error;
use crate::ownership::{Account, bare, without_owners};
use crate::patch::{self, PatchType};
use crate::registry::Part;
use crate::request::content;
use crate::request::params::WriteParams;
use crate::server::ApiServer;
use crate::write::{decode, metadata};

/// Which kind of patch a request carries.
pub(super) fn patch_type(call: &Call) -> Result<PatchType, ApiError> {
    PatchType::from_content_type(content::media_type(&call.headers)).ok_or_else(|| {
        let [json, merge, strategic] = PatchType::ALL.map(PatchType::media_type);
        ApiError::unsupported_media_type(&[json, merge, strategic, MEDIA_TYPE])
    })
}

impl ApiServer {
    pub(crate) async fn patch(&self, call: &Call, part: Part, body: Bytes) -> Result<Reply, Error> {
        if content::media_type(&call.headers) == MEDIA_TYPE {
            return self.apply(call, part, body).await;
        }
        let kind = patch_type(call)?;
        let write = WriteParams::parse(&call.params, "PatchOptions")?;
        let row = &call.row;
        let type_name = manifests::strategic::type_name(row.kind.group, row.kind.version, row.kind.kind);
        let writer = call.writer(&write.manager);
        // A patch that does not name the owners' entries leaves them to the server.
        let names_owners = memchr::memmem::find(&body, b"managedFields").is_some();
        let mut warnings = Vec::new();
        let written = self
            .write(row, &call.key(), write.dry_run, |current| {
                let Some(_) = &current.object else { return Err(row.not_found(&call.path.name).into()) };
                let json = row.shown(&current.json);
                let value: Value =
                    if names_owners { serde_json::from_slice(&json) } else { without_owners(&json) }
                        .map_err(|source| Error::Stored { key: call.key(), source })?;
                let patched = patch::apply(kind, &value, &body, &type_name).map_err(ApiError::from)?;
                let document = Document { value: patched, duplicates: Vec::new() };
                let decoded = decode::decode(row, document, write.field_validation)?;
                let mut object = decoded.object;
                check_name(object.meta().name.as_deref(), &call.path.name)?;
                metadata::match_namespace(object.meta_mut(), row.kind.namespaced, &call.path.namespace)?;
                warnings = decoded.warnings;
                decide(
                    row,
                    part,
                    current,
                    object,
                    &self.env_of(&call.identity, &self.policy()),
                    match row.view {
                        None => Account::From(&writer, bare(value)),
                        Some(_) => Account::Of(&writer),
                    },
                )
            })
            .await?;
        Ok(Reply::Object { code: http::StatusCode::OK, json: written.json, warnings })
    }
}
