//! `coracle wait`

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::StreamExt;
use http::Method;
use serde_json::Value;

use super::jsonpath::Template;
use super::session::request;
use super::targets::{self, Selection, Target};
use super::{FileArgs, Session, say};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle wait --for=condition=Ready pod/web\n  coracle wait --for=delete pod/web --timeout 60s\n  \
                        coracle wait --for=jsonpath='{.status.phase}'=Running pod/web"
)]
pub(crate) struct WaitArgs {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with a selector or --all
    #[arg(value_name = "RESOURCE")]
    resources: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    selection: Selection,
    /// All objects of the given types in the namespace
    #[arg(long)]
    all: bool,
    /// condition=NAME[=VALUE], jsonpath='{PATH}'[=VALUE], create or delete
    #[arg(long = "for", value_name = "WHAT")]
    what: String,
    /// Give up after this time, such as 30s or 2m
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    timeout: Duration,
    #[command(flatten)]
    api: ApiArgs,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Until {
    Condition {
        name: String,
        value: String,
    },
    Path {
        template: Template,
        value: Option<String>,
    },
    Exists,
    /// The object is gone, or another one of its name has taken its place.
    Gone {
        uid: Option<String>,
    },
}

pub(crate) async fn run(args: WaitArgs) -> anyhow::Result<()> {
    let until = parse(&args.what)?;
    let session = Session::open(&args.api)?;
    let manifests = args.files.load()?;
    let mut targets = targets::of_manifests(&session, &manifests).await?;
    if !args.resources.is_empty() {
        targets.extend(targets::parse(&session, &args.resources, &args.selection).await?);
    }
    let deadline = tokio::time::Instant::now() + args.timeout;
    let mut named = Vec::new();
    for target in targets {
        if matches!(target, Target::Named { .. }) {
            named.push(target);
            continue;
        }
        if !args.all && args.selection.selector.is_none() && args.selection.field_selector.is_none() {
            bail!("give a name, a selector with -l, or --all");
        }
        let resource = target.resource().clone();
        for object in target.fetch(&session, &args.selection).await? {
            named.push(Target::Named {
                resource: resource.clone(),
                namespace: object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
                name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    if named.is_empty() && !matches!(until, Until::Gone { .. }) {
        bail!("no matching resources found");
    }
    for target in &named {
        let Target::Named { resource, name, .. } = target else { continue };
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self::until(&session, target, &until, left).await?;
        let done = if matches!(until, Until::Gone { .. }) { "deleted" } else { "condition met" };
        say(format_args!("{} {done}", resource.title(name)))?;
    }
    Ok(())
}

/// Waits for one object by watching it: nothing is asked twice.
pub(crate) async fn until(
    session: &Session,
    target: &Target,
    until: &Until,
    limit: Duration,
) -> anyhow::Result<()> {
    let Target::Named { resource, name, .. } = target else {
        bail!("only an object with a name can be waited for")
    };
    match tokio::time::timeout(limit, watch(session, target, until)).await {
        Ok(result) => result,
        Err(_) => bail!("timed out waiting for the condition on {}", resource.title(name)),
    }
}

async fn watch(session: &Session, target: &Target, until: &Until) -> anyhow::Result<()> {
    let Target::Named { resource, name, .. } = target else { return Ok(()) };
    let needed = matches!(until, Until::Condition { .. } | Until::Path { .. });
    let mut first = true;
    follow(session, target, &mut |object| {
        if object.is_none() && needed && std::mem::take(&mut first) {
            bail!("{} not found", resource.title(name));
        }
        Ok(until.holds(object))
    })
    .await
}

/// Shows an object as it is and as it becomes, until enough has been seen; nothing is asked twice.
pub(crate) async fn follow(
    session: &Session,
    target: &Target,
    seen: &mut dyn FnMut(Option<&Value>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let Target::Named { resource, namespace, name } = target else { return Ok(()) };
    loop {
        // A list of this one name gives both the object and the version to watch from.
        let field = format!("metadata.name={name}");
        let path = resource.collection(Some(namespace))
            + &super::resources::query(&[("fieldSelector", Some(&field))]);
        let list = session.get(&path).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let object = targets::items(resource, list).into_iter().next();
        if seen(object.as_ref())? {
            return Ok(());
        }
        let path = target.watch_path(&Selection::default(), &version);
        let mut body =
            session.client.stream(request(Method::GET, &path, None, "application/json")).await?.into_body();
        let mut buffer: Vec<u8> = Vec::new();
        // When the stream ends or breaks, the list above tells what was missed.
        while let Some(Ok(chunk)) = body.next().await {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).context("reading a watch event")?;
                let object = match event["type"].as_str() {
                    Some("DELETED") => None,
                    Some("ADDED" | "MODIFIED") => Some(&event["object"]),
                    _ => continue,
                };
                if seen(object)? {
                    return Ok(());
                }
            }
        }
    }
}

impl Until {
    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Gone { uid }, Some(object)) => {
                uid.as_deref().is_some_and(|uid| object["metadata"]["uid"] != uid)
            }
            (Self::Gone { .. }, None) => true,
            (Self::Exists, object) => object.is_some(),
            (_, None) => false,
            (Self::Condition { name, value }, Some(object)) => conditions(object).any(|condition| {
                let current = condition["observedGeneration"]
                    .as_i64()
                    .zip(object["metadata"]["generation"].as_i64())
                    .is_none_or(|(observed, generation)| observed >= generation);
                let same = |field: &str, text: &str| {
                    condition[field].as_str().is_some_and(|found| found.eq_ignore_ascii_case(text))
                };
                same("type", name) && same("status", value) && current
            }),
            (Self::Path { template, value }, Some(object)) => {
                let found = template.render(object);
                value.as_ref().map_or(!found.is_empty(), |value| *value == found)
            }
        }
    }
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    let stale = object["status"]["observedGeneration"]
        .as_i64()
        .zip(object["metadata"]["generation"].as_i64())
        .is_some_and(|(observed, generation)| observed < generation);
    object["status"]["conditions"].as_array().filter(|_| !stale).into_iter().flatten()
}

fn parse(text: &str) -> anyhow::Result<Until> {
    let lower = text.to_ascii_lowercase();
    if lower == "delete" {
        return Ok(Until::Gone { uid: None });
    }
    if lower == "create" {
        return Ok(Until::Exists);
    }
    if let Some(condition) = text.strip_prefix("condition=") {
        let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
        return Ok(Until::Condition { name: name.to_owned(), value: value.to_owned() });
    }
    if let Some(path) = text.strip_prefix("jsonpath=") {
        let end = path.rfind('}').map_or(path.len(), |end| end + 1);
        let (template, value) = path.split_at(end);
        let template = Template::parse(template)?;
        return Ok(Until::Path { template, value: value.strip_prefix('=').map(str::to_owned) });
    }
    bail!("unrecognized condition: {text:?}: use condition=NAME, jsonpath='{{PATH}}'=VALUE, create or delete")
}

/// A time such as `30s`, `1m30s`, `500ms` or a bare number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(rest.len());
        let number: f64 =
            rest[..digits].parse().map_err(|_| format!("{text:?} is not a time such as 30s or 1m30s"))?;
        rest = &rest[digits..];
        let unit = rest.find(|char: char| char.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            other => return Err(format!("{other:?} is not a unit of time: use ms, s, m or h")),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
        rest = &rest[unit..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_read_as_go_reads_them() {
        for (text, millis) in
            [("30s", 30_000), ("1m30s", 90_000), ("500ms", 500), ("2h", 7_200_000), ("7", 7000), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert!(duration("soon").is_err());
        assert!(duration("3d").is_err());
    }

    #[test]
    fn a_condition_of_an_older_generation_does_not_count() {
        let until = parse("condition=Available").unwrap();
        let object = |observed: i64| {
            json!({"metadata": {"generation": 2},
                   "status": {"observedGeneration": observed, "conditions": [{"type": "Available", "status": "True"}]}})
        };
        assert!(until.holds(Some(&object(2))));
        assert!(!until.holds(Some(&object(1))));
        assert!(!until.holds(None));
    }

    #[test]
    fn another_object_of_the_same_name_means_that_the_first_is_gone() {
        let until = Until::Gone { uid: Some("a".to_owned()) };
        assert!(!until.holds(Some(&json!({"metadata": {"uid": "a"}}))));
        assert!(until.holds(Some(&json!({"metadata": {"uid": "b"}}))));
        assert!(until.holds(None));
    }

    #[test]
    fn paths_may_be_compared_with_a_value() {
        let until = parse("jsonpath={.status.phase}=Running").unwrap();
        assert!(until.holds(Some(&json!({"status": {"phase": "Running"}}))));
        assert!(!until.holds(Some(&json!({"status": {"phase": "Pending"}}))));
    }
}
