//! ConfigMaps, Secrets, ServiceAccounts: what pods are configured with.

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::core::v1 as core;
use manifests::{default, validate};

use super::kind::{Kind, Part};
use crate::fields::SelectableField;

pub(super) struct ConfigMap;

impl Kind for ConfigMap {
    type Object = core::ConfigMap;

    fn default(object: &mut core::ConfigMap) {
        default::config_map(object);
    }

    fn validate(object: &core::ConfigMap) -> ErrorList {
        validate::config_map(object)
    }

    fn validate_update(new: &core::ConfigMap, old: &core::ConfigMap, _: Part) -> ErrorList {
        validate::config_map_update(new, old)
    }
}

pub(super) struct Secret;

impl Kind for Secret {
    type Object = core::Secret;

    const FIELDS: &'static [SelectableField] = &[SelectableField::plain("type", &["type"])];

    fn default(object: &mut core::Secret) {
        // Upstream folds stringData into data when it decodes; it is never stored.
        if let Some(strings) = object.string_data.take() {
            let data = object.data.get_or_insert_default();
            data.extend(
                strings
                    .into_iter()
                    .map(|(key, value)| (key, manifests::k8s_openapi::ByteString(value.into_bytes()))),
            );
        }
        default::secret(object);
    }

    fn validate(object: &core::Secret) -> ErrorList {
        validate::secret(object)
    }

    fn validate_update(new: &core::Secret, old: &core::Secret, _: Part) -> ErrorList {
        validate::secret_update(new, old)
    }
}

pub(super) struct ServiceAccount;

impl Kind for ServiceAccount {
    type Object = core::ServiceAccount;

    const RETURNS_DELETED: bool = true;

    fn default(object: &mut core::ServiceAccount) {
        default::service_account(object);
    }

    fn validate(object: &core::ServiceAccount) -> ErrorList {
        validate::service_account(object)
    }

    fn validate_update(new: &core::ServiceAccount, old: &core::ServiceAccount, _: Part) -> ErrorList {
        validate::service_account_update(new, old)
    }
}
