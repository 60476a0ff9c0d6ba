//! Events, as the core group reads them and as `events.k8s.io` does.

use k8s_openapi::api::core::v1::Event;

use super::{immutable, object_meta, object_meta_update, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

const MAX_NAME: usize = 128;
const MAX_NOTE: usize = 1024;

/// A new event. `strict` are the rules of `events.k8s.io`; the core group is lenient with older clients.
pub fn event(event: &Event, strict: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    lenient(event, &mut errors);
    if !strict {
        return errors;
    }
    object_meta(&event.metadata, true, names::dns1123_subdomain, &mut errors);
    series(event, &mut errors);
    if event.event_time.is_none() {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let type_ = text(&event.type_);
    if !matches!(type_, "Normal" | "Warning") {
        errors.push(FieldError::invalid(&Path::new("type"), "", format!("has invalid value: {type_}")));
    }
    let source = event.source.as_ref();
    for (field, set) in [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or_default() != 0),
        (
            "source",
            source
                .is_some_and(|source| !text(&source.component).is_empty() || !text(&source.host).is_empty()),
        ),
    ] {
        if set {
            errors.push(FieldError::invalid(&Path::new(field), "", "needs to be unset"));
        }
    }
    errors
}

/// An update of an event.
pub fn event_update(new: &Event, old: &Event, strict: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    lenient(new, &mut errors);
    if !strict {
        return errors;
    }
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    if new.series != old.series {
        series(new, &mut errors);
    }
    let errors_mut = &mut errors;
    immutable(&new.involved_object, &old.involved_object, &Path::new("involvedObject"), errors_mut);
    immutable(text(&new.message), text(&old.message), &Path::new("message"), errors_mut);
    immutable(&new.source, &old.source, &Path::new("source"), errors_mut);
    immutable(&new.first_timestamp, &old.first_timestamp, &Path::new("firstTimestamp"), errors_mut);
    immutable(&new.last_timestamp, &old.last_timestamp, &Path::new("lastTimestamp"), errors_mut);
    immutable(&new.count, &old.count, &Path::new("count"), errors_mut);
    immutable(text(&new.reason), text(&old.reason), &Path::new("reason"), errors_mut);
    immutable(text(&new.type_), text(&old.type_), &Path::new("type"), errors_mut);
    immutable(&new.event_time, &old.event_time, &Path::new("eventTime"), errors_mut);
    immutable(text(&new.action), text(&old.action), &Path::new("action"), errors_mut);
    immutable(&new.related, &old.related, &Path::new("related"), errors_mut);
    let (new_controller, old_controller) = (text(&new.reporting_component), text(&old.reporting_component));
    immutable(new_controller, old_controller, &Path::new("reportingController"), errors_mut);
    let (new_instance, old_instance) = (text(&new.reporting_instance), text(&old.reporting_instance));
    immutable(new_instance, old_instance, &Path::new("reportingInstance"), errors_mut);
    errors
}

fn lenient(event: &Event, errors: &mut ErrorList) {
    let namespace = text(&event.metadata.namespace);
    let involved = text(&event.involved_object.namespace);
    let agrees = match (event.event_time.is_some(), involved) {
        (false, "") => matches!(namespace, "" | "default"),
        (false, involved) => namespace == involved,
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
    };
    if !agrees {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(&path, involved, "does not match event.namespace"));
    }
    if event.event_time.is_some() {
        let controller = text(&event.reporting_component);
        let path = Path::new("reportingController");
        if controller.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        errors.push_invalid(&path, controller, names::qualified_name(controller));
        for (field, value) in [
            ("reportingInstance", &event.reporting_instance),
            ("action", &event.action),
            ("reason", &event.reason),
        ] {
            let path = Path::new(field);
            if text(value).is_empty() {
                errors.push(FieldError::required(&path, ""));
            }
            at_most(MAX_NAME, text(value), &path, errors);
        }
        at_most(MAX_NOTE, text(&event.message), &Path::new("message"), errors);
    }
    errors.push_invalid(&Path::new("namespace"), namespace, names::dns1123_subdomain(namespace));
}

fn at_most(max: usize, value: &str, path: &Path, errors: &mut ErrorList) {
    if value.len() > max {
        errors.push(FieldError::invalid(path, "", format!("can have at most {max} characters")));
    }
}

fn series(event: &Event, errors: &mut ErrorList) {
    let Some(series) = &event.series else { return };
    if series.count.unwrap_or_default() < 2 {
        errors.push(FieldError::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if series.last_observed_time.is_none() {
        errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, namespaced};
    use super::*;

    fn core(object: &Event) -> ErrorList {
        event(object, false)
    }

    fn strict(object: &Event) -> ErrorList {
        event(object, true)
    }

    #[test]
    fn events() {
        check(core, namespaced(json!({"involvedObject": {"namespace": "b"}, "count": 1})), &[]);
        check(
            core,
            namespaced(json!({"involvedObject": {"namespace": "c"}})),
            &["involvedObject.namespace: Invalid value: \"c\": does not match event.namespace"],
        );
        let new = json!({
            "involvedObject": {"namespace": "b"}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reportingComponent": "c.io/a", "reportingInstance": "i", "action": "a", "reason": "R",
        });
        check(strict, namespaced(new.clone()), &[]);
        let mut bad = new;
        bad["type"] = json!("Odd");
        bad["count"] = json!(1);
        bad["reason"] = json!("");
        bad["message"] = json!("x".repeat(1025));
        bad["series"] = json!({"count": 1});
        check(
            strict,
            namespaced(bad),
            &[
                "reason: Required value",
                "message: Invalid value: \"\": can have at most 1024 characters",
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset",
            ],
        );
    }
}
