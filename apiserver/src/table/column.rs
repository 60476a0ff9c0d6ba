//! Column definitions and the parts of a row that are not cells.

use serde::Serialize;

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Column {
    /// What stands above it; clients print it in capitals.
    pub name: &'static str,
    /// OpenAPI type of its cells.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `name` for the column that identifies the object.
    pub format: &'static str,
    /// What it means.
    pub description: &'static str,
    /// 0 shows always, 1 with `-o wide`.
    pub priority: i32,
}

/// Something about the object of a row that a client may want to know without reading the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct RowCondition {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

pub(super) const NAME: Column =
    Column { format: "name", ..string("Name", "The object's name, unique in its namespace among its kind.") };
pub(super) const AGE: Column = string("Age", "The time since the object was created.");
pub(super) const CONTAINERS: Column = wide("Containers", "The names of the containers in the template.");
pub(super) const IMAGES: Column = wide("Images", "The images of the containers in the template.");
pub(super) const SELECTOR: Column = wide("Selector", "The labels of the pods that belong to the object.");

pub(super) const fn string(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 0 }
}

pub(super) const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { kind: "integer", ..string(name, description) }
}

pub(super) const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { kind: "boolean", ..string(name, description) }
}

pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { priority: 1, ..string(name, description) }
}
