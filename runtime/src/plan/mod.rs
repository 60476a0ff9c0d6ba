//! From an OCI specification to a flat list of steps: pure functions, without a look at the machine.
//!
//! The steps are computed by whoever asks for a container and executed by the new process. Between the two lies
//! a socket, so a plan is plain data; [`step::Plan`] is the whole vocabulary.

mod bundle;
mod container;
mod exec;
mod mounts;
mod options;
mod process;
pub(crate) mod step;
pub(crate) mod sysctl;
pub(crate) mod text;
mod tuning;

pub(crate) use bundle::{Bundle, Surroundings, before_joining, bundle, bundle_exec, flag};
pub(crate) use container::{Context, container};
pub(crate) use exec::exec;
pub(crate) use mounts::IdMap;
pub(crate) use options::RDONLY;
pub(crate) use process::{all_capabilities, names_home};

use std::path::Path;

use text::Text;

/// A specification that asks for something impossible, or for something that coracle does not do. Refusing is
/// safer than passing over: most fields are there to take rights away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct Refusal {
    pub(crate) field: String,
    pub(crate) reason: String,
}

fn refuse<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { field: field.into(), reason: reason.into() })
}

/// A string of the specification for the kernel.
fn text(field: &str, value: &str) -> Result<Text, Refusal> {
    Text::new(value).or_else(|error| refuse(field, error.to_string()))
}

/// A path of the specification for the kernel.
fn path_text(field: &str, path: &Path) -> Result<Text, Refusal> {
    match path.to_str() {
        Some(path) => text(field, path),
        None => refuse(field, "is not UTF-8"),
    }
}

/// Refuses a field that is set.
fn unsupported<T>(field: &str, value: Option<&T>) -> Result<(), Refusal> {
    match value {
        Some(_) => refuse(field, "is not supported"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
