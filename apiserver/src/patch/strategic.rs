//! Strategic merge patch: a merge patch that knows which lists merge, and by which key.
//!
//! Beside the fields to set, a patch may carry directives:
//!
//! | directive | meaning |
//! |---|---|
//! | `$patch: replace` | the map, or the list that holds it, is replaced by what else the patch says |
//! | `$patch: delete` | the map is emptied, or the element with the same merge key goes |
//! | `$deleteFromPrimitiveList/x` | these scalars leave the list `x` |
//! | `$setElementOrder/x` | the order that the elements of list `x` shall have |
//! | `$retainKeys` | keys of the map that are not named here go |
//!
//! After a merge, elements that the patch names stand in the patch's order; the others keep theirs, and are put as
//! near to their old place as that allows.

use super::PatchError;
use super::go::{self, Printed};
use manifests::strategic::{Field, Strategy};
use serde_json::{Map, Value};
use std::collections::HashMap;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;
/// Finds a field of a type; absent means the default strategy and nothing special below.
type Lookup = fn(of: &str, name: &str) -> Option<Field>;

/// Merges `patch` into `current`, a document of type `of`.
pub(super) fn apply(current: Object, patch: Object, of: &str, lookup: Lookup) -> Result<Object, PatchError> {
    Merge { lookup }.map(current, patch, of)
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

fn no_merge_key(map: &Object, key: &str) -> PatchError {
    malformed(format!(
        "map: {} does not contain declared merge key: {key}",
        Printed(&Value::Object(map.clone()))
    ))
}

fn bad_type(expected: &str, actual: &Value) -> PatchError {
    malformed(format!("expected a {expected}, but received a {}", go::type_of(actual)))
}

fn bad_order() -> PatchError {
    malformed("invalid patch format of setElementOrder list")
}

fn bad_retain_keys() -> PatchError {
    malformed("invalid patch format of retainKeys")
}

struct Merge {
    lookup: Lookup,
}

impl Merge {
    fn field(&self, of: &str, name: &str) -> Field {
        let default = Field { name: "", strategy: Strategy::Default, merge_key: "", of: "" };
        (self.lookup)(of, name).unwrap_or(default)
    }

    fn map(&self, mut current: Object, mut patch: Object, of: &str) -> Result<Object, PatchError> {
        if let Some(directive) = patch.remove(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => Ok(patch),
                Some("delete") => Ok(Object::new()),
                _ => {
                    patch.insert(DIRECTIVE.to_string(), directive.clone());
                    Err(unknown_directive(&directive, patch))
                }
            };
        }
        retain_keys(&mut current, &mut patch)?;
        self.ordered_lists(&mut current, &mut patch, of)?;
        for (key, value) in patch {
            match key.strip_prefix(DELETE_FROM_LIST) {
                None => self.merge_field(&mut current, key, value, of)?,
                Some(rest) => {
                    let list = rest
                        .strip_prefix('/')
                        .ok_or_else(|| malformed("invalid patch format of primitive list"))?;
                    self.delete_from_list(&mut current, list, value)?;
                }
            }
        }
        Ok(current)
    }

    /// A field of the patch that is no directive.
    fn merge_field(
        &self,
        current: &mut Object,
        key: String,
        value: Value,
        of: &str,
    ) -> Result<(), PatchError> {
        let merged = match (current.remove(&key), value) {
            (_, Value::Null) => return Ok(()),
            (Some(Value::Object(old)), Value::Object(new)) => {
                let field = self.field(of, &key);
                match field.strategy {
                    Strategy::Replace => Some(Value::Object(new)),
                    _ => Some(Value::Object(self.map(old, new, field.of)?)),
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Some(Value::Array(self.list(old, new, self.field(of, &key))?))
            }
            (_, mut new) => {
                discard_nulls(&mut new);
                without_directives(new)
            }
        };
        if let Some(merged) = merged {
            current.insert(key, merged);
        }
        Ok(())
    }

    fn delete_from_list(&self, current: &mut Object, list: &str, value: Value) -> Result<(), PatchError> {
        if value.is_null() {
            current.remove(list);
            return Ok(());
        }
        // Of anything but two lists, upstream makes nothing either.
        if let (Some(Value::Array(old)), Value::Array(gone)) = (current.get_mut(list), value) {
            if !old.is_empty() || !gone.is_empty() {
                element_kind(&[old, &gone])?;
            }
            let gone = Places::of(&gone, "");
            old.retain(|item| gone.find(item, "").is_none());
        }
        Ok(())
    }

    fn list(&self, old: Vec<Value>, new: Vec<Value>, field: Field) -> Result<Vec<Value>, PatchError> {
        if !field.strategy.merges_list() {
            return Ok(new);
        }
        if old.is_empty() && new.is_empty() {
            return Ok(old);
        }
        let (merged, order, server_order) = match element_kind(&[&old, &new])? {
            Kind::Scalar => {
                let mut seen = Places::default();
                let merged: Vec<Value> =
                    old.iter().chain(&new).filter(|item| seen.insert(item, "")).cloned().collect();
                (merged, new, old)
            }
            Kind::Map => {
                if field.merge_key.is_empty() {
                    let what = if field.of.is_empty() { "string" } else { "struct" };
                    return Err(malformed(format!("cannot merge lists without merge key for {what}")));
                }
                let (old, new) = element_directives(old, new, field.merge_key)?;
                let merged = self.elements(old.clone(), &new, field)?;
                (merged, new, old)
            }
        };
        arrange(merged, &order, &server_order, field.merge_key)
    }

    /// Merges the elements of `new` into those of `old` with the same merge key; the others are appended.
    fn elements(&self, mut old: Vec<Value>, new: &[Value], field: Field) -> Result<Vec<Value>, PatchError> {
        let mut places = Places::of(&old, field.merge_key);
        for element in new {
            let Value::Object(patch) = element else { return Err(bad_type(go::MAP, element)) };
            if !patch.contains_key(field.merge_key) {
                return Err(no_merge_key(patch, field.merge_key));
            }
            match places.find(element, field.merge_key) {
                Some(at) => {
                    let Value::Object(current) = std::mem::take(&mut old[at]) else {
                        return Err(malformed(format!("value for key {at} is not a map")));
                    };
                    old[at] = Value::Object(self.map(current, patch.clone(), field.of)?);
                }
                None => {
                    old.push(element.clone());
                    places.insert(element, field.merge_key);
                }
            }
        }
        Ok(old)
    }

    /// Handles every `$setElementOrder/x` together with its list `x`, and takes both out of the patch.
    fn ordered_lists(&self, current: &mut Object, patch: &mut Object, of: &str) -> Result<(), PatchError> {
        let directives: Vec<String> =
            patch.keys().filter(|key| key.starts_with(ELEMENT_ORDER)).cloned().collect();
        for directive in directives {
            let order = match patch.remove(&directive) {
                Some(Value::Array(order)) => order,
                Some(other) => return Err(bad_type(go::SLICE, &other)),
                None => continue,
            };
            let key = directive[ELEMENT_ORDER.len()..].strip_prefix('/').ok_or_else(bad_order)?;
            let field = self.field(of, key);
            let old = current.get(key).map(as_list).transpose()?.cloned();
            let new = patch.get(key).map(as_list).transpose()?.cloned();
            check_order(new.as_deref().unwrap_or_default(), &order, field.merge_key)?;
            let merged = match (old.clone(), new) {
                (None, None) => continue,
                (Some(old), None) => old,
                (None, Some(new)) => match without_directives(Value::Array(new)) {
                    Some(Value::Array(new)) => new,
                    _ => continue,
                },
                (Some(old), Some(new)) => self.list(old, new, field)?,
            };
            patch.remove(key);
            let server_order = order_after(old.unwrap_or_default(), &merged, field.merge_key);
            let arranged = arrange(merged, &order, &server_order, field.merge_key)?;
            current.insert(key.to_string(), Value::Array(arranged));
        }
        Ok(())
    }
}

fn as_list(value: &Value) -> Result<&Vec<Value>, PatchError> {
    value.as_array().ok_or_else(|| bad_type(go::SLICE, value))
}

fn unknown_directive(directive: &Value, map: Object) -> PatchError {
    malformed(format!("unknown patch type: {} in map: {}", Printed(directive), Printed(&Value::Object(map))))
}

/// `$retainKeys`: drops what it does not name from `current`, and refuses a patch that sets something else.
fn retain_keys(current: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let kept = match patch.remove(RETAIN_KEYS) {
        None => return Ok(()),
        Some(Value::Array(kept)) => kept,
        Some(_) => return Err(bad_retain_keys()),
    };
    let kept: std::collections::HashSet<&str> = kept.iter().filter_map(Value::as_str).collect();
    let parallel = |key: &str| key.starts_with(DELETE_FROM_LIST) || key.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !parallel(key) && !kept.contains(key.as_str())) {
        return Err(bad_retain_keys());
    }
    current.retain(|key, _| kept.contains(key.as_str()));
    Ok(())
}

/// Takes the elements with a `$patch` directive out of the patch of a list, and does what they say: the list to merge
/// into, and the elements to merge.
fn element_directives(
    mut old: Vec<Value>,
    new: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(new.len());
    let mut gone = Places::default();
    let mut replace = false;
    for element in new {
        let Value::Object(map) = &element else { return Err(bad_type(go::MAP, &element)) };
        match map.get(DIRECTIVE).map(|directive| (directive.as_str(), directive)) {
            None => plain.push(element),
            Some((Some("delete"), _)) if map.contains_key(merge_key) => {
                gone.insert(&element, merge_key);
            }
            Some((Some("delete"), _)) => return Err(no_merge_key(map, merge_key)),
            Some((Some("replace"), _)) => replace = true,
            Some((Some("merge"), _)) => {
                return Err(malformed("merging lists cannot yet be specified in the patch"));
            }
            Some((_, directive)) => return Err(unknown_directive(directive, map.clone())),
        }
    }
    if replace {
        return Ok((plain, Vec::new()));
    }
    old.retain(|element| gone.find(element, merge_key).is_none());
    Ok((old, plain))
}

/// The elements of the patch must be in `order`, and in that order; elements with a directive do not count.
fn check_order(new: &[Value], order: &[Value], merge_key: &str) -> Result<(), PatchError> {
    if new.is_empty() || order.is_empty() {
        return Ok(());
    }
    for item in new.iter().chain(order).filter(|_| !merge_key.is_empty()) {
        let map = item.as_object().ok_or_else(|| bad_type(go::MAP, item))?;
        if !map.contains_key(merge_key) && !map.contains_key(DIRECTIVE) {
            return Err(no_merge_key(map, merge_key));
        }
    }
    let mut left = order.iter();
    for item in new.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !left.by_ref().any(|ordered| identity(ordered, merge_key) == identity(item, merge_key)) {
            return Err(malformed(format!(
                "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                Printed(&Value::Array(new.to_vec())),
                Printed(&Value::Array(order.to_vec()))
            )));
        }
    }
    Ok(())
}

/// Puts the elements that `order` names into its order, and the others, which only the server has, between them:
/// each before the first named one that it stood before in `server_order`.
fn arrange(
    merged: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Result<Vec<Value>, PatchError> {
    if !merge_key.is_empty() {
        for item in merged.iter().chain(order) {
            let map = item.as_object().ok_or_else(|| bad_type(go::MAP, item))?;
            if !map.contains_key(merge_key) {
                return Err(no_merge_key(map, merge_key));
            }
        }
    }
    let wanted = Places::of(order, merge_key);
    let before = Places::of(server_order, merge_key);
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| wanted.find(item, merge_key).is_some());
    named.sort_by_cached_key(|item| wanted.find(item, merge_key));
    others.sort_by_cached_key(|item| before.find(item, merge_key));

    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let place = before.find(&item, merge_key);
        while let Some(other) =
            others.next_if(|other| place.zip(before.find(other, merge_key)).is_some_and(|(p, o)| o < p))
        {
            arranged.push(other);
        }
        arranged.push(item);
    }
    arranged.extend(others);
    Ok(arranged)
}

/// The order of the list on the server, against which the new elements are placed: what was deleted has left it, and
/// as many of the new elements, from the first, count as standing at its end in their stead.
///
/// Upstream gets there because both steps work on one array. Clients see the order that results, so it is kept.
fn order_after(old: Vec<Value>, merged: &[Value], merge_key: &str) -> Vec<Value> {
    let length = old.len();
    let (kept, known) = (Places::of(merged, merge_key), Places::of(&old, merge_key));
    let mut order = old;
    order.retain(|item| kept.find(item, merge_key).is_some());
    let vacant = length - order.len();
    order.extend(merged.iter().filter(|item| known.find(item, merge_key).is_none()).take(vacant).cloned());
    order
}

/// Where each element stands in a list: the first place of its merge key, or of the scalar itself. Lists may be as
/// long as a request, so nothing here compares each with each.
#[derive(Default)]
struct Places {
    first: HashMap<String, usize>,
    length: usize,
}

impl Places {
    fn of(list: &[Value], merge_key: &str) -> Places {
        let mut places = Places::default();
        for item in list {
            places.insert(item, merge_key);
        }
        places
    }

    /// Appends an element; false when its like is there already.
    fn insert(&mut self, item: &Value, merge_key: &str) -> bool {
        let place = self.length;
        self.length += 1;
        let Some(id) = identity(item, merge_key) else { return true };
        let before = self.first.len();
        self.first.entry(id).or_insert(place);
        self.first.len() > before
    }

    fn find(&self, item: &Value, merge_key: &str) -> Option<usize> {
        self.first.get(&identity(item, merge_key)?).copied()
    }
}

/// What two elements must share to be the same one, printed: JSON keeps `1`, `1.0` and `"1"` apart.
fn identity(item: &Value, merge_key: &str) -> Option<String> {
    let value = if merge_key.is_empty() { item } else { item.get(merge_key)? };
    Some(value.to_string())
}

enum Kind {
    Map,
    Scalar,
}

/// What the elements of these lists are; they must agree.
fn element_kind(lists: &[&[Value]]) -> Result<Kind, PatchError> {
    let mut kinds = lists.iter().copied().flatten().map(|item| (go::type_of(item), item));
    let Some((kind, first)) = kinds.next() else {
        return Err(malformed("no elements in any of the given slices"));
    };
    if first.is_array() {
        return Err(PatchError::Rejected("lists of lists are not supported".to_string()));
    }
    if kinds.any(|(other, _)| other != kind) {
        let lists = Value::Array(lists.iter().map(|list| Value::Array(list.to_vec())).collect());
        return Err(malformed(format!("list element types are not identical: {}", Printed(&lists))));
    }
    Ok(if first.is_object() { Kind::Map } else { Kind::Scalar })
}

/// Drops the fields of maps that are null, at any depth: there is nothing that they could delete.
fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// A value that is taken over as it stands, without the maps in it that carry a directive; nothing when it is one.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(Value::Object(
            map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?))).collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}
