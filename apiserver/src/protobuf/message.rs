//! What the table says of a message.

/// A message: its fields.
#[derive(Debug)]
pub(super) struct Message(pub(super) &'static [Field]);

impl Message {
    pub(super) fn field(&self, number: u32) -> Option<&'static Field> {
        self.0.iter().find(|field| u32::from(field.number) == number)
    }

    /// The field of a JSON name.
    pub(super) fn named(&self, name: &str) -> Option<&'static Field> {
        self.0.iter().find(|field| field.name == name)
    }

    /// The messages whose fields are this one's in JSON, with their numbers.
    pub(super) fn inlined(&self) -> impl Iterator<Item = (u16, &'static Message)> {
        self.0.iter().filter_map(|field| match field.of {
            Type::Object(message) if field.name.is_empty() => Some((field.number, message)),
            _ => None,
        })
    }
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u16,
    /// Its JSON name; empty for a message whose fields are its parent's.
    pub(super) name: &'static str,
    pub(super) of: Type,
    pub(super) shape: Shape,
}

/// How often a field occurs, and what its occurrences make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    /// Like one, but its zero stands for nothing: Go writes fields that are no pointers even when they are empty.
    OneUnlessZero,
    List,
    /// Values by string, each in a message of key and value.
    Map,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Type {
    String,
    /// Base64 in JSON.
    Bytes,
    Bool,
    Int,
    Object(&'static Message),
    /// A message of one list, which is just that list in JSON.
    StringList,
    /// A message of one string, which is just that string in JSON.
    Quantity,
    /// A message of a tag, a number and a string; one of the two in JSON.
    IntOrString,
    /// Seconds and nanoseconds; RFC 3339 in JSON, in whole seconds.
    Time,
    /// The same with six digits after the point.
    MicroTime,
    /// A message of bytes that are JSON.
    Raw,
}

pub(super) const fn field(number: u16, name: &'static str, of: Type) -> Field {
    Field { number, name, of, shape: Shape::One }
}

pub(super) const fn zero(number: u16, name: &'static str, of: Type) -> Field {
    Field { number, name, of, shape: Shape::OneUnlessZero }
}

pub(super) const fn list(number: u16, name: &'static str, of: Type) -> Field {
    Field { number, name, of, shape: Shape::List }
}

pub(super) const fn map(number: u16, name: &'static str, of: Type) -> Field {
    Field { number, name, of, shape: Shape::Map }
}

pub(super) const fn inline(number: u16, of: Type) -> Field {
    Field { number, name: "", of, shape: Shape::One }
}
