//! Kinds that are questions. Their rows have no objects; see [`crate::handlers::review`] for the answers.

use std::fmt;
use std::marker::PhantomData;

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kind::Kind;

pub(super) struct Review<T>(PhantomData<fn() -> T>);

impl<T> Kind for Review<T>
where
    T: Resource
        + Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + fmt::Debug
        + PartialEq
        + Send
        + Sync
        + 'static,
{
    type Object = T;
}
