//! DELETE of an object.

use bytes::Bytes;

use super::{Call, Reply};
use crate::error::Error;
use crate::server::ApiServer;
use crate::write::Decision;

impl ApiServer {
    pub(crate) async fn delete(&self, call: &Call, _: Bytes) -> Result<Reply, Error> {
        let written = self
            .write(&call.row, &call.key(), false, |current| {
                let Some(object) = &current.object else {
                    return Err(call.row.not_found(&call.path.name).into());
                };
                Ok(Decision::Delete(object.boxed(), Default::default()))
            })
            .await?;
        Ok(Reply::ok(written.json))
    }
}
