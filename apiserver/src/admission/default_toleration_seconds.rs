//! Pods stay for five minutes on a node that is not ready or cannot be reached, unless they say otherwise.

use manifests::k8s_openapi::api::core::v1::{PodSpec, Toleration};

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;
const NO_EXECUTE: &str = "NoExecute";

/// Adds the tolerations that are missing.
pub(crate) fn admit(spec: &mut PodSpec) {
    for taint in TAINTS {
        let tolerated = spec.tolerations.iter().flatten().any(|toleration| {
            let key = toleration.key.as_deref().unwrap_or_default();
            let effect = toleration.effect.as_deref().unwrap_or_default();
            (key == taint || key.is_empty()) && (effect == NO_EXECUTE || effect.is_empty())
        });
        if !tolerated {
            spec.tolerations.get_or_insert_default().push(Toleration {
                key: Some(taint.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(NO_EXECUTE.to_owned()),
                toleration_seconds: Some(SECONDS),
                ..Toleration::default()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tolerations: &[(&str, &str)], expected: usize) {
        let tolerations = tolerations.iter().map(|(key, effect)| Toleration {
            key: Some((*key).to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        });
        let mut spec = PodSpec { tolerations: Some(tolerations.collect()), ..PodSpec::default() };
        admit(&mut spec);
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(expected));
        let once = spec.clone();
        admit(&mut spec);
        assert_eq!(spec, once, "twice is once");
    }

    #[test]
    fn only_what_is_missing() {
        check(&[], 2);
        check(&[("", "")], 1);
        check(&[("", "NoSchedule")], 3);
        check(&[(TAINTS[0], "NoExecute")], 2);
        check(&[(TAINTS[0], ""), (TAINTS[1], "")], 2);
    }
}
