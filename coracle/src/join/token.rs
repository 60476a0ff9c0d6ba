//! What `coracle token create` prints: all that a machine has to be told to join, beside where the server is.
//!
//! ```text
//! CORACLE10<sha-256 of the CA's certificate>::<id>.<secret>
//! ```
//!
//! The fingerprint lets the machine know the server; the rest lets the server know the machine.

use std::str::FromStr;

const PREFIX: &str = "CORACLE10";

/// A token with the fingerprint of the cluster's authority.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JoinToken {
    /// SHA-256 of the CA's certificate, in hexadecimal digits.
    pub(crate) fingerprint: String,
    /// The bootstrap token, `id.secret`.
    pub(crate) bearer: String,
}

/// It is a secret.
impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}::{}", self.fingerprint, self.bearer)
    }
}

/// Not what `coracle token create` prints.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "this is not a token for joining: it begins with {PREFIX}, as `coracle token create` prints it on the server"
)]
pub(crate) struct NotAToken;

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(NotAToken)?;
        let (fingerprint, bearer) = rest.split_once("::").ok_or(NotAToken)?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let (id, secret) = bearer.split_once('.').ok_or(NotAToken)?;
        if fingerprint.len() != 64 || !fingerprint.bytes().all(hex) || !is_id(id) || !is_secret(secret) {
            return Err(NotAToken);
        }
        Ok(Self { fingerprint: fingerprint.to_owned(), bearer: bearer.to_owned() })
    }
}

fn plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

/// Six small letters and digits: the public half.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 6 && plain(text)
}

/// Sixteen of them: the secret half.
pub(crate) fn is_secret(text: &str) -> bool {
    text.len() == 16 && plain(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        let token = JoinToken { fingerprint: "0a".repeat(32), bearer: "abcdef.0123456789abcdef".to_owned() };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("0123456789"), "{token:?}");
    }

    #[test]
    fn anything_else_is_refused() {
        let pin = "0a".repeat(32);
        for wrong in [
            String::new(),
            "abcdef.0123456789abcdef".to_owned(),
            format!("CORACLE10{pin}::abcdef"),
            format!("CORACLE10{pin}::abcdef.0123"),
            format!("CORACLE10{pin}:abcdef.0123456789abcdef"),
            format!("CORACLE10{}::abcdef.0123456789abcdef", &pin[1..]),
            format!("K10{pin}::abcdef.0123456789abcdef"),
        ] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(NotAToken), "{wrong}");
        }
    }
}
