//! Strings on their way to a system call.

use std::ffi::{CStr, CString};
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string without NUL bytes, ready for the kernel, written as a plain string on the wire.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Text(CString);

/// The string has a NUL byte, which the kernel would take for its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("contains a NUL byte")]
pub(crate) struct HasNul;

impl Text {
    pub(crate) fn new(text: impl Into<Vec<u8>>) -> Result<Self, HasNul> {
        CString::new(text).map(Self).map_err(|_| HasNul)
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }

    pub(crate) fn into_c_string(self) -> CString {
        self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Everything that becomes a Text was a str; see `new`'s callers.
        serializer.serialize_str(&self.0.to_string_lossy())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
