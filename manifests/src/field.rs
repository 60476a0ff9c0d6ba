//! Where in an object something is wrong, and what: field paths and field errors in upstream's words.
//!
//! Follows `k8s.io/apimachinery/pkg/util/validation/field`: kinds, messages and their order are the same, because
//! clients show them to people and tests compare them.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::go;

/// The way from the root of an object to one of its fields: `spec.containers[0].name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Path(Option<String>);

impl Path {
    /// No path. Prints as `<nil>`, which upstream prints where its code has no path at hand.
    pub fn root() -> Path {
        Path(None)
    }

    /// A field of the object; with an empty name the object as a whole, which prints as nothing.
    pub fn new(name: &str) -> Path {
        Path(Some(name.to_owned()))
    }

    /// A field of what this path points to.
    #[must_use]
    pub fn child(&self, name: &str) -> Path {
        match self.as_str() {
            "" => Path::new(name),
            parent => Path(Some(format!("{parent}.{name}"))),
        }
    }

    /// An element of the list that this path points to.
    #[must_use]
    pub fn index(&self, index: usize) -> Path {
        Path(Some(format!("{}[{index}]", self.as_str())))
    }

    /// An entry of the map that this path points to.
    #[must_use]
    pub fn key(&self, key: &str) -> Path {
        Path(Some(format!("{}[{key}]", self.as_str())))
    }

    /// The path as text; empty for the root.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("<nil>"))
    }
}

/// What is wrong with a field. The reason becomes the `reason` of a `StatusCause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Something that the field names does not exist.
    NotFound,
    /// The field must be given.
    Required,
    /// The value must be unique and is not.
    Duplicate,
    /// The value is malformed or out of bounds.
    Invalid,
    /// The value is not one of an enumeration.
    NotSupported,
    /// The value is well formed and may not be used here.
    Forbidden,
    /// The value has too many bytes or characters.
    TooLong,
    /// The value has too few characters.
    TooShort,
    /// The list has too many items.
    TooMany,
    /// The list has too few items.
    TooFew,
    /// The value has the wrong type.
    TypeInvalid,
    /// Not the user's fault.
    Internal,
}

impl ErrorKind {
    /// The machine-readable reason, as in `StatusCause.reason`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooShort => "FieldValueTooShort",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TooFew => "FieldValueTooFew",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooShort => "Too short",
            ErrorKind::TooMany => "Too many",
            ErrorKind::TooFew => "Too few",
            ErrorKind::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(
            self,
            ErrorKind::Required
                | ErrorKind::Forbidden
                | ErrorKind::TooLong
                | ErrorKind::TooShort
                | ErrorKind::Internal
        )
    }
}

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where.
    pub path: Path,
    /// The value that was found; `None` where the message does not show one.
    pub value: Option<Value>,
    /// What would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: ErrorKind, path: &Path, value: Option<Value>, detail: impl Into<String>) -> FieldError {
        FieldError { kind, path: path.clone(), value, detail: detail.into() }
    }

    /// `Not found: "value"`.
    pub fn not_found(path: &Path, value: impl Serialize) -> FieldError {
        FieldError::new(ErrorKind::NotFound, path, Some(to_value(value)), "")
    }

    /// `Required value: detail`.
    pub fn required(path: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Required, path, None, detail)
    }

    /// `Duplicate value: "value"`.
    pub fn duplicate(path: &Path, value: impl Serialize) -> FieldError {
        FieldError::new(ErrorKind::Duplicate, path, Some(to_value(value)), "")
    }

    /// `Invalid value: "value": detail`.
    pub fn invalid(path: &Path, value: impl Serialize, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Invalid, path, Some(to_value(value)), detail)
    }

    /// `Unsupported value: "value": supported values: "A", "B"`.
    pub fn not_supported(path: &Path, value: impl Serialize, supported: &[&str]) -> FieldError {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|value| go::quote(value)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        FieldError::new(ErrorKind::NotSupported, path, Some(to_value(value)), detail)
    }

    /// `Forbidden: detail`.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Forbidden, path, None, detail)
    }

    /// `Too long: may not be more than 63 bytes`.
    pub fn too_long(path: &Path, max: usize) -> FieldError {
        let unit = if max == 1 { "byte" } else { "bytes" };
        FieldError::new(ErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}"))
    }

    /// `Too many: 9: must have at most 8 items`.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> FieldError {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        FieldError::new(ErrorKind::TooMany, path, Some(to_value(actual)), detail)
    }

    /// `Too few: 0: must have at least 1 item`.
    pub fn too_few(path: &Path, actual: usize, min: usize) -> FieldError {
        let unit = if min == 1 { "item" } else { "items" };
        let detail = format!("must have at least {min} {unit}");
        FieldError::new(ErrorKind::TooFew, path, Some(to_value(actual)), detail)
    }

    /// `Internal error: detail`.
    pub fn internal(path: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(ErrorKind::Internal, path, None, detail)
    }

    /// The message without the path, as it stands in a `StatusCause`.
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_owned();
        if self.kind.shows_value()
            && let Some(value) = &self.value
        {
            body.push_str(": ");
            match value {
                Value::String(text) => body.push_str(&go::quote(text)),
                other => body.push_str(&go::json(other)),
            }
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl std::error::Error for FieldError {}

/// A value that cannot be encoded is a bug in the caller, and the message still has to come out.
fn to_value(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Everything that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ErrorList(Vec<FieldError>);

impl ErrorList {
    /// Nothing wrong yet.
    pub fn new() -> ErrorList {
        ErrorList::default()
    }

    /// Adds an error.
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Adds `Invalid value` once per message: what the name validators return.
    pub fn push_invalid(
        &mut self,
        path: &Path,
        value: &str,
        messages: impl IntoIterator<Item = impl Into<String>>,
    ) {
        for message in messages {
            self.push(FieldError::invalid(path, value, message));
        }
    }

    /// Whether the object is valid.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many errors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The errors in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// `Ok` when nothing is wrong.
    pub fn into_result(self) -> Result<(), ErrorList> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl Extend<FieldError> for ErrorList {
    fn extend<I: IntoIterator<Item = FieldError>>(&mut self, errors: I) {
        self.0.extend(errors);
    }
}

impl FromIterator<FieldError> for ErrorList {
    fn from_iter<I: IntoIterator<Item = FieldError>>(errors: I) -> ErrorList {
        ErrorList(errors.into_iter().collect())
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ErrorList {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// One error as it is; several in brackets, each message once: upstream's aggregate.
impl fmt::Display for ErrorList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seen = HashSet::new();
        let messages: Vec<String> =
            self.0.iter().map(FieldError::to_string).filter(|message| seen.insert(message.clone())).collect();
        match messages.as_slice() {
            [] => Ok(()),
            [only] => f.write_str(only),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

impl std::error::Error for ErrorList {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: FieldError, expected: &str) {
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn paths() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(path.to_string(), "spec.containers[0].name");
        assert_eq!(Path::new("data").key("a.b").to_string(), "data[a.b]");
        assert_eq!(Path::root().to_string(), "<nil>");
        assert_eq!(Path::new("").to_string(), "");
        assert_eq!(Path::root().child("spec").to_string(), "spec");
    }

    #[test]
    fn messages() {
        let path = Path::new("spec").child("x");
        check(FieldError::required(&path, ""), "spec.x: Required value");
        check(FieldError::required(&path, "must be given"), "spec.x: Required value: must be given");
        check(FieldError::duplicate(&path, "a"), r#"spec.x: Duplicate value: "a""#);
        check(
            FieldError::invalid(&path, -1, "must be greater than or equal to 0"),
            "spec.x: Invalid value: -1: must be greater than or equal to 0",
        );
        check(FieldError::invalid(&path, "a\"b", "no"), r#"spec.x: Invalid value: "a\"b": no"#);
        check(
            FieldError::not_supported(&path, "C", &["A", "B"]),
            r#"spec.x: Unsupported value: "C": supported values: "A", "B""#,
        );
        check(FieldError::forbidden(&path, "may not"), "spec.x: Forbidden: may not");
        check(FieldError::too_long(&path, 63), "spec.x: Too long: may not be more than 63 bytes");
        check(FieldError::too_many(&path, 9, 8), "spec.x: Too many: 9: must have at most 8 items");
        check(FieldError::too_few(&path, 0, 1), "spec.x: Too few: 0: must have at least 1 item");
        check(FieldError::not_found(&path, "v"), r#"spec.x: Not found: "v""#);
        check(
            FieldError::invalid(&path, serde_json::json!({"matchLabels": {"a": "b"}}), "field is immutable"),
            r#"spec.x: Invalid value: {"matchLabels":{"a":"b"}}: field is immutable"#,
        );
    }

    #[test]
    fn lists_print_each_message_once() {
        let path = Path::new("a");
        let one = FieldError::required(&path, "");
        let mut list = ErrorList::new();
        list.push(one.clone());
        list.push(one);
        assert_eq!(list.to_string(), "a: Required value");
        list.push(FieldError::forbidden(&path, "no"));
        assert_eq!(list.to_string(), "[a: Required value, a: Forbidden: no]");
        assert_eq!(list.len(), 3);
    }
}
