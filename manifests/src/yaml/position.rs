//! Where each field of a document is in its file: a tree beside the value, searched by field path.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Where a node is, and the nodes below it. What an alias stands for is shared, not copied.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    position: Position,
    below: Option<Arc<Below>>,
}

#[derive(Debug)]
pub(super) enum Below {
    Map(BTreeMap<String, Arc<Mark>>),
    List(Vec<Arc<Mark>>),
}

impl Mark {
    pub(super) fn leaf(position: Position) -> Mark {
        Mark { position, below: None }
    }

    pub(super) fn branch(position: Position, below: Below) -> Mark {
        Mark { position, below: Some(Arc::new(below)) }
    }

    /// The same node, found at another place: below a key, or where an alias stands.
    pub(super) fn at(&self, position: Position) -> Mark {
        Mark { position, below: self.below.clone() }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn entries(&self) -> Option<&BTreeMap<String, Arc<Mark>>> {
        match self.below.as_deref() {
            Some(Below::Map(entries)) => Some(entries),
            _ => None,
        }
    }

    pub(super) fn items(&self) -> &[Arc<Mark>] {
        match self.below.as_deref() {
            Some(Below::List(items)) => items,
            _ => &[],
        }
    }

    /// The position of a field, or of the deepest node on the way to it.
    pub(super) fn find(&self, path: &str) -> Position {
        self.walk(path).map_or(self.position, |mark| mark.position)
    }

    /// The node of a field, or the deepest one on the way to it.
    pub(super) fn descend(self: &Arc<Mark>, path: &str) -> Arc<Mark> {
        self.walk(path).unwrap_or_else(|| self.clone())
    }

    /// Nothing when not even the first step leads anywhere.
    fn walk(&self, path: &str) -> Option<Arc<Mark>> {
        let mut here: Option<Arc<Mark>> = None;
        let mut rest = path;
        while !rest.is_empty() {
            let mark = here.as_deref().unwrap_or(self);
            let Some((next, after)) = mark.step(rest) else { break };
            here = Some(next);
            rest = after;
        }
        here
    }

    /// Takes the first step of a path. A key may itself contain dots and brackets, so the longest key that fits counts.
    fn step<'a>(&self, path: &'a str) -> Option<(Arc<Mark>, &'a str)> {
        let path = path.strip_prefix('.').unwrap_or(path);
        match self.below.as_deref()? {
            Below::List(items) => {
                let (index, after) = path.strip_prefix('[')?.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?.clone(), after))
            }
            Below::Map(entries) => {
                let fits = |key: &str| -> Option<&'a str> {
                    let bracketed =
                        path.strip_prefix('[').and_then(|rest| rest.strip_prefix(key)?.strip_prefix(']'));
                    let plain = path
                        .strip_prefix(key)
                        .filter(|after| after.is_empty() || after.starts_with(['.', '[']));
                    bracketed.or(plain)
                };
                let candidates = entries.iter().filter_map(|(key, mark)| Some((key.len(), mark, fits(key)?)));
                let (_, mark, after) = candidates.max_by_key(|(length, _, _)| *length)?;
                Some((mark.clone(), after))
            }
        }
    }
}
