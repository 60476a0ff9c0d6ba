//! Field selectors: `metadata.name=web,status.phase!=Running`.
//!
//! Follows `k8s.io/apimachinery/pkg/fields`. Which fields a kind can be selected by is the API server's business.

use std::fmt;
use std::str::FromStr;

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// The field, for example `spec.nodeName`.
    pub field: String,
    /// Whether the value must differ.
    pub negated: bool,
    /// The value, unescaped.
    pub value: String,
}

/// Conditions that must all hold; none selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FieldSelector(Vec<FieldRequirement>);

/// Why a text is not a field selector; the messages are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFieldSelectorError {
    /// A term without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The term.
        term: String,
    },
    /// A backslash before something that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// An operator or comma in a value.
    #[error("invalid field selector: unescaped character in value: {}", u32::from(*.0))]
    Unescaped(char),
}

impl FieldSelector {
    /// Selects everything.
    pub fn everything() -> FieldSelector {
        FieldSelector::default()
    }

    /// Selects by one field.
    pub fn equals(field: impl Into<String>, value: impl Into<String>) -> FieldSelector {
        FieldSelector(vec![FieldRequirement { field: field.into(), negated: false, value: value.into() }])
    }

    /// Reads a selector.
    pub fn parse(text: &str) -> Result<FieldSelector, ParseFieldSelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let (field, negated, value) = split_term(term).ok_or_else(|| ParseFieldSelectorError::Term {
                selector: text.to_owned(),
                term: term.to_owned(),
            })?;
            requirements.push(FieldRequirement { field: field.to_owned(), negated, value: unescape(value)? });
        }
        Ok(FieldSelector(requirements))
    }

    /// The requirements.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.0
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object is selected whose fields `value_of` looks up; a field that is not set has the value `""`.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|requirement| {
            let value = value_of(&requirement.field).unwrap_or_default();
            (value == requirement.value) != requirement.negated
        })
    }

    /// The only value that a field may have, when the selector names one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let exact = self.0.iter().find(|requirement| requirement.field == field && !requirement.negated)?;
        Some(&exact.value)
    }
}

impl FromStr for FieldSelector {
    type Err = ParseFieldSelectorError;

    fn from_str(text: &str) -> Result<FieldSelector, ParseFieldSelectorError> {
        FieldSelector::parse(text)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if requirement.negated { "!=" } else { "=" };
            let value = requirement.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", requirement.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash protects.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Splits at the first operator.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let operator = term.char_indices().map(|(index, _)| index).find(|&index| {
        let rest = &term[index..];
        rest.starts_with("!=") || rest.starts_with('=')
    })?;
    let (field, rest) = term.split_at(operator);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, true, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, false, value))
}

fn unescape(value: &str) -> Result<String, ParseFieldSelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(ParseFieldSelectorError::Escape(format!("\\{c}"))),
                None => return Err(ParseFieldSelectorError::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(ParseFieldSelectorError::Unescaped(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, canonical: &str, phase: &str, matches: bool) {
        let selector = FieldSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.to_string(), canonical, "{text}");
        let value_of = |field: &str| (field == "status.phase").then_some(phase);
        assert_eq!(selector.matches(value_of), matches, "{text} with {phase}");
    }

    #[test]
    fn texts() {
        check("", "", "Running", true);
        check("status.phase=Running", "status.phase=Running", "Running", true);
        check("status.phase==Running", "status.phase=Running", "Failed", false);
        check("status.phase!=Running", "status.phase!=Running", "Failed", true);
        check("status.phase!=Running,", "status.phase!=Running", "Running", false);
        check("spec.nodeName=,status.phase=A", "spec.nodeName=,status.phase=A", "A", true);
        check(r"status.phase=a\,b\=c\\", r"status.phase=a\,b\=c\\", r"a,b=c\", true);
        assert_eq!(FieldSelector::parse("b=1,a!=2").unwrap().exact("b"), Some("1"));
        assert_eq!(FieldSelector::parse("b=1,a!=2").unwrap().exact("a"), None);
    }

    #[test]
    fn errors() {
        for (text, message) in [
            ("status.phase", "invalid selector: 'status.phase'; can't understand 'status.phase'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            (r"a=\", r"invalid field selector: invalid escape sequence: \"),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_reads_back(field in "[a-z.]{1,8}", value in ".{0,8}", negated: bool) {
            let selector = FieldSelector(vec![FieldRequirement { field, negated, value }]);
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
