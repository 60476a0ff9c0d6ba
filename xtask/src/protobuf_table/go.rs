//! Reads the tags of Go struct fields.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Struct fields by type and protobuf number.
pub(super) type Types = BTreeMap<String, BTreeMap<u32, Fact>>;

pub(super) struct Fact {
    pub(super) json_name: String,
    pub(super) omit_empty: bool,
    pub(super) pointer: bool,
}

/// All struct types of a package.
pub(super) fn read(directory: &Path) -> Result<Types> {
    let mut types = Types::new();
    let entries = std::fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("listing {}", directory.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".go") && !name.ends_with("_test.go") && !name.contains("generated") {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            add(&text, &mut types);
        }
    }
    Ok(types)
}

fn add(text: &str, types: &mut Types) {
    let mut current: Option<&str> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("type ").and_then(|rest| rest.strip_suffix(" struct {")) {
            current = Some(name);
            types.entry(name.to_string()).or_default();
        } else if line == "}" {
            current = None;
        } else if let Some(name) = current
            && let Some((number, fact)) = fact(line)
        {
            types.entry(name.to_string()).or_default().insert(number, fact);
        }
    }
}

/// ``Name *Type `json:"name,omitempty" protobuf:"bytes,1,opt,name=name"` ``
fn fact(line: &str) -> Option<(u32, Fact)> {
    let (declaration, tags) = line.split_once('`')?;
    let of = declaration.split_whitespace().next_back()?;
    let tag = |name: &str| {
        let (_, rest) = tags.split_once(&format!("{name}:\""))?;
        rest.split('"').next()
    };
    let number = tag("protobuf")?.split(',').nth(1)?.parse().ok()?;
    let mut json = tag("json")?.split(',');
    let json_name = json.next()?.to_string();
    let omit_empty = json.any(|option| matches!(option, "omitempty" | "omitzero"));
    Some((number, Fact { json_name, omit_empty, pointer: of.starts_with('*') }))
}
