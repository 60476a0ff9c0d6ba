//! `coracle scale`

use anyhow::bail;
use clap::Args;
use http::Method;
use serde_json::json;

use super::targets::{self, Selection, Target};
use super::{Session, say};
use crate::flags::ApiArgs;

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// TYPE NAME or TYPE/NAME…
    #[arg(value_name = "RESOURCE", required = true)]
    resources: Vec<String>,
    /// How many there shall be
    #[arg(long, value_name = "N")]
    replicas: u32,
    /// Only if there are so many now
    #[arg(long, value_name = "N")]
    current_replicas: Option<u32>,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: ScaleArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    for target in targets::parse(&session, &args.resources, &Selection::default()).await? {
        let Target::Named { resource, namespace, name } = target else {
            bail!("give the name of what to scale")
        };
        let path = resource.object(&namespace, &name) + "/scale";
        if let Some(expected) = args.current_replicas {
            let scale = session.get(&path).await?;
            let current = scale["spec"]["replicas"].as_u64().unwrap_or(0);
            if current != u64::from(expected) {
                bail!("Expected replicas to be {expected}, was {current}");
            }
        }
        let patch = json!({"spec": {"replicas": args.replicas}});
        session
            .json(Method::PATCH, &path, Some(("application/merge-patch+json", &patch)), "application/json")
            .await?;
        say(format_args!("{} scaled", resource.title(&name)))?;
    }
    Ok(())
}
