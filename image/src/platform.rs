//! Which of several images is for this machine.

use oci_spec::image::{Descriptor, Platform};

/// Operating system, architecture and variant, in the words of OCI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) architecture: &'static str,
    variant: Option<&'static str>,
}

impl Host {
    pub(crate) fn this() -> Host {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Host { architecture, variant }
    }

    /// How well a platform fits: higher is better, `None` does not run here.
    fn fitness(&self, platform: &Platform) -> Option<u8> {
        if platform.os().to_string() != "linux" || platform.architecture().to_string() != self.architecture {
            return None;
        }
        let number = |variant: &str| variant.strip_prefix('v').and_then(|n| n.parse::<u8>().ok());
        match (platform.variant().as_deref().and_then(number), self.variant.and_then(number)) {
            (None, _) => Some(1),
            (Some(theirs), Some(ours)) => (theirs <= ours).then_some(1 + theirs),
            // amd64/v2 and later need instructions that are not looked for.
            (Some(theirs), None) => (theirs <= 1).then_some(2),
        }
    }

    /// The entry to use, or what the others are for.
    pub(crate) fn choose<'a>(&self, entries: &'a [Descriptor]) -> Result<&'a Descriptor, String> {
        let fitting = entries.iter().enumerate().filter_map(|(i, entry)| {
            // Without a platform it is for any; of equals the first is meant.
            let fitness = entry.platform().as_ref().map_or(Some(0), |platform| self.fitness(platform))?;
            Some((fitness, std::cmp::Reverse(i), entry))
        });
        fitting.max_by_key(|(fitness, order, _)| (*fitness, *order)).map(|(.., entry)| entry).ok_or_else(
            || {
                let there: Vec<String> =
                    entries.iter().filter_map(|entry| entry.platform().as_ref()).map(describe).collect();
                if there.is_empty() { "none".to_owned() } else { there.join(", ") }
            },
        )
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        self.variant.map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

fn describe(platform: &Platform) -> String {
    let variant = platform.variant().as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os(), platform.architecture())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |(i, platform): (usize, &&str)| {
            let mut parts = platform.split('/');
            let mut json = serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": crate::Digest::of(&[u8::try_from(i).unwrap()]).to_string(),
                "size": i,
            });
            if let (Some(os), Some(architecture)) = (parts.next(), parts.next()) {
                json["platform"] = serde_json::json!({"os": os, "architecture": architecture});
                if let Some(variant) = parts.next() {
                    json["platform"]["variant"] = variant.into();
                }
            }
            serde_json::from_value(json).unwrap()
        };
        platforms.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn the_best_entry() {
        let amd64 = Host { architecture: "amd64", variant: None };
        let arm = Host { architecture: "arm", variant: Some("v7") };
        let arm64 = Host { architecture: "arm64", variant: Some("v8") };
        for (host, platforms, expected) in [
            (&amd64, &["linux/arm64/v8", "linux/amd64", "windows/amd64"][..], Some(1)),
            (&amd64, &["linux/amd64/v3", "linux/amd64"], Some(1)),
            (&amd64, &["linux/amd64/v3"], None),
            (&amd64, &["unknown/unknown", "linux/amd64"], Some(1)),
            (&amd64, &[""], Some(0)),
            (&amd64, &["", "linux/amd64"], Some(1)),
            (&amd64, &["linux/amd64", "linux/amd64"], Some(0)),
            (&arm, &["linux/arm/v5", "linux/arm/v7", "linux/arm/v6", "linux/arm64/v8"], Some(1)),
            (&arm, &["linux/arm/v8", "linux/arm/v6"], Some(1)),
            (&arm64, &["linux/arm64"], Some(0)),
            (&arm64, &["linux/amd64", "windows/arm64"], None),
            (&arm64, &[], None),
        ] {
            let entries = entries(platforms);
            let chosen = host.choose(&entries).map(|entry| usize::try_from(entry.size()).unwrap());
            assert_eq!(chosen.clone().ok(), expected, "{host}: {platforms:?} {chosen:?}");
        }
        let none = entries(&["linux/arm64/v8", "windows/amd64"]);
        assert_eq!(amd64.choose(&none).unwrap_err(), "linux/arm64/v8, windows/amd64");
    }
}
