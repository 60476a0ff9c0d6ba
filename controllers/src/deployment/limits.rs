//! How far a rollout may deviate from the wanted number of pods.

use manifests::k8s_openapi::api::apps::v1::Deployment;
use manifests::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Where `spec.strategy.rollingUpdate` gives nothing.
const DEFAULT: &str = "25%";

/// How pods are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    /// All old pods go before new ones come.
    Recreate,
    /// At most so many pods more, and so many available pods fewer, than wanted.
    RollingUpdate { surge: i32, unavailable: i32 },
}

/// The wanted number of pods.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

pub(super) fn strategy(deployment: &Deployment) -> Strategy {
    let strategy = deployment.spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Strategy::Recreate;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let default = IntOrString::String(DEFAULT.to_owned());
    let replicas = replicas(deployment);
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&default);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&default);
    let surge = resolve(surge, replicas, true);
    let mut unavailable = resolve(unavailable, replicas, false);
    if surge == 0 && unavailable == 0 {
        // Neither more nor fewer: nothing could ever move. Rounding can lead here, validation does not.
        unavailable = 1;
    }
    Strategy::RollingUpdate { surge, unavailable }
}

/// How many pods there may be beyond the wanted number.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    match strategy(deployment) {
        Strategy::Recreate => 0,
        Strategy::RollingUpdate { surge, .. } => surge,
    }
}

/// How many of the wanted pods may be unavailable.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    match strategy(deployment) {
        Strategy::Recreate => 0,
        Strategy::RollingUpdate { unavailable, .. } => unavailable.min(replicas(deployment)),
    }
}

fn resolve(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent =
                text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(0).max(0);
            let hundredths = percent.saturating_mul(i64::from(total.max(0)));
            let whole = if up { hundredths.saturating_add(99) / 100 } else { hundredths / 100 };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn fences() {
        let check = |replicas: i32, surge: Value, unavailable: Value, expected: (i32, i32)| {
            let deployment: Deployment = serde_json::from_value(json!({"spec": {
                "replicas": replicas, "selector": {}, "template": {},
                "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            }}))
            .unwrap();
            let Strategy::RollingUpdate { surge, unavailable } = strategy(&deployment) else { panic!() };
            assert_eq!((surge, unavailable), expected);
        };
        check(4, json!("25%"), json!("25%"), (1, 1));
        check(10, json!("25%"), json!("25%"), (3, 2));
        check(3, json!(null), json!(null), (1, 0));
        check(1, json!(0), json!("25%"), (0, 1));
        check(2, json!(5), json!(7), (5, 7));
    }
}
