//! `coracle logs`

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use futures_util::StreamExt;
use http::Method;
use serde_json::Value;

use super::resources::query;
use super::session::request;
use super::{Session, wait};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// POD, or TYPE/NAME of something that has pods
    #[arg(value_name = "POD")]
    pod: String,
    /// Container [default: the only one, or the first]
    #[arg(value_name = "CONTAINER")]
    container_argument: Option<String>,
    /// Container [default: the only one, or the first]
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
    /// Go on with what will be logged
    #[arg(long, short)]
    follow: bool,
    /// The container's run before this one
    #[arg(long, short)]
    previous: bool,
    /// Only the last lines; -1 shows all
    #[arg(long, value_name = "N", default_value_t = -1, allow_hyphen_values = true)]
    tail: i64,
    /// Only lines newer than a time such as 5s, 2m or 3h
    #[arg(long, value_name = "TIME", value_parser = wait::duration)]
    since: Option<Duration>,
    /// Only lines after a date (RFC 3339)
    #[arg(long, value_name = "DATE", conflicts_with = "since")]
    since_time: Option<String>,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
    /// At most so many bytes
    #[arg(long, value_name = "N")]
    limit_bytes: Option<u64>,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: LogsArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let pod = find_pod(&session, &args.pod).await?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let container = args.container.as_deref().or(args.container_argument.as_deref());
    let container = match container {
        Some(container) => container.to_owned(),
        None => default_container(&pod)?,
    };
    let seconds = args.since.map(|since| since.as_secs_f64().ceil().to_string());
    let tail = (args.tail >= 0).then(|| args.tail.to_string());
    let limit = args.limit_bytes.map(|limit| limit.to_string());
    let flag = |on: bool| on.then_some("true");
    let path = session.resource("pods").await?.object(&session.namespace, name)
        + "/log"
        + &query(&[
            ("container", Some(&container)),
            ("follow", flag(args.follow)),
            ("previous", flag(args.previous)),
            ("timestamps", flag(args.timestamps)),
            ("tailLines", tail.as_deref()),
            ("sinceSeconds", seconds.as_deref()),
            ("sinceTime", args.since_time.as_deref()),
            ("limitBytes", limit.as_deref()),
        ]);
    let mut body = session.client.stream(request(Method::GET, &path, None, "*/*")).await?.into_body();
    while let Some(chunk) = body.next().await {
        write(&chunk?)?;
    }
    Ok(())
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(super::Silent.into()),
        result => Ok(result?),
    }
}

/// A pod by its name, or the first pod of something that selects pods.
pub(crate) async fn find_pod(session: &Session, argument: &str) -> anyhow::Result<Value> {
    let (kind, name) = argument.split_once('/').unwrap_or(("pods", argument));
    let resource = session.resource(kind).await?;
    let object = session.get(&resource.object(&session.namespace, name)).await?;
    if resource.kind == "Pod" {
        return Ok(object);
    }
    let selector = match (&resource.kind[..], &object["spec"]["selector"]) {
        ("Service", selector) => pairs(selector),
        (_, selector) => pairs(&selector["matchLabels"]),
    };
    if selector.is_empty() {
        bail!("{} selects no pods", resource.title(name));
    }
    let pods = session.resource("pods").await?;
    let list = session
        .get(&(pods.collection(Some(&session.namespace)) + &query(&[("labelSelector", Some(&selector))])))
        .await?;
    let mut found = super::targets::items(pods, list);
    if found.is_empty() {
        bail!("{} has no pods", resource.title(name));
    }
    if found.len() > 1 {
        eprintln!(
            "Found {} pods, using pod/{}",
            found.len(),
            found[0]["metadata"]["name"].as_str().unwrap_or_default()
        );
    }
    Ok(found.swap_remove(0))
}

fn pairs(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(",")
}

/// The container that is meant when none is named.
pub(crate) fn default_container(pod: &Value) -> anyhow::Result<String> {
    let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let names: Vec<&str> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    if let Some(name) = annotated.filter(|name| names.contains(name)) {
        return Ok(name.to_owned());
    }
    match names.as_slice() {
        [] => bail!("the pod has no containers"),
        [only] => Ok((*only).to_owned()),
        [first, ..] => {
            eprintln!("Defaulted container {first:?} out of: {}", names.join(", "));
            Ok((*first).to_owned())
        }
    }
}
