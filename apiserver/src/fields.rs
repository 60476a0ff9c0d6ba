//! What selectors look at, extracted from an object's JSON in one pass that skips everything else.
//!
//! A row names its selectable fields as paths. Labels are always extracted.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A selectable field of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SelectableField {
    /// As written in a field selector, for example `spec.nodeName`.
    pub(crate) label: &'static str,
    /// Where it is found in the stored object; the first path that has a non-empty value counts.
    pub(crate) paths: &'static [&'static str],
    /// What it is when it is absent.
    pub(crate) default: &'static str,
}

impl SelectableField {
    /// A field whose path is its label and whose absence is the empty string.
    pub(crate) const fn plain(label: &'static str, path: &'static [&'static str]) -> SelectableField {
        SelectableField { label, paths: path, default: "" }
    }
}

/// Labels and selectable fields of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extracted {
    /// Sorted by key.
    labels: Box<[(Box<str>, Box<str>)]>,
    /// In the order of the row's selectable fields.
    fields: Box<[Box<str>]>,
}

impl Extracted {
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(have, _)| (**have).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    pub(crate) fn field(&self, index: usize) -> &str {
        self.fields.get(index).map_or("", |value| value)
    }
}

/// Reads labels and fields out of an object.
pub(crate) fn extract(json: &[u8], fields: &[SelectableField]) -> Result<Extracted, serde_json::Error> {
    let mut found = Found { labels: Vec::new(), fields: vec![None; fields.len()], wanted: fields };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Level { found: &mut found, path: &mut String::new() }.deserialize(&mut deserializer)?;
    let Found { mut labels, fields: values, .. } = found;
    labels.sort();
    let values = values.into_iter().zip(fields).map(|(value, field)| match value {
        Some((_, value)) => value,
        None => field.default.into(),
    });
    Ok(Extracted { labels: labels.into(), fields: values.collect() })
}

struct Found<'a> {
    labels: Vec<(Box<str>, Box<str>)>,
    /// The value with the rank of the path that it came from.
    fields: Vec<Option<(usize, Box<str>)>>,
    wanted: &'a [SelectableField],
}

impl Found<'_> {
    /// Whether anything below `path` is wanted.
    fn leads_somewhere(&self, path: &str) -> bool {
        let below = |whole: &str| {
            whole.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        path == "metadata"
            || path == "metadata.labels"
            || self.wanted.iter().any(|field| field.paths.iter().any(|p| below(p)))
    }

    fn leaf(&mut self, path: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        for (slot, field) in self.fields.iter_mut().zip(self.wanted) {
            let Some(rank) = field.paths.iter().position(|p| *p == path) else { continue };
            if slot.as_ref().is_none_or(|(have, _)| rank < *have) {
                *slot = Some((rank, value.into()));
            }
        }
    }
}

/// One level of the walk; `path` names it.
struct Level<'f, 'w, 'p> {
    found: &'f mut Found<'w>,
    path: &'p mut String,
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.path == "metadata.labels" {
                let value: Option<String> = map.next_value()?;
                self.found.labels.push(((*key).into(), value.unwrap_or_default().into()));
                continue;
            }
            let length = self.path.len();
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if self.found.leads_somewhere(self.path) {
                map.next_value_seed(Level { found: self.found, path: self.path })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.found.leaf(self.path, value);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.found.leaf(self.path, if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.found.leaf(self.path, &value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.found.leaf(self.path, &value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[SelectableField] = &[
        SelectableField::plain("spec.nodeName", &["spec.nodeName"]),
        SelectableField { label: "spec.unschedulable", paths: &["spec.unschedulable"], default: "false" },
        SelectableField { label: "source", paths: &["source.component", "reportingComponent"], default: "" },
        SelectableField { label: "status.replicas", paths: &["status.replicas"], default: "0" },
    ];

    fn fields(json: &str) -> Vec<String> {
        let extracted = extract(json.as_bytes(), FIELDS).expect("valid JSON");
        (0..FIELDS.len()).map(|index| extracted.field(index).to_owned()).collect()
    }

    #[test]
    fn paths_defaults_and_fallbacks() {
        assert_eq!(fields("{}"), ["", "false", "", "0"]);
        let full = r#"{"spec":{"containers":[{"nodeName":"no"}],"nodeName":"n1","unschedulable":true},
                       "reportingComponent":"second","source":{"component":"first"},"status":{"replicas":3}}"#;
        assert_eq!(fields(full), ["n1", "true", "first", "3"]);
        assert_eq!(fields(r#"{"source":{},"reportingComponent":"second"}"#), ["", "false", "second", "0"]);
        assert_eq!(fields(r#"{"source":null,"spec":[1,2],"status":1.5}"#), ["", "false", "", "0"]);
    }

    #[test]
    fn labels_are_found_by_key() {
        let json = r#"{"metadata":{"name":"x","labels":{"b":"2","a/x.y":"1","escaped\"":"\u00e9"},"annotations":{"c":"3"}}}"#;
        let extracted = extract(json.as_bytes(), &[]).expect("valid JSON");
        assert_eq!(extracted.label("a/x.y"), Some("1"));
        assert_eq!(extracted.label("b"), Some("2"));
        assert_eq!(extracted.label("escaped\""), Some("é"));
        assert_eq!(extracted.label("c"), None);
    }
}
