//! `coracle rollout`: the revisions of a Deployment, which are its ReplicaSets.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::output::align;
use super::resources::query;
use super::targets::{self, Selection, Target};
use super::{Resource, Session, print, say, wait};
use crate::flags::ApiArgs;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle rollout status deployment/web\n  coracle rollout history deployment/web\n  \
                        coracle rollout undo deployment/web --to-revision 2\n  coracle rollout restart deployment/web"
)]
pub(crate) struct RolloutArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Follow a rollout to its end
    Status(StatusArgs),
    /// Show the revisions that there are, or one of them
    History(HistoryArgs),
    /// Go back to an earlier revision
    Undo(UndoArgs),
    /// Replace all pods by new ones
    Restart(OneArgs),
}

#[derive(Debug, Args)]
struct OneArgs {
    /// deployment/NAME, or deployment NAME
    #[arg(value_name = "RESOURCE", required = true, num_args = 1..=2)]
    resource: Vec<String>,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Give up after this time, such as 30s or 2m
    #[arg(long, value_name = "TIME", value_parser = wait::duration)]
    timeout: Option<Duration>,
    /// Only say how it is now
    #[arg(long)]
    no_watch: bool,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Show the pods of this revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
}

#[derive(Debug, Args)]
struct UndoArgs {
    #[command(flatten)]
    one: OneArgs,
    /// The revision to go back to [default: the one before]
    #[arg(long, value_name = "N")]
    to_revision: Option<u64>,
}

/// The Deployment that is meant.
struct Meant {
    session: Session,
    target: Target,
    resource: Resource,
    name: String,
    path: String,
}

impl Meant {
    async fn of(args: &OneArgs) -> anyhow::Result<Self> {
        let session = Session::open(&args.api)?;
        let target =
            targets::parse(&session, &args.resource, &Selection::default()).await?.into_iter().next();
        let Some(Target::Named { resource, namespace, name }) = &target else {
            bail!("give the name of the Deployment, such as deployment/web")
        };
        if resource.kind != "Deployment" {
            bail!("{} has no rollouts: only Deployments have", resource.title(name));
        }
        let (resource, name, path) = (resource.clone(), name.clone(), resource.object(namespace, name));
        let target = target.clone().context("it was there")?;
        Ok(Self { session, resource, name, path, target })
    }

    async fn get(&self) -> anyhow::Result<Value> {
        Ok(self.session.get(&self.path).await?)
    }

    async fn patch(&self, patch: &Value) -> anyhow::Result<()> {
        let body = Some(("application/merge-patch+json", patch));
        self.session.json(Method::PATCH, &self.path, body, "application/json").await?;
        Ok(())
    }

    /// Its ReplicaSets by revision, the oldest first.
    async fn revisions(&self, deployment: &Value) -> anyhow::Result<Vec<(u64, Value)>> {
        let sets = self.session.resource("replicasets").await?;
        let namespace = deployment["metadata"]["namespace"].as_str().unwrap_or_default();
        let labels = deployment["spec"]["selector"]["matchLabels"].as_object();
        let labels: Vec<String> = labels
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let labels = labels.join(",");
        let path = sets.collection(Some(namespace)) + &query(&[("labelSelector", Some(&labels))]);
        let found = targets::items(sets, self.session.get(&path).await?);
        Ok(of_deployment(&deployment["metadata"]["uid"], found))
    }
}

fn revision(object: &Value) -> Option<u64> {
    object["metadata"]["annotations"][REVISION].as_str()?.parse().ok()
}

fn of_deployment(uid: &Value, sets: Vec<Value>) -> Vec<(u64, Value)> {
    let owned = |set: &Value| {
        let owners = set["metadata"]["ownerReferences"].as_array();
        owners.into_iter().flatten().any(|owner| owner["controller"] == true && owner["uid"] == *uid)
    };
    let sets = sets.into_iter().filter(|set| owned(set));
    let mut revisions: Vec<(u64, Value)> = sets.filter_map(|set| Some((revision(&set)?, set))).collect();
    revisions.sort_by_key(|(number, _)| *number);
    revisions
}

pub(crate) async fn run(args: RolloutArgs) -> anyhow::Result<()> {
    match args.what {
        What::Status(args) => status(args).await,
        What::History(args) => history(args).await,
        What::Undo(args) => undo(args).await,
        What::Restart(args) => restart(args).await,
    }
}

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Done(String),
    Underway(String),
    Stuck(String),
}

/// Follows `DeploymentStatusViewer` of kubectl.
fn progress(deployment: &Value) -> Progress {
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let number = |value: &Value, otherwise: i64| value.as_i64().unwrap_or(otherwise);
    let status = &deployment["status"];
    if number(&deployment["metadata"]["generation"], 0) > number(&status["observedGeneration"], 0) {
        return Progress::Underway("Waiting for deployment spec update to be observed...".to_owned());
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let late = conditions
        .filter(|condition| condition["type"] == "Progressing")
        .any(|condition| condition["reason"] == "ProgressDeadlineExceeded");
    if late {
        return Progress::Stuck(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let wanted = number(&deployment["spec"]["replicas"], 1);
    let [all, updated, available] =
        ["replicas", "updatedReplicas", "availableReplicas"].map(|field| number(&status[field], 0));
    let waiting = |what: String| {
        Progress::Underway(format!("Waiting for deployment {name:?} rollout to finish: {what}..."))
    };
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if all > updated {
        return waiting(format!("{} old replicas are pending termination", all - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Progress::Done(format!("deployment {name:?} successfully rolled out"))
}

async fn status(args: StatusArgs) -> anyhow::Result<()> {
    let meant = Meant::of(&args.one).await?;
    let mut last = String::new();
    let mut seen = |object: Option<&Value>| {
        let Some(object) = object else { bail!("{} not found", meant.resource.title(&meant.name)) };
        let (line, done) = match progress(object) {
            Progress::Done(line) => (line, true),
            Progress::Underway(line) => (line, false),
            Progress::Stuck(why) => bail!("{why}"),
        };
        if line != last {
            say(&line)?;
            last = line;
        }
        Ok(done || args.no_watch)
    };
    let following = wait::follow(&meant.session, &meant.target, &mut seen);
    match args.timeout {
        None => following.await,
        Some(limit) => match tokio::time::timeout(limit, following).await {
            Ok(result) => result,
            Err(_) => bail!("timed out waiting for the condition on {}", meant.resource.title(&meant.name)),
        },
    }
}

async fn history(args: HistoryArgs) -> anyhow::Result<()> {
    let meant = Meant::of(&args.one).await?;
    let revisions = meant.revisions(&meant.get().await?).await?;
    let title = meant.resource.title(&meant.name);
    if let Some(wanted) = args.revision {
        let found = revisions.iter().find(|(number, _)| *number == wanted);
        let (_, set) =
            found.with_context(|| format!("unable to find the specified revision {wanted} of {title}"))?;
        say(format_args!("{title} with revision #{wanted}"))?;
        return print(&serde_yaml::to_string(&template(set))?);
    }
    let mut rows = vec![["REVISION", "CHANGE-CAUSE"].map(str::to_owned).to_vec()];
    rows.extend(revisions.iter().map(|(number, set)| {
        let cause = set["metadata"]["annotations"][CAUSE].as_str().unwrap_or("<none>");
        vec![number.to_string(), cause.to_owned()]
    }));
    say(&title)?;
    print(&align(&rows))
}

/// The pods of a revision, as the Deployment would have them.
fn template(set: &Value) -> Value {
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    template
}

async fn undo(args: UndoArgs) -> anyhow::Result<()> {
    let meant = Meant::of(&args.one).await?;
    let deployment = meant.get().await?;
    let title = meant.resource.title(&meant.name);
    if deployment["spec"]["paused"] == true {
        bail!("you cannot rollback a paused deployment; resume it first by setting spec.paused to false");
    }
    let revisions = meant.revisions(&deployment).await?;
    let found = match args.to_revision {
        Some(0) | None => revisions.iter().rev().nth(1),
        Some(wanted) => revisions.iter().find(|(number, _)| *number == wanted),
    };
    let Some((_, set)) = found else {
        match args.to_revision {
            Some(wanted) => bail!(
                "unable to find specified revision {wanted} in history of {title}: see `coracle rollout history {title}`"
            ),
            None => bail!("no rollout history found for {title}"),
        }
    };
    let wanted = template(set);
    if wanted == deployment["spec"]["template"] {
        return say(format_args!(
            "{title} skipped rollback (current template already matches revision {})",
            revision(set).unwrap_or(0)
        ));
    }
    // What is not in the old template has to go, so the whole is replaced and not merged.
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": wanted}]);
    let body = Some(("application/json-patch+json", &patch));
    meant.session.json(Method::PATCH, &meant.path, body, "application/json").await?;
    say(format_args!("{title} rolled back"))
}

async fn restart(args: OneArgs) -> anyhow::Result<()> {
    let meant = Meant::of(&args).await?;
    if meant.get().await?["spec"]["paused"] == true {
        bail!("can't restart paused deployment (set spec.paused to false first)");
    }
    let now = std::time::SystemTime::now();
    let now = manifests::k8s_openapi::jiff::Timestamp::try_from(now).context("reading the clock")?;
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
    meant.patch(&json!({"spec": {"template": {"metadata": {"annotations": annotations}}}})).await?;
    say(format_args!("{} restarted", meant.resource.title(&meant.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_goes_through_its_stages() {
        let deployment = |status: Value| json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        let check = |status: Value, expected: Progress| assert_eq!(progress(&deployment(status)), expected);
        let underway = |text: &str| Progress::Underway(text.to_owned());
        check(
            json!({"observedGeneration": 1}),
            underway("Waiting for deployment spec update to be observed..."),
        );
        let now = |all: i64, updated: i64, available: i64| json!({"observedGeneration": 2, "replicas": all, "updatedReplicas": updated, "availableReplicas": available});
        let waiting = "Waiting for deployment \"web\" rollout to finish: ";
        check(now(3, 1, 3), underway(&format!("{waiting}1 out of 3 new replicas have been updated...")));
        check(now(4, 3, 3), underway(&format!("{waiting}1 old replicas are pending termination...")));
        check(now(3, 3, 2), underway(&format!("{waiting}2 of 3 updated replicas are available...")));
        check(now(3, 3, 3), Progress::Done("deployment \"web\" successfully rolled out".to_owned()));
        let late = json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]});
        check(late, Progress::Stuck("deployment \"web\" exceeded its progress deadline".to_owned()));
    }

    #[test]
    fn revisions_are_the_replica_sets_that_it_owns() {
        let set = |uid: &str, revision: &str| {
            json!({"metadata": {"annotations": {REVISION: revision},
                   "ownerReferences": [{"uid": uid, "controller": true}]},
                   "spec": {"template": {"metadata": {"labels": {"app": "web", "pod-template-hash": "x"}}}}})
        };
        let found =
            of_deployment(&json!("a"), vec![set("a", "10"), set("b", "3"), set("a", "9"), set("a", "?")]);
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [9, 10]);
        assert_eq!(template(&found[0].1), json!({"metadata": {"labels": {"app": "web"}}}));
    }
}
