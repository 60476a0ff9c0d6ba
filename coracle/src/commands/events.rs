//! `coracle events`: what has happened, oldest first.

use anyhow::Context;
use clap::Args;
use futures_util::StreamExt;
use http::Method;
use serde_json::Value;

use super::output::align;
use super::resources::query;
use super::session::request;
use super::targets::{self, Selection, Target};
use super::{Session, print};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle events\n  coracle events --for pod/web --watch\n  coracle events -A --types Warning"
)]
pub(crate) struct EventsArgs {
    /// Only what happened to TYPE/NAME
    #[arg(long = "for", value_name = "TYPE/NAME")]
    about: Option<String>,
    /// Go on with what will happen
    #[arg(long, short)]
    watch: bool,
    /// Only these types: Normal, Warning
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    types: Vec<String>,
    /// Events of every namespace
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: EventsArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let events = session.resource("events").await?.clone();
    let mut fields = Vec::new();
    if let Some(about) = &args.about {
        let parsed = targets::parse(&session, std::slice::from_ref(about), &Selection::default()).await?;
        let Some(Target::Named { resource, name, .. }) = parsed.into_iter().next() else {
            anyhow::bail!("{about:?} names no object: give TYPE/NAME, such as pod/web");
        };
        fields.push(format!("involvedObject.kind={},involvedObject.name={name}", resource.kind));
    }
    let fields = (!fields.is_empty()).then(|| fields.join(","));
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    let collection = events.collection(namespace);
    let list = session.get(&(collection.clone() + &query(&[("fieldSelector", fields.as_deref())]))).await?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let wanted = |event: &Value| {
        args.types.is_empty()
            || args
                .types
                .iter()
                .any(|kind| event["type"].as_str().is_some_and(|have| have.eq_ignore_ascii_case(kind)))
    };
    let mut found = targets::items(&events, list);
    found.retain(wanted);
    found.sort_by(|a, b| seen(a).cmp(seen(b)));
    if found.is_empty() && !args.watch {
        eprintln!(
            "No events found{}.",
            namespace.map_or(String::new(), |name| format!(" in {name} namespace"))
        );
        return Ok(());
    }
    let mut rows = vec![heading(args.all_namespaces)];
    rows.extend(found.iter().map(|event| row(event, args.all_namespaces)));
    print(&align(&rows))?;
    if !args.watch {
        return Ok(());
    }
    let path = collection
        + &query(&[
            ("watch", Some("true")),
            ("resourceVersion", Some(&version)),
            ("fieldSelector", fields.as_deref()),
        ]);
    let mut body =
        session.client.stream(request(Method::GET, &path, None, "application/json")).await?.into_body();
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(chunk) = body.next().await {
        buffer.extend_from_slice(&chunk?);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).context("reading a watch event")?;
            let changed = matches!(event["type"].as_str(), Some("ADDED" | "MODIFIED"));
            if changed && wanted(&event["object"]) {
                print(&align(&[row(&event["object"], args.all_namespaces)]))?;
            }
        }
    }
    Ok(())
}

fn heading(namespaces: bool) -> Vec<String> {
    let mut heading: Vec<String> = if namespaces { vec!["NAMESPACE".to_owned()] } else { Vec::new() };
    heading.extend(["LAST SEEN", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"].map(str::to_owned));
    heading
}

/// When it was seen last, in a form whose order is that of time.
fn seen(event: &Value) -> &str {
    let series = event["series"]["lastObservedTime"].as_str();
    let times = [series, event["lastTimestamp"].as_str(), event["eventTime"].as_str()];
    times
        .into_iter()
        .flatten()
        .find(|time| !time.is_empty())
        .or_else(|| event["metadata"]["creationTimestamp"].as_str())
        .unwrap_or_default()
}

pub(super) fn row(event: &Value, namespaces: bool) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().replace('\n', " ");
    let object = &event["involvedObject"];
    let count = event["series"]["count"].as_u64().or_else(|| event["count"].as_u64()).unwrap_or(1);
    let mut row = if namespaces { vec![text(&event["metadata"]["namespace"])] } else { Vec::new() };
    row.extend([
        seen(event).split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " "),
        text(&event["type"]),
        text(&event["reason"]),
        format!("{}/{}", text(&object["kind"]).to_lowercase(), text(&object["name"])),
        count.to_string(),
        text(&event["message"]),
    ]);
    row
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_when_what_happened_to_what() {
        let event = json!({
            "metadata": {"namespace": "n"}, "type": "Warning", "reason": "BackOff", "message": "again\nand again",
            "involvedObject": {"kind": "Pod", "name": "web"}, "count": 3, "lastTimestamp": "2026-01-02T03:04:05Z",
        });
        let expected = ["2026-01-02 03:04:05", "Warning", "BackOff", "pod/web", "3", "again and again"];
        assert_eq!(row(&event, false), expected);
        assert_eq!(row(&event, true)[0], "n");
        assert_eq!(heading(true).len(), row(&event, true).len());
    }
}
