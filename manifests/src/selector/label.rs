//! Label selectors, from text or from a `LabelSelector`.
//!
//! Follows `k8s.io/apimachinery/pkg/labels`, its grammar and its messages included.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::field::{ErrorList, FieldError, Path};
use crate::{go, names};

/// A set of labels.
pub type Labels = BTreeMap<String, String>;

/// What a requirement asks of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`; also met by a missing label.
    NotIn,
    /// `key=a`.
    Equals,
    /// `key==a`.
    DoubleEquals,
    /// `key!=a`; also met by a missing label.
    NotEquals,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`.
    GreaterThan,
    /// `key<1`.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// Conditions that must all hold; or nothing, which matches no object at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector(Option<Vec<Requirement>>);

/// Why a text or a `LabelSelector` is not a selector.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// A key or value that cannot be a label.
    #[error("{0}")]
    Requirement(ErrorList),
    /// An operator that does not exist.
    #[error("{} is not a valid label selector operator", go::quote(.0))]
    Operator(String),
    /// Text that does not follow the grammar.
    #[error("{0}")]
    Syntax(String),
}

impl Requirement {
    /// A checked requirement.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, SelectorError> {
        let mut errors = ErrorList::new();
        let messages = names::qualified_name(key);
        if !messages.is_empty() {
            errors.push(FieldError::invalid(&Path::new("key"), key, messages.join("; ")));
        }
        let path = Path::new("values");
        let wrong_count = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(message) = wrong_count {
            errors.push(FieldError::invalid(&path, &values, message));
        }
        for (index, value) in values.iter().enumerate() {
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err()
            {
                let message = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(&path.index(index), value, message));
            }
            let messages = names::label_value(value);
            if !messages.is_empty() {
                let path = path.index(index).key(key);
                errors.push(FieldError::invalid(&path, value, messages.join("; ")));
            }
        }
        errors.into_result().map_err(SelectorError::Requirement)?;
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values; how many depends on the operator.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether the labels meet the requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => {
                value.is_some_and(|value| self.values.contains(value))
            }
            Operator::NotIn | Operator::NotEquals => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |text: &String| text.parse::<i64>().ok();
                match (value.and_then(number), self.values.first().and_then(number)) {
                    (Some(value), Some(bound)) if self.operator == Operator::GreaterThan => value > bound,
                    (Some(value), Some(bound)) => value < bound,
                    _ => false,
                }
            }
        }
    }
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Selector {
        Selector(Some(Vec::new()))
    }

    /// Matches no object.
    pub fn nothing() -> Selector {
        Selector(None)
    }

    /// All of these requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> Selector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Selector(Some(requirements))
    }

    /// Exactly these labels, as a Service selects. Not checked: the labels come from a validated object.
    pub fn from_labels(labels: &Labels) -> Selector {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Selector(Some(labels.iter().map(equals).collect()))
    }

    /// The selector of a ReplicaSet and the like. No `LabelSelector` matches nothing, an empty one everything.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Selector, SelectorError> {
        let Some(selector) = selector else { return Ok(Selector::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Selector::new(requirements))
    }

    /// Reads `x in (foo,,baz),y,z notin ()`.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        Parser { tokens: tokenize(text), position: 0 }.parse()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_some_and(|all| all.iter().all(|requirement| requirement.matches(labels)))
    }

    /// [`Selector::matches`] for the labels of an `ObjectMeta`, where none means empty.
    pub fn matches_meta(&self, labels: Option<&Labels>) -> bool {
        static NO_LABELS: Labels = Labels::new();
        self.matches(labels.unwrap_or(&NO_LABELS))
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether no object is selected, whatever its labels.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// The requirements; none for a selector that selects everything or nothing.
    pub fn requirements(&self) -> &[Requirement] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        Selector::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements().iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { key, operator, values } = self;
        let mut sorted: Vec<&str> = values.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let values = sorted.join(",");
        match operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Symbol(&'static str),
    Word(String),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Symbol(text) => text,
            Token::Word(text) => text,
            Token::End => "",
        }
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokenize(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest
                .find(|c: char| {
                    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<' | ' ' | '\t' | '\r' | '\n')
                })
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.position).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.position += 1;
        token
    }

    fn parse(mut self) -> Result<Selector, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = self.requirement().map_err(|error| {
                        SelectorError::Syntax(format!("unable to parse requirement: {error}"))
                    })?;
                    requirements.push(requirement);
                    match self.next() {
                        Token::End => break,
                        Token::Symbol(",") => match self.peek() {
                            Token::Word(_) | Token::Symbol("!") => {}
                            other => return Err(expected(other, "identifier after ','")),
                        },
                        other => return Err(expected(&other, "',' or 'end of string'")),
                    }
                }
                Token::End => break,
                other => return Err(expected(other, "!, identifier, or 'end of string'")),
            }
        }
        Ok(Selector::new(requirements))
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.next();
        let negated = token == Token::Symbol("!");
        if negated {
            token = self.next();
        }
        let Token::Word(key) = token else { return Err(expected(&token, "identifier")) };
        let messages = names::qualified_name(&key);
        if !messages.is_empty() {
            let error = FieldError::invalid(&Path::root(), &key, messages.join("; "));
            return Err(SelectorError::Requirement(ErrorList::from_iter([error])));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let token = self.next();
        let operator = match token.text() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            _ => return Err(expected(&token, "in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        Requirement::new(&key, operator, values)
    }

    /// `(a,,b)`: empty values are allowed, and the set has each value once, in order.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let token = self.next();
        if token != Token::Symbol("(") {
            return Err(SelectorError::Syntax(format!("found '{}' expected: '('", token.text())));
        }
        let mut values = BTreeSet::new();
        let mut after_value = false;
        loop {
            match self.next() {
                Token::Word(value) if !after_value => {
                    values.insert(value);
                    after_value = true;
                }
                Token::Symbol(",") => {
                    if !after_value {
                        values.insert(String::new());
                    }
                    after_value = false;
                }
                Token::Symbol(")") => {
                    if !after_value {
                        values.insert(String::new());
                    }
                    return Ok(values.into_iter().collect());
                }
                other if after_value => return Err(expected(&other, "',' or ')'")),
                other => return Err(expected(&other, "',', ')' or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<Vec<String>, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(vec![String::new()]);
        }
        match self.next() {
            Token::Word(value) => Ok(vec![value]),
            other => Err(expected(&other, "identifier")),
        }
    }
}

fn expected(found: &Token, expected: &str) -> SelectorError {
    SelectorError::Syntax(format!("found '{}', expected: {expected}", found.text()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn check(text: &str, canonical: &str, matching: &[&[(&str, &str)]], others: &[&[(&str, &str)]]) {
        let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.to_string(), canonical, "{text}");
        for pairs in matching {
            assert!(selector.matches(&labels(pairs)), "{text} should match {pairs:?}");
        }
        for pairs in others {
            assert!(!selector.matches(&labels(pairs)), "{text} should not match {pairs:?}");
        }
    }

    #[test]
    fn texts() {
        check("", "", &[&[], &[("a", "b")]], &[]);
        check("x=a", "x=a", &[&[("x", "a")]], &[&[], &[("x", "b")]]);
        check("x==a", "x==a", &[&[("x", "a")]], &[&[]]);
        check("x = a , y=b", "x=a,y=b", &[&[("x", "a"), ("y", "b")]], &[&[("x", "a")]]);
        check("x!=a", "x!=a", &[&[], &[("x", "b")]], &[&[("x", "a")]]);
        check("x=", "x=", &[&[("x", "")]], &[&[]]);
        check("x", "x", &[&[("x", "")]], &[&[]]);
        check("!x", "!x", &[&[]], &[&[("x", "")]]);
        check("x in (a,b)", "x in (a,b)", &[&[("x", "a")], &[("x", "b")]], &[&[], &[("x", "c")]]);
        check("x in (b,a,b)", "x in (a,b)", &[&[("x", "a")]], &[]);
        check("x in ()", "x in ()", &[&[("x", "")]], &[&[], &[("x", "c")]]);
        check("x in (a,,b)", "x in (,a,b)", &[&[("x", "")], &[("x", "a")]], &[&[]]);
        check("x notin (a)", "x notin (a)", &[&[], &[("x", "b")]], &[&[("x", "a")]]);
        check("y,x in (in)", "x in (in),y", &[&[("x", "in"), ("y", "")]], &[]);
        check("in=in", "in=in", &[&[("in", "in")]], &[]);
        check("x>1,x<3", "x>1,x<3", &[&[("x", "2")]], &[&[], &[("x", "3")], &[("x", "a")]]);
        check("example.com/x=a", "example.com/x=a", &[&[("example.com/x", "a")]], &[]);
    }

    #[test]
    fn errors() {
        for (text, message) in [
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("x=a,", "found '', expected: identifier after ','"),
            ("x y", "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"),
            ("x=a=b", "found '=', expected: ',' or 'end of string'"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            (
                "x>a",
                r#"unable to parse requirement: values[0]: Invalid value: "a": for 'Gt', 'Lt' operators, the value must be an integer"#,
            ),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        assert!(Selector::parse("-x=a").is_err());
        assert!(Selector::parse("x=-a").is_err());
    }

    #[test]
    fn label_selectors() {
        let parse = |value| serde_json::from_value::<LabelSelector>(value).unwrap();
        let selector = parse(json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}],
        }));
        let selector = Selector::from_label_selector(Some(&selector)).unwrap();
        assert_eq!(selector.to_string(), "app=web,!old,tier in (a,b)");
        assert!(selector.matches(&labels(&[("app", "web"), ("tier", "b")])));
        assert!(Selector::from_label_selector(None).unwrap().is_nothing());
        assert!(Selector::from_label_selector(Some(&parse(json!({})))).unwrap().is_everything());
        let wrong = parse(json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}));
        assert_eq!(
            Selector::from_label_selector(Some(&wrong)).unwrap_err().to_string(),
            r#""Is" is not a valid label selector operator"#
        );
        assert!(!Selector::nothing().matches_meta(None));
        assert!(Selector::everything().matches_meta(None));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c=!(), <>]{0,30}|.{0,30}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
            }
        }

        #[test]
        fn display_reads_back(
            key in "[a-z]{1,5}(/[a-z]{1,5})?",
            values in proptest::collection::btree_set("[a-z0-9]{0,4}", 1..4),
            operator in prop::sample::select(vec![Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist, Operator::Equals, Operator::NotEquals]),
        ) {
            let mut values: Vec<String> = values.into_iter().collect();
            match operator {
                Operator::Exists | Operator::DoesNotExist => values.clear(),
                Operator::Equals | Operator::NotEquals => values.truncate(1),
                _ => {}
            }
            let selector = Selector::new(vec![Requirement::new(&key, operator, values).unwrap()]);
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
