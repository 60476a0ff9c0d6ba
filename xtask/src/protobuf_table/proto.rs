//! Reads the regular subset of protobuf's language that `generated.proto` files are written in.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Messages and their fields, by name.
pub(super) type File = BTreeMap<String, Vec<Field>>;

pub(super) struct Field {
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) kind: Kind,
}

/// The type as it is written: a scalar, a message of the same file, or `.` and a full name.
pub(super) enum Kind {
    One(String),
    Repeated(String),
    /// Values by string.
    Map(String),
}

impl Field {
    pub(super) fn is_repeated_string(&self) -> bool {
        matches!(&self.kind, Kind::Repeated(of) if of == "string")
    }
}

pub(super) fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut file = File::new();
    let mut current: Option<(String, Vec<Field>)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("message ").and_then(|rest| rest.strip_suffix(" {")) {
            current = Some((name.to_string(), Vec::new()));
        } else if line == "}" {
            file.extend(current.take());
        } else if let Some((_, fields)) = &mut current
            && let Some(field) = field(line)
        {
            fields.push(field);
        }
    }
    Ok(file)
}

/// `optional string name = 1;`, `repeated Container containers = 2;`, `map<string, bytes> data = 2;`
fn field(line: &str) -> Option<Field> {
    let (declaration, number) = line.strip_suffix(';')?.rsplit_once(" = ")?;
    let number = number.parse().ok()?;
    let (of, name) = declaration.rsplit_once(' ')?;
    let kind = if let Some(of) = of.strip_prefix("optional ") {
        Kind::One(of.to_string())
    } else if let Some(of) = of.strip_prefix("repeated ") {
        Kind::Repeated(of.to_string())
    } else {
        Kind::Map(of.strip_prefix("map<string, ")?.strip_suffix('>')?.to_string())
    };
    Some(Field { name: name.to_string(), number, kind })
}
