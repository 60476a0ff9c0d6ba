//! The template language of `-o jsonpath=…`, as kubectl's users know it.
//!
//! Supported: text outside braces, `{.field.field}`, `{@}`, `{$}`, `['field']`, `[n]`, `[-n]`, `[from:to:step]`, `[*]`,
//! `.*`, `..field`, filters `[?(@.type=="Ready")]` with `== != < <= > >=` and existence, unions `['a','b']`,
//! `{range …}{end}` and quoted text `{"\n"}`. Follows <https://kubernetes.io/docs/reference/kubectl/jsonpath/>.

use std::cmp::Ordering;

use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Part>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Root,
    Fields(Vec<String>),
    Wildcard,
    Descend,
    Slice { from: Option<i64>, to: Option<i64>, step: i64 },
    Index(Vec<i64>),
    Filter { left: Operand, compare: Option<(Compare, Operand)> },
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("jsonpath, at character {position}: {problem}")]
pub(crate) struct JsonPathError {
    position: usize,
    problem: String,
}

impl Template {
    /// Parses a template. A bare path such as `.metadata.name` is taken as `{.metadata.name}`, as kubectl does.
    pub(crate) fn parse(text: &str) -> Result<Self, JsonPathError> {
        let braced = if text.contains('{') { text.to_owned() } else { format!("{{{text}}}") };
        let mut parser = Parser { chars: braced.chars().collect(), position: 0 };
        let parts = parser.parts(false)?;
        Ok(Self(parts))
    }

    /// Renders the template over a value. A field that is not there renders as nothing.
    pub(crate) fn render(&self, root: &Value) -> String {
        let mut out = String::new();
        render(&self.0, root, root, &mut out);
        out
    }
}

fn render(parts: &[Part], root: &Value, current: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(steps) => {
                let values = walk(steps, root, current);
                let shown: Vec<String> = values.into_iter().map(show).collect();
                out.push_str(&shown.join(" "));
            }
            Part::Range(steps, body) => {
                for item in walk(steps, root, current) {
                    render(body, root, item, out);
                }
            }
        }
    }
}

/// Strings appear bare, everything else as JSON.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'v>(steps: &[Step], root: &'v Value, current: &'v Value) -> Vec<&'v Value> {
    let mut values = vec![current];
    for step in steps {
        values = match step {
            Step::Root => vec![root],
            Step::Fields(names) => values
                .iter()
                .flat_map(|value| names.iter().filter_map(|name| value.get(name.as_str())))
                .collect(),
            Step::Wildcard => values.iter().flat_map(|value| children(value)).collect(),
            Step::Descend => values.iter().flat_map(|value| descendants(value)).collect(),
            Step::Index(indices) => values
                .iter()
                .filter_map(|value| value.as_array())
                .flat_map(|items| {
                    indices.iter().filter_map(|index| items.get(absolute(*index, items.len())?))
                })
                .collect(),
            Step::Slice { from, to, step } => values
                .iter()
                .filter_map(|value| value.as_array())
                .flat_map(|items| slice(items, *from, *to, *step))
                .collect(),
            Step::Filter { left, compare } => values
                .iter()
                .flat_map(|value| children(value))
                .filter(|item| holds(left, compare.as_ref(), root, item))
                .collect(),
        };
    }
    values
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn descendants(value: &Value) -> Vec<&Value> {
    let mut found = vec![value];
    for child in children(value) {
        found.extend(descendants(child));
    }
    found
}

fn absolute(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { index + length } else { index }).ok()
}

fn slice(items: &[Value], from: Option<i64>, to: Option<i64>, step: i64) -> Vec<&Value> {
    let from = absolute(from.unwrap_or(0), items.len()).unwrap_or(0);
    let to = to.map_or(items.len(), |to| absolute(to, items.len()).unwrap_or(0)).min(items.len());
    let step = usize::try_from(step.max(1)).unwrap_or(1);
    (from..to).step_by(step).map(|index| &items[index]).collect()
}

fn holds(left: &Operand, compare: Option<&(Compare, Operand)>, root: &Value, item: &Value) -> bool {
    let Some((compare, right)) = compare else { return operand(left, root, item).is_some() };
    let (Some(left), Some(right)) = (operand(left, root, item), operand(right, root, item)) else {
        return false;
    };
    let order = match (&left, &right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(Ordering::Equal),
    };
    match compare {
        Compare::Equal => order == Some(Ordering::Equal),
        Compare::NotEqual => order != Some(Ordering::Equal),
        Compare::Less => order == Some(Ordering::Less),
        Compare::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Compare::Greater => order == Some(Ordering::Greater),
        Compare::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

fn operand(operand: &Operand, root: &Value, item: &Value) -> Option<Value> {
    match operand {
        Operand::Literal(value) => Some(value.clone()),
        Operand::Path(steps) => walk(steps, root, item).first().map(|value| (*value).clone()),
    }
}

struct Parser {
    chars: Vec<char>,
    position: usize,
}

impl Parser {
    fn fail<T>(&self, problem: impl Into<String>) -> Result<T, JsonPathError> {
        Err(JsonPathError { position: self.position + 1, problem: problem.into() })
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.position).copied()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.position += 1;
        Some(char)
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.position += 1;
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let matches = text
            .chars()
            .enumerate()
            .all(|(offset, char)| self.chars.get(self.position + offset) == Some(&char));
        if matches {
            self.position += text.chars().count();
        }
        matches
    }

    fn expect(&mut self, char: char) -> Result<(), JsonPathError> {
        if self.peek() == Some(char) {
            self.position += 1;
            Ok(())
        } else {
            self.fail(format!("expected {char:?}"))
        }
    }

    /// Text and braces until the end, or until `{end}` inside a range.
    fn parts(&mut self, in_range: bool) -> Result<Vec<Part>, JsonPathError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        while let Some(char) = self.next() {
            if char != '{' {
                text.push(char);
                continue;
            }
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            self.skip_spaces();
            if self.take("end") {
                self.skip_spaces();
                self.expect('}')?;
                if in_range {
                    return Ok(parts);
                }
                return self.fail("{end} without {range}");
            }
            if self.take("range") {
                self.skip_spaces();
                let steps = self.path(&['}'])?;
                self.expect('}')?;
                parts.push(Part::Range(steps, self.parts(true)?));
                continue;
            }
            if matches!(self.peek(), Some('"' | '\'')) {
                parts.push(Part::Text(self.quoted()?));
            } else {
                parts.push(Part::Path(self.path(&['}'])?));
            }
            self.skip_spaces();
            self.expect('}')?;
        }
        if in_range {
            return self.fail("{range} without {end}");
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(parts)
    }

    fn path(&mut self, ends: &[char]) -> Result<Vec<Step>, JsonPathError> {
        let mut steps = Vec::new();
        if self.take("$") {
            steps.push(Step::Root);
        } else {
            self.take("@");
        }
        loop {
            match self.peek() {
                Some('.') => {
                    self.position += 1;
                    if self.peek() == Some('.') {
                        self.position += 1;
                        steps.push(Step::Descend);
                    }
                    match self.peek() {
                        Some('*') => {
                            self.position += 1;
                            steps.push(Step::Wildcard);
                        }
                        Some('[') => {}
                        Some(char) if ends.contains(&char) => {}
                        None => {}
                        _ => steps.push(Step::Fields(vec![self.name()?])),
                    }
                }
                Some('[') => {
                    self.position += 1;
                    steps.push(self.bracket()?);
                }
                Some(char) if ends.contains(&char) || char.is_whitespace() || "=!<>)".contains(char) => {
                    return Ok(steps);
                }
                None => return Ok(steps),
                // kubectl lets the first dot be left out.
                Some(_) if steps.is_empty() => steps.push(Step::Fields(vec![self.name()?])),
                Some(char) => return self.fail(format!("unexpected {char:?}")),
            }
        }
    }

    fn name(&mut self) -> Result<String, JsonPathError> {
        let mut name = String::new();
        while let Some(char) = self.peek() {
            if char == '\\' {
                self.position += 1;
                name.extend(self.next());
            } else if char.is_whitespace() || ".[]{}()=!<>,'\"".contains(char) {
                break;
            } else {
                name.push(char);
                self.position += 1;
            }
        }
        if name.is_empty() { self.fail("expected the name of a field") } else { Ok(name) }
    }

    fn bracket(&mut self) -> Result<Step, JsonPathError> {
        self.skip_spaces();
        let step = match self.peek() {
            Some('*') => {
                self.position += 1;
                Step::Wildcard
            }
            Some('?') => {
                self.position += 1;
                self.expect('(')?;
                let step = self.filter()?;
                self.expect(')')?;
                step
            }
            Some('\'' | '"') => {
                let mut names = vec![self.quoted()?];
                while self.take(",") {
                    self.skip_spaces();
                    names.push(self.quoted()?);
                }
                Step::Fields(names)
            }
            _ => self.indices()?,
        };
        self.skip_spaces();
        self.expect(']')?;
        Ok(step)
    }

    fn indices(&mut self) -> Result<Step, JsonPathError> {
        let first = self.integer()?;
        if self.take(":") {
            let to = self.integer()?;
            let step = if self.take(":") { self.integer()?.unwrap_or(1) } else { 1 };
            if step < 1 {
                return self.fail("step must be >= 1");
            }
            return Ok(Step::Slice { from: first, to, step });
        }
        let Some(first) = first else {
            return self.fail("expected an index, a slice, '*', a quoted name or a filter");
        };
        let mut indices = vec![first];
        while self.take(",") {
            match self.integer()? {
                Some(index) => indices.push(index),
                None => return self.fail("expected an index"),
            }
        }
        Ok(Step::Index(indices))
    }

    fn integer(&mut self) -> Result<Option<i64>, JsonPathError> {
        self.skip_spaces();
        let mut digits = String::new();
        while let Some(char) = self.peek() {
            if char.is_ascii_digit() || (char == '-' && digits.is_empty()) {
                digits.push(char);
                self.position += 1;
            } else {
                break;
            }
        }
        self.skip_spaces();
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => self.fail(format!("{digits:?} is not an index")),
        }
    }

    fn filter(&mut self) -> Result<Step, JsonPathError> {
        let left = self.operand()?;
        self.skip_spaces();
        let compare = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ]
        .into_iter()
        .find(|(text, _)| self.take(text))
        .map(|(_, compare)| compare);
        let compare = match compare {
            Some(compare) => Some((compare, self.operand()?)),
            None => None,
        };
        self.skip_spaces();
        Ok(Step::Filter { left, compare })
    }

    fn operand(&mut self) -> Result<Operand, JsonPathError> {
        self.skip_spaces();
        match self.peek() {
            Some('"' | '\'') => Ok(Operand::Literal(Value::String(self.quoted()?))),
            Some('@' | '$' | '.') => Ok(Operand::Path(self.path(&[')'])?)),
            _ => {
                let mut word = String::new();
                while let Some(char) =
                    self.peek().filter(|char| !char.is_whitespace() && !"=!<>)".contains(*char))
                {
                    word.push(char);
                    self.position += 1;
                }
                match serde_json::from_str(&word) {
                    Ok(value) => Ok(Operand::Literal(value)),
                    Err(_) => self.fail(format!("{word:?} is neither a path nor a value")),
                }
            }
        }
    }

    fn quoted(&mut self) -> Result<String, JsonPathError> {
        let quote = match self.next() {
            Some(char @ ('"' | '\'')) => char,
            _ => return self.fail("expected a quoted text"),
        };
        let mut text = String::new();
        loop {
            match self.next() {
                None => return self.fail("unterminated quoted text"),
                Some(char) if char == quote => return Ok(text),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(char) => text.push(char),
                    None => return self.fail("unterminated quoted text"),
                },
                Some(char) => text.push(char),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(template: &str, expected: &str) {
        let value = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "n": 1,
                 "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}},
                {"metadata": {"name": "b"}, "n": 2, "status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            ],
        });
        assert_eq!(Template::parse(template).unwrap().render(&value), expected, "{template}");
    }

    #[test]
    fn templates_render_as_kubectl_renders_them() {
        check("{.kind}", "List");
        check(".kind", "List");
        check("kind", "List");
        check("{.items[*].metadata.name}", "a b");
        check("{.items[0].metadata.name}", "a");
        check("{.items[-1].metadata.name}", "b");
        check("{.items[0:1].n}", "1");
        check("{.items[:].n}", "1 2");
        check("{..name}", "a b");
        check("{.items[?(@.n>1)].metadata.name}", "b");
        check(r#"{.items[?(@.metadata.name=="a")].n}"#, "1");
        check("{.items[?(@.metadata.labels)].metadata.name}", "a");
        check(r#"{.items[*].status.conditions[?(@.type=="Ready")].status}"#, "True False");
        check(r#"{range .items[*]}{.metadata.name}{"\t"}{.n}{"\n"}{end}"#, "a\t1\nb\t2\n");
        check(r"{.items[0].metadata.labels.app\.kubernetes\.io/name}", "x");
        check("{.items[0].metadata['name', 'labels']}", r#"a {"app.kubernetes.io/name":"x"}"#);
        check("name: {.items[0].metadata.name}!", "name: a!");
        check("{.missing.field}", "");
        check("{.items[7].n}", "");
    }

    #[test]
    fn a_broken_template_says_where() {
        for (template, position) in
            [("{.items[}", 9), ("{range .items[*]}", 18), ("{.a", 4), ("{end}", 6), (r#"{.a[?(@.b==)]}"#, 12)]
        {
            let error = Template::parse(template).unwrap_err();
            assert_eq!(error.position, position, "{template}: {error}");
        }
    }
}
