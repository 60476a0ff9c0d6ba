//! Events, in the shape of the core group and in that of `events.k8s.io`: the same rows.

use super::column::{Column, NAME, string, wide};
use super::human::{instant, micro_instant, name, since};
use super::{Printer, Row, print};
use manifests::k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use manifests::k8s_openapi::api::events::v1::Event as NewEvent;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::jiff::Timestamp;

const COLUMNS: &[Column] = &[
    string("Last Seen", "The time since the event last happened."),
    string("Type", "Normal or Warning."),
    string("Reason", "Why it happened, in one word."),
    string("Object", "The object that it is about."),
    wide("Subobject", "The part of the object that it is about."),
    wide("Source", "Who reports it."),
    string("Message", "What happened."),
    wide("First Seen", "The time since the event first happened."),
    wide("Count", "How often it happened."),
    Column { priority: 1, ..NAME },
];

pub(super) const EVENT: Printer = Printer {
    columns: COLUMNS,
    row: |object, now| {
        print::<Event>(object, |event| {
            Facts {
                meta: &event.metadata,
                kind: event.type_.as_deref(),
                reason: event.reason.as_deref(),
                message: event.message.as_deref(),
                about: Some(&event.involved_object),
                source: event.source.as_ref(),
                reporter: [event.reporting_component.as_deref(), event.reporting_instance.as_deref()],
                happened: micro_instant(event.event_time.as_ref()),
                first: instant(event.first_timestamp.as_ref()),
                last: instant(event.last_timestamp.as_ref()),
                count: event.count,
                series: event.series.as_ref().map(|series| {
                    (series.count.unwrap_or_default(), micro_instant(series.last_observed_time.as_ref()))
                }),
            }
            .row(now)
        })
    },
};

pub(super) const EVENTS_EVENT: Printer = Printer {
    columns: COLUMNS,
    row: |object, now| {
        print::<NewEvent>(object, |event| {
            Facts {
                meta: &event.metadata,
                kind: event.type_.as_deref(),
                reason: event.reason.as_deref(),
                message: event.note.as_deref(),
                about: event.regarding.as_ref(),
                source: event.deprecated_source.as_ref(),
                reporter: [event.reporting_controller.as_deref(), event.reporting_instance.as_deref()],
                happened: micro_instant(event.event_time.as_ref()),
                first: instant(event.deprecated_first_timestamp.as_ref()),
                last: instant(event.deprecated_last_timestamp.as_ref()),
                count: event.deprecated_count,
                series: event.series.as_ref().map(|series| (series.count, Some(series.last_observed_time.0))),
            }
            .row(now)
        })
    },
};

/// What both shapes say, under one name each.
struct Facts<'e> {
    meta: &'e ObjectMeta,
    kind: Option<&'e str>,
    reason: Option<&'e str>,
    message: Option<&'e str>,
    about: Option<&'e ObjectReference>,
    source: Option<&'e EventSource>,
    /// Component and instance.
    reporter: [Option<&'e str>; 2],
    happened: Option<Timestamp>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    count: Option<i32>,
    series: Option<(i32, Option<Timestamp>)>,
}

impl Facts<'_> {
    fn row(self, now: Timestamp) -> Row {
        let first = since(self.first.or(self.happened), now);
        let (last, count) = match (self.series, self.last) {
            (Some((count, seen)), _) => (since(seen, now), count),
            (None, last) => {
                let count = self.count.filter(|count| *count != 0).unwrap_or(1);
                (last.map_or_else(|| first.clone(), |last| since(Some(last), now)), count)
            }
        };
        let about = |field: fn(&ObjectReference) -> &Option<String>| {
            self.about.and_then(|about| field(about).as_deref()).unwrap_or_default()
        };
        let mut object = about(|about| &about.kind).to_lowercase();
        let object_name = about(|about| &about.name);
        if !object_name.is_empty() {
            object = format!("{object}/{object_name}");
        }
        Row::from(vec![
            last.into(),
            self.kind.unwrap_or_default().into(),
            self.reason.unwrap_or_default().into(),
            object.into(),
            about(|about| &about.field_path).into(),
            self.reported_by().into(),
            self.message.unwrap_or_default().trim().into(),
            first.into(),
            count.into(),
            name(self.meta),
        ])
    }

    fn reported_by(&self) -> String {
        let [component, instance] = self.reporter;
        let old = |field: fn(&EventSource) -> &Option<String>| {
            self.source.and_then(|source| field(source).as_deref()).filter(|text| !text.is_empty())
        };
        let component = old(|source| &source.component).or(component).unwrap_or_default();
        match old(|source| &source.host).or(instance).unwrap_or_default() {
            "" => component.to_string(),
            instance => format!("{component}, {instance}"),
        }
    }
}
