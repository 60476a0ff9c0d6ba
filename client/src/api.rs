//! A typed view of one resource: every verb, its subresources, list and watch.

use std::fmt;
use std::marker::PhantomData;

use manifests::k8s_openapi;
use manifests::k8s_openapi::api::autoscaling::v1::Scale;
use manifests::k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use manifests::k8s_openapi::api::policy::v1::Eviction;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, Status};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::dynamic::{PartialObject, Unstructured};
use crate::error::Error;
use crate::object::{ApiResource, Object};
use crate::request::{DeleteParams, Endpoint, GetParams, ListParams, Patch, WatchParams, WriteParams};
use crate::watch_stream::WatchStream;

/// One page of a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
pub struct List<K> {
    /// Version and, if there is more, the token for the next page.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new", deserialize_with = "null_is_empty")]
    pub items: Vec<K>,
}

/// Go writes an empty slice as null.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

/// What a delete left: the object, on its way out, or the message that it is gone.
#[derive(Debug, Clone)]
pub enum Deletion<K> {
    /// Finalizers or a grace period keep it for now.
    Deleting(Box<K>),
    /// It is gone.
    Deleted,
}

/// A typed view of one resource, in one namespace or in all of them; cheap to clone.
pub struct Api<K> {
    client: Client,
    endpoint: Endpoint,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), endpoint: self.endpoint.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Api<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("resource", &self.endpoint.resource.plural)
            .field("namespace", &self.endpoint.namespace)
            .finish_non_exhaustive()
    }
}

impl<K: Object + k8s_openapi::Metadata<Ty = ObjectMeta>> Api<K> {
    /// Every object of a namespaced kind (to list and watch), or a cluster-scoped kind.
    pub fn all(client: Client) -> Self {
        Self::with(client, ApiResource::of::<K>(), None, false)
    }

    /// The objects in one namespace.
    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: k8s_openapi::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Self::with(client, ApiResource::of::<K>(), Some(namespace), false)
    }
}

impl Api<Unstructured> {
    /// Whole objects of a resource that is known only at run time.
    pub fn dynamic(client: Client, resource: ApiResource, namespace: Option<&str>) -> Self {
        Self::with(client, resource, namespace, false)
    }
}

impl Api<PartialObject> {
    /// The metadata of a resource's objects.
    pub fn metadata(client: Client, resource: ApiResource, namespace: Option<&str>) -> Self {
        Self::with(client, resource, namespace, true)
    }
}

impl<K: Object> Api<K> {
    fn with(client: Client, resource: ApiResource, namespace: Option<&str>, partial: bool) -> Self {
        let endpoint = Endpoint { resource, namespace: namespace.map(str::to_owned), partial };
        Self { client, endpoint, kind: PhantomData }
    }

    /// The resource.
    pub fn resource(&self) -> &ApiResource {
        &self.endpoint.resource
    }

    /// The namespace, if it is not all of them.
    pub fn namespace(&self) -> Option<&str> {
        self.endpoint.namespace.as_deref()
    }

    /// The client underneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same resource in one namespace.
    pub fn within(&self, namespace: &str) -> Self {
        let mut api = self.clone();
        api.endpoint.namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        api
    }

    /// Reads one object.
    pub async fn get(&self, name: &str) -> Result<K, Error> {
        self.get_with(name, &GetParams::default()).await
    }

    /// Reads one object, at or after some version.
    pub async fn get_with(&self, name: &str, params: &GetParams) -> Result<K, Error> {
        self.client.json(self.endpoint.get(name, params)?).await
    }

    /// Reads one object if it exists.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>, Error> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads one page, or everything if no limit is given.
    pub async fn list(&self, params: &ListParams) -> Result<List<K>, Error> {
        self.client.json(self.endpoint.list(params)?).await
    }

    /// Reads every page. If a page's version is compacted away meanwhile, the error says gone.
    pub async fn list_all(&self, params: &ListParams) -> Result<List<K>, Error> {
        let mut params = params.clone();
        let mut whole = self.list(&params).await?;
        while let Some(token) = whole.metadata.continue_.take().filter(|token| !token.is_empty()) {
            params.continue_token = Some(token);
            let page = self.list(&params).await?;
            whole.metadata = page.metadata;
            whole.items.extend(page.items);
        }
        Ok(whole)
    }

    /// Follows changes until the server ends the stream. See [`watcher`](crate::watcher) for one that does
    /// not end.
    pub async fn watch(&self, params: &WatchParams) -> Result<WatchStream<K>, Error> {
        let request = self.endpoint.watch(params)?;
        let path = request.uri().to_string();
        let response = self.client.stream(request).await?;
        Ok(WatchStream::new(path, response.into_body()))
    }

    /// Stores a new object.
    pub async fn create(&self, object: &K) -> Result<K, Error> {
        self.create_with(object, &WriteParams::default()).await
    }

    /// Stores a new object.
    pub async fn create_with(&self, object: &K, params: &WriteParams) -> Result<K, Error> {
        self.client.json(self.endpoint.create(None, object, params)?).await
    }

    /// Replaces an object. With a resourceVersion in it, only that version is replaced.
    pub async fn replace(&self, object: &K) -> Result<K, Error> {
        self.replace_with(object, &WriteParams::default()).await
    }

    /// Replaces an object. With a resourceVersion in it, only that version is replaced.
    pub async fn replace_with(&self, object: &K, params: &WriteParams) -> Result<K, Error> {
        self.client.json(self.endpoint.replace(object.name(), None, object, params)?).await
    }

    /// Replaces an object's status.
    pub async fn replace_status(&self, object: &K) -> Result<K, Error> {
        let params = WriteParams::default();
        self.client.json(self.endpoint.replace(object.name(), Some("status"), object, &params)?).await
    }

    /// Changes an object.
    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<K, Error> {
        self.patch_with(name, patch, &WriteParams::default()).await
    }

    /// Changes an object.
    pub async fn patch_with(&self, name: &str, patch: &Patch, params: &WriteParams) -> Result<K, Error> {
        self.client.json(self.endpoint.patch(name, None, patch, params)?).await
    }

    /// Changes an object's status.
    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<K, Error> {
        let params = WriteParams::default();
        self.client.json(self.endpoint.patch(name, Some("status"), patch, &params)?).await
    }

    /// Deletes an object, or starts its deletion.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<Deletion<K>, Error> {
        let request = self.endpoint.delete(name, params)?;
        let (method, path) = (request.method().clone(), request.uri().to_string());
        let body = self.client.bytes(request).await?;
        let decode = |source| Error::Decode { method: method.clone(), path: path.clone(), source };
        let kind: KindOnly = serde_json::from_slice(&body).map_err(decode)?;
        if kind.kind == "Status" {
            return Ok(Deletion::Deleted);
        }
        let object: K = serde_json::from_slice(&body).map_err(decode)?;
        let waiting = object.meta().deletion_timestamp.is_some()
            && (object.meta().finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
                || object.meta().deletion_grace_period_seconds.unwrap_or(0) > 0);
        Ok(if waiting { Deletion::Deleting(Box::new(object)) } else { Deletion::Deleted })
    }

    /// Deletes an object if it is there.
    pub async fn delete_opt(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        match self.delete(name, params).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes every selected object.
    pub async fn delete_collection(
        &self,
        params: &DeleteParams,
        selection: &ListParams,
    ) -> Result<(), Error> {
        self.client.bytes(self.endpoint.delete_collection(params, selection)?).await?;
        Ok(())
    }

    /// Reads a subresource.
    pub async fn get_subresource<T: DeserializeOwned>(
        &self,
        name: &str,
        subresource: &str,
    ) -> Result<T, Error> {
        self.client.json(self.endpoint.get_subresource(name, subresource)?).await
    }

    /// Posts to a subresource.
    pub async fn create_subresource<B, T>(&self, name: &str, subresource: &str, body: &B) -> Result<T, Error>
    where
        B: Serialize,
        T: DeserializeOwned,
    {
        let params = WriteParams::default();
        self.client.json(self.endpoint.create(Some((name, subresource)), body, &params)?).await
    }

    /// Replaces a subresource.
    pub async fn replace_subresource<B, T>(&self, name: &str, subresource: &str, body: &B) -> Result<T, Error>
    where
        B: Serialize,
        T: DeserializeOwned,
    {
        let params = WriteParams::default();
        self.client.json(self.endpoint.replace(name, Some(subresource), body, &params)?).await
    }

    /// Changes a subresource.
    pub async fn patch_subresource<T>(&self, name: &str, subresource: &str, patch: &Patch) -> Result<T, Error>
    where
        T: DeserializeOwned,
    {
        let params = WriteParams::default();
        self.client.json(self.endpoint.patch(name, Some(subresource), patch, &params)?).await
    }

    /// Reads how many replicas are wanted and there.
    pub async fn get_scale(&self, name: &str) -> Result<Scale, Error> {
        self.get_subresource(name, "scale").await
    }

    /// Sets how many replicas are wanted.
    pub async fn scale(&self, name: &str, replicas: i32) -> Result<Scale, Error> {
        let patch = Patch::Merge(serde_json::json!({"spec": {"replicas": replicas}}));
        self.patch_subresource(name, "scale", &patch).await
    }
}

impl Api<Pod> {
    /// Assigns a pod to a node. With a uid, only that very pod.
    pub async fn bind(&self, name: &str, uid: Option<&str>, node: &str) -> Result<(), Error> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: self.namespace().map(str::to_owned),
                uid: uid.map(str::to_owned),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        self.create_subresource::<_, Status>(name, "binding", &binding).await.map(drop)
    }

    /// Deletes a pod if its disruption budgets allow it.
    pub async fn evict(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        let eviction = Eviction {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: self.namespace().map(str::to_owned),
                ..ObjectMeta::default()
            },
            delete_options: Some(params.options()),
        };
        self.create_subresource::<_, Status>(name, "eviction", &eviction).await.map(drop)
    }
}

#[derive(Deserialize)]
struct KindOnly {
    #[serde(default)]
    kind: String,
}
