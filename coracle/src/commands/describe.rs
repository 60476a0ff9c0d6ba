//! `coracle describe`: the object, said so that a person can read it, and its events.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use super::output::align;
use super::resources::query;
use super::targets::{self, Selection};
use super::{FileArgs, Session, print};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// TYPE [NAME…] or TYPE/NAME…
    #[arg(value_name = "RESOURCE")]
    resources: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: DescribeArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let manifests = args.files.load()?;
    let targets = if manifests.is_empty() {
        targets::parse(&session, &args.resources, &args.selection).await?
    } else {
        targets::of_manifests(&session, &manifests).await?
    };
    let mut first = true;
    for target in targets {
        for object in target.fetch(&session, &args.selection).await? {
            if !first {
                print("\n\n")?;
            }
            first = false;
            let events = events_of(&session, &object).await?;
            print(&describe(&object, &events))?;
        }
    }
    Ok(())
}

async fn events_of(session: &Session, object: &Value) -> anyhow::Result<Vec<Value>> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let selector = format!("involvedObject.uid={uid}");
    let events = session.resource("events").await?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let path = events.collection(Some(namespace)) + &query(&[("fieldSelector", Some(&selector))]);
    Ok(targets::items(events, session.get(&path).await?))
}

/// What of an object is told elsewhere or to nobody.
const HIDDEN: [&str; 6] = ["managedFields", "resourceVersion", "generation", "selfLink", "name", "namespace"];

fn describe(object: &Value, events: &[Value]) -> String {
    let mut out = String::new();
    let metadata = &object["metadata"];
    // Writing to a String cannot fail.
    _ = writeln!(out, "Name:         {}", metadata["name"].as_str().unwrap_or_default());
    if let Some(namespace) = metadata["namespace"].as_str() {
        _ = writeln!(out, "Namespace:    {namespace}");
    }
    _ = writeln!(
        out,
        "Kind:         {} ({})",
        object["kind"].as_str().unwrap_or_default(),
        object["apiVersion"].as_str().unwrap_or_default()
    );
    let secret = object["kind"] == "Secret";
    for (name, value) in metadata.as_object().into_iter().flatten() {
        if !HIDDEN.contains(&name.as_str()) {
            field(&mut out, 0, name, value);
        }
    }
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "metadata" | "apiVersion" | "kind" => {}
            "data" if secret => {
                out.push_str("Data:\n");
                for (key, value) in value.as_object().into_iter().flatten() {
                    let encoded = value.as_str().unwrap_or_default().trim_end_matches('=').len();
                    _ = writeln!(out, "  {key}:  {} bytes", encoded * 3 / 4);
                }
            }
            _ => field(&mut out, 0, name, value),
        }
    }
    out.push_str(&event_table(events));
    out
}

fn field(out: &mut String, depth: usize, name: &str, value: &Value) {
    let pad = "  ".repeat(depth);
    let title = heading(name);
    match value {
        Value::Null => {}
        Value::Object(map) if map.is_empty() => _ = writeln!(out, "{pad}{title}:  <none>"),
        Value::Object(map) => {
            _ = writeln!(out, "{pad}{title}:");
            // The keys of labels and the like are people's own words.
            let literal = matches!(
                name,
                "labels" | "annotations" | "matchLabels" | "data" | "nodeSelector" | "selector"
            );
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if literal => {
                        _ = writeln!(
                            out,
                            "{pad}  {key}: {}",
                            text.trim_end().replace('\n', &format!("\n{pad}    "))
                        )
                    }
                    _ => field(out, depth + 1, key, value),
                }
            }
        }
        Value::Array(items) => {
            _ = writeln!(out, "{pad}{title}:");
            for item in items {
                match item {
                    Value::Object(map) => {
                        let mut inner = String::new();
                        for (key, value) in map {
                            field(&mut inner, depth + 2, key, value);
                        }
                        // The first line of an element carries a mark, so that elements can be told apart.
                        let mark = "  ".repeat(depth + 1);
                        let rest = inner.strip_prefix(&"  ".repeat(depth + 2)).unwrap_or(&inner);
                        _ = write!(out, "{mark}- {rest}");
                    }
                    other => _ = writeln!(out, "{pad}  {}", scalar(other)),
                }
            }
        }
        other => _ = writeln!(out, "{pad}{title}:  {}", scalar(other)),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `podIP` → `Pod IP`, `restartPolicy` → `Restart Policy`.
fn heading(name: &str) -> String {
    let mut out = String::new();
    let mut before_lower = false;
    for (index, char) in name.chars().enumerate() {
        if index == 0 {
            out.extend(char.to_uppercase());
        } else if char.is_ascii_uppercase() && before_lower {
            out.push(' ');
            out.push(char);
        } else {
            out.push(char);
        }
        before_lower = char.is_ascii_lowercase();
    }
    out
}

fn event_table(events: &[Value]) -> String {
    if events.is_empty() {
        return "Events:  <none>\n".to_owned();
    }
    let mut sorted: Vec<&Value> = events.iter().collect();
    let when = |event: &Value| {
        event["lastTimestamp"].as_str().or(event["eventTime"].as_str()).unwrap_or_default().to_owned()
    };
    sorted.sort_by_key(|event| when(event));
    let mut rows =
        vec![["  Type", "Reason", "Last Seen", "Count", "From", "Message"].map(str::to_owned).to_vec()];
    for event in sorted {
        let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
        let from = event["source"]["component"]
            .as_str()
            .or(event["reportingComponent"].as_str())
            .unwrap_or_default();
        rows.push(vec![
            format!("  {}", text(&event["type"])),
            text(&event["reason"]),
            when(event),
            event["count"].as_i64().unwrap_or(1).to_string(),
            from.to_owned(),
            text(&event["message"]),
        ]);
    }
    format!("Events:\n{}", align(&rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_reads_from_top_to_bottom() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}, "resourceVersion": "7"},
            "spec": {"containers": [{"image": "x", "name": "a"}, {"image": "y", "name": "b"}]},
            "status": {"podIP": "10.0.0.1"},
        });
        let event = json!({"type": "Normal", "reason": "Started", "message": "Started container a", "count": 1,
                           "lastTimestamp": "2026-01-01T00:00:00Z", "source": {"component": "kubelet"}});
        assert_eq!(
            describe(&pod, &[event]),
            "Name:         web\nNamespace:    default\nKind:         Pod (v1)\nLabels:\n  app: web\nSpec:\n  Containers:\n    \
             - Image:  x\n      Name:  a\n    - Image:  y\n      Name:  b\nStatus:\n  Pod IP:  10.0.0.1\nEvents:\n  \
             Type   Reason    Last Seen              Count   From      Message\n  \
             Normal   Started   2026-01-01T00:00:00Z   1       kubelet   Started container a\n"
                .replace("  Type   Reason", "  Type     Reason")
        );
    }

    #[test]
    fn secrets_stay_secret() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "c2VjcmV0"}});
        let text = describe(&secret, &[]);
        assert!(text.contains("password:  6 bytes"), "{text}");
        assert!(!text.contains("c2VjcmV0"), "{text}");
    }
}
