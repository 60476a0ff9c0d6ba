//! Roles and who has them.

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::rbac::v1 as rbac;
use manifests::{default, validate};

use super::kind::{Kind, Part};

macro_rules! kind {
    ($name:ident, $default:path, $validate:path, $update:path) => {
        pub(super) struct $name;

        impl Kind for $name {
            type Object = rbac::$name;

            const CREATE_ON_UPDATE: bool = true;

            fn default(object: &mut rbac::$name) {
                $default(object);
            }

            fn validate(object: &rbac::$name) -> ErrorList {
                $validate(object)
            }

            fn validate_update(new: &rbac::$name, old: &rbac::$name, _: Part) -> ErrorList {
                $update(new, old)
            }
        }
    };
}

fn nothing<T>(_: &mut T) {}

kind!(Role, nothing, validate::role, validate::role_update);
kind!(ClusterRole, nothing, validate::cluster_role, validate::cluster_role_update);
kind!(RoleBinding, default::role_binding, validate::role_binding, validate::role_binding_update);
kind!(
    ClusterRoleBinding,
    default::cluster_role_binding,
    validate::cluster_role_binding,
    validate::cluster_role_binding_update
);
