//! Events: stored once, served by the core group and by `events.k8s.io`.

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::core::v1 as core;
use manifests::{names, validate};

use super::kind::{Kind, Part};
use crate::fields::SelectableField;

pub(super) struct Event;

/// Events that come through `events.k8s.io`, which is stricter.
pub(super) struct StrictEvent;

const FIELDS: &[SelectableField] = &[
    SelectableField::plain("involvedObject.kind", &["involvedObject.kind"]),
    SelectableField::plain("involvedObject.namespace", &["involvedObject.namespace"]),
    SelectableField::plain("involvedObject.name", &["involvedObject.name"]),
    SelectableField::plain("involvedObject.uid", &["involvedObject.uid"]),
    SelectableField::plain("involvedObject.apiVersion", &["involvedObject.apiVersion"]),
    SelectableField::plain("involvedObject.resourceVersion", &["involvedObject.resourceVersion"]),
    SelectableField::plain("involvedObject.fieldPath", &["involvedObject.fieldPath"]),
    SelectableField::plain("reason", &["reason"]),
    SelectableField::plain("reportingComponent", &["reportingComponent"]),
    SelectableField::plain("source", &["source.component", "reportingComponent"]),
    SelectableField::plain("type", &["type"]),
];

impl Kind for Event {
    type Object = core::Event;

    const CREATE_ON_UPDATE: bool = true;
    const GARBAGE_COLLECTED: bool = false;
    const FIELDS: &'static [SelectableField] = FIELDS;

    fn validate(object: &core::Event) -> ErrorList {
        let mut errors = validate::event(object, false);
        if errors.is_empty() {
            validate::object_meta(&object.metadata, true, names::path_segment, &mut errors);
        }
        errors
    }

    fn validate_update(new: &core::Event, old: &core::Event, _: Part) -> ErrorList {
        let mut errors = validate::event_update(new, old, false);
        validate::object_meta_update(&new.metadata, &old.metadata, &mut errors);
        errors
    }
}

impl Kind for StrictEvent {
    type Object = core::Event;

    const CREATE_ON_UPDATE: bool = true;
    const GARBAGE_COLLECTED: bool = false;
    const FIELDS: &'static [SelectableField] = FIELDS;

    fn validate(object: &core::Event) -> ErrorList {
        validate::event(object, true)
    }

    fn validate_update(new: &core::Event, old: &core::Event, _: Part) -> ErrorList {
        validate::event_update(new, old, true)
    }
}
