//! Names of images, as people write them for Docker.
//!
//! Follows the grammar of the distribution project: `[registry/]repository[:tag][@digest]`, with its
//! conventions for short names: `nginx` is `docker.io/library/nginx:latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The registry of names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// A complete name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a name is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {reference:?}: {problem}")]
pub struct ReferenceError {
    /// As it was written.
    pub reference: String,
    /// What is wrong, and what is expected.
    pub problem: String,
}

impl Reference {
    /// Read a name.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { reference: text.chars().take(300).collect(), problem })
    }

    /// Host, and port if there is one: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path within the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if it was written; `latest` if neither tag nor digest was.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if it was written. It decides which image is meant, whatever the tag says.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository, by digest alone.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// As people write it: without what is understood.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/library/") {
            Some(short) => short.to_owned(),
            None => full.strip_prefix("docker.io/").unwrap_or(&full).to_owned(),
        }
    }
}

/// The complete form: `docker.io/library/nginx:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if let Some(odd) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("it contains {odd:?}"));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("it begins with {scheme}://, but an image is named without a scheme"));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|error| error.to_string())?)),
        None => (text, None),
    };
    // A colon after the last slash begins a tag; one before it is a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    if registry != DEFAULT_REGISTRY {
        check_registry(registry)?;
    }
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    check_path(path)?;
    if path.len() == 64 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(
            "64 hexadecimal digits are an image ID and no name; for a digest write name@sha256:…".to_owned()
        );
    }
    let repository = match registry {
        DEFAULT_REGISTRY if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if registry.len() + 1 + repository.len() > LONGEST_NAME {
        return Err(format!("the name is longer than {LONGEST_NAME} characters"));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// Whether the first part of a name is a host and not a part of the path.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':', '['])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), String> {
    let problem = || format!("{registry:?} is not a registry (a host name or address, and maybe a port)");
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err(problem());
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().map(drop).map_err(|_| problem());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.split('.').all(label) { Ok(()) } else { Err(problem()) }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_well = tag.bytes().next().is_some_and(word);
    if !starts_well
        || tag.len() > LONGEST_TAG
        || !tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
    {
        return Err(format!(
            "{tag:?} is not a tag (letters, digits, '_', '.', '-', not beginning with '.' or '-', at most {LONGEST_TAG})"
        ));
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    for part in path.split('/') {
        if part.is_empty() {
            return Err("a part of the repository name is empty".to_owned());
        }
        if part.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("repository name must be lowercase, but has {part:?}"));
        }
        if !is_path_part(part) {
            return Err(format!(
                "{part:?} is not a part of a repository name (lowercase letters and digits, separated by '.', '_', '__' or '-')"
            ));
        }
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_part(part: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators_are_good =
        part.as_bytes().split(alphanumeric).filter(|separator| !separator.is_empty()).all(|separator| {
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
        });
    let ends = [part.as_bytes().first(), part.as_bytes().last()];
    separators_are_good && ends.into_iter().all(|end| end.is_some_and(alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(text: &str, full: &str, familiar: &str) {
        let reference = Reference::parse(text).unwrap();
        assert_eq!(reference.to_string(), full);
        assert_eq!(reference.familiar(), familiar);
        assert_eq!(Reference::parse(full).unwrap(), reference, "the complete form means the same");
        assert_eq!(Reference::parse(familiar).unwrap(), reference, "and so does the short one");
    }

    #[test]
    fn names_as_people_write_them() {
        check("nginx", "docker.io/library/nginx:latest", "nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27");
        check("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest");
        check("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest");
        check("bitnami/redis:7", "docker.io/bitnami/redis:7", "bitnami/redis:7");
        check("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest");
        check("localhost/a", "localhost/a:latest", "localhost/a:latest");
        check("localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000/a:b");
        check("localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a:latest");
        check("127.0.0.1:80/x/y:1", "127.0.0.1:80/x/y:1", "127.0.0.1:80/x/y:1");
        check("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest");
        check("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9");
        check("ghcr.io/o/r/i:v1.2.3-rc.1", "ghcr.io/o/r/i:v1.2.3-rc.1", "ghcr.io/o/r/i:v1.2.3-rc.1");
        check("REGISTRY/x", "REGISTRY/x:latest", "REGISTRY/x:latest");
        check("a__b/c-d--e.f_g", "docker.io/a__b/c-d--e.f_g:latest", "a__b/c-d--e.f_g:latest");
        check("x:_a", "docker.io/library/x:_a", "x:_a");
        check(&format!("x@{D}"), &format!("docker.io/library/x@{D}"), &format!("x@{D}"));
        check(&format!("r.io/x:t@{D}"), &format!("r.io/x:t@{D}"), &format!("r.io/x:t@{D}"));
    }

    #[test]
    fn parts() {
        let reference = Reference::parse(&format!("localhost:5000/a/b:t@{D}")).unwrap();
        assert_eq!(reference.registry(), "localhost:5000");
        assert_eq!(reference.repository(), "a/b");
        assert_eq!(reference.tag(), Some("t"));
        assert_eq!(reference.digest().unwrap().to_string(), D);
        assert_eq!(reference.name(), "localhost:5000/a/b");
        let untagged = Reference::parse(&format!("a@{D}")).unwrap();
        assert_eq!(untagged.tag(), None, "a digest needs no tag");
    }

    #[test]
    fn names_that_are_none() {
        let long = "a".repeat(240);
        for (text, problem) in [
            ("", "empty"),
            (" nginx", "contains ' '"),
            ("nginx\n", "contains"),
            ("Nginx", "lowercase"),
            ("docker.io/Nginx", "lowercase"),
            ("https://docker.io/nginx", "without a scheme"),
            ("nginx:", "not a tag"),
            ("nginx:.a", "not a tag"),
            ("nginx:a b", "contains"),
            ("nginx:ä", "not a tag"),
            (&format!("nginx:{}", "a".repeat(129)), "not a tag"),
            ("a//b", "empty"),
            ("/a", "empty"),
            ("a/", "empty"),
            ("-a", "not a part"),
            ("a-", "not a part"),
            ("a..b", "not a part"),
            ("a___b", "not a part"),
            ("a._b", "not a part"),
            ("ä", "not a part"),
            ("../x", "not a registry"),
            ("a/../b", "not a part"),
            ("a@b", "not a digest"),
            (&format!("a@{D}0"), "not a digest"),
            (&format!("@{D}"), "empty"),
            ("localhost:x/a", "not a registry"),
            ("localhost:99999/a", "not a registry"),
            ("exa_mple.com/a", "not a registry"),
            (".com/a", "not a registry"),
            ("[::x]:5000/a", "not a registry"),
            (&D[7..], "image ID"),
            (&format!("{long}/{long}"), "longer"),
        ] {
            let error = Reference::parse(text).expect_err(text);
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_that_parses_reads_back(text in "[a-zA-Z0-9:/@._\\-\\[\\]]{0,60}|\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
            }
        }
    }
}
