//! Which form of an answer the client wants.
//!
//! Follows `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`: the first acceptable clause wins.

use manifests::status::ApiError;

use crate::protobuf;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

/// What an answer shows of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Shape {
    /// All of them.
    #[default]
    Whole,
    /// Rows and columns.
    Table,
    /// Only metadata.
    Metadata,
}

/// The negotiated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    pub(crate) pretty: bool,
    /// The table's group had its old version.
    old_table: bool,
}

impl Output {
    /// Which version of `meta.k8s.io` a table is of.
    pub(crate) fn table_version(self) -> &'static str {
        if self.old_table { "v1beta1" } else { "v1" }
    }
}

/// What can be written, in the words of the error.
const SUPPORTED: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// Picks the form of an answer.
pub(crate) fn negotiate(accept: Option<&str>) -> Result<Output, ApiError> {
    pick(accept, |_| true)
}

/// The same for an answer that is no object of the cluster: it has no rows, and no metadata to show alone.
pub(crate) fn negotiate_whole(accept: Option<&str>) -> Result<Output, ApiError> {
    pick(accept, |output| output.shape == Shape::Whole)
}

fn pick(accept: Option<&str>, fits: fn(&Output) -> bool) -> Result<Output, ApiError> {
    let accept = accept.unwrap_or_default();
    if accept.trim().is_empty() {
        return Ok(Output::default());
    }
    let mut clauses: Vec<(f32, Clause<'_>)> =
        accept.split(',').map(clause).filter(|(quality, _)| *quality > 0.0).collect();
    // Stable: among equals the first wins.
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut outputs = clauses.iter().filter_map(|(_, clause)| clause.output());
    outputs.find(fits).ok_or_else(|| ApiError::not_acceptable(&SUPPORTED))
}

#[derive(Debug, Default)]
struct Clause<'a> {
    media: &'a str,
    kind: &'a str,
    version: &'a str,
    group: &'a str,
    pretty: bool,
}

fn clause(text: &str) -> (f32, Clause<'_>) {
    let mut parts = text.split(';').map(str::trim);
    let mut clause = Clause { media: parts.next().unwrap_or_default(), ..Clause::default() };
    let mut quality = 1.0;
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.trim() {
            "q" => quality = value.trim().parse().unwrap_or(1.0),
            "as" => clause.kind = value.trim(),
            "v" => clause.version = value.trim(),
            "g" => clause.group = value.trim(),
            "pretty" => clause.pretty = value.trim() == "1",
            _ => {}
        }
    }
    (quality, clause)
}

impl Clause<'_> {
    fn output(&self) -> Option<Output> {
        let format = match self.media {
            "application/json" | "*/*" | "application/*" => Format::Json,
            "application/yaml" => Format::Yaml,
            protobuf::MEDIA_TYPE => Format::Protobuf,
            _ => return None,
        };
        let known_group = self.group == "meta.k8s.io" && matches!(self.version, "v1" | "v1beta1");
        let shape = match self.kind {
            "" => Shape::Whole,
            // Cells of all types have no message.
            "Table" if known_group && format != Format::Protobuf => Shape::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" if known_group => Shape::Metadata,
            _ => return None,
        };
        Some(Output { format, shape, pretty: self.pretty, old_table: self.version == "v1beta1" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<(Format, Shape)>) {
        let found = negotiate(Some(accept)).ok().map(|output| (output.format, output.shape));
        assert_eq!(found, expected, "{accept}");
    }

    #[test]
    fn clauses() {
        check("", Some((Format::Json, Shape::Whole)));
        check("*/*", Some((Format::Json, Shape::Whole)));
        check("application/yaml", Some((Format::Yaml, Shape::Whole)));
        check("application/vnd.kubernetes.protobuf", Some((Format::Protobuf, Shape::Whole)));
        check("application/vnd.kubernetes.protobuf,application/json", Some((Format::Protobuf, Shape::Whole)));
        check("application/json,application/vnd.kubernetes.protobuf", Some((Format::Json, Shape::Whole)));
        check(
            "application/vnd.kubernetes.protobuf;stream=watch, */*",
            Some((Format::Protobuf, Shape::Whole)),
        );
        check(
            "application/vnd.kubernetes.protobuf;q=0.5,application/json",
            Some((Format::Json, Shape::Whole)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Whole)),
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Table)),
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Table)),
        );
        check(
            "application/json;as=Table;v=v2;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Whole)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            Some((Format::Protobuf, Shape::Metadata)),
        );
        check("application/yaml;q=0.5, application/json;q=0.9", Some((Format::Json, Shape::Whole)));
        check("application/xml", None);
        check("application/json;q=0", None);
    }
}
