//! GET of an object and of a collection.
//!
//! Which state a list shows, by its parameters (as upstream documents them):
//!
//! | resourceVersion | match | continue | state |
//! |---|---|---|---|
//! | none | | | newest: the store is asked how far it is |
//! | `0` | any | | whatever the cache has |
//! | N | NotOlderThan, or none | | the cache, once it has come to N |
//! | N | Exact, or none with a limit | | exactly N |
//! | | | token | exactly what the first chunk showed |

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use manifests::status::ApiError;
use serde::{Deserialize, Serialize};
use store::{ListOptions, Revision, StoreError};

use super::{Call, ListReply, Reply};
use crate::error::Error;
use crate::object::EventType;
use crate::registry::Row;
use crate::request::params::{ListParams, Match, resource_version};
use crate::server::ApiServer;
use crate::watch_cache::{Filter, Listed, Query, TooOld};

/// So many objects are read from the store's history at a time.
const HISTORY_CHUNK: usize = 500;
/// How long a read waits for a revision that has not come.
const CATCH_UP: Duration = Duration::from_secs(3);

impl ApiServer {
    pub(crate) async fn get(&self, call: &Call) -> Result<Reply, Error> {
        match resource_version(call.params.get("resourceVersion").unwrap_or_default())? {
            None => self.refresh().await?,
            Some(0) => {}
            Some(version) => self.wait_for(version).await?,
        }
        let object = call.row.cache.get(&call.key()).ok_or_else(|| call.row.not_found(&call.path.name))?;
        Ok(Reply::ok(object.json()))
    }

    pub(crate) async fn list(&self, call: &Call, params: &ListParams) -> Result<Reply, Error> {
        let filter = self.filter(call, params)?;
        let token = params.continue_token.as_deref().map(Token::decode).transpose()?;
        let at = self.list_revision(params, token.as_ref()).await?;
        let within = match &filter.namespace {
            Some(namespace) if call.row.kind.namespaced => format!("{namespace}/"),
            _ => String::new(),
        };
        let after = token.as_ref().map(|token| token.start.as_str());
        let query = Query { within: &within, after, limit: params.limit, at };
        let applied = self.caches.fresh.applied();
        let listed = match call.row.cache.list(&query, &filter, applied) {
            Ok(listed) => listed,
            Err(TooOld { floor }) => match self.list_history(&call.row, &query, &filter).await {
                Err(Error::Store(StoreError::Compacted { .. })) => {
                    let requested = at.unwrap_or_default();
                    return Err(
                        after.map_or(Error::TooOld { requested, oldest: floor }, continue_inconsistently)
                    );
                }
                listed => listed?,
            },
        };
        let (continue_token, remaining) = match listed.objects.last() {
            Some(last) if listed.more => {
                let token = Token::new(listed.revision, last.key()).encode();
                (Some(token), (!filter.selects()).then_some(listed.remaining))
            }
            _ => (None, None),
        };
        Ok(Reply::List(ListReply { listed, continue_token, remaining }))
    }

    /// Which exact revision a list shows, if not the newest; waits until the cache is new enough.
    async fn list_revision(&self, params: &ListParams, token: Option<&Token>) -> Result<Option<u64>, Error> {
        if let Some(token) = token {
            if params.resource_version.is_some_and(|version| version != 0) {
                let message = "specifying resource version is not allowed when using continue";
                return Err(ApiError::bad_request(message).into());
            }
            if token.revision > 0 {
                self.wait_for(token.revision).await?;
                return Ok(Some(token.revision));
            }
            self.refresh().await?;
            return Ok(None);
        }
        match (params.resource_version, params.version_match) {
            (None, _) => self.refresh().await.map(|()| None),
            (Some(0), _) => Ok(None),
            (Some(version), Some(Match::NotOlderThan)) => self.wait_for(version).await.map(|()| None),
            (Some(version), None) if params.limit == 0 => self.wait_for(version).await.map(|()| None),
            (Some(version), _) => self.wait_for(version).await.map(|()| Some(version)),
        }
    }

    /// What a list or watch shows.
    pub(crate) fn filter(&self, call: &Call, params: &ListParams) -> Result<Filter, Error> {
        let mut fields = call.row.field_requirements(&params.fields)?;
        if !call.path.name.is_empty() {
            // A watch of one object by its path is a watch with a field selector.
            if let Some(selected) = params.fields.exact("metadata.name")
                && selected != call.path.name
            {
                return Err(ApiError::bad_request(
                    "fieldSelector metadata.name doesn't match requested name",
                )
                .into());
            }
            let value = call.path.name.clone();
            fields.push(crate::watch_cache::FieldRequirement::Name { value, negated: false });
        }
        Ok(Filter::new(&call.path.namespace, &params.labels, fields))
    }

    /// Makes the caches as new as the store is now.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let newest = self.caches.fresh.newest(&*self.caches.store).await?;
        self.wait_for(newest).await
    }

    /// Waits until the caches have a revision.
    pub(crate) async fn wait_for(&self, revision: u64) -> Result<(), Error> {
        if self.caches.fresh.applied() >= revision {
            return Ok(());
        }
        tokio::time::timeout(CATCH_UP, self.caches.fresh.reached(revision))
            .await
            .map_err(|_| Error::TooNew { requested: revision, current: self.caches.fresh.applied() })
    }

    /// A state that the cache no longer knows, from the store's history.
    async fn list_history(&self, row: &Row, query: &Query<'_>, filter: &Filter) -> Result<Listed, Error> {
        let storage = &row.cache.storage;
        let revision = query.at.unwrap_or_default();
        let mut listed = Listed { revision, ..Listed::default() };
        let mut options = ListOptions {
            revision: Some(Revision(revision)),
            limit: HISTORY_CHUNK,
            after: query.after.map(|after| storage.key(after)),
        };
        loop {
            let chunk = self.caches.store.list(&storage.key(query.within), &options).await?;
            let mut left = chunk.items.len() as u64 + chunk.remaining;
            options.after = chunk.items.last().map(|item| item.key.clone());
            for item in chunk.items {
                let Some(key) = item.key.strip_prefix(&storage.prefix) else { continue };
                let object = storage
                    .read(key, EventType::Added, &item.value, item.mod_revision.0)
                    .map_err(|source| Error::Stored { key: item.key.clone(), source })?;
                if filter.matches(&object) {
                    if query.limit > 0 && listed.objects.len() == query.limit {
                        listed.more = true;
                        listed.remaining = left;
                        return Ok(listed);
                    }
                    listed.objects.push(Arc::new(object));
                }
                left -= 1;
            }
            if chunk.remaining == 0 || options.after.is_none() {
                return Ok(listed);
            }
        }
    }
}

/// The refusal of a continue token that is too old, with another token for those who can live with gaps.
fn continue_inconsistently(after: &str) -> Error {
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut status = error.into_status();
    status.metadata.continue_ = Some(Token { revision: 0, start: after.to_owned() }.encode());
    ApiError::from_status(status).into()
}

/// Where the next chunk of a list begins.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    /// The revision that the first chunk showed; 0 for the newest, which may differ from it.
    #[serde(rename = "rv")]
    revision: u64,
    /// The last key of the chunk before.
    start: String,
}

impl Token {
    fn new(revision: u64, start: &str) -> Token {
        Token { revision, start: start.to_owned() }
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(
            serde_json::json!({ "v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start })
                .to_string(),
        )
    }

    fn decode(text: &str) -> Result<Token, ApiError> {
        let invalid = |detail: &str| ApiError::bad_request(format!("invalid continue token: {detail}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(&error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))
    }
}
