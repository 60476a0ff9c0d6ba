//! POST to `pods/NAME/eviction`: a deletion that asks first. There is nobody to ask yet, so it deletes.

use bytes::Bytes;
use manifests::k8s_openapi::api::policy::v1::Eviction;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use manifests::status::ApiError;
use serde_json::Value;

use super::delete::DeleteParams;
use super::{Call, Reply};
use crate::error::Error;
use crate::request::content;
use crate::request::params::WriteParams;
use crate::server::ApiServer;
use crate::write::decode::check_type;

impl ApiServer {
    pub(crate) async fn evict(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "CreateOptions")?;
        let mut document = content::document(&call.headers, &body, ("policy/v1", "Eviction"))?;
        // Older clients send the same object under the older version.
        let version =
            document.value.get("apiVersion").and_then(Value::as_str).unwrap_or("policy/v1").to_owned();
        let version = if version == "policy/v1beta1" { "policy/v1beta1" } else { "policy/v1" };
        check_type(&mut document.value, version, "Eviction")?;
        document.value["apiVersion"] = "policy/v1".into();
        let (eviction, _) = manifests::decode::decode_document::<Eviction>(&document, write.field_validation)
            .map_err(|error| ApiError::bad_request(error.for_kind(version, "Eviction")))?;
        if eviction.metadata.name.as_deref() != Some(&call.path.name) {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object").into());
        }
        self.admit_removal(call, "evict")?;
        let mut params = DeleteParams::from_options(eviction.delete_options.unwrap_or_default())?;
        params.dry_run |= write.dry_run;
        self.delete_one(&call.row, &call.key(), &call.path.name, &params).await?;
        let done = Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() };
        Ok(Reply::Status(Box::new(done)))
    }
}
