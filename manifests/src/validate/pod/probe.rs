//! Probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::{non_negative, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

/// The actions of a probe or a hook, of which there must be one.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

pub(super) fn liveness(probe: Option<&Probe>, path: &Path, errors: &mut ErrorList) {
    common(probe, path, errors);
    succeeds_once(probe, path, errors);
}

pub(super) fn readiness(probe: Option<&Probe>, path: &Path, errors: &mut ErrorList) {
    common(probe, path, errors);
    if let Some(seconds) = probe.and_then(|probe| probe.termination_grace_period_seconds) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(&path, seconds, "must not be set for readinessProbes"));
    }
}

pub(super) fn startup(probe: Option<&Probe>, path: &Path, errors: &mut ErrorList) {
    common(probe, path, errors);
    succeeds_once(probe, path, errors);
}

fn succeeds_once(probe: Option<&Probe>, path: &Path, errors: &mut ErrorList) {
    if let Some(threshold) = probe.map(|probe| probe.success_threshold.unwrap_or_default())
        && threshold != 1
    {
        errors.push(FieldError::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

fn common(probe: Option<&Probe>, path: &Path, errors: &mut ErrorList) {
    let Some(probe) = probe else { return };
    let actions = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handler(&actions, None, path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        non_negative(value.unwrap_or_default(), &path.child(field), errors);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(&path, seconds, "must be greater than 0"));
    }
}

pub(super) fn lifecycle(
    lifecycle: &Lifecycle,
    grace_period: Option<i64>,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(hook) = hook else { continue };
        let actions = Handler {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        };
        handler(&actions, grace_period, &path.child(field), errors);
    }
}

fn handler(actions: &Handler<'_>, grace_period: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let mut count = 0;
    let mut first = |field: &str, set: bool, errors: &mut ErrorList| -> Option<Path> {
        if !set {
            return None;
        }
        count += 1;
        let path = path.child(field);
        if count > 1 {
            errors.push(FieldError::forbidden(&path, "may not specify more than 1 handler type"));
            return None;
        }
        Some(path)
    };
    if let (Some(action), Some(path)) = (actions.exec, first("exec", actions.exec.is_some(), errors))
        && action.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::required(&path.child("command"), ""));
    }
    if let (Some(action), Some(path)) =
        (actions.http_get, first("httpGet", actions.http_get.is_some(), errors))
    {
        http_get(action, &path, errors);
    }
    if let (Some(action), Some(path)) =
        (actions.tcp_socket, first("tcpSocket", actions.tcp_socket.is_some(), errors))
    {
        port(&action.port, &path.child("port"), errors);
    }
    if let (Some(action), Some(path)) = (actions.grpc, first("grpc", actions.grpc.is_some(), errors)) {
        port(&IntOrString::Int(action.port), &path.child("port"), errors);
    }
    if let (Some(action), Some(path)) = (actions.sleep, first("sleep", actions.sleep.is_some(), errors))
        && let Some(grace_period) = grace_period
        && !(0..=grace_period).contains(&action.seconds)
    {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_period})");
        errors.push(FieldError::invalid(&path, action.seconds, detail));
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(action: &HTTPGetAction, path: &Path, errors: &mut ErrorList) {
    if text(&action.path).is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    port(&action.port, &path.child("port"), errors);
    let scheme = text(&action.scheme);
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in action.http_headers.iter().flatten() {
        errors.push_invalid(&path.child("httpHeaders"), &header.name, names::http_header_name(&header.name));
    }
}

/// A port by number or name.
pub(in super::super) fn port(port: &IntOrString, path: &Path, errors: &mut ErrorList) {
    match port {
        IntOrString::Int(number) => super::super::port(*number, path, errors),
        IntOrString::String(name) => errors.push_invalid(path, name, names::port_name(name)),
    }
}
