//! Who we are to a registry.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use crate::reference::Reference;

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// None: what everybody may have.
    #[default]
    Anonymous,
    /// Name and password.
    Basic {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token that registries of this kind hand out for logging in again.
    IdentityToken(String),
    /// A token for the registry itself.
    RegistryToken(String),
}

/// Secrets are not for logs.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Auth::Anonymous => f.write_str("Anonymous"),
            Auth::Basic { user, .. } => f.debug_struct("Basic").field("user", user).finish_non_exhaustive(),
            Auth::IdentityToken(_) => f.write_str("IdentityToken(…)"),
            Auth::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}

/// Why a file of credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It is no such file.
    #[error("the Docker configuration cannot be understood")]
    Document(#[source] serde_json::Error),
    /// An entry of it is no name and password.
    #[error("the entry {registry:?} has an \"auth\" that is not base64 of name:password")]
    Entry {
        /// Which entry.
        registry: String,
    },
}

#[derive(Deserialize, Default)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Auth {
    /// The entry of a Docker configuration (`~/.docker/config.json`, a secret of type `kubernetes.io/dockerconfigjson`)
    /// for an image; the longest that fits. Entries may have a scheme, a path, and `*` for parts of the host. A secret of the
    /// older type `kubernetes.io/dockercfg` is the content of `auths` alone.
    pub fn from_docker_config(json: &[u8], image: &Reference) -> Result<Option<Auth>, AuthError> {
        let value: serde_json::Value = serde_json::from_slice(json).map_err(AuthError::Document)?;
        let config: DockerConfig = match value.get("auths") {
            Some(_) => serde_json::from_value(value).map_err(AuthError::Document)?,
            None => {
                let auths = serde_json::from_value(value).unwrap_or_default();
                DockerConfig { auths }
            }
        };
        let fitting = config.auths.iter().filter(|(entry, _)| fits(entry, image));
        let Some((registry, entry)) = fitting.max_by_key(|(entry, _)| entry.len()) else { return Ok(None) };
        read(entry).map(Some).ok_or_else(|| AuthError::Entry { registry: registry.clone() })
    }
}

fn read(entry: &DockerAuth) -> Option<Auth> {
    let given = |token: &Option<String>| token.clone().filter(|token| !token.is_empty());
    if let Some(token) = given(&entry.identitytoken) {
        return Some(Auth::IdentityToken(token));
    }
    if let Some(token) = given(&entry.registrytoken) {
        return Some(Auth::RegistryToken(token));
    }
    if let Some(encoded) = given(&entry.auth) {
        let encoded = encoded.trim();
        let decoded = STANDARD.decode(encoded).or_else(|_| STANDARD_NO_PAD.decode(encoded)).ok()?;
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        // Some writers pad with zero bytes.
        let password = password.trim_end_matches('\0');
        return Some(Auth::Basic { user: user.to_owned(), password: password.to_owned() });
    }
    match (&entry.username, &entry.password) {
        (Some(user), Some(password)) => Some(Auth::Basic { user: user.clone(), password: password.clone() }),
        _ => Some(Auth::Anonymous),
    }
}

/// Whether an entry is for an image: the host, part by part, and the beginning of the path.
fn fits(entry: &str, image: &Reference) -> bool {
    let entry = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://")).unwrap_or(entry);
    let (host, path) = entry.split_once('/').unwrap_or((entry, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    // Docker's own entry is `https://index.docker.io/v1/`.
    let path = path.trim_end_matches('/');
    let path = if path == "v1" || path == "v2" { "" } else { path };
    let split = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) => (name.to_owned(), Some(port.to_owned())),
        None => (host.to_owned(), None),
    };
    let ((entry_name, entry_port), (name, port)) = (split(host), split(image.registry()));
    let (pattern, labels): (Vec<&str>, Vec<&str>) =
        (entry_name.split('.').collect(), name.split('.').collect());
    let host_fits = pattern.len() == labels.len()
        && pattern.iter().zip(&labels).all(|(pattern, label)| glob(pattern, label));
    let repository = image.repository();
    let path_fits = path.is_empty()
        || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    host_fits && entry_port == port && path_fits
}

/// One part of a host name; `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).any(|at| text.is_char_boundary(at) && glob(rest, &text[at..]))
        }),
    }
}

/// What a registry asks for with a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Read a `WWW-Authenticate` header.
    pub(super) fn parse(header: &str) -> Option<Challenge> {
        let (scheme, parameters) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = parameters.trim_start();
        while let Some((key, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            let value = Some(value.to_owned());
            match key.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = value,
                "service" => service = value,
                "scope" => scope = value,
                _ => {}
            }
            rest = after.trim_start_matches([',', ' ']);
        }
        Some(Challenge::Bearer { realm: realm?, service, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"",
                Some(bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                )),
            ),
            ("bearer realm=\"r\", error=\"invalid_token\"", Some(bearer("r", None, None))),
            ("Bearer realm=r,service=s", Some(bearer("r", Some("s"), None))),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"open", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn entries_of_a_docker_configuration() {
        let config = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:secret:with:colons")},
            "r.io": {"username": "u", "password": "p"},
            "r.io/team": {"auth": STANDARD_NO_PAD.encode("team:t")},
            "*.example.com": {"identitytoken": "it"},
            "localhost:5000": {"registrytoken": "rt"},
            "broken.io": {"auth": "%%%"},
        }})
        .to_string();
        let basic = |user: &str, password: &str| {
            Some(Auth::Basic { user: user.to_owned(), password: password.to_owned() })
        };
        let look =
            |image: &str| Auth::from_docker_config(config.as_bytes(), &Reference::parse(image).unwrap());
        for (image, expected) in [
            ("nginx", basic("hub", "secret:with:colons")),
            ("bitnami/redis", basic("hub", "secret:with:colons")),
            ("r.io/a", basic("u", "p")),
            ("r.io/team/a", basic("team", "t")),
            ("r.io/teamwork/a", basic("u", "p")),
            ("x.example.com/a", Some(Auth::IdentityToken("it".to_owned()))),
            ("a.b.example.com/a", None),
            ("example.com/a", None),
            ("localhost:5000/a", Some(Auth::RegistryToken("rt".to_owned()))),
            ("localhost:5001/a", None),
            ("other.io/a", None),
        ] {
            assert_eq!(look(image).unwrap(), expected, "{image}");
        }
        assert!(look("broken.io/a").unwrap_err().to_string().contains("broken.io"));
        let older = serde_json::json!({"r.io": {"username": "u", "password": "p"}}).to_string();
        let image = Reference::parse("r.io/a").unwrap();
        assert_eq!(Auth::from_docker_config(older.as_bytes(), &image).unwrap(), basic("u", "p"));
        assert!(Auth::from_docker_config(b"no", &image).is_err());
        let shown = format!("{:?}", look("nginx"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("*", "a", true),
            ("a*c", "abc", true),
            ("a*", "b", false),
            ("*b*", "abc", true),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
