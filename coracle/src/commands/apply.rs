//! `coracle apply`

use anyhow::Context;
use clap::Args;
use http::Method;
use manifests::strategic;
use manifests::yaml::Position;
use serde_json::Value;

use super::resources::query;
use super::three_way::{self, LAST_APPLIED};
use super::{FileArgs, Manifest, Session, say};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle apply -f pod.yaml\n  coracle apply -f examples/hello\n  cat pod.yaml | coracle apply -f -"
)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Let the server check everything, and store nothing
    #[arg(long, num_args = 0..=1, default_missing_value = "server", value_parser = ["server", "none"])]
    dry_run: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    if args.files.filenames.is_empty() {
        anyhow::bail!("must specify one of -f: the files to apply");
    }
    // Everything is read before anything is written: a broken file at the end leaves the cluster as it was.
    let manifests = args.files.load()?;
    let session = Session::open(&args.api)?;
    let dry_run = args.dry_run.as_deref() == Some("server");
    let mut failed = 0;
    for manifest in &manifests {
        if let Err(error) = apply(&session, manifest, dry_run).await {
            failed += 1;
            let document = &manifest.document;
            let place = format!(
                "{}:{}",
                document.source(),
                located(&error, manifest).unwrap_or_else(|| document.start())
            );
            eprintln!("{}", crate::error_line(&error.context(place)));
        }
    }
    if failed > 0 {
        anyhow::bail!("{failed} of {} objects were not applied", manifests.len());
    }
    Ok(())
}

async fn apply(session: &Session, manifest: &Manifest, dry_run: bool) -> anyhow::Result<()> {
    let resource = session.resource_of(&manifest.api_version, &manifest.kind).await?;
    let namespace = manifest.namespace.as_deref().unwrap_or(&session.namespace);
    let path = resource.object(namespace, &manifest.name);
    let suffix = if dry_run { " (server dry run)" } else { "" };
    let title = resource.title(&manifest.name);
    let desired = three_way::annotated(&manifest.object, resource.namespaced, namespace)?;
    let options = query(&[
        ("fieldManager", Some("coracle-apply")),
        ("fieldValidation", Some("Strict")),
        ("dryRun", dry_run.then_some("All")),
    ]);
    let live = match session.get(&path).await {
        Ok(live) => live,
        Err(error) if error.is_not_found() => {
            let collection = resource.collection(Some(namespace)) + &options;
            session
                .json(Method::POST, &collection, Some(("application/json", &desired)), "application/json")
                .await?;
            return say(format_args!("{title} created{suffix}"));
        }
        Err(error) => return Err(error.into()),
    };
    let last: Value = match live["metadata"]["annotations"][LAST_APPLIED].as_str() {
        Some(text) => serde_json::from_str(text)
            .with_context(|| format!("the annotation {LAST_APPLIED} is not JSON"))?,
        None => Value::Null,
    };
    let type_name = strategic::type_name(&resource.group, &resource.version, &resource.kind);
    let patch = three_way::patch(&type_name, &last, &desired);
    let content_type = "application/strategic-merge-patch+json";
    let answer = session
        .json(Method::PATCH, &(path + &options), Some((content_type, &patch)), "application/json")
        .await?;
    let changed = answer["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]
        || differs(&live, &answer);
    say(format_args!("{title} {}{suffix}", if changed { "configured" } else { "unchanged" }))
}

/// Where in the file the first field is that the server complains about.
fn located(error: &anyhow::Error, manifest: &Manifest) -> Option<Position> {
    let status = error.downcast_ref::<client::Error>()?.status()?;
    let causes = status.details.as_ref()?.causes.as_ref()?;
    let field = causes.iter().find_map(|cause| cause.field.as_deref())?;
    Some(manifest.document.position(field))
}

/// A dry run leaves the version as it is, so the content tells.
fn differs(before: &Value, after: &Value) -> bool {
    let content = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            metadata.remove("resourceVersion");
        }
        object
    };
    content(before) != content(after)
}
