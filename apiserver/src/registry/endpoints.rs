//! Endpoints and EndpointSlices: where a service's requests go.

use manifests::encode::same;
use manifests::field::ErrorList;
use manifests::k8s_openapi::api::core::v1 as core;
use manifests::k8s_openapi::api::discovery::v1 as discovery;
use manifests::status::ApiError;
use manifests::{default, validate};

use super::env::Env;
use super::kind::{Kind, Part};
use crate::write::metadata::next_generation;

pub(super) struct Endpoints;

impl Kind for Endpoints {
    type Object = core::Endpoints;

    const CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut core::Endpoints) {
        default::endpoints(object);
    }

    fn validate(object: &core::Endpoints) -> ErrorList {
        validate::endpoints(object)
    }

    fn validate_update(new: &core::Endpoints, old: &core::Endpoints, _: Part) -> ErrorList {
        validate::endpoints_update(new, old)
    }
}

pub(super) struct EndpointSlice;

impl Kind for EndpointSlice {
    type Object = discovery::EndpointSlice;

    fn default(object: &mut discovery::EndpointSlice) {
        default::endpoint_slice(object);
    }

    fn prepare_update(
        new: &mut discovery::EndpointSlice,
        old: &discovery::EndpointSlice,
        _: Part,
        _: &Env<'_>,
    ) -> Result<(), ApiError> {
        let wanted = |slice: &discovery::EndpointSlice| {
            let discovery::EndpointSlice { endpoints, ports, address_type, .. } = slice.clone();
            discovery::EndpointSlice { endpoints, ports, address_type, ..Default::default() }
        };
        if !same(&wanted(new), &wanted(old)) {
            next_generation(&mut new.metadata);
        }
        Ok(())
    }

    fn validate(object: &discovery::EndpointSlice) -> ErrorList {
        validate::endpoint_slice(object)
    }

    fn validate_update(new: &discovery::EndpointSlice, old: &discovery::EndpointSlice, _: Part) -> ErrorList {
        validate::endpoint_slice_update(new, old)
    }
}
