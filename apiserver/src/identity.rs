//! Who sends a request.

use std::collections::BTreeMap;

/// A user and the groups that the user is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User name, for example the common name of a client certificate.
    pub user: String,
    /// Group names, for example the organisations of a client certificate.
    pub groups: Vec<String>,
    /// Tells apart users who had the same name one after the other; empty if nobody can.
    pub uid: String,
    /// What else is known of the user.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The user of requests without credentials.
const ANONYMOUS: &str = "system:anonymous";
/// Everybody with credentials is in this group.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

impl Identity {
    /// A user with credentials.
    pub fn user(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Identity {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Identity { user: user.into(), groups, uid: String::new(), extra: BTreeMap::new() }
    }

    /// Somebody who may do everything.
    pub fn admin() -> Identity {
        Identity::user("admin", ["system:masters"])
    }

    /// Somebody without credentials.
    pub fn anonymous() -> Identity {
        Identity {
            user: ANONYMOUS.to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            uid: String::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Whether there were no credentials.
    pub fn is_anonymous(&self) -> bool {
        self.user == ANONYMOUS
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }
}
