//! Sets of fields, in the form that `metadata.managedFields` has them in (FieldsV1).
//!
//! A path is a chain of elements: `f:NAME` a field or the key of a map, `k:{…}` an element of a list by its keys, `v:…`
//! an element of a set, `i:N` an element by its position. An element is kept as that text, with the JSON in it in one
//! form, so that elements are equal when their texts are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set(BTreeMap<Box<str>, Node>);

/// What a set knows of one path: whether it is a member, and which paths below it are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) member: bool,
    pub(crate) below: Set,
}

impl Node {
    /// A path without any below it.
    pub(crate) fn leaf() -> Node {
        Node { member: true, below: Set::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// The element of a field or a map's key.
pub(crate) fn field_element(name: &str) -> Box<str> {
    format!("f:{name}").into()
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what is known of an element, if it is anything.
    pub(crate) fn put(&mut self, element: Box<str>, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.0.entry(element) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(node);
            }
            std::collections::btree_map::Entry::Occupied(mut have) => {
                let have = have.get_mut();
                have.member |= node.member;
                have.below.extend(node.below);
            }
        }
    }

    pub(crate) fn get(&self, element: &str) -> Option<&Node> {
        self.0.get(element)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(element, node)| (&**element, node))
    }

    pub(crate) fn nodes_mut(&mut self) -> impl Iterator<Item = (&str, &mut Node)> {
        self.0.iter_mut().map(|(element, node)| (&**element, node))
    }

    /// Adds the members of another set.
    pub(crate) fn extend(&mut self, other: Set) {
        for (element, node) in other.0 {
            self.put(element, node);
        }
    }

    /// Takes the members of another set out; what lies below them stays.
    pub(crate) fn remove(&mut self, other: &Set) {
        for (element, gone) in &other.0 {
            let Some(node) = self.0.get_mut(element) else { continue };
            node.member &= !gone.member;
            node.below.remove(&gone.below);
            if node.is_empty() {
                self.0.remove(element);
            }
        }
    }

    /// Takes the members of another set out with everything below them.
    pub(crate) fn remove_all_below(&mut self, other: &Set) {
        for (element, gone) in &other.0 {
            if gone.member {
                self.0.remove(element);
                continue;
            }
            let Some(node) = self.0.get_mut(element) else { continue };
            node.below.remove_all_below(&gone.below);
            if node.is_empty() {
                self.0.remove(element);
            }
        }
    }

    /// The members of both.
    pub(crate) fn common(&self, other: &Set) -> Set {
        let mut found = Set::default();
        for (element, node) in &self.0 {
            let Some(theirs) = other.0.get(element) else { continue };
            let member = node.member && theirs.member;
            found.put(element.clone(), Node { member, below: node.below.common(&theirs.below) });
        }
        found
    }

    /// All members as people read them (`.spec.containers[name="web"].image`), those that are less deep first.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_paths("", &mut found);
        found
    }

    fn collect_paths(&self, prefix: &str, found: &mut Vec<String>) {
        let members = self.0.iter().filter(|(_, node)| node.member);
        found.extend(members.map(|(element, _)| format!("{prefix}{}", readable(element))));
        for (element, node) in self.0.iter().filter(|(_, node)| !node.below.is_empty()) {
            node.below.collect_paths(&format!("{prefix}{}", readable(element)), found);
        }
    }

    /// The set that has one member: a path of fields.
    pub(crate) fn of_fields(path: &[&str]) -> Set {
        let mut set = Set::default();
        if let Some((first, rest)) = path.split_first() {
            let node = if rest.is_empty() {
                Node::leaf()
            } else {
                Node { member: false, below: Set::of_fields(rest) }
            };
            set.put(field_element(first), node);
        }
        set
    }

    /// As FieldsV1.
    pub(crate) fn to_value(&self) -> Value {
        let entries = self.0.iter().map(|(element, node)| {
            let mut below = node.below.to_value();
            if node.member
                && !node.below.is_empty()
                && let Some(below) = below.as_object_mut()
            {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (element.to_string(), below)
        });
        Value::Object(entries.collect())
    }

    /// From FieldsV1. The error says what is wrong with it.
    pub(crate) fn from_value(value: &Value) -> Result<Set, String> {
        let Some(entries) = value.as_object() else { return Err("the fields are not an object".to_owned()) };
        let mut set = Set::default();
        for (element, below) in entries.iter().filter(|(element, _)| *element != ".") {
            let Some(element) = read_element(element)? else { continue };
            let node = Node {
                member: below.as_object().is_none_or(|below| below.is_empty() || below.contains_key(".")),
                below: Set::from_value(below)?,
            };
            set.put(element, node);
        }
        Ok(set)
    }
}

/// An element in its one form; nothing if it is of a kind that is not known.
fn read_element(text: &str) -> Result<Option<Box<str>>, String> {
    let Some((kind, rest)) = text.split_once(':') else { return Err(format!("missing colon: {text}")) };
    let json = || serde_json::from_str::<Value>(rest).map_err(|error| error.to_string());
    match kind {
        "f" => Ok(Some(text.into())),
        "k" => match json()? {
            // Keys come out sorted.
            keys @ Value::Object(_) => Ok(Some(format!("k:{keys}").into())),
            _ => Err(format!("the keys are not an object: {text}")),
        },
        "v" => Ok(Some(format!("v:{}", json()?).into())),
        "i" => match rest.parse::<i64>() {
            Ok(index) => Ok(Some(format!("i:{index}").into())),
            Err(_) => Err(format!("not a position: {text}")),
        },
        _ => Ok(None),
    }
}

fn readable(element: &str) -> String {
    let Some((kind, rest)) = element.split_once(':') else { return String::new() };
    match kind {
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let mut text = String::from("[");
            for (at, (key, value)) in keys.iter().enumerate() {
                // Writing to a String does not fail.
                let _ = write!(text, "{}{key}={value}", if at > 0 { "," } else { "" });
            }
            text + "]"
        }
        "v" => format!("[={rest}]"),
        "i" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> Set {
        Set::from_value(&value).unwrap()
    }

    #[test]
    fn there_and_back() {
        for value in [
            json!({}),
            json!({"f:spec": {}}),
            json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"k:{\"name\":\"x\",\"port\":1}": {".": {}, "f:d": {}}, "v:\"y\"": {}, "i:3": {}}}),
        ] {
            assert_eq!(set(value.clone()).to_value(), value);
        }
        assert_eq!(
            set(json!({"f:a": {"k:{\"b\": 1, \"a\":2}": {}}})),
            set(json!({"f:a": {"k:{\"a\":2,\"b\":1}": {}}}))
        );
        assert_eq!(set(json!({"x:a": {}})), Set::default());
        for broken in [json!(1), json!({"f": {}}), json!({"k:[]": {}}), json!({"v:": {}}), json!({"i:x": {}})]
        {
            assert!(Set::from_value(&broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn arithmetic() {
        let a = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}));
        let minus = |other: Value, all: bool| {
            let mut left = a.clone();
            if all {
                left.remove_all_below(&set(other))
            } else {
                left.remove(&set(other))
            }
            left.to_value()
        };
        assert_eq!(
            minus(json!({"f:a": {}, "f:x": {}}), false),
            json!({"f:a": {"f:b": {}, "f:c": {}}, "f:d": {}})
        );
        assert_eq!(minus(json!({"f:a": {"f:b": {}, "f:c": {}}}), false), json!({"f:a": {}, "f:d": {}}));
        assert_eq!(minus(json!({"f:a": {}}), true), json!({"f:d": {}}));
        assert_eq!(minus(json!({"f:a": {"f:c": {}}, "f:d": {}}), true), json!({"f:a": {".": {}, "f:b": {}}}));
        assert_eq!(
            a.common(&set(json!({"f:a": {"f:b": {}}, "f:e": {}}))).to_value(),
            json!({"f:a": {"f:b": {}}})
        );
        let mut sum = set(json!({"f:a": {"f:z": {}}}));
        sum.extend(set(json!({"f:a": {}, "f:b": {}})));
        assert_eq!(sum.to_value(), json!({"f:a": {".": {}, "f:z": {}}, "f:b": {}}));
    }

    #[test]
    fn people_read_paths() {
        let paths = set(json!({"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:replicas": {}},
            "f:metadata": {"f:finalizers": {"v:\"x\"": {}}}}))
        .paths();
        assert_eq!(
            paths,
            [
                ".metadata.finalizers[=\"x\"]",
                ".spec.replicas",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image"
            ]
        );
    }
}
