//! Who owns which fields: `metadata.managedFields`, decoded.

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use manifests::k8s_openapi::jiff::Timestamp;

use super::set::Set;

/// How a manager came to own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// By saying which fields it wants to own.
    Apply,
    /// By changing them.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// One owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) operation: Operation,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
}

impl Manager {
    /// Whether two are one and the same owner. Who applies stays the same when it moves on to another version.
    pub(crate) fn is(&self, other: &Manager) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// An owner's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) manager: Manager,
    pub(crate) fields: Set,
    /// When it last changed something.
    pub(crate) time: Option<Timestamp>,
}

/// All owners of an object's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Managers(pub(crate) Vec<Owned>);

/// More managers than this that update are summed up: the oldest ones.
pub(super) const MAX_UPDATERS: usize = 10;
/// Under this name.
const ANCIENT: &str = "ancient-changes";

impl Managers {
    /// Reads the entries of an object. The error says what is wrong with them.
    pub(crate) fn decode(entries: &[ManagedFieldsEntry]) -> Result<Managers, String> {
        let mut managers = Managers::default();
        for (index, entry) in entries.iter().enumerate() {
            let operation = match entry.operation.as_deref() {
                Some("Apply") => Operation::Apply,
                Some("Update") => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let api_version = entry.api_version.clone().unwrap_or_default();
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match entry.fields_type.as_deref().unwrap_or_default() {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
                other => {
                    let other = manifests::go::quote(other);
                    return Err(format!("invalid fieldsType {other} in managed fields entry {index}"));
                }
            }
            let fields = entry
                .fields_v1
                .as_ref()
                .map_or_else(|| Ok(Set::default()), |fields| Set::from_value(&fields.0))?;
            let manager = Manager {
                name: entry.manager.clone().unwrap_or_default(),
                operation,
                api_version,
                subresource: entry.subresource.clone().unwrap_or_default(),
            };
            managers.set(Owned { manager, fields, time: entry.time.as_ref().map(|time| time.0) });
        }
        Ok(managers)
    }

    /// The entries, in upstream's order.
    pub(crate) fn encode(mut self) -> Option<Vec<ManagedFieldsEntry>> {
        let seconds = |owned: &Owned| owned.time.map_or(0, |time| time.as_second());
        self.0.sort_by(|a, b| {
            let key = |owned: &Owned| (owned.manager.operation, seconds(owned));
            let names = |owned: &Owned| {
                [
                    owned.manager.name.clone(),
                    owned.manager.api_version.clone(),
                    owned.manager.subresource.clone(),
                ]
            };
            key(a).cmp(&key(b)).then_with(|| names(a).cmp(&names(b)))
        });
        let entries: Vec<_> = self
            .0
            .into_iter()
            .map(|owned| ManagedFieldsEntry {
                manager: Some(owned.manager.name).filter(|name| !name.is_empty()),
                operation: Some(owned.manager.operation.name().to_owned()),
                api_version: Some(owned.manager.api_version),
                subresource: Some(owned.manager.subresource).filter(|name| !name.is_empty()),
                time: owned.time.map(Time),
                fields_type: Some("FieldsV1".to_owned()),
                fields_v1: Some(FieldsV1(owned.fields.to_value())),
            })
            .collect();
        (!entries.is_empty()).then_some(entries)
    }

    pub(crate) fn get(&self, manager: &Manager) -> Option<&Owned> {
        self.0.iter().find(|owned| owned.manager.is(manager))
    }

    /// Replaces what an owner has.
    pub(crate) fn set(&mut self, owned: Owned) {
        match self.0.iter_mut().find(|have| have.manager.is(&owned.manager)) {
            Some(have) => *have = owned,
            None => self.0.push(owned),
        }
    }

    /// Owners of nothing are none.
    pub(crate) fn drop_empty(&mut self) {
        self.0.retain(|owned| !owned.fields.is_empty());
    }

    /// Sums the oldest updaters up when there are too many of them.
    pub(crate) fn cap(&mut self) {
        let updates = |owned: &Owned| owned.manager.operation == Operation::Update;
        let mut count = self.0.iter().filter(|owned| updates(owned)).count();
        if count <= MAX_UPDATERS {
            return;
        }
        let (mut updaters, mut kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(updates);
        updaters
            .sort_by_key(|owned| (owned.time.map_or(0, |time| time.as_second()), owned.manager.name.clone()));
        // Of each version, the first that is over joins with the second; one alone stays what it is.
        let mut buckets: Vec<(Owned, bool)> = Vec::new();
        for owned in updaters {
            let version = &owned.manager.api_version;
            if count <= MAX_UPDATERS {
                kept.push(owned);
            } else if let Some((bucket, joined)) =
                buckets.iter_mut().find(|(bucket, _)| bucket.manager.api_version == *version)
            {
                *joined = true;
                bucket.fields.extend(owned.fields);
                bucket.time = owned.time;
                count -= 1;
            } else {
                buckets.push((owned, false));
            }
        }
        self.0 = kept;
        for (mut bucket, joined) in buckets {
            if joined {
                bucket.manager.name = ANCIENT.to_owned();
                bucket.manager.subresource = String::new();
            }
            match self.0.iter_mut().find(|have| have.manager.is(&bucket.manager)) {
                Some(have) => have.fields.extend(bucket.fields),
                None => self.0.push(bucket),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updater(name: &str, second: i64) -> Owned {
        Owned {
            manager: Manager {
                name: name.to_owned(),
                operation: Operation::Update,
                api_version: "v1".to_owned(),
                subresource: String::new(),
            },
            fields: Set::of_fields(&["data", name]),
            time: Timestamp::from_second(second).ok(),
        }
    }

    #[test]
    fn there_are_not_more_than_ten_updaters() {
        let mut managers = Managers((0..13).map(|n| updater(&format!("m{n:02}"), n)).collect());
        managers.cap();
        assert_eq!(managers.0.len(), MAX_UPDATERS);
        let ancient = managers.0.iter().find(|owned| owned.manager.name == ANCIENT).unwrap();
        assert_eq!(ancient.fields.paths(), [".data.m00", ".data.m01", ".data.m02", ".data.m03"]);
        let again = managers.clone();
        managers.cap();
        assert_eq!(managers, again);
    }

    #[test]
    fn entries_there_and_back() {
        let managers = Managers(vec![updater("b", 5), updater("a", 7)]);
        let entries = managers.clone().encode().unwrap();
        assert_eq!(Managers::decode(&entries), Ok(managers));
        let mut broken = entries.clone();
        broken[0].fields_type = None;
        assert_eq!(Managers::decode(&broken), Err("missing fieldsType in managed fields entry 0".to_owned()));
        broken[0].operation = Some("Patch".to_owned());
        assert!(Managers::decode(&broken).is_err());
        assert_eq!(Managers::default().encode(), None);
    }
}
