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
/// How the channels of forwarded ports are called.
pub(super) const PORT_PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "portforward.k8s.io"];

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

pub(super) fn read(message: &Bytes) -> Said {
    match message.first() {
        Some(&STDIN) => Said::Stdin(message.slice(1..)),
        Some(&RESIZE) => size(&message[1..]).map_or(Said::Other, Said::Resize),
        Some(&CLOSE) if message.get(1) == Some(&STDIN) => Said::CloseStdin,
        _ => Said::Other,
    }
}

/// The size of a terminal, as clients say it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    width: u16,
    height: u16,
}

impl From<Size> for WindowSize {
    fn from(size: Size) -> Self {
        Self { columns: size.width, rows: size.height }
    }
}

fn size(json: &[u8]) -> Option<WindowSize> {
    serde_json::from_slice::<Size>(json).ok().map(WindowSize::from)
}

/// A message of a channel.
pub(super) fn message(channel: u8, data: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    bytes.into()
}

/// How a command ended, as the message that goes over the error channel.
pub(super) fn status(outcome: &Result<i32, String>) -> Bytes {
    message(ERROR, verdict(outcome, false).unwrap_or_default().as_bytes())
}

/// How a command ended: as a `Status`, or only what went wrong, in words.
pub(super) fn verdict(outcome: &Result<i32, String>, in_words: bool) -> Option<String> {
    let words = match outcome {
        Ok(0) => None,
        Ok(code) => Some(format!("command terminated with non-zero exit code: exit status {code}")),
        Err(message) => Some(message.clone()),
    };
    if in_words {
        return words;
    }
    let status = match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": words,
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(message) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": message,
            "details": {"causes": [{"message": message}]},
        }),
    };
    Some(status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let words = "command terminated with non-zero exit code: exit status 7";
        assert_eq!(verdict(&Ok(7), true).as_deref(), Some(words));
        assert_eq!(verdict(&Ok(0), true), None);
    }
}
