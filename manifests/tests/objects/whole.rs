use std::path::{Path, PathBuf};

use manifests::decode::FieldValidation;
use manifests::yaml;
use serde_json::json;

use super::*;

/// Objects that use much of what their kinds offer.
pub(super) const RICH: &str = include_str!("rich.yaml");

pub(super) fn documents(source: &str, text: &str) -> Vec<(String, Value)> {
    let documents = yaml::read(source, text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    documents
        .into_iter()
        .flat_map(yaml::Document::into_objects)
        .map(|document| {
            let kind = document.kind().to_owned();
            let mut value = document.value;
            let namespaced = manifests::kinds::KINDS.iter().any(|row| row.kind == kind && row.namespaced);
            if namespaced && value["metadata"]["namespace"].is_null() {
                value["metadata"]["namespace"] = json!("default");
            }
            (kind, value)
        })
        .collect()
}

fn check_good(source: &str, text: &str) -> usize {
    let documents = documents(source, text);
    for (kind, object) in &documents {
        let written = write(kind, object, object, FieldValidation::Strict)
            .unwrap_or_else(|error| panic!("{source}: {kind}: {error}"));
        // What admission would fill in is not there yet.
        let errors: Vec<String> = written
            .errors
            .into_iter()
            .filter(|error| !error.starts_with("spec.serviceAccountName: Required value"))
            .collect();
        assert_eq!(errors, [""; 0], "{source}: {object}");
    }
    documents.len()
}

fn yaml_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn examples_are_good() {
    let mut files = Vec::new();
    yaml_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"), &mut files);
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(check_good(&file.display().to_string(), &text) > 0, "{}: empty", file.display());
    }
}

#[test]
fn rich_objects_are_good() {
    assert!(check_good("rich.yaml", RICH) >= 12);
}

/// What `kubectl create deployment web --image=nginx` and a read afterwards show, but for what the server sets.
#[test]
fn defaults_of_a_deployment() {
    let given = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"image": "nginx", "name": "nginx", "resources": {}}]},
            },
        },
        "status": {},
    });
    let written = write("Deployment", &given, &given, FieldValidation::Strict).unwrap();
    assert_eq!(written.errors, [""; 0]);
    let expected = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{
                        "image": "nginx", "name": "nginx", "resources": {},
                        "imagePullPolicy": "Always",
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                    }],
                    "dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Always",
                    "schedulerName": "default-scheduler",
                    "securityContext": {},
                    "terminationGracePeriodSeconds": 30,
                },
            },
        },
        "status": {},
    });
    assert_eq!(written.object, expected);
}
