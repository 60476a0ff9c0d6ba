//! Documents as people and engines write them: configurations and process files.
//!
//! The library reads what the specification has today, and nothing else. What it does not know is looked at once
//! more here: by the specification a capability that a runtime does not know is worth a warning, and a process
//! file need not repeat what is usual. Only a document that the library refuses takes this way.

use std::path::Path;

use oci_spec::runtime::{Capability, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::OciError;

/// A configuration, and what was passed over in it.
pub(super) fn spec(bytes: &[u8], path: &Path) -> Result<(Spec, Vec<String>), OciError> {
    read(bytes, path, |document, warnings| {
        check_memory_policy(document)?;
        if let Some(process) = document.get_mut("process") {
            drop_unknown_capabilities(process, warnings);
            respell_scheduler_flags(process);
        }
        Ok(())
    })
}

/// A process file, and what was passed over in it.
pub(super) fn process(bytes: &[u8], path: &Path) -> Result<(Process, Vec<String>), OciError> {
    read(bytes, path, |document, warnings| {
        drop_unknown_capabilities(document, warnings);
        respell_scheduler_flags(document);
        if let Some(members) = document.as_object_mut() {
            members.entry("user").or_insert_with(|| json!({ "uid": 0, "gid": 0 }));
            members.entry("cwd").or_insert_with(|| json!(""));
        }
        Ok(())
    })
}

fn read<T: DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
    mend: impl FnOnce(&mut Value, &mut Vec<String>) -> Result<(), OciError>,
) -> Result<(T, Vec<String>), OciError> {
    let refused = match serde_json::from_slice(bytes) {
        Ok(document) => return Ok((document, Vec::new())),
        Err(source) => OciError::Json { path: path.to_owned(), source },
    };
    let Ok(mut document) = serde_json::from_slice::<Value>(bytes) else { return Err(refused) };
    let mut warnings = Vec::new();
    mend(&mut document, &mut warnings)?;
    // What was wrong may be something else, and is then best told as it was in the text.
    serde_json::from_value(document).map(|document| (document, warnings)).map_err(|_| refused)
}

/// Takes out what is not the name of a capability.
fn drop_unknown_capabilities(process: &mut Value, warnings: &mut Vec<String>) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return };
    let mut unknown = std::collections::BTreeSet::new();
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.retain(|one| {
            let known = !one.is_string() || is::<Capability>(one);
            if !known {
                unknown.extend(one.as_str().map(str::to_owned));
            }
            known
        });
    }
    if !unknown.is_empty() {
        let names: Vec<_> = unknown.into_iter().collect();
        warnings.push(format!("ignoring unknown or unavailable capabilities: [{}]", names.join(" ")));
    }
}

/// The library spells two flags otherwise than the specification.
fn respell_scheduler_flags(process: &mut Value) {
    let flags = process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = json!("SCHED_RESET_ON_FORK"),
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = json!("SCHED_FLAG_D_L_OVERRUN"),
            _ => {}
        }
    }
}

fn is<T: DeserializeOwned>(value: &Value) -> bool {
    serde_json::from_value::<T>(value.clone()).is_ok()
}

/// Says what is wrong with a memory policy.
fn check_memory_policy(document: &Value) -> Result<(), OciError> {
    let Some(policy) = document.pointer("/linux/memoryPolicy") else { return Ok(()) };
    let invalid = |what: &str, value: &Value| {
        let reason = format!("invalid memory policy {what}: {value}");
        Err(OciError::Invalid { field: "linux.memoryPolicy".to_owned(), reason })
    };
    let mode = &policy["mode"];
    if !is::<MemoryPolicyModeType>(mode) {
        return invalid("mode", mode);
    }
    let mut flags = policy["flags"].as_array().into_iter().flatten();
    flags.find(|flag| !is::<MemoryPolicyFlagType>(flag)).map_or(Ok(()), |flag| invalid("flag", flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_spec(text: &str) -> Result<(Spec, Vec<String>), String> {
        spec(text.as_bytes(), Path::new("config.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn unknown_capabilities_are_passed_over() {
        let text = r#"{"ociVersion": "1.0.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_KILL", "CAP_NEW", "what"], "effective": ["CAP_NEW"]}}}"#;
        let (spec, warnings) = read_spec(text).unwrap();
        assert_eq!(warnings, ["ignoring unknown or unavailable capabilities: [CAP_NEW what]"]);
        let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert_eq!(sets.bounding().clone().unwrap(), [Capability::Kill].into());
        assert!(sets.effective().as_ref().unwrap().is_empty());
    }

    #[test]
    fn memory_policies_are_told_from_others() {
        let check = |policy: &str, expected: &str| {
            let text = format!(r#"{{"ociVersion": "1.0.0", "linux": {{"memoryPolicy": {policy}}}}}"#);
            assert_eq!(read_spec(&text).unwrap_err(), format!("linux.memoryPolicy: {expected}"), "{policy}");
        };
        check("{}", "invalid memory policy mode: null");
        check(r#"{"mode": "BIND"}"#, "invalid memory policy mode: \"BIND\"");
        check(r#"{"mode": "MPOL_BIND", "flags": ["bad"]}"#, "invalid memory policy flag: \"bad\"");
    }

    #[test]
    fn a_process_file_need_not_say_everything() {
        let (process, _) = process(br#"{"args": ["true"], "cwd": "/"}"#, Path::new("process.json")).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        assert!(process.capabilities().is_none());
    }

    #[test]
    fn flags_of_schedulers_are_read_as_specified() {
        let text = br#"{"args": ["true"], "cwd": "/", "scheduler": {"policy": "SCHED_DEADLINE",
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"]}}"#;
        let (process, _) = process(text, Path::new("process.json")).unwrap();
        let flags = process.scheduler().as_ref().and_then(|scheduler| scheduler.flags().clone());
        assert_eq!(flags.map(|flags| flags.len()), Some(2));
    }

    #[test]
    fn other_mistakes_are_told_as_they_are() {
        assert!(read_spec("{").unwrap_err().contains("reading config.json"));
        let text = r#"{"ociVersion": 7, "process": {"capabilities": {"bounding": ["CAP_NEW"]}}}"#;
        assert!(read_spec(text).is_err());
    }
}
