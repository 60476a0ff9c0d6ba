//! Values in the words of upstream's messages, which print them as Go's `%v` does.

use serde_json::Value;
use std::fmt::{self, Display, Formatter};

/// Prints a value as Go's `fmt` prints the decoded JSON: `map[name:x ports:[1 2]]`.
pub(super) struct Printed<'a>(pub(super) &'a Value);

impl Display for Printed<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(value) => write!(f, "{value}"),
            Value::String(value) => f.write_str(value),
            Value::Array(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if at > 0 { " " } else { "" }, Printed(item))?;
                }
                f.write_str("]")
            }
            Value::Object(map) => {
                f.write_str("map[")?;
                for (at, (key, value)) in map.iter().enumerate() {
                    write!(f, "{}{key}:{}", if at > 0 { " " } else { "" }, Printed(value))?;
                }
                f.write_str("]")
            }
        }
    }
}

/// The Go type that JSON decodes to.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => SLICE,
        Value::Object(_) => MAP,
    }
}

pub(super) const MAP: &str = "map[string]interface {}";
pub(super) const SLICE: &str = "[]interface {}";

/// What JSON itself calls it.
pub(super) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
