//! Whole objects, the way of a write: read, decode, fill in defaults, check, encode.

mod mutations;
mod whole;

use manifests::decode::{FieldValidation, decode};
use manifests::field::ErrorList;
use manifests::k8s_openapi::api::coordination::v1::Lease;
use manifests::k8s_openapi::api::core::v1::Event;
use manifests::{default, encode, validate};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a write makes of an object.
struct Written {
    object: Value,
    errors: Vec<String>,
}

/// The functions of a kind.
struct Kind<T> {
    default: fn(&mut T),
    create: fn(&T) -> ErrorList,
    update: fn(&T, &T) -> ErrorList,
    status_update: fn(&T, &T) -> ErrorList,
}

fn nothing<T>(_: &mut T) {}

/// Takes `new` the way of a creation, and of updates of `old`.
fn write(kind: &str, new: &Value, old: &Value, unknown: FieldValidation) -> Result<Written, String> {
    use validate as v;
    macro_rules! go {
        ($default:path, $create:expr, $update:expr, $status:expr) => {
            Kind { default: $default, create: $create, update: $update, status_update: $status }
                .write(new, old, unknown)
        };
    }
    match kind {
        "Pod" => go!(default::pod, v::pod, v::pod_update, v::pod_status_update),
        "Service" => go!(default::service, v::service, v::service_update, v::service_status_update),
        "Deployment" => {
            go!(default::deployment, v::deployment, v::deployment_update, v::deployment_status_update)
        }
        "ReplicaSet" => {
            go!(default::replica_set, v::replica_set, v::replica_set_update, v::replica_set_status_update)
        }
        "Namespace" => go!(default::namespace, v::namespace, v::namespace_update, v::namespace_status_update),
        "Node" => go!(default::node, v::node, v::node_update, v::node_status_update),
        "Secret" => go!(default::secret, v::secret, v::secret_update, v::secret_update),
        "ConfigMap" => go!(default::config_map, v::config_map, v::config_map_update, v::config_map_update),
        "ServiceAccount" => {
            go!(
                default::service_account,
                v::service_account,
                v::service_account_update,
                v::service_account_update
            )
        }
        "Endpoints" => go!(default::endpoints, v::endpoints, v::endpoints_update, v::endpoints_update),
        "EndpointSlice" => {
            go!(
                default::endpoint_slice,
                v::endpoint_slice,
                v::endpoint_slice_update,
                v::endpoint_slice_update
            )
        }
        "Lease" => go!(nothing::<Lease>, v::lease, v::lease_update, v::lease_update),
        "Event" => {
            let update = |new: &Event, old: &Event| v::event_update(new, old, true);
            go!(nothing::<Event>, |event| v::event(event, true), update, update)
        }
        "PriorityClass" => {
            go!(
                default::priority_class,
                v::priority_class,
                v::priority_class_update,
                v::priority_class_update
            )
        }
        other => Err(format!("{other} is not served")),
    }
}

impl<T: DeserializeOwned + Serialize + Clone> Kind<T> {
    fn write(&self, new: &Value, old: &Value, unknown: FieldValidation) -> Result<Written, String> {
        let read = |value: &Value| -> Result<T, String> {
            let (mut object, _) = decode::<T>(value, unknown).map_err(|error| error.to_string())?;
            (self.default)(&mut object);
            let mut again = object.clone();
            (self.default)(&mut again);
            assert!(encode::same(&object, &again), "defaults change what has defaults: {value}");
            Ok(object)
        };
        let new = read(new)?;
        let errors = (self.create)(&new).iter().map(ToString::to_string).collect();
        let encoded = encode::to_value(&new).map_err(|error| error.to_string())?;
        // An empty list or map is gone after the first encoding, and may have a default then; but not after the second.
        let again = read(&encoded)?;
        let settled = read(&encode::to_value(&again).map_err(|error| error.to_string())?)?;
        assert!(encode::same(&again, &settled), "not the same after a round trip: {encoded}");
        if let Ok(old) = read(old) {
            (self.update)(&new, &old);
            (self.status_update)(&new, &old);
        }
        Ok(Written { object: encoded, errors })
    }
}
