//! The parameters of a request, checked as upstream checks them.
//!
//! Follows `ListOptions`, `CreateOptions`, `UpdateOptions` and `PatchOptions` of meta/v1.

use std::time::Duration;

use manifests::decode::FieldValidation;
use manifests::field::{ErrorList, FieldError, Path};
use manifests::selector::{FieldSelector, Selector};
use manifests::status::ApiError;
use manifests::validate;

/// The query of a URL, decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(query: Option<&str>) -> Params {
        Params(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter; empty counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        // A parameter that is there without a value is true, as in `?watch`.
        let Some((_, value)) = self.0.iter().find(|(have, _)| have == name) else { return Ok(None) };
        match value.as_str() {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            // Upstream reads every other value as true.
            _ => Ok(Some(true)),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "strconv.ParseInt: parsing {}: invalid syntax",
                manifests::go::quote(value)
            ))
        })
    }
}

/// How the resourceVersion of a list is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    NotOlderThan,
    Exact,
}

/// What a list or watch asks for.
#[derive(Debug, Clone)]
pub(crate) struct ListParams {
    pub(crate) labels: Selector,
    pub(crate) fields: FieldSelector,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    /// `None`: the newest. `Some(0)`: any.
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: Option<Match>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    pub(crate) initial_events: Option<bool>,
}

impl ListParams {
    pub(crate) fn parse(params: &Params, watch_prefix: bool) -> Result<ListParams, ApiError> {
        let text = |name| params.get(name).unwrap_or_default();
        let bad = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
        let watch = watch_prefix || params.flag("watch")?.unwrap_or(false);
        let initial_events = params.flag("sendInitialEvents")?;
        check_combination(params, watch, initial_events)?;
        let version_match = match text("resourceVersionMatch") {
            "NotOlderThan" => Some(Match::NotOlderThan),
            "Exact" => Some(Match::Exact),
            _ => None,
        };
        Ok(ListParams {
            labels: Selector::parse(text("labelSelector"))
                .map_err(|error| ApiError::bad_request(format!("unable to parse requirement: {error}")))?,
            fields: FieldSelector::parse(text("fieldSelector")).map_err(|error| bad(&error))?,
            watch,
            bookmarks: params.flag("allowWatchBookmarks")?.unwrap_or(false),
            resource_version: resource_version(text("resourceVersion"))?,
            version_match,
            timeout: params.number("timeoutSeconds")?.and_then(|seconds| {
                u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
            }),
            limit: params.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0),
            continue_token: params.get("continue").map(str::to_owned),
            initial_events,
        })
    }
}

/// Reads a resourceVersion.
pub(crate) fn resource_version(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let quoted = manifests::go::quote(text);
        let detail = format!("strconv.ParseUint: parsing {quoted}: invalid syntax");
        let errors = [FieldError::invalid(&Path::new("resourceVersion"), text, detail)].into_iter().collect();
        ApiError::invalid("", "", "", &errors)
    })
}

/// Which parameters may come together.
fn check_combination(params: &Params, watch: bool, initial_events: Option<bool>) -> Result<(), ApiError> {
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    let forbidden = |detail: &str| FieldError::forbidden(&path, detail);
    let version_match = params.get("resourceVersionMatch");
    let continues = params.get("continue").is_some();
    if watch {
        if initial_events.is_some() && version_match != Some("NotOlderThan") {
            errors.push(forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
        }
        if let Some(version_match) = version_match {
            if initial_events.is_none() {
                errors.push(forbidden(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if version_match != "NotOlderThan" {
                errors.push(FieldError::not_supported(&path, version_match, &["NotOlderThan"]));
            }
            if continues {
                errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
            }
        }
    } else {
        if let Some(version_match) = version_match {
            if params.get("resourceVersion").is_none() {
                errors
                    .push(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"));
            }
            if continues {
                errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
            }
            if version_match != "Exact" && version_match != "NotOlderThan" {
                errors.push(FieldError::not_supported(&path, version_match, &["Exact", "NotOlderThan", ""]));
            }
            if version_match == "Exact" && params.get("resourceVersion") == Some("0") {
                errors
                    .push(forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
            }
        }
        if initial_events.is_some() {
            errors.push(FieldError::forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("ListOptions", "meta.k8s.io", "", &errors))
}

/// What a create, update or patch asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteParams {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    /// Whose fields are written; empty if the request does not say.
    pub(crate) manager: String,
    /// Whether an apply takes fields from others.
    pub(crate) force: bool,
}

impl WriteParams {
    /// `options` names the kind of options in errors: `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub(crate) fn parse(params: &Params, options: &str) -> Result<WriteParams, ApiError> {
        WriteParams::read(params, options, false)
    }

    /// The same for a request that applies.
    pub(crate) fn parse_apply(params: &Params) -> Result<WriteParams, ApiError> {
        WriteParams::read(params, "PatchOptions", true)
    }

    fn read(params: &Params, options: &str, applies: bool) -> Result<WriteParams, ApiError> {
        let dry_run: Vec<&str> = params.all("dryRun").filter(|value| !value.is_empty()).collect();
        let validation = params.get("fieldValidation").unwrap_or_default();
        let mut errors = validate::dry_run(dry_run.iter().copied());
        errors.extend(validate::field_validation(validation));
        let manager = params.get("fieldManager").unwrap_or_default();
        errors.extend(validate::field_manager(manager));
        let force = params.flag("force")?;
        if applies && manager.is_empty() {
            errors.push(FieldError::required(&Path::new("fieldManager"), "is required for apply patch"));
        }
        if !applies && options == "PatchOptions" && force.is_some() {
            let detail = "may not be specified for non-apply patch";
            errors.push(FieldError::forbidden(&Path::new("force"), detail));
        }
        let (dry_run, field_validation) =
            (!dry_run.is_empty(), FieldValidation::parse(validation).unwrap_or_default());
        if errors.is_empty() {
            let (manager, force) = (manager.to_owned(), force == Some(true));
            return Ok(WriteParams { dry_run, field_validation, manager, force });
        }
        Err(ApiError::invalid(options, "meta.k8s.io", "", &errors))
    }
}
