//! How objects are shown: the server's table, or one of kubectl's other formats.

use std::str::FromStr;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::Resource;
use super::jsonpath::Template;
use super::say;

/// The value of `-o`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Output {
    /// Columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `pod/web`.
    Name,
    /// A template.
    JsonPath(Template),
    /// Columns of one's own: heading and path.
    Columns(Vec<(String, Template)>),
}

impl FromStr for Output {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (kind, argument) = text.split_once('=').unwrap_or((text, ""));
        Ok(match kind {
            "wide" => Self::Wide,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            "jsonpath" => Self::JsonPath(Template::parse(argument)?),
            "custom-columns" => Self::Columns(columns(argument)?),
            _ => bail!(
                "unknown output format {kind:?}: use wide, json, yaml, name, jsonpath=…, custom-columns=…"
            ),
        })
    }
}

fn columns(text: &str) -> anyhow::Result<Vec<(String, Template)>> {
    let parse = |column: &str| {
        let (heading, path) =
            column.split_once(':').with_context(|| format!("column {column:?} is not HEADING:PATH"))?;
        Ok((heading.to_owned(), Template::parse(path)?))
    };
    text.split(',').map(parse).collect()
}

impl Output {
    /// Whether the server is asked for a table instead of the objects.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// Prints objects in a format that is not a table. One object that was asked for by its name is printed
    /// as itself, several as a List.
    pub(crate) fn print_objects(&self, objects: &[(Resource, Value)], as_list: bool) -> anyhow::Result<()> {
        let whole = || match objects {
            [(_, object)] if !as_list => object.clone(),
            _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""},
                        "items": objects.iter().map(|(_, object)| object).collect::<Vec<_>>()}),
        };
        match self {
            Self::Table | Self::Wide => Ok(()),
            Self::Json => say(serde_json::to_string_pretty(&whole())?),
            Self::Yaml => super::print(&serde_yaml::to_string(&whole())?),
            Self::Name => {
                for (resource, object) in objects {
                    say(resource.title(object["metadata"]["name"].as_str().unwrap_or_default()))?;
                }
                Ok(())
            }
            Self::JsonPath(template) => super::print(&template.render(&whole())),
            Self::Columns(columns) => {
                let mut rows = vec![columns.iter().map(|(heading, _)| heading.clone()).collect::<Vec<_>>()];
                for (_, object) in objects {
                    let cell = |template: &Template| match template.render(object) {
                        empty if empty.is_empty() => "<none>".to_owned(),
                        text => text,
                    };
                    rows.push(columns.iter().map(|(_, template)| cell(template)).collect());
                }
                super::print(&align(&rows))
            }
        }
    }
}

/// What of a table is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TableStyle {
    pub(crate) wide: bool,
    pub(crate) namespaces: bool,
    pub(crate) headings: bool,
    pub(crate) labels: bool,
    /// Names with their kind before them, when several kinds are listed.
    pub(crate) kinds: bool,
}

/// Lays out a `meta.k8s.io/v1` Table.
pub(crate) fn table(resource: &Resource, table: &Value, style: TableStyle) -> String {
    let definitions = table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<usize> = definitions
        .iter()
        .enumerate()
        .filter(|(_, column)| style.wide || column["priority"].as_i64().unwrap_or(0) == 0)
        .map(|(index, _)| index)
        .collect();
    let mut rows = Vec::new();
    if style.headings {
        let mut heading = Vec::new();
        if style.namespaces {
            heading.push("NAMESPACE".to_owned());
        }
        heading.extend(
            shown
                .iter()
                .map(|index| definitions[*index]["name"].as_str().unwrap_or_default().to_ascii_uppercase()),
        );
        if style.labels {
            heading.push("LABELS".to_owned());
        }
        rows.push(heading);
    }
    for row in table["rows"].as_array().into_iter().flatten() {
        let metadata = &row["object"]["metadata"];
        let mut cells = Vec::new();
        if style.namespaces {
            cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for (position, index) in shown.iter().enumerate() {
            let text = match &row["cells"][*index] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            let text = if style.kinds && position == 0 { resource.title(&text) } else { text };
            cells.push(if text.is_empty() { String::new() } else { text.replace('\n', "\\n") });
        }
        if style.labels {
            cells.push(labels(&metadata["labels"]));
        }
        rows.push(cells);
    }
    align(&rows)
}

fn labels(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// Columns with three spaces between them, as kubectl has them; no spaces at the end of a line.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 3));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["NAME", "AGE"], ["a-long-name", "5s"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(align(&rows), "NAME          AGE\na-long-name   5s\n");
    }

    #[test]
    fn formats_are_read_as_kubectl_reads_them() {
        assert_eq!("yaml".parse::<Output>().unwrap(), Output::Yaml);
        assert!("jsonpath={.a}".parse::<Output>().is_ok());
        assert!("custom-columns=NAME:.metadata.name,UID:.metadata.uid".parse::<Output>().is_ok());
        for wrong in ["xml", "jsonpath={.a", "custom-columns=NAME"] {
            assert!(wrong.parse::<Output>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_table_shows_wide_columns_only_when_asked() {
        let value = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["web", "10.0.0.1"], "object": {"metadata": {"namespace": "default", "labels": {"a": "b"}}}}],
        });
        let resource = Resource { singular: "pod".to_owned(), ..Resource::default() };
        let style = TableStyle { headings: true, ..TableStyle::default() };
        assert_eq!(table(&resource, &value, style), "NAME\nweb\n");
        let style = TableStyle { wide: true, namespaces: true, labels: true, kinds: true, headings: true };
        assert_eq!(
            table(&resource, &value, style),
            "NAMESPACE   NAME      IP         LABELS\ndefault     pod/web   10.0.0.1   a=b\n"
        );
    }
}
