//! From one table to the next: what to do to the listeners.

use super::{Entrance, Forward, Table};

/// A step from one table to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerChange {
    /// Nobody listens any more: new connections are refused, those that exist go on.
    Close(Entrance),
    /// The same listener leads elsewhere; connections that exist go on.
    Update(Entrance, Forward),
    /// A new listener.
    Open(Entrance, Forward),
}

/// The steps from `old` to `new`. Closing comes first, so that an address that moves is free when it is opened.
pub fn diff(old: &Table, new: &Table) -> Vec<ListenerChange> {
    let closed = old
        .forwards
        .keys()
        .filter(|entrance| !new.forwards.contains_key(entrance))
        .map(|entrance| ListenerChange::Close(*entrance));
    let others = new.forwards.iter().filter_map(|(entrance, forward)| match old.forwards.get(entrance) {
        Some(before) if before == forward => None,
        Some(_) => Some(ListenerChange::Update(*entrance, forward.clone())),
        None => Some(ListenerChange::Open(*entrance, forward.clone())),
    });
    closed.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Place, Protocol, ServiceName};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entrance(port: u16) -> Entrance {
        Entrance {
            place: Place::Services,
            protocol: Protocol::Tcp,
            address: "10.43.0.1".parse().unwrap(),
            port,
        }
    }

    fn forward(backend: u16) -> Forward {
        Forward {
            service: ServiceName { namespace: "default".into(), name: "web".into() },
            backends: vec![([10, 42, 0, 2], backend).into()],
            affinity_seconds: None,
        }
    }

    fn table(entries: impl IntoIterator<Item = (u16, u16)>) -> Table {
        let forwards =
            entries.into_iter().map(|(port, backend)| (entrance(port), forward(backend))).collect();
        Table { forwards, names: BTreeMap::new() }
    }

    #[test]
    fn steps() {
        let old = table([(1, 1), (2, 2), (3, 3)]);
        let new = table([(2, 2), (3, 4), (5, 5)]);
        let expected = [
            ListenerChange::Close(entrance(1)),
            ListenerChange::Update(entrance(3), forward(4)),
            ListenerChange::Open(entrance(5), forward(5)),
        ];
        assert_eq!(diff(&old, &new), expected);
        assert_eq!(diff(&new, &new), []);
    }

    proptest! {
        #[test]
        fn doing_the_steps_makes_the_new_table(
            old in prop::collection::btree_map(0u16..20, 0u16..3, 0..15),
            new in prop::collection::btree_map(0u16..20, 0u16..3, 0..15),
        ) {
            let (mut old, new) = (table(old), table(new));
            for change in diff(&old.clone(), &new) {
                match change {
                    ListenerChange::Close(entrance) => prop_assert!(old.forwards.remove(&entrance).is_some()),
                    ListenerChange::Update(entrance, forward) => {
                        prop_assert!(old.forwards.insert(entrance, forward).is_some());
                    }
                    ListenerChange::Open(entrance, forward) => {
                        prop_assert!(old.forwards.insert(entrance, forward).is_none());
                    }
                }
            }
            prop_assert_eq!(&old, &new);
            prop_assert_eq!(diff(&old, &new), []);
        }
    }
}
