//! What becomes of an object because of its owners, and of its dependents because of it.

use client::Propagation;

use super::graph::Key;
use super::observe::{Observed, Owner};

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Deletes the object.
    Delete(Propagation),
    /// Takes owners that are gone off the object.
    DropOwners(Vec<String>),
    /// Takes this object off a dependent.
    Orphan(Key),
    /// Takes a finalizer off the object.
    DropFinalizer(&'static str),
}

pub(super) fn decide(observed: &Observed) -> Vec<Action> {
    if observed.metadata.deletion_timestamp.is_some() { leaving(observed) } else { owned(observed) }
}

/// An object on its way out lets its dependents go first, in the manner that its finalizers say.
fn leaving(observed: &Observed) -> Vec<Action> {
    let has = |name: &str| observed.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name);
    if has(ORPHAN) {
        let mut actions: Vec<Action> =
            observed.dependents.iter().map(|dependent| Action::Orphan(dependent.key.clone())).collect();
        if actions.is_empty() {
            actions.push(Action::DropFinalizer(ORPHAN));
        }
        return actions;
    }
    if has(FOREGROUND) && !observed.dependents.iter().any(|dependent| dependent.blocks) {
        return vec![Action::DropFinalizer(FOREGROUND)];
    }
    Vec::new()
}

/// An object lives as long as one of its owners.
fn owned(observed: &Observed) -> Vec<Action> {
    let of = |wanted: Owner| observed.owners.iter().filter(move |(_, state)| *state == wanted);
    // Whoever cannot be judged might be there.
    let alive = of(Owner::Solid).count() + of(Owner::Unknown).count();
    let gone: Vec<String> = of(Owner::Absent).map(|(owner, _)| owner.uid.clone()).collect();
    let waiting: Vec<String> = of(Owner::Waiting).map(|(owner, _)| owner.uid.clone()).collect();
    if gone.is_empty() && waiting.is_empty() {
        return Vec::new();
    }
    if alive > 0 {
        return vec![Action::DropOwners([gone, waiting].concat())];
    }
    let has = |name: &str| observed.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name);
    let propagation = if !waiting.is_empty() && !observed.dependents.is_empty() {
        // The owner waits for this object, which has to wait for its own dependents.
        Propagation::Foreground
    } else if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    vec![Action::Delete(propagation)]
}

#[cfg(test)]
mod tests {
    use client::ObjectKey;
    use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
    use manifests::k8s_openapi::jiff::Timestamp;

    use super::super::observe::Dependent;
    use super::*;

    fn owners(states: &[Owner]) -> Vec<(OwnerReference, Owner)> {
        let owner = |(index, state): (usize, &Owner)| {
            (OwnerReference { uid: index.to_string(), ..OwnerReference::default() }, *state)
        };
        states.iter().enumerate().map(owner).collect()
    }

    fn leaving(finalizers: &[&str], blocks: &[bool]) -> Observed {
        let dependent = |(index, blocks): (usize, &bool)| Dependent {
            key: Key { kind: index, object: ObjectKey::new("default", "d") },
            blocks: *blocks,
        };
        Observed {
            metadata: ObjectMeta {
                deletion_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
                finalizers: Some(finalizers.iter().map(|name| (*name).to_owned()).collect()),
                ..ObjectMeta::default()
            },
            owners: Vec::new(),
            dependents: blocks.iter().enumerate().map(dependent).collect(),
        }
    }

    #[track_caller]
    fn check(states: &[Owner], expected: &[Action]) {
        assert_eq!(
            decide(&Observed { owners: owners(states), ..Observed::default() }),
            expected,
            "{states:?}"
        );
    }

    #[test]
    fn an_object_lives_as_long_as_one_of_its_owners() {
        check(&[], &[]);
        check(&[Owner::Solid], &[]);
        check(&[Owner::Absent], &[Action::Delete(Propagation::Background)]);
        check(&[Owner::Absent, Owner::Absent], &[Action::Delete(Propagation::Background)]);
        check(&[Owner::Absent, Owner::Solid], &[Action::DropOwners(vec!["0".to_owned()])]);
        check(&[Owner::Waiting], &[Action::Delete(Propagation::Background)]);
        check(&[Owner::Waiting, Owner::Solid], &[Action::DropOwners(vec!["0".to_owned()])]);
    }

    #[test]
    fn what_cannot_be_judged_is_left_alone() {
        check(&[Owner::Unknown], &[]);
        check(&[Owner::Unknown, Owner::Absent], &[Action::DropOwners(vec!["1".to_owned()])]);
    }

    #[test]
    fn a_foreground_owner_waits_for_those_that_block_it() {
        assert_eq!(decide(&leaving(&[FOREGROUND], &[true, false])), []);
        assert_eq!(decide(&leaving(&[FOREGROUND], &[false])), [Action::DropFinalizer(FOREGROUND)]);
        assert_eq!(decide(&leaving(&[FOREGROUND], &[])), [Action::DropFinalizer(FOREGROUND)]);
    }

    #[test]
    fn an_orphaning_owner_lets_go_of_all_first() {
        assert_eq!(decide(&leaving(&[ORPHAN], &[false, true])).len(), 2);
        assert_eq!(decide(&leaving(&[ORPHAN], &[])), [Action::DropFinalizer(ORPHAN)]);
        assert_eq!(decide(&leaving(&["example.com/other"], &[true])), []);
    }
}
