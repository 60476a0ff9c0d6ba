//! `coracle delete`

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::targets::{self, Selection, Target};
use super::wait::{self, Until};
use super::{FileArgs, Session, say};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with a selector or --all
    #[arg(value_name = "RESOURCE")]
    resources: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    selection: Selection,
    /// Delete all objects of the given types in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds that pods have to end by themselves; 0 with --force ends them at once
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Do not wait for pods to end by themselves
    #[arg(long)]
    force: bool,
    /// Do not wait until the objects are gone
    #[arg(long)]
    no_wait: bool,
    /// Wait until the objects are gone (true is the default)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// Give up waiting after this time, such as 30s or 2m
    #[arg(long, value_name = "TIME", value_parser = wait::duration)]
    timeout: Option<Duration>,
    /// What happens to the objects that the deleted ones own
    #[arg(long, value_parser = ["background", "foreground", "orphan"], default_value = "background")]
    cascade: String,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let manifests = args.files.load()?;
    let mut targets = targets::of_manifests(&session, &manifests).await?;
    // Backwards, so that what was created last goes first.
    targets.reverse();
    if !args.resources.is_empty() {
        targets.extend(targets::parse(&session, &args.resources, &args.selection).await?);
    }
    if targets.is_empty() {
        bail!("give what to delete: TYPE NAME, TYPE/NAME, or -f FILE");
    }
    let selects = args.all || args.selection.selector.is_some() || args.selection.field_selector.is_some();
    if targets.iter().any(|target| matches!(target, Target::Selected { .. })) && !selects {
        bail!(
            "resource(s) were provided, but no name was specified: give a name, a selector with -l, or --all"
        );
    }

    let body = options(&args);
    let mut waiting = Vec::new();
    let mut failures = Vec::new();
    for target in targets {
        let objects = match target.fetch(&session, &args.selection).await {
            Ok(objects) => objects,
            Err(error) if error.is_not_found() && (args.ignore_not_found || args.all) => continue,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        for object in objects {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&session.namespace).to_owned();
            let path = target.resource().object(&namespace, &name);
            match session
                .json(Method::DELETE, &path, Some(("application/json", &body)), "application/json")
                .await
            {
                Ok(_) => {
                    say(format_args!("{} deleted", quoted(&target.resource().title(&name))))?;
                    let named = Target::Named { resource: target.resource().clone(), namespace, name };
                    waiting.push((named, object["metadata"]["uid"].as_str().map(str::to_owned)));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => failures.push(error),
            }
        }
    }
    if args.wait && !args.no_wait {
        let limit =
            args.timeout.filter(|limit| !limit.is_zero()).unwrap_or(Duration::from_secs(7 * 24 * 3600));
        for (target, uid) in &waiting {
            wait::until(&session, target, &Until::Gone { uid: uid.clone() }, limit).await?;
        }
    }
    super::get::finish(failures)
}

/// `pod "web"`, as kubectl says it.
fn quoted(title: &str) -> String {
    title.split_once('/').map_or_else(|| title.to_owned(), |(kind, name)| format!("{kind} {name:?}"))
}

fn options(args: &DeleteArgs) -> Value {
    let policy = match args.cascade.as_str() {
        "orphan" => "Orphan",
        "foreground" => "Foreground",
        _ => "Background",
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = if args.force { Some(args.grace_period.unwrap_or(0)) } else { args.grace_period };
    if let Some(grace) = grace {
        // Zero without --force means "as soon as possible, but let it say goodbye", as with kubectl.
        options["gracePeriodSeconds"] = if grace == 0 && !args.force { 1 } else { grace }.into();
    }
    options
}
