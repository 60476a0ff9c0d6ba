//! JSON patch, RFC 6902, with the liberties that the upstream server takes: a negative index counts from the end,
//! `replace` of a missing key of a map adds it, `test` for null holds for a missing key, and a missing `value` is null.
//!
//! Clients lean on those, and the well-known library does not have them, which is why the six operations are here.

use super::go::{self, Printed};
use super::{MAX_COPIED_BYTES, MAX_DEPTH, MAX_OPERATIONS, MAX_STEPS, PatchError};
use manifests::go::quote;
use serde_json::Value;

/// Applies the operations in order; the first that fails discards all.
pub(super) fn apply(mut document: Value, patch: Value) -> Result<Value, PatchError> {
    let operations = match patch {
        Value::Array(operations) => operations,
        other => return Err(undecodable(&other, "[]handlers.jsonPatchOp")),
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut spent = Spent::default();
    for operation in &operations {
        let operation = Operation::read(operation)?;
        operation.apply(&mut document, &mut spent).map_err(PatchError::Rejected)?;
    }
    Ok(document)
}

fn undecodable(value: &Value, into: &str) -> PatchError {
    PatchError::Malformed(format!(
        "error decoding patch: json: cannot unmarshal {} into Go value of type {into}",
        go::json_kind(value)
    ))
}

struct Operation<'a> {
    op: &'a str,
    path: Option<&'a str>,
    from: Option<&'a str>,
    value: Value,
}

impl<'a> Operation<'a> {
    fn read(operation: &'a Value) -> Result<Operation<'a>, PatchError> {
        let Value::Object(fields) = operation else {
            return Err(undecodable(operation, "handlers.jsonPatchOp"));
        };
        let text = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(PatchError::Malformed(format!(
                "error decoding patch: json: cannot unmarshal {} into Go struct field jsonPatchOp.{name} of type string",
                go::json_kind(other)
            ))),
        };
        Ok(Operation {
            op: text("op")?.unwrap_or("unknown"),
            path: text("path")?,
            from: text("from")?,
            value: fields.get("value").cloned().unwrap_or(Value::Null),
        })
    }

    fn apply(self, document: &mut Value, spent: &mut Spent) -> Result<(), String> {
        match self.op {
            "add" => self.add(document, spent),
            "remove" => self.remove(document, spent),
            "replace" => self.replace(document, spent),
            "move" => self.relocate(document, spent),
            "test" => self.test(document),
            "copy" => self.copy(document, spent),
            other => Err(format!("Unexpected kind: {other}")),
        }
    }

    fn path(&self) -> Result<&'a str, String> {
        self.path.ok_or_else(|| {
            format!(
                "{} operation failed to decode path: operation missing path field: missing value",
                self.op
            )
        })
    }

    fn from(&self) -> Result<&'a str, String> {
        self.from.ok_or_else(|| {
            format!(
                "{} operation failed to decode from: operation, missing from field: missing value",
                self.op
            )
        })
    }

    fn add(self, document: &mut Value, spent: &mut Spent) -> Result<(), String> {
        let path = self.path()?;
        let (container, key) = container(document, path).ok_or_else(|| {
            format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
        })?;
        insert(container, &key, self.value, path, spent)
            .map_err(|why| format!("error in add for path: '{path}': {why}"))
    }

    fn remove(self, document: &mut Value, spent: &mut Spent) -> Result<(), String> {
        let path = self.path()?;
        let (container, key) = container(document, path).ok_or_else(|| {
            format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
        })?;
        take(container, &key, spent)
            .map(drop)
            .map_err(|why| format!("error in remove for path: '{path}': {why}"))
    }

    fn replace(self, document: &mut Value, spent: &mut Spent) -> Result<(), String> {
        let path = self.path()?;
        if path.is_empty() {
            if !self.value.is_object() && !self.value.is_array() {
                return Err("replace operation value must be object or array".to_string());
            }
            *document = self.value;
            return Ok(());
        }
        let (container, key) = container(document, path).ok_or_else(|| {
            format!("replace operation does not apply: doc is missing path: {path}: missing value")
        })?;
        spent.check_depth(path, &self.value)?;
        match container {
            Value::Object(map) => {
                map.insert(key, self.value);
            }
            Value::Array(items) => {
                let at = existing_index(items, &key).map_err(|_| {
                    format!("replace operation does not apply: doc is missing key: {path}: missing value")
                })?;
                items[at] = self.value;
            }
            _ => {
                return Err(format!(
                    "replace operation does not apply: doc is missing path: {path}: missing value"
                ));
            }
        }
        Ok(())
    }

    fn relocate(self, document: &mut Value, spent: &mut Spent) -> Result<(), String> {
        let from = self.from()?;
        let (source, key) = container(document, from).ok_or_else(|| {
            format!("move operation does not apply: doc is missing from path: {from}: missing value")
        })?;
        let value =
            take(source, &key, spent).map_err(|why| format!("error in move for path: '{key}': {why}"))?;
        let path = self.path()?;
        let (target, key) = container(document, path).ok_or_else(|| {
            format!("move operation does not apply: doc is missing destination path: {path}: missing value")
        })?;
        insert(target, &key, value, path, spent)
            .map_err(|why| format!("error in move for path: '{path}': {why}"))
    }

    fn copy(self, document: &mut Value, spent: &mut Spent) -> Result<(), String> {
        let from = self.from()?;
        let (source, key) = container(document, from).ok_or_else(|| {
            format!("copy operation does not apply: doc is missing from path: {from}: missing value")
        })?;
        let value = get(source, &key).map_err(|why| format!("error in copy for from: '{from}': {why}"))?;
        let value = value.cloned().unwrap_or(Value::Null);
        spent.copy(&value)?;
        let path = self.path()?;
        let (target, key) = container(document, path).ok_or_else(|| {
            format!("copy operation does not apply: doc is missing destination path: {path}: missing value")
        })?;
        insert(target, &key, value, path, spent)
            .map_err(|why| format!("error while adding value during copy: {why}"))
    }

    fn test(self, document: &mut Value) -> Result<(), String> {
        let path = self.path()?;
        let holds = if path.is_empty() {
            *document == self.value
        } else {
            let (container, key) = container(document, path).ok_or_else(|| {
                format!("test operation does not apply: is missing path: {path}: missing value")
            })?;
            let value =
                get(container, &key).map_err(|why| format!("error in test for path: '{path}': {why}"))?;
            *value.unwrap_or(&Value::Null) == self.value
        };
        if holds { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
    }
}

/// The map or list that holds the last token of `path`, and that token.
fn container<'d>(document: &'d mut Value, path: &str) -> Option<(&'d mut Value, String)> {
    // What stands before the first slash is not looked at, as upstream does not either.
    let (_, tokens) = path.split_once('/')?;
    let (parents, last) = match tokens.rsplit_once('/') {
        Some((parents, last)) => (Some(parents), last),
        None => (None, tokens),
    };
    let mut at = document;
    for token in parents.into_iter().flat_map(|parents| parents.split('/')) {
        let token = decode(token);
        at = match at {
            Value::Object(map) => map.get_mut(&token)?,
            Value::Array(items) => {
                let index = existing_index(items, &token).ok()?;
                &mut items[index]
            }
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then(|| (at, decode(last)))
}

/// RFC 6901: `~1` is a slash and `~0` a tilde, in one pass, so that `~01` is `~1`.
fn decode(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn get<'d>(container: &'d Value, key: &str) -> Result<Option<&'d Value>, String> {
    match container {
        Value::Object(map) => Ok(map.get(key)),
        Value::Array(items) => existing_index(items, key).map(|at| Some(&items[at])),
        other => Err(format!("{} holds nothing", Printed(other))),
    }
}

fn take(container: &mut Value, key: &str, spent: &mut Spent) -> Result<Value, String> {
    match container {
        Value::Object(map) => {
            map.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value"))
        }
        Value::Array(items) => {
            let at = existing_index(items, key)?;
            spent.steps(items.len() - at)?;
            Ok(items.remove(at))
        }
        other => Err(format!("{} holds nothing", Printed(other))),
    }
}

fn insert(
    container: &mut Value,
    key: &str,
    value: Value,
    path: &str,
    spent: &mut Spent,
) -> Result<(), String> {
    spent.check_depth(path, &value)?;
    match container {
        Value::Object(map) => {
            map.insert(key.to_string(), value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let at =
                index(key).map_err(|why| format!("value was not a proper array index: '{key}': {why}"))?;
            let at = bounded(at, items.len() + 1)?;
            spent.steps(items.len() - at)?;
            items.insert(at, value);
        }
        other => return Err(format!("{} holds nothing", Printed(other))),
    }
    Ok(())
}

fn existing_index(items: &[Value], key: &str) -> Result<usize, String> {
    bounded(index(key)?, items.len())
}

fn index(key: &str) -> Result<i64, String> {
    key.parse().map_err(|_| format!("strconv.Atoi: parsing {}: invalid syntax", quote(key)))
}

/// An index into `length` places, from the end when negative.
fn bounded(index: i64, length: usize) -> Result<usize, String> {
    let out_of_bounds = || format!("Unable to access invalid index: {index}: invalid index referenced");
    let length = i64::try_from(length).map_err(|_| out_of_bounds())?;
    let at = if index < 0 { index + length } else { index };
    if at >= length {
        return Err(out_of_bounds());
    }
    usize::try_from(at).map_err(|_| out_of_bounds())
}

/// What the operations so far have cost. A patch is small, but its operations may each touch a large document.
#[derive(Default)]
struct Spent {
    copied_bytes: usize,
    steps: usize,
}

impl Spent {
    /// Pays for a copy of `value`.
    fn copy(&mut self, value: &Value) -> Result<(), String> {
        // Printing is how the size is measured; a value that was parsed prints again.
        self.copied_bytes += serde_json::to_vec(value).map_or(0, |bytes| bytes.len());
        if self.copied_bytes > MAX_COPIED_BYTES {
            return Err(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {}, \
                 exceeding the limit {MAX_COPIED_BYTES}",
                self.copied_bytes
            ));
        }
        Ok(())
    }

    /// Pays for touching that many values.
    fn steps(&mut self, steps: usize) -> Result<(), String> {
        self.steps += steps;
        if self.steps > MAX_STEPS {
            return Err(format!("the patch takes more than {MAX_STEPS} steps on this document"));
        }
        Ok(())
    }

    /// Refuses a value that would end up deeper than anything may be nested.
    fn check_depth(&mut self, path: &str, value: &Value) -> Result<(), String> {
        let above = path.matches('/').count();
        if self.fits(value, MAX_DEPTH.saturating_sub(above))? {
            Ok(())
        } else {
            Err(format!("the value is nested more than {MAX_DEPTH} levels deep"))
        }
    }

    /// Whether `value` is nested at most `levels` deep. The recursion ends with the levels, whatever the value.
    fn fits(&mut self, value: &Value, levels: usize) -> Result<bool, String> {
        self.steps(1)?;
        let mut inner: Box<dyn Iterator<Item = &Value>> = match value {
            Value::Array(items) => Box::new(items.iter()),
            Value::Object(map) => Box::new(map.values()),
            _ => return Ok(true),
        };
        if levels == 0 {
            return Ok(false);
        }
        inner.try_fold(true, |fit, item| Ok(fit && self.fits(item, levels - 1)?))
    }
}
