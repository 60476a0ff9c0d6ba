//! `coracle get`

use anyhow::bail;
use clap::Args;
use futures_util::StreamExt;
use http::Method;
use serde_json::Value;

use super::output::{self, Output, TableStyle};
use super::session::request;
use super::targets::{self, Selection, Target};
use super::{FileArgs, Session, print};
use crate::flags::ApiArgs;

const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coracle get pods -o wide\n  coracle get deployment/web -o yaml\n  \
                        coracle get pods -l app=web -w\n  coracle get all -A")]
pub(crate) struct GetArgs {
    /// TYPE[,TYPE…] [NAME…] or TYPE/NAME…
    #[arg(value_name = "RESOURCE")]
    resources: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    selection: Selection,
    /// wide, json, yaml, name, jsonpath=TEMPLATE, custom-columns=HEADING:PATH,…
    #[arg(long, short = 'o', value_name = "FORMAT")]
    output: Option<Output>,
    /// Go on showing changes
    #[arg(long, short = 'w')]
    watch: bool,
    /// Leave the headings out
    #[arg(long)]
    no_headers: bool,
    /// Show labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: GetArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let manifests = args.files.load()?;
    let targets = if manifests.is_empty() {
        targets::parse(&session, &args.resources, &args.selection).await?
    } else {
        targets::of_manifests(&session, &manifests).await?
    };
    let output = args.output.clone().unwrap_or_default();
    if args.watch && targets.len() != 1 {
        bail!("you may only specify a single resource type to watch");
    }
    if output.is_table() {
        tables(&session, &args, &targets, &output).await
    } else {
        objects(&session, &args, &targets, &output).await
    }
}

async fn tables(
    session: &Session,
    args: &GetArgs,
    targets: &[Target],
    output: &Output,
) -> anyhow::Result<()> {
    let style = TableStyle {
        wide: *output == Output::Wide,
        namespaces: args.selection.all_namespaces,
        headings: !args.no_headers,
        labels: args.show_labels,
        kinds: targets.len() > 1,
    };
    let mut shown = 0;
    let mut failures = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let table = match session.json(Method::GET, &target.path(&args.selection), None, AS_TABLE).await {
            Ok(table) => table,
            Err(error) if error.is_not_found() && args.ignore_not_found => continue,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        if table["rows"].as_array().is_some_and(|rows| !rows.is_empty()) || args.watch {
            if shown > 0 && index > 0 {
                print("\n")?;
            }
            print(&output::table(target.resource(), &table, style))?;
            shown += 1;
        }
        if args.watch {
            let version = table["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            let style = TableStyle { headings: false, ..style };
            let path = target.watch_path(&args.selection, &version);
            return follow(session, &path, AS_TABLE, |event| {
                print(&output::table(target.resource(), &event["object"], style))
            })
            .await;
        }
    }
    if shown == 0 && failures.is_empty() && !args.ignore_not_found {
        match &targets {
            [Target::Selected { namespace: Some(namespace), resource }] if resource.namespaced => {
                eprintln!("No resources found in {namespace} namespace.");
            }
            _ => eprintln!("No resources found"),
        }
    }
    finish(failures)
}

async fn objects(
    session: &Session,
    args: &GetArgs,
    targets: &[Target],
    output: &Output,
) -> anyhow::Result<()> {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    let as_list = targets.len() != 1 || matches!(targets, [Target::Selected { .. }]);
    for target in targets {
        match target.fetch(session, &args.selection).await {
            Ok(objects) => {
                found.extend(objects.into_iter().map(|object| (target.resource().clone(), object)))
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failures.push(error),
        }
    }
    if failures.is_empty() && !(found.is_empty() && args.ignore_not_found) {
        output.print_objects(&found, as_list)?;
    }
    if args.watch
        && let [target] = targets
    {
        let list = session.get(&target.path(&args.selection)).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let path = target.watch_path(&args.selection, &version);
        let show = |event: Value| {
            output.print_objects(&[(target.resource().clone(), event["object"].clone())], false)
        };
        return follow(session, &path, "application/json", show).await;
    }
    finish(failures)
}

/// Reads watch events, one JSON object per line, until the server ends the stream.
pub(crate) async fn follow(
    session: &Session,
    path: &str,
    accept: &str,
    mut show: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut body = session.client.stream(request(Method::GET, path, None, accept)).await?.into_body();
    let mut buffer = Vec::new();
    while let Some(chunk) = body.next().await {
        buffer.extend_from_slice(&chunk?);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            match event["type"].as_str() {
                Some("BOOKMARK") => {}
                Some("ERROR") => {
                    bail!("{}", event["object"]["message"].as_str().unwrap_or("the watch failed"))
                }
                _ => show(event)?,
            }
        }
    }
    Ok(())
}

/// All failures are told, the last one ends the program.
pub(crate) fn finish(mut failures: Vec<client::Error>) -> anyhow::Result<()> {
    let Some(last) = failures.pop() else { return Ok(()) };
    for failure in failures {
        eprintln!("{}", crate::error_line(&failure.into()));
    }
    Err(last.into())
}
