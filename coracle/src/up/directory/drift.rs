//! Watching what was written: an object that somebody changes or deletes is brought back to its file at once.
//!
//! One watch per kind that files have, of metadata only. What changes a specification changes a number in the metadata
//! (`generation`), so a status that is written, which is most of what happens, is no news.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use agent::sources::manifest::ObjectId;
use client::watcher::{Event, Params, Watcher};
use client::{Api, ApiResource, Client, PartialObject};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// News that may wait; then the watches wait.
const WAITING: usize = 64;

/// API version and kind.
type Kind = (String, String);

/// What was seen of objects of a kind.
#[derive(Debug)]
pub(super) struct News {
    kind: Kind,
    /// By namespace (if there is one) and name: a number that changes when the object does, or that it is gone.
    seen: BTreeMap<(Option<String>, String), Option<u64>>,
    /// There are no others of this kind.
    complete: bool,
}

/// Watches over the objects of files.
#[derive(Debug)]
pub(super) struct Drift {
    client: Client,
    watches: BTreeMap<Kind, Watch>,
    tasks: JoinSet<()>,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    /// How objects were when they were last looked at.
    known: BTreeMap<ObjectId, u64>,
}

#[derive(Debug)]
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drift {
    pub(super) fn new(client: Client) -> Self {
        let (sender, news) = mpsc::channel(WAITING);
        Self { client, watches: BTreeMap::new(), tasks: JoinSet::new(), sender, news, known: BTreeMap::new() }
    }

    /// Watches objects like this one.
    pub(super) fn follow(&mut self, id: &ObjectId, resource: ApiResource) {
        let kind = (id.api_version.clone(), id.kind.clone());
        if self.watches.contains_key(&kind) {
            return;
        }
        // Those that were given up.
        while self.tasks.try_join_next().is_some() {}
        let api = Api::<PartialObject>::metadata(self.client.clone(), resource, None);
        let task = self.tasks.spawn(watch(api, kind.clone(), self.sender.clone()));
        self.watches.insert(kind, Watch(task));
    }

    /// Forgets kinds and objects that no file has.
    pub(super) fn keep(&mut self, wanted: &BTreeMap<ObjectId, u64>) {
        let kinds: BTreeSet<Kind> =
            wanted.keys().map(|id| (id.api_version.clone(), id.kind.clone())).collect();
        self.watches.retain(|kind, _| kinds.contains(kind));
        self.known.retain(|id, _| wanted.contains_key(id));
    }

    /// Waits for news. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }

    /// Which objects of files are not as they were.
    pub(super) fn drifted(&mut self, news: &News, wanted: &BTreeMap<ObjectId, u64>) -> Vec<ObjectId> {
        drifted(&mut self.known, news, wanted)
    }
}

fn drifted(
    known: &mut BTreeMap<ObjectId, u64>,
    news: &News,
    wanted: &BTreeMap<ObjectId, u64>,
) -> Vec<ObjectId> {
    let mut drifted = Vec::new();
    for id in wanted.keys().filter(|id| (&id.api_version, &id.kind) == (&news.kind.0, &news.kind.1)) {
        let key = |namespace: Option<String>| (namespace, id.name.clone());
        // Files of kinds without namespaces have one all the same.
        let seen = news.seen.get(&key(Some(id.namespace.clone()))).or_else(|| news.seen.get(&key(None)));
        let now = match seen {
            Some(now) => *now,
            None if news.complete => None,
            None => continue,
        };
        let before = match now {
            Some(now) => known.insert(id.clone(), now),
            None => known.remove(id),
        };
        if now.is_none() || before != now {
            drifted.push(id.clone());
        }
    }
    drifted
}

async fn watch(api: Api<PartialObject>, kind: Kind, news: mpsc::Sender<News>) {
    let mut watcher = Watcher::new(api, Params::default());
    loop {
        let event = watcher.next().await;
        let complete = matches!(event, Event::Restarted(_));
        let seen = match event {
            Event::Restarted(objects) => objects.iter().map(|object| seen(&object.metadata)).collect(),
            Event::Applied(object) => BTreeMap::from([seen(&object.metadata)]),
            Event::Deleted(object) => BTreeMap::from([(seen(&object.metadata).0, None)]),
        };
        if news.send(News { kind: kind.clone(), seen, complete }).await.is_err() {
            return;
        }
    }
}

fn seen(meta: &ObjectMeta) -> ((Option<String>, String), Option<u64>) {
    let mut hasher = DefaultHasher::new();
    meta.uid.hash(&mut hasher);
    match meta.generation.filter(|generation| *generation > 0) {
        Some(generation) => (generation, &meta.labels, &meta.annotations).hash(&mut hasher),
        // Kinds without it change seldom.
        None => meta.resource_version.hash(&mut hasher),
    }
    ((meta.namespace.clone(), meta.name.clone().unwrap_or_default()), Some(hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: &str, name: &str) -> ObjectId {
        ObjectId {
            api_version: "v1".into(),
            kind: kind.into(),
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn news(kind: &str, seen: &[(Option<&str>, &str, Option<u64>)], complete: bool) -> News {
        let seen = seen
            .iter()
            .map(|(namespace, name, now)| ((namespace.map(str::to_owned), (*name).to_owned()), *now));
        News { kind: ("v1".into(), kind.into()), seen: seen.collect(), complete }
    }

    #[test]
    fn what_is_not_as_it_was() {
        let mut known = BTreeMap::new();
        let wanted =
            BTreeMap::from([(id("ConfigMap", "a"), 1), (id("ConfigMap", "b"), 1), (id("Namespace", "n"), 1)]);
        let mut check = |news: News, expected: &[&str]| {
            let names: Vec<String> =
                drifted(&mut known, &news, &wanted).into_iter().map(|id| id.name).collect();
            assert_eq!(names, expected, "{news:?}");
        };
        let of = Some("default");
        check(news("ConfigMap", &[(of, "a", Some(1)), (Some("other"), "b", Some(1))], true), &["a", "b"]);
        check(news("ConfigMap", &[(of, "a", Some(1)), (of, "b", Some(1))], true), &["b"]);
        check(news("ConfigMap", &[(of, "a", Some(1))], false), &[]);
        check(news("ConfigMap", &[(of, "a", Some(2))], false), &["a"]);
        check(news("ConfigMap", &[(of, "b", None)], false), &["b"]);
        check(news("ConfigMap", &[(of, "c", None)], false), &[]);
        check(news("Namespace", &[(None, "n", Some(7))], false), &["n"]);
        check(news("Namespace", &[(None, "n", Some(7))], false), &[]);
        check(news("Secret", &[(of, "a", Some(3))], true), &[]);
    }
}
