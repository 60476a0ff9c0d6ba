//! Options of requests: who writes, what may be dry, how to delete, which part of a log.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;

use crate::field::{ErrorList, FieldError, Path};
use crate::go;

/// The name of a field manager.
pub fn field_manager(manager: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    manager_name(manager, &Path::new("fieldManager"), &mut errors);
    errors
}

pub(super) fn manager_name(manager: &str, path: &Path, errors: &mut ErrorList) {
    if manager.len() > 128 {
        errors.push(FieldError::too_long(path, 128));
    }
    for (index, c) in manager.char_indices().filter(|(_, c)| !go::is_printable(*c)) {
        let detail = format!("invalid character U+{:04X} (at position {index})", u32::from(c));
        errors.push(FieldError::invalid(path, manager, detail));
    }
}

/// The values of `dryRun`.
pub fn dry_run<'a>(values: impl IntoIterator<Item = &'a str>) -> ErrorList {
    let values: Vec<&str> = values.into_iter().collect();
    let mut errors = ErrorList::new();
    if values.iter().any(|value| *value != "All") {
        errors.push(FieldError::not_supported(&Path::new("dryRun"), values, &["All"]));
    }
    errors
}

/// The value of `fieldValidation`.
pub fn field_validation(value: &str) -> ErrorList {
    let supported = ["", "Ignore", "Strict", "Warn"];
    let mut errors = ErrorList::new();
    if !supported.contains(&value) {
        errors.push(FieldError::not_supported(&Path::new("fieldValidation"), value, &supported));
    }
    errors
}

/// The options of a deletion.
pub fn delete_options(options: &DeleteOptions) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("propagationPolicy");
    if let Some(policy) = &options.propagation_policy {
        if options.orphan_dependents.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, policy, detail));
        }
        if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported(&path, policy, &supported));
        }
    }
    errors.extend(dry_run(options.dry_run.iter().flatten().map(String::as_str)));
    errors
}

/// Which part of a log is wanted, as the query of `pods/log` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// `tailLines`.
    pub tail_lines: Option<i64>,
    /// `limitBytes`.
    pub limit_bytes: Option<i64>,
    /// `sinceSeconds`.
    pub since_seconds: Option<i64>,
    /// Whether `sinceTime` is given.
    pub since_time: bool,
}

/// The options of `pods/log`.
pub fn log_options(options: LogOptions) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(lines) = options.tail_lines.filter(|lines| *lines < 0) {
        errors.push(FieldError::invalid(&Path::new("tailLines"), lines, super::NEGATIVE));
    }
    if let Some(bytes) = options.limit_bytes.filter(|bytes| *bytes < 1) {
        errors.push(FieldError::invalid(&Path::new("limitBytes"), bytes, "must be greater than 0"));
    }
    match options.since_seconds {
        Some(_) if options.since_time => {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden(&Path::new(""), detail));
        }
        Some(seconds) if seconds < 1 => {
            errors.push(FieldError::invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0"));
        }
        _ => {}
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors: ErrorList, expected: &str) {
        assert_eq!(errors.to_string(), expected);
    }

    #[test]
    fn options() {
        check(field_manager("kubectl-client-side-apply"), "");
        check(
            field_manager("a\nb"),
            "fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)",
        );
        check(field_manager(&"a".repeat(129)), "fieldManager: Too long: may not be more than 128 bytes");
        check(dry_run(["All"]), "");
        check(dry_run(["Some"]), "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"");
        check(field_validation("Warn"), "");
        check(
            field_validation("No"),
            "fieldValidation: Unsupported value: \"No\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        );
        let options =
            DeleteOptions { propagation_policy: Some("Now".to_owned()), ..DeleteOptions::default() };
        check(
            delete_options(&options),
            "propagationPolicy: Unsupported value: \"Now\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        );
        check(
            log_options(LogOptions { tail_lines: Some(-1), ..LogOptions::default() }),
            "tailLines: Invalid value: -1: must be greater than or equal to 0",
        );
        check(
            log_options(LogOptions { since_seconds: Some(1), since_time: true, ..LogOptions::default() }),
            ": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        );
    }
}
