//! Hooks that the runtime runs in its own namespaces.

use oci_spec::runtime::{ContainerState, Hook, State, StateBuilder};

use super::OciError;
use super::record::Record;
use crate::child::hook::Call;
use crate::plan::text::Text;

/// What hooks are told.
pub(super) fn state(record: &Record, status: ContainerState, pid: i32) -> State {
    let state = StateBuilder::default()
        .version(record.oci_version.clone())
        .id(record.id.clone())
        .status(status)
        .pid(pid)
        .bundle(record.bundle.clone())
        .annotations(record.annotations.clone());
    let mut state = state.build().unwrap_or_default();
    if status == ContainerState::Stopped {
        state.set_pid(None);
    }
    state
}

/// The same as bytes.
pub(super) fn state_text(record: &Record, status: ContainerState, pid: i32) -> Vec<u8> {
    serde_json::to_vec(&state(record, status, pid)).unwrap_or_default()
}

/// Runs hooks one after the other until one fails.
pub(super) fn run(kind: &'static str, hooks: Option<&[Hook]>, state: &[u8]) -> Result<(), OciError> {
    hooks.unwrap_or_default().iter().enumerate().try_for_each(|(number, hook)| one(kind, number, hook, state))
}

/// Runs hooks one after the other, whether they fail or not; gives the failures.
pub(super) fn run_all(kind: &'static str, hooks: Option<&[Hook]>, state: &[u8]) -> Vec<OciError> {
    let hooks = hooks.unwrap_or_default().iter().enumerate();
    hooks.filter_map(|(number, hook)| one(kind, number, hook, state).err()).collect()
}

fn one(kind: &'static str, number: usize, hook: &Hook, state: &[u8]) -> Result<(), OciError> {
    let invalid =
        |reason: &str| OciError::Invalid { field: format!("hooks.{kind}"), reason: reason.to_owned() };
    if !hook.path().is_absolute() {
        return Err(invalid("the path is not absolute"));
    }
    let text = |value: &str| Text::new(value).map_err(|error| invalid(&error.to_string()));
    let all = |values: &[String]| values.iter().map(|one| text(one)).collect::<Result<Vec<_>, _>>();
    let path = text(hook.path().to_str().ok_or_else(|| invalid("the path is not UTF-8"))?)?;
    let argv = all(hook.args().as_deref().unwrap_or_default())?;
    let env = hook.env().as_deref().map(all).transpose()?;
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => match u32::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(seconds),
            _ => return Err(invalid("the time-out is not a positive number")),
        },
    };
    let call = Call { path: &path, argv: &argv, env: env.as_deref(), timeout };
    call.run(state).map_err(|failure| OciError::Hook {
        kind,
        number,
        path: hook.path().clone(),
        reason: failure.to_string(),
    })
}
