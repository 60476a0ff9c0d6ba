//! Whose lease is it?

use std::time::Duration;

use manifests::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use tokio::time::Instant;

/// The lease as last seen to change.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    spec: Option<LeaseSpec>,
    changed: Instant,
}

impl Observed {
    /// Keeps the time of the last change; a lease that looks the same has not been renewed.
    pub(super) fn update(before: Option<Self>, lease: &Lease, now: Instant) -> Self {
        match before {
            Some(before) if before.spec == lease.spec => before,
            _ => Self { spec: lease.spec.clone(), changed: now },
        }
    }
}

/// What to do about the lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none: make it ours.
    Create,
    /// It is ours: keep it.
    Renew,
    /// Its holder is gone: make it ours, for the n-th time that it changes hands.
    Take { transitions: i32 },
    /// It is another's.
    Wait,
}

pub(super) fn decide(
    lease: Option<&Lease>,
    observed: Option<&Observed>,
    identity: &str,
    duration: Duration,
    now: Instant,
) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    if holder == identity {
        return Step::Renew;
    }
    let expired = observed.is_some_and(|observed| {
        let theirs = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|n| u64::try_from(n).ok());
        now >= observed.changed + theirs.map_or(duration, Duration::from_secs)
    });
    if holder.is_empty() || expired {
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0).saturating_add(1);
        return Step::Take { transitions };
    }
    Step::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(15),
                lease_transitions: Some(3),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn table() {
        let start = Instant::now();
        let check = |lease: Option<Lease>, seconds: u64, expected: Step| {
            let observed = lease.as_ref().map(|lease| Observed::update(None, lease, start));
            let now = start + Duration::from_secs(seconds);
            let step = decide(lease.as_ref(), observed.as_ref(), "me", Duration::from_secs(15), now);
            assert_eq!(step, expected);
        };
        check(None, 0, Step::Create);
        check(Some(lease("me")), 100, Step::Renew);
        check(Some(lease("you")), 14, Step::Wait);
        check(Some(lease("you")), 15, Step::Take { transitions: 4 });
        check(Some(lease("")), 0, Step::Take { transitions: 4 });
        check(Some(Lease::default()), 0, Step::Take { transitions: 1 });
    }
}
