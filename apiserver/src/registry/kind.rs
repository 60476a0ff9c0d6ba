//! What differs between kinds: the hooks of a row.
//!
//! Every write goes through `default → prepare → validate → after`. A kind implements [`Kind`] over its generated type;
//! [`Typed`] makes it an object-safe [`Hooks`], so the handlers are written once.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

use manifests::decode::{self, DecodeError, FieldValidation};
use manifests::encode::EncodeError;
use manifests::field::ErrorList;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::{Metadata, Resource};
use manifests::status::ApiError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Compare, Op};

use super::env::Env;
use crate::encode::encode;
use crate::fields::SelectableField;
use crate::object::Layout;

/// A typed object whose type the handlers need not know.
pub(crate) trait AnyObject: Any + fmt::Debug + Send + Sync {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    fn to_value(&self) -> Result<serde_json::Value, EncodeError>;
    /// The stored form.
    fn encode(&self, layout: &Layout) -> Result<Vec<u8>, EncodeError>;
    fn boxed(&self) -> Box<dyn AnyObject>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T> AnyObject for T
where
    T: Metadata<Ty = ObjectMeta> + Serialize + Clone + fmt::Debug + Send + Sync + 'static,
{
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn to_value(&self) -> Result<serde_json::Value, EncodeError> {
        manifests::encode::to_value(self)
    }

    fn encode(&self, layout: &Layout) -> Result<Vec<u8>, EncodeError> {
        encode(layout, self)
    }

    fn boxed(&self) -> Box<dyn AnyObject> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Which part of an object a request may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The object itself, without its status.
    Main,
    /// `…/status`.
    Status,
    /// `namespaces/NAME/finalize`: `spec.finalizers`.
    Finalize,
    /// `pods/NAME/ephemeralcontainers`.
    EphemeralContainers,
    /// `pods/NAME/resize`: CPU and memory of containers.
    Resize,
    /// `certificatesigningrequests/NAME/approval`.
    Approval,
}

/// What else has to hold and be written in the transaction of a write, for example claimed addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) compare: Vec<Compare>,
    pub(crate) ops: Vec<Op>,
}

/// The hooks of a kind. All are pure but for what [`Env`] offers.
pub(crate) trait Kind: Send + Sync + 'static {
    /// The generated type.
    type Object: Resource
        + Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + fmt::Debug
        + PartialEq
        + Send
        + Sync
        + 'static;

    /// Selectable fields beyond `metadata.name` and `metadata.namespace`.
    const FIELDS: &'static [SelectableField] = &[];
    /// A PUT of an object that does not exist creates it.
    const CREATE_ON_UPDATE: bool = false;
    /// A PUT without a resourceVersion overwrites.
    const UNCONDITIONAL_UPDATE: bool = true;
    /// The answer to a deletion is the object, not a Status.
    const RETURNS_DELETED: bool = false;
    /// Whether owners can wait for dependents of this kind, or leave them behind.
    const GARBAGE_COLLECTED: bool = true;

    /// Fills in what is left out.
    fn default(_: &mut Self::Object) {}

    /// Sets what the server alone decides, on creation. May look around in the cluster, and refuse.
    fn prepare_create(_: &mut Self::Object, _: &Env<'_>) -> Result<(), ApiError> {
        Ok(())
    }

    /// Puts back what this part of the object may not change, and sets the generation.
    fn prepare_update(_: &mut Self::Object, _: &Self::Object, _: Part, _: &Env<'_>) -> Result<(), ApiError> {
        Ok(())
    }

    fn validate(_: &Self::Object) -> ErrorList {
        ErrorList::new()
    }

    fn validate_update(_: &Self::Object, _: &Self::Object, _: Part) -> ErrorList {
        ErrorList::new()
    }

    /// Hints for the author of an object, sent as `Warning` headers.
    fn warnings(_: &Self::Object) -> Vec<String> {
        Vec::new()
    }

    /// Further conditions and changes of the transaction that takes the object from `old` to `new`.
    fn claims(_: Option<&Self::Object>, _: Option<&Self::Object>, _: &Env<'_>) -> Result<Claims, ApiError> {
        Ok(Claims::default())
    }

    /// The grace period of a deletion, for kinds that are deleted gracefully.
    fn grace_period(_: &Self::Object, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Last changes before a deletion is recorded in the object.
    fn mark_deleted(_: &mut Self::Object) {}

    /// Finalizers outside of the metadata keep the object as well.
    fn held(_: &Self::Object) -> bool {
        false
    }
}

/// [`Kind`] for handlers that do not know the type.
pub(crate) trait Hooks: Send + Sync + 'static {
    fn traits(&self) -> Traits;
    /// Reads an object from a request; with warnings about fields that were dropped.
    fn decode(
        &self,
        document: &manifests::json::Document,
        validation: FieldValidation,
    ) -> Result<(Box<dyn AnyObject>, Vec<String>), DecodeError>;
    /// Reads an object from the cache.
    fn read(&self, json: &[u8]) -> Result<Box<dyn AnyObject>, serde_json::Error>;
    fn default(&self, object: &mut dyn AnyObject);
    fn prepare_create(&self, object: &mut dyn AnyObject, env: &Env<'_>) -> Result<(), ApiError>;
    fn prepare_update(
        &self,
        new: &mut dyn AnyObject,
        old: &dyn AnyObject,
        part: Part,
        env: &Env<'_>,
    ) -> Result<(), ApiError>;
    fn validate(&self, object: &dyn AnyObject) -> ErrorList;
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, part: Part) -> ErrorList;
    fn warnings(&self, object: &dyn AnyObject) -> Vec<String>;
    fn claims(
        &self,
        new: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        env: &Env<'_>,
    ) -> Result<Claims, ApiError>;
    fn grace_period(&self, object: &dyn AnyObject, requested: Option<i64>) -> Option<i64>;
    fn mark_deleted(&self, object: &mut dyn AnyObject);
    fn held(&self, object: &dyn AnyObject) -> bool;
}

/// The constants of a [`Kind`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    pub(crate) fields: &'static [SelectableField],
    pub(crate) create_on_update: bool,
    pub(crate) unconditional_update: bool,
    pub(crate) returns_deleted: bool,
    pub(crate) garbage_collected: bool,
}

/// Makes a [`Kind`] object-safe.
pub(crate) struct Typed<K>(PhantomData<fn() -> K>);

impl<K: Kind> Typed<K> {
    pub(crate) const HOOKS: &'static dyn Hooks = &Typed::<K>(PhantomData);
}

/// A row only ever sees objects that its own hooks decoded.
const OWN: &str = "objects of a row have the row's type";

fn own<T: 'static>(object: &dyn AnyObject) -> &T {
    object.as_any().downcast_ref().expect(OWN)
}

fn own_mut<T: 'static>(object: &mut dyn AnyObject) -> &mut T {
    object.as_any_mut().downcast_mut().expect(OWN)
}

impl<K: Kind> Hooks for Typed<K> {
    fn traits(&self) -> Traits {
        Traits {
            fields: K::FIELDS,
            create_on_update: K::CREATE_ON_UPDATE,
            unconditional_update: K::UNCONDITIONAL_UPDATE,
            returns_deleted: K::RETURNS_DELETED,
            garbage_collected: K::GARBAGE_COLLECTED,
        }
    }

    fn decode(
        &self,
        document: &manifests::json::Document,
        validation: FieldValidation,
    ) -> Result<(Box<dyn AnyObject>, Vec<String>), DecodeError> {
        let (object, warnings) = decode::decode_document::<K::Object>(document, validation)?;
        Ok((Box::new(object), warnings.into_iter().map(|warning| warning.message).collect()))
    }

    fn read(&self, json: &[u8]) -> Result<Box<dyn AnyObject>, serde_json::Error> {
        Ok(Box::new(serde_json::from_slice::<K::Object>(json)?))
    }

    fn default(&self, object: &mut dyn AnyObject) {
        K::default(own_mut(object));
    }

    fn prepare_create(&self, object: &mut dyn AnyObject, env: &Env<'_>) -> Result<(), ApiError> {
        K::prepare_create(own_mut(object), env)
    }

    fn prepare_update(
        &self,
        new: &mut dyn AnyObject,
        old: &dyn AnyObject,
        part: Part,
        env: &Env<'_>,
    ) -> Result<(), ApiError> {
        K::prepare_update(own_mut(new), own(old), part, env)
    }

    fn validate(&self, object: &dyn AnyObject) -> ErrorList {
        K::validate(own(object))
    }

    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, part: Part) -> ErrorList {
        K::validate_update(own(new), own(old), part)
    }

    fn warnings(&self, object: &dyn AnyObject) -> Vec<String> {
        K::warnings(own(object))
    }

    fn claims(
        &self,
        new: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        env: &Env<'_>,
    ) -> Result<Claims, ApiError> {
        K::claims(new.map(own), old.map(own), env)
    }

    fn grace_period(&self, object: &dyn AnyObject, requested: Option<i64>) -> Option<i64> {
        K::grace_period(own(object), requested)
    }

    fn mark_deleted(&self, object: &mut dyn AnyObject) {
        K::mark_deleted(own_mut(object));
    }

    fn held(&self, object: &dyn AnyObject) -> bool {
        K::held(own(object))
    }
}
