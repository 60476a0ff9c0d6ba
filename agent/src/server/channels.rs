//! The channels of Kubernetes' WebSocket protocols `v4.channel.k8s.io` and `v5.channel.k8s.io`: the first byte of every message says which
//! stream it belongs to. Version 5 adds a message that closes a stream.

use bytes::Bytes;
use runtime::WindowSize;
use serde::Deserialize;
use serde_json::json;

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const RESIZE: u8 = 4;
pub(super) const CLOSE: u8 = 255;

/// The protocols that are spoken, best first.
pub(super) const PROTOCOLS: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Stdin(Bytes),
    Resize(WindowSize),
    /// No more input will come.
    CloseStdin,
    /// Nothing that matters here.
    Other,
}

/// Chooses a protocol from what the client offers, comma separated.
pub(super) fn choose(offered: &str) -> Option<&'static str> {
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    PROTOCOLS.into_iter().find(|protocol| offered.contains(protocol))
}

pub(super) fn read(message: &Bytes) -> Said {
    match message.first() {
        Some(&STDIN) => Said::Stdin(message.slice(1..)),
        Some(&RESIZE) => size(&message[1..]).map_or(Said::Other, Said::Resize),
        Some(&CLOSE) if message.get(1) == Some(&STDIN) => Said::CloseStdin,
        _ => Said::Other,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

fn size(json: &[u8]) -> Option<WindowSize> {
    let size: Size = serde_json::from_slice(json).ok()?;
    Some(WindowSize { columns: size.width, rows: size.height })
}

/// A message of a channel.
pub(super) fn message(channel: u8, data: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    bytes.into()
}

/// How a command ended, as the `Status` that goes over the error channel.
pub(super) fn status(outcome: &Result<i32, String>) -> Bytes {
    let status = match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(message) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": message,
            "details": {"causes": [{"message": message}]},
        }),
    };
    message(ERROR, status.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_protocol_that_both_speak_is_chosen() {
        assert_eq!(choose("v4.channel.k8s.io, v5.channel.k8s.io"), Some("v5.channel.k8s.io"));
        assert_eq!(choose("channel.k8s.io"), Some("channel.k8s.io"));
        assert_eq!(choose("base64.channel.k8s.io"), None);
    }

    #[test]
    fn messages_are_read_by_their_first_byte() {
        assert_eq!(read(&Bytes::from_static(b"\0abc")), Said::Stdin(Bytes::from_static(b"abc")));
        assert_eq!(
            read(&Bytes::from_static(b"\x04{\"Width\":80,\"Height\":24}")),
            Said::Resize(WindowSize { columns: 80, rows: 24 })
        );
        assert_eq!(read(&Bytes::from_static(b"\xff\0")), Said::CloseStdin);
        for nothing in [&b""[..], b"\x04{}", b"\xff", b"\x09x"] {
            assert_eq!(read(&Bytes::copy_from_slice(nothing)), Said::Other);
        }
    }

    #[test]
    fn an_exit_code_travels_in_the_causes() {
        let status: serde_json::Value = serde_json::from_slice(&status(&Ok(7))[1..]).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "7");
        assert_eq!(status["reason"], "NonZeroExitCode");
    }
}
