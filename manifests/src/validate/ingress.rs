//! Ingresses, their classes, NetworkPolicies and RuntimeClasses.

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass, NetworkPolicy};
use k8s_openapi::api::node::v1::RuntimeClass;

use super::{immutable, named, object_meta, object_meta_update, one_of};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

/// A new Ingress.
pub fn ingress(ingress: &Ingress) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&ingress.metadata, true, names::dns1123_subdomain, &mut errors);
    ingress_spec(ingress, &mut errors);
    errors
}

/// An update of an Ingress.
pub fn ingress_update(new: &Ingress, old: &Ingress) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    ingress_spec(new, &mut errors);
    errors
}

fn ingress_spec(ingress: &Ingress, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), ingress.spec.clone().unwrap_or_default());
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&path, rules, why));
    }
    if let Some(found) = &spec.default_backend {
        backend(found, &path.child("defaultBackend"), errors);
    }
    if let Some(class) = &spec.ingress_class_name {
        named(class, names::dns1123_subdomain, &path.child("ingressClassName"), errors);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.child("rules").index(index);
        let host = rule.host.as_deref().unwrap_or_default();
        if !host.is_empty() {
            named(
                host.strip_prefix("*.").unwrap_or(host),
                names::dns1123_subdomain,
                &path.child("host"),
                errors,
            );
        }
        let Some(http) = &rule.http else { continue };
        let paths = path.child("http").child("paths");
        if http.paths.is_empty() {
            errors.push(FieldError::required(&paths, ""));
        }
        for (index, entry) in http.paths.iter().enumerate() {
            let path = paths.index(index);
            let text = entry.path.as_deref().unwrap_or_default();
            if entry.path_type.is_empty() {
                errors.push(FieldError::required(&path.child("pathType"), "pathType must be specified"));
            } else {
                let types = ["Exact", "ImplementationSpecific", "Prefix"];
                one_of(&entry.path_type, &types, &path.child("pathType"), errors);
            }
            let optional = entry.path_type == "ImplementationSpecific" && text.is_empty();
            if !optional && !text.starts_with('/') {
                errors.push(FieldError::invalid(&path.child("path"), text, "must be an absolute path"));
            }
            backend(&entry.backend, &path.child("backend"), errors);
        }
    }
}

fn backend(backend: &IngressBackend, path: &Path, errors: &mut ErrorList) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (None, None) => errors.push(FieldError::required(path, "resource or service backend is required")),
        (None, Some(_)) => {}
        (Some(service), None) => {
            let path = path.child("service");
            named(&service.name, names::dns1035_label, &path.child("name"), errors);
            let port = service.port.clone().unwrap_or_default();
            match (port.name.as_deref().unwrap_or_default(), port.number.unwrap_or_default()) {
                ("", 0) => errors.push(FieldError::required(&path, "port name or number is required")),
                ("", number) => super::port(number, &path.child("port").child("number"), errors),
                (_, 0) => {}
                _ => errors.push(FieldError::invalid(&path, "", "cannot set both port name & port number")),
            }
        }
    }
}

/// A new IngressClass.
pub fn ingress_class(class: &IngressClass) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&class.metadata, false, names::dns1123_subdomain, &mut errors);
    if class.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default().is_empty() {
        errors.push(FieldError::required(&Path::new("spec").child("controller"), ""));
    }
    errors
}

/// An update of an IngressClass.
pub fn ingress_class_update(new: &IngressClass, old: &IngressClass) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let controller = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.clone());
    immutable(&controller(new), &controller(old), &Path::new("spec").child("controller"), &mut errors);
    errors
}

/// A new NetworkPolicy.
pub fn network_policy(policy: &NetworkPolicy) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&policy.metadata, true, names::dns1123_subdomain, &mut errors);
    network_policy_spec(policy, &mut errors);
    errors
}

/// An update of a NetworkPolicy.
pub fn network_policy_update(new: &NetworkPolicy, old: &NetworkPolicy) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    network_policy_spec(new, &mut errors);
    errors
}

fn network_policy_spec(policy: &NetworkPolicy, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), policy.spec.clone().unwrap_or_default());
    super::meta::label_selector(spec.pod_selector.as_ref(), &path.child("podSelector"), errors);
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.len() > 2 {
        let why = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(&path.child("policyTypes"), types, why));
    }
    for (index, kind) in types.iter().enumerate() {
        one_of(kind, &["Egress", "Ingress"], &path.child("policyTypes").index(index), errors);
    }
}

/// A new RuntimeClass.
pub fn runtime_class(class: &RuntimeClass) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&class.metadata, false, names::dns1123_subdomain, &mut errors);
    named(&class.handler, names::dns1123_label, &Path::new("handler"), &mut errors);
    errors
}

/// An update of a RuntimeClass.
pub fn runtime_class_update(new: &RuntimeClass, old: &RuntimeClass) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    immutable(&new.handler, &old.handler, &Path::new("handler"), &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn ingresses() {
        let check = |spec: Value, expected: usize| {
            let made = json!({"metadata": {"name": "i", "namespace": "n"}, "spec": spec});
            let errors = ingress(&serde_json::from_value(made).unwrap());
            assert_eq!(errors.len(), expected, "{errors}");
        };
        let service = json!({"service": {"name": "web", "port": {"number": 80}}});
        let rule = |path: &str, kind: &str| json!({"rules": [{"host": "*.example.com", "http": {"paths": [{"path": path, "pathType": kind, "backend": service}]}}]});
        check(rule("/", "Prefix"), 0);
        check(rule("x", "Prefix"), 1);
        check(rule("/", "Suffix"), 1);
        check(json!({}), 1);
        check(json!({"defaultBackend": {}}), 1);
        check(json!({"defaultBackend": service}), 0);
    }
}
