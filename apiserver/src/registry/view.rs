//! A second look at stored objects: `events.k8s.io` shows the events of the core group under other field names, and
//! `autoscaling/v1` shows autoscalers as they were before there was more to measure than the CPU.
//!
//! Follows `k8s.io/kubernetes/pkg/apis/events/v1/conversion.go`.

use bytes::Bytes;
use manifests::kinds::{self, Kind};
use serde_json::{Map, Value};

use super::autoscaler;

/// How objects are shown that are stored in another form.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) api_version: &'static str,
    pub(crate) stored: &'static Kind,
    form: Form,
}

/// What is different.
#[derive(Debug)]
enum Form {
    /// Fields have other names: name in the view, name in the store.
    Renamed(&'static [(&'static str, &'static str)]),
    /// More than that. Selectable fields are the same.
    Converted { to_stored: fn(&mut Map<String, Value>), show: fn(&mut Map<String, Value>) },
}

/// Events as `events.k8s.io/v1` shows them.
pub(crate) static EVENTS: View = View {
    api_version: "events.k8s.io/v1",
    stored: &kinds::EVENT,
    form: Form::Renamed(&[
        ("regarding", "involvedObject"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("reportingController", "reportingComponent"),
    ]),
};

/// HorizontalPodAutoscalers as `autoscaling/v1` shows them.
pub(crate) static AUTOSCALERS: View = View {
    api_version: "autoscaling/v1",
    stored: &kinds::HORIZONTAL_POD_AUTOSCALER,
    form: Form::Converted { to_stored: autoscaler::to_stored, show: autoscaler::show },
};

impl View {
    /// From the form of the view to the stored form. Stored names mean nothing in the view, so they become the view's
    /// names, which the stored form does not know: decoding then tells of them.
    pub(crate) fn to_stored(&self, value: &mut Value) {
        if let Some(object) = value.as_object_mut() {
            match self.form {
                Form::Renamed(fields) => swap(fields, object),
                Form::Converted { to_stored, .. } => to_stored(object),
            }
            object.insert("apiVersion".to_owned(), self.stored.api_version().into());
        }
    }

    /// From an encoded object to the form of the view.
    pub(crate) fn show(&self, json: &[u8]) -> Bytes {
        // What is in the cache has been parsed before.
        let mut object: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
        match self.form {
            Form::Renamed(fields) => swap(fields, &mut object),
            Form::Converted { show, .. } => show(&mut object),
        }
        object.insert("apiVersion".to_owned(), self.api_version.into());
        Value::Object(object).to_string().into()
    }

    /// The stored name of a field in a selector.
    pub(crate) fn stored_label(&self, label: &str) -> String {
        let Form::Renamed(fields) = self.form else { return label.to_owned() };
        let (first, rest) = label.split_once('.').map_or((label, None), |(first, rest)| (first, Some(rest)));
        let stored = fields.iter().find(|(shown, _)| *shown == first).map_or(first, |(_, stored)| stored);
        rest.map_or_else(|| stored.to_owned(), |rest| format!("{stored}.{rest}"))
    }
}

fn swap(fields: &[(&str, &str)], object: &mut Map<String, Value>) {
    for (shown, stored) in fields {
        let (a, b) = (object.remove(*shown), object.remove(*stored));
        a.map(|value| object.insert((*stored).to_owned(), value));
        b.map(|value| object.insert((*shown).to_owned(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_and_back() {
        let mut value = json!({"apiVersion":"events.k8s.io/v1","kind":"Event","regarding":{"name":"p"},"note":"n","message":"m"});
        EVENTS.to_stored(&mut value);
        assert_eq!(
            value,
            json!({"apiVersion":"v1","kind":"Event","involvedObject":{"name":"p"},"message":"n","note":"m"})
        );
        let shown: Value =
            serde_json::from_slice(&EVENTS.show(br#"{"apiVersion":"v1","kind":"Event","count":3}"#))
                .expect("JSON");
        assert_eq!(shown, json!({"apiVersion":"events.k8s.io/v1","kind":"Event","deprecatedCount":3}));
        assert_eq!(EVENTS.stored_label("regarding.kind"), "involvedObject.kind");
        assert_eq!(EVENTS.stored_label("reason"), "reason");
    }
}
