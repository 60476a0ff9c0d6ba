//! Walks over documents along the table of what can be owned: which fields a document sets, what differs between two,
//! one merged over another, and one without some of its fields.
//!
//! Follows `sigs.k8s.io/structured-merge-diff/typed`. A shape of `None` is a leaf.

use std::collections::BTreeMap;

use manifests::structure::{Field, Key, Shape, Type};
use serde_json::{Map, Value};

use super::set::{Node, Set, field_element};

static NULL: Value = Value::Null;
static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(Map::new()));

/// The shape of an entry of a struct or a map.
fn entry_shape(of: Shape, name: &str) -> Option<Shape> {
    match of {
        Shape::Struct(of) => {
            of.field(name).map(|field| field.shape).filter(|shape| !matches!(shape, Shape::AtomicMap))
        }
        _ => None,
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// How an element of a list is told apart from the others. The error says why it cannot be.
fn element(item: &Value, keys: Option<&[Key]>) -> Result<Box<str>, String> {
    let Some(keys) = keys else {
        return match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            scalar => Ok(format!("v:{scalar}").into()),
        };
    };
    let map = match item {
        Value::Object(map) => map,
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let mut found = Map::new();
    for key in keys {
        match map.get(key.name) {
            Some(value) => {
                found.insert(key.name.to_owned(), value.clone());
            }
            None if !key.default.is_empty() => {
                let default = serde_json::from_str(key.default).unwrap_or_default();
                found.insert(key.name.to_owned(), default);
            }
            None => {}
        }
    }
    if found.is_empty() {
        let names: Vec<String> = keys.iter().map(|key| manifests::go::quote(key.name)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values \
             for any key fields)",
            names.join(" ")
        ));
    }
    Ok(format!("k:{}", Value::Object(found)).into())
}

/// Keys and shape of a list's elements.
fn list_of(shape: Shape) -> Option<(Option<&'static [Key]>, Option<Shape>)> {
    match shape {
        Shape::Set => Some((None, None)),
        Shape::Keyed(keys, of) => Some((Some(keys), Some(Shape::Struct(of)))),
        Shape::Struct(_) | Shape::Map | Shape::AtomicMap => None,
    }
}

/// Whether the lists of a document can be merged. The error says where they cannot, and why.
pub(crate) fn check(value: &Value, of: &'static Type) -> Result<(), String> {
    check_at(value, Some(Shape::Struct(of)), "")
}

fn check_at(value: &Value, shape: Option<Shape>, path: &str) -> Result<(), String> {
    let Some(shape) = shape else { return Ok(()) };
    match (value, list_of(shape)) {
        (Value::Array(items), Some((keys, below))) => {
            let mut seen = std::collections::BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let element = element(item, keys).map_err(|why| format!("{path}: element {index}: {why}"))?;
                let readable = Set::from_value(&Value::Object(
                    [(element.to_string(), EMPTY.clone())].into_iter().collect(),
                ))
                .map(|set| set.paths().concat())
                .unwrap_or_default();
                if !seen.insert(element) {
                    return Err(format!("{path}: duplicate entries for key {readable}"));
                }
                check_at(item, below, &format!("{path}{readable}"))?;
            }
            Ok(())
        }
        (Value::Object(map), None) => map.iter().try_for_each(|(name, value)| {
            check_at(value, entry_shape(shape, name), &format!("{path}.{name}"))
        }),
        (Value::Null, _) => Ok(()),
        (_, Some(_)) => Err(format!("{path}: expected list, got {value}")),
        (_, None) => Err(format!("{path}: expected map, got {value}")),
    }
}

/// The fields that a document sets.
pub(crate) fn field_set(value: &Value, of: &'static Type) -> Set {
    fields_at(value, Some(Shape::Struct(of))).below
}

fn fields_at(value: &Value, shape: Option<Shape>) -> Node {
    let Some(shape) = shape else { return Node::leaf() };
    let mut node = Node::default();
    match (value, list_of(shape)) {
        (Value::Object(map), None) => {
            for (name, value) in map {
                let below = entry_shape(shape, name);
                let mut found = fields_at(value, below);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                found.member |= empty || matches!(shape, Shape::Map);
                node.below.put(field_element(name), found);
            }
        }
        (Value::Array(items), Some((keys, below))) => {
            for item in items {
                let Ok(element) = element(item, keys) else { continue };
                let mut found = if below.is_some() { fields_at(item, below) } else { Node::default() };
                found.member = true;
                node.below.put(element, found);
            }
        }
        _ => {}
    }
    node
}

/// What differs between two documents.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) removed: Set,
    pub(crate) modified: Set,
    pub(crate) added: Set,
}

impl Comparison {
    /// Forgets differences in some fields.
    pub(crate) fn without(mut self, fields: &Set) -> Comparison {
        for set in [&mut self.removed, &mut self.modified, &mut self.added] {
            set.remove_all_below(fields);
        }
        self
    }

    pub(crate) fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }
}

/// The same for one path.
#[derive(Default)]
struct Difference {
    removed: Node,
    modified: Node,
    added: Node,
}

impl Difference {
    fn leaf(old: Option<&Value>, new: Option<&Value>) -> Difference {
        let mut found = Difference::default();
        match (old, new) {
            (None, _) => found.added.member = true,
            (_, None) => found.removed.member = true,
            (Some(old), Some(new)) => found.modified.member = old != new,
        }
        found
    }

    fn put(&mut self, element: impl Fn() -> Box<str>, found: Difference) {
        let parts = [
            (&mut self.removed, found.removed),
            (&mut self.modified, found.modified),
            (&mut self.added, found.added),
        ];
        for (whole, part) in parts {
            if !part.is_empty() {
                whole.below.put(element(), part);
            }
        }
    }
}

/// Compares two documents.
pub(crate) fn compare(old: &Value, new: &Value, of: &'static Type) -> Comparison {
    let found = compare_at(Some(old), Some(new), Some(Shape::Struct(of)));
    Comparison { removed: found.removed.below, modified: found.modified.below, added: found.added.below }
}

fn compare_at(old: Option<&Value>, new: Option<&Value>, shape: Option<Shape>) -> Difference {
    let Some(shape) = shape else { return Difference::leaf(old, new) };
    if is_empty(old) && is_empty(new) {
        return Difference::leaf(old, new);
    }
    let mut found = match list_of(shape) {
        Some((keys, below)) => compare_lists(old, new, keys, below),
        None => compare_maps(old, new, shape),
    };
    if old.is_none() {
        found.added.member = true;
    } else if new.is_none() {
        found.removed.member = true;
    }
    found
}

/// An entry, or what upstream writes in its place when there is nothing.
fn entry<'v>(map: Option<&'v Map<String, Value>>, name: &str, always: Option<&Field>) -> Option<&'v Value> {
    let found = map?.get(name);
    match (found, always) {
        (None, Some(field)) => Some(match field.shape {
            Shape::Struct(_) => &EMPTY,
            _ => &NULL,
        }),
        _ => found,
    }
}

fn compare_maps(old: Option<&Value>, new: Option<&Value>, shape: Shape) -> Difference {
    let mut found = Difference::default();
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let names = old.into_iter().flatten().map(|(name, _)| name);
    let only_new = new
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .filter(|name| !old.is_some_and(|old| old.contains_key(*name)));
    for name in names.chain(only_new) {
        let field = match shape {
            Shape::Struct(of) => of.field(name),
            _ => None,
        };
        let always = field.filter(|field| field.always);
        let (before, after) = (entry(old, name, always), entry(new, name, always));
        if before != after {
            let difference = compare_at(before, after, entry_shape(shape, name));
            found.put(|| field_element(name), difference);
        }
    }
    found
}

fn compare_lists(
    old: Option<&Value>,
    new: Option<&Value>,
    keys: Option<&'static [Key]>,
    below: Option<Shape>,
) -> Difference {
    let mut found = Difference::default();
    let mut both: BTreeMap<Box<str>, [Vec<&Value>; 2]> = BTreeMap::new();
    for (side, list) in [old, new].into_iter().enumerate() {
        for item in list.and_then(Value::as_array).into_iter().flatten() {
            if let Ok(element) = element(item, keys) {
                both.entry(element).or_default()[side].push(item);
            }
        }
    }
    for (element, [before, after]) in both {
        if before == after {
            continue;
        }
        // Elements that stand several times in a list are owned together.
        let difference = match (&before[..], &after[..]) {
            ([_, _, ..], [_, _, ..]) => Difference { modified: Node::leaf(), ..Difference::default() },
            ([_, _, ..], after) => {
                let mut found =
                    after.first().map(|after| compare_at(None, Some(after), below)).unwrap_or_default();
                found.removed.member = true;
                found
            }
            (before, [_, _, ..]) => {
                let mut found =
                    before.first().map(|before| compare_at(Some(before), None, below)).unwrap_or_default();
                found.added.member = true;
                found
            }
            (before, after) => compare_at(before.first().copied(), after.first().copied(), below),
        };
        found.put(|| element.clone(), difference);
    }
    found
}

/// A document merged over another: what it sets counts, and what it does not set stays.
pub(crate) fn merge(below: &Value, over: &Value, of: &'static Type) -> Value {
    merge_at(Some(below), Some(over), Some(Shape::Struct(of))).unwrap_or_else(|| EMPTY.clone())
}

fn merge_at(old: Option<&Value>, new: Option<&Value>, shape: Option<Shape>) -> Option<Value> {
    let leaf = || new.or(old).cloned();
    let Some(shape) = shape else { return leaf() };
    if (is_empty(old) && is_empty(new)) || new.is_none() {
        return leaf();
    }
    if let Some((keys, below)) = list_of(shape) {
        let merged = merge_lists(old, new, keys, below);
        return (!merged.is_empty()).then_some(Value::Array(merged));
    }
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let mut merged = Map::new();
    for (name, before) in old.into_iter().flatten() {
        let after = new.and_then(|new| new.get(name));
        if let Some(value) = merge_at(Some(before), after, entry_shape(shape, name)) {
            merged.insert(name.clone(), value);
        }
    }
    for (name, after) in
        new.into_iter().flatten().filter(|(name, _)| !old.is_some_and(|old| old.contains_key(*name)))
    {
        if let Some(value) = merge_at(None, Some(after), entry_shape(shape, name)) {
            merged.insert(name.clone(), value);
        }
    }
    (!merged.is_empty()).then_some(Value::Object(merged))
}

/// The items of a list with their elements.
fn indexed<'v>(list: Option<&'v Value>, keys: Option<&[Key]>) -> Vec<(Box<str>, &'v Value)> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.map(|item| (element(item, keys).unwrap_or_default(), item)).collect()
}

/// The one item of an element; nothing if there are several.
fn only<'v>(list: &[(Box<str>, &'v Value)], wanted: &str) -> Option<&'v Value> {
    let mut found = list.iter().filter(|(element, _)| &**element == wanted);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}

/// The elements of both lists. Elements of the upper list come in its order; those that only the lower list has stay
/// where they were among those that both have.
fn merge_lists(
    old: Option<&Value>,
    new: Option<&Value>,
    keys: Option<&'static [Key]>,
    below: Option<Shape>,
) -> Vec<Value> {
    let (old, new) = (indexed(old, keys), indexed(new, keys));
    let find = |list: &[(Box<str>, &Value)], wanted: &str| {
        list.iter().filter(|(element, _)| &**element == wanted).count()
    };
    let mut shared = new.iter().map(|(element, _)| &**element).filter(|element| find(&old, element) > 0);
    let mut next_shared = shared.next();
    let mut merged = Vec::new();
    let mut done = std::collections::BTreeSet::new();
    let (mut l, mut r) = (0, 0);
    let mut take =
        |before: Option<&Value>, after: Option<&Value>| merged.extend(merge_at(before, after, below));
    while l < old.len() || r < new.len() {
        if l < old.len() && r < new.len() {
            let at = &*old[l].0;
            if *at == *new[r].0 {
                done.insert(at);
                take(only(&old, at), only(&new, at));
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if find(&new, at) > 0 && next_shared.is_some_and(|next| next != at) {
                l += 1;
                continue;
            }
        }
        if l < old.len() {
            let at = &*old[l].0;
            if find(&new, at) == 0 {
                take(Some(old[l].1), None);
                l += 1;
                continue;
            }
            if done.contains(at) {
                l += 1;
            }
        }
        if r < new.len() {
            let at = &*new[r].0;
            done.insert(at);
            take(only(&old, at), only(&new, at));
            r += 1;
            if next_shared == Some(at) {
                next_shared = shared.next();
            }
        }
    }
    merged
}

/// A document without some of its fields.
pub(crate) fn without(value: Value, gone: &Set, of: &'static Type) -> Value {
    without_at(value, gone, Some(Shape::Struct(of)))
}

fn without_at(value: Value, gone: &Set, shape: Option<Shape>) -> Value {
    let Some(shape) = shape else { return value };
    match (value, list_of(shape)) {
        (Value::Array(items), Some((keys, below))) => {
            let kept: Vec<Value> = items
                .into_iter()
                .filter_map(|item| {
                    let element = element(&item, keys).unwrap_or_default();
                    match gone.get(&element) {
                        Some(node) if node.member => None,
                        Some(node) => Some(without_at(item, &node.below, below)),
                        None => Some(item),
                    }
                })
                .collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        (Value::Object(map), None) => {
            let kept: Map<String, Value> = map
                .into_iter()
                .filter_map(|(name, value)| {
                    let value = match gone.get(&field_element(&name)) {
                        Some(node) if node.member => return None,
                        Some(node) => without_at(value, &node.below, entry_shape(shape, &name)),
                        None => value,
                    };
                    Some((name, value))
                })
                .collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (value, _) => value,
    }
}

/// The set in which a struct's field is a member when something below it is. Sets that came from values leave such
/// fields out.
pub(crate) fn with_structs(set: &Set, of: &'static Type) -> Set {
    let mut set = set.clone();
    add_structs(&mut set, Some(Shape::Struct(of)));
    set
}

fn add_structs(set: &mut Set, shape: Option<Shape>) {
    for (element, node) in set.nodes_mut() {
        if node.below.is_empty() {
            continue;
        }
        let below = match (shape, element.strip_prefix("f:")) {
            (Some(of @ Shape::Struct(_)), Some(name)) => {
                node.member = true;
                entry_shape(of, name)
            }
            (Some(Shape::Keyed(_, of)), None) => Some(Shape::Struct(of)),
            _ => None,
        };
        add_structs(&mut node.below, below);
    }
}
