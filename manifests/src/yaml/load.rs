//! From parser events to documents: one frame per open mapping or sequence, one node when it closes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::position::{Below, Mark};
use super::scalar::{self, Scalar};
use super::{Document, Error, MAX_DEPTH, MAX_EXPANSION, Position};
use crate::go;

/// What a node takes in memory besides its text; only the order of magnitude matters.
const NODE_COST: usize = 64;

pub(super) fn documents(source: &str, text: &str) -> Result<Vec<Document>, Error> {
    let options = granit_parser::options! {
        block_scalar_eof_without_line_feed: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut loader = Loader {
        source: source.into(),
        frames: Vec::new(),
        anchors: HashMap::new(),
        expanded: 0,
        root: None,
        documents: Vec::new(),
    };
    for next in Parser::<StrInput<'_>>::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| {
            let marker = error.marker();
            let position = Position { line: marker.line(), column: marker.col() + 1 };
            loader.error(position, error.info())
        })?;
        loader.event(event, span)?;
    }
    Ok(loader.documents)
}

#[derive(Clone)]
struct Node {
    value: Value,
    mark: Mark,
    /// Levels below.
    height: usize,
    /// Memory that another copy takes.
    cost: usize,
}

enum Frame {
    Map(MapFrame),
    List {
        anchor: usize,
        position: Position,
        items: Vec<Value>,
        marks: Vec<Arc<Mark>>,
        height: usize,
        cost: usize,
    },
}

struct MapFrame {
    anchor: usize,
    position: Position,
    entries: Map<String, Value>,
    marks: BTreeMap<String, Arc<Mark>>,
    /// Keys that are there because of `<<` only, so that they may be given again.
    merged: BTreeSet<String>,
    key: Option<Key>,
    height: usize,
    cost: usize,
}

enum Key {
    Name(String, Position),
    Merge(Position),
}

struct Loader {
    source: Arc<str>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    /// Bytes that were copied for anchors and aliases.
    expanded: usize,
    root: Option<Node>,
    documents: Vec<Document>,
}

impl Loader {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Error> {
        let position = Position { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                self.root = None;
            }
            Event::DocumentEnd => {
                if let Some(node) = self.root.take().filter(|node| !node.value.is_null()) {
                    let mark = Arc::new(node.mark);
                    self.documents.push(Document { value: node.value, source: self.source.clone(), mark });
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(&text, style, anchor, tag.as_deref(), position)?;
            }
            Event::Alias(anchor) => self.alias(anchor, position)?,
            Event::MappingStart(_, anchor, _) => self.open(
                Frame::Map(MapFrame {
                    anchor,
                    position,
                    entries: Map::new(),
                    marks: BTreeMap::new(),
                    merged: BTreeSet::new(),
                    key: None,
                    height: 0,
                    cost: NODE_COST,
                }),
                position,
            )?,
            Event::SequenceStart(_, anchor, _) => {
                let frame = Frame::List {
                    anchor,
                    position,
                    items: Vec::new(),
                    marks: Vec::new(),
                    height: 0,
                    cost: NODE_COST,
                };
                self.open(frame, position)?;
            }
            Event::MappingEnd | Event::SequenceEnd => self.close(position)?,
            Event::UnresolvedAlias(name) => {
                return Err(self.error(position, format!("unknown anchor {} referenced", go::quote(&name))));
            }
            // Only with other options, or without meaning for values.
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, frame: Frame, position: Position) -> Result<(), Error> {
        if matches!(self.frames.last(), Some(Frame::Map(map)) if map.key.is_none()) {
            return Err(self.error(position, "invalid map key: a key must be a scalar"));
        }
        if self.frames.len() >= MAX_DEPTH {
            return Err(self.too_deep(position));
        }
        self.frames.push(frame);
        Ok(())
    }

    fn close(&mut self, position: Position) -> Result<(), Error> {
        let (anchor, node) = match self.frames.pop() {
            Some(Frame::Map(map)) => {
                let mark = Mark::branch(map.position, Below::Map(map.marks));
                let value = Value::Object(map.entries);
                (map.anchor, Node { value, mark, height: map.height + 1, cost: map.cost })
            }
            Some(Frame::List { anchor, position, items, marks, height, cost }) => {
                let mark = Mark::branch(position, Below::List(marks));
                (anchor, Node { value: Value::Array(items), mark, height: height + 1, cost })
            }
            None => return Err(self.error(position, "a collection ends that was not begun")),
        };
        self.remember(anchor, &node, position)?;
        self.attach(node, position)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        position: Position,
    ) -> Result<(), Error> {
        let plain = style == ScalarStyle::Plain;
        let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
        let short = tag.as_deref().map(|tag| tag.strip_prefix("tag:yaml.org,2002:").unwrap_or(tag));
        let meaning = match short {
            None if plain => Ok(scalar::resolve(text)),
            None => Ok(Scalar::Text(text.to_owned())),
            Some("binary") => base64::engine::general_purpose::STANDARD
                .decode(text.split_ascii_whitespace().collect::<String>())
                .map(|bytes| Scalar::Text(String::from_utf8_lossy(&bytes).into_owned()))
                .map_err(|_| "!!binary value contains invalid base64 data".to_owned()),
            Some(tag @ ("str" | "bool" | "int" | "float" | "null" | "timestamp")) => {
                scalar::resolve_tagged(tag, text)
            }
            Some(_) => Ok(Scalar::Text(text.to_owned())),
        };
        let meaning = meaning.map_err(|message| self.error(position, message))?;

        let is_merge = text == "<<" && (plain && short.is_none() || short == Some("merge"));
        if let Some(Frame::Map(map)) = self.frames.last_mut()
            && map.key.is_none()
            && is_merge
        {
            map.key = Some(Key::Merge(position));
            return Ok(());
        }
        if self.expects_key() {
            if anchor != 0 {
                // An infinite key can be named, and only then; it is no value.
                let value = meaning.clone().into_value().unwrap_or(Value::Null);
                let node =
                    Node { cost: NODE_COST + text.len(), value, mark: Mark::leaf(position), height: 0 };
                self.remember(anchor, &node, position)?;
            }
            return self.key(meaning, position);
        }
        let value = meaning.into_value().map_err(|message| self.error(position, message))?;
        let node = Node { cost: NODE_COST + text.len(), value, mark: Mark::leaf(position), height: 0 };
        self.remember(anchor, &node, position)?;
        self.attach(node, position)
    }

    fn alias(&mut self, anchor: usize, position: Position) -> Result<(), Error> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            // The parser knows the anchor, so what it names is still open.
            return Err(self.error(position, "an anchor's value contains itself"));
        };
        self.spend(node.cost, position)?;
        if self.frames.len() + node.height > MAX_DEPTH {
            return Err(self.too_deep(position));
        }
        if self.expects_key() {
            let meaning = match node.value {
                Value::Null => Scalar::Null,
                Value::Bool(value) => Scalar::Bool(value),
                Value::String(text) => Scalar::Text(text),
                Value::Number(number) => Scalar::Text(number.to_string()),
                Value::Array(_) | Value::Object(_) => {
                    return Err(self.error(position, "invalid map key: a key must be a scalar"));
                }
            };
            return self.key(meaning, position);
        }
        let mark = node.mark.at(position);
        self.attach(Node { mark, ..node }, position)
    }

    fn remember(&mut self, anchor: usize, node: &Node, position: Position) -> Result<(), Error> {
        if anchor != 0 {
            self.spend(node.cost, position)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(())
    }

    fn spend(&mut self, cost: usize, position: Position) -> Result<(), Error> {
        self.expanded = self.expanded.saturating_add(cost);
        if self.expanded > MAX_EXPANSION {
            return Err(self.error(position, "document contains excessive aliasing"));
        }
        Ok(())
    }

    fn expects_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame::Map(map)) if map.key.is_none())
    }

    fn key(&mut self, meaning: Scalar, position: Position) -> Result<(), Error> {
        let Some(name) = meaning.into_key() else {
            return Err(self.error(position, "invalid map key: null"));
        };
        if let Some(Frame::Map(map)) = self.frames.last_mut() {
            if map.entries.contains_key(&name) && !map.merged.remove(&name) {
                let first = map.marks.get(&name).map(|mark| mark.position().line).unwrap_or_default();
                let message = format!("key {} already set in map, in line {first}", go::quote(&name));
                return Err(self.error(position, message));
            }
            map.key = Some(Key::Name(name, position));
        }
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn attach(&mut self, node: Node, position: Position) -> Result<(), Error> {
        match self.frames.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, marks, height, cost, .. }) => {
                *height = (*height).max(node.height);
                *cost = cost.saturating_add(node.cost);
                items.push(node.value);
                marks.push(Arc::new(node.mark));
            }
            Some(Frame::Map(map)) => {
                map.height = map.height.max(node.height);
                map.cost = map.cost.saturating_add(node.cost);
                match map.key.take() {
                    Some(Key::Name(name, key_position)) => {
                        map.cost = map.cost.saturating_add(name.len());
                        map.marks.insert(name.clone(), Arc::new(node.mark.at(key_position)));
                        map.entries.insert(name, node.value);
                    }
                    Some(Key::Merge(merge_position)) => {
                        if map.merge(node).is_none() {
                            let message = "map merge requires map or sequence of maps as the value";
                            return Err(self.error(merge_position, message));
                        }
                    }
                    // The parser alternates keys and values, so a value never comes without its key.
                    None => return Err(self.error(position, "a value without a key")),
                }
            }
        }
        Ok(())
    }

    fn too_deep(&self, position: Position) -> Error {
        self.error(position, format!("exceeded max depth of {MAX_DEPTH}"))
    }

    /// An error with the path of the node that is being read.
    fn error(&self, position: Position, message: impl Into<String>) -> Error {
        let mut path = String::new();
        for frame in &self.frames {
            match frame {
                Frame::Map(MapFrame { key: Some(Key::Name(name, _)), .. }) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Frame::Map(_) => {}
                Frame::List { items, .. } => path.push_str(&format!("[{}]", items.len())),
            }
        }
        let message = message.into();
        let message = if path.is_empty() { message } else { format!("{path}: {message}") };
        Error { source: self.source.to_string(), position, path, message }
    }
}

impl MapFrame {
    /// `<<: *base` or `<<: [*first, *second]`, where the first takes precedence. As in go-yaml, what is merged replaces
    /// what stands above the `<<`, and what stands below it replaces what was merged.
    fn merge(&mut self, node: Node) -> Option<()> {
        match node.value {
            Value::Object(entries) => self.merge_entries(entries, &node.mark),
            Value::Array(items) => {
                if !items.iter().all(Value::is_object) {
                    return None;
                }
                for (item, mark) in items.into_iter().zip(node.mark.items()).rev() {
                    if let Value::Object(entries) = item {
                        self.merge_entries(entries, mark);
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn merge_entries(&mut self, entries: Map<String, Value>, mark: &Mark) {
        for (name, value) in entries {
            if let Some(mark) = mark.entries().and_then(|marks| marks.get(&name)) {
                self.marks.insert(name.clone(), mark.clone());
            }
            self.merged.insert(name.clone());
            self.entries.insert(name, value);
        }
    }
}
