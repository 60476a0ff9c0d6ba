//! Selectors: over labels (`app in (web,db),!canary`) and over fields (`status.phase!=Running`).

mod field;
mod label;

pub use field::{FieldRequirement, FieldSelector, ParseFieldSelectorError};
pub use label::{Labels, Operator, Requirement, Selector, SelectorError};
