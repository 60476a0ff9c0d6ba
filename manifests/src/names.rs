//! Formats of names, label keys and values, ports and the like, each with upstream's explanation of what is allowed.
//!
//! Every check returns the messages that upstream returns, none when the value is fine. Follows
//! `k8s.io/apimachinery/pkg/util/validation` and `pkg/api/validation`. The regular expressions appear in the messages;
//! the checks themselves are plain loops, because names are checked on every write.

const DNS_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// What a check found wrong.
pub type Messages = Vec<String>;

fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn max_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn max_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `must be between 1 and 65535, inclusive`.
pub fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn matches_label(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match value.as_bytes() {
        [] => false,
        bytes => {
            inner(bytes[0]) && inner(bytes[bytes.len() - 1]) && bytes.iter().all(|&b| inner(b) || b == b'-')
        }
    }
}

fn matches_subdomain(value: &str) -> bool {
    value.split('.').all(matches_label)
}

/// Letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit.
fn matches_qualified(value: &str) -> bool {
    match value.as_bytes() {
        [] => false,
        bytes => {
            bytes[0].is_ascii_alphanumeric()
                && bytes[bytes.len() - 1].is_ascii_alphanumeric()
                && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
    }
}

/// A DNS label as in RFC 1123: `my-name`, at most 63 characters.
pub fn dns1123_label(value: &str) -> Messages {
    let mut messages = Messages::new();
    if value.len() > 63 {
        messages.push(max_characters(63));
    }
    if !matches_label(value) {
        messages.push(if matches_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                DNS_LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    messages
}

/// A DNS name as in RFC 1123: `example.com`, at most 253 characters.
pub fn dns1123_subdomain(value: &str) -> Messages {
    let mut messages = Messages::new();
    if value.len() > 253 {
        messages.push(max_characters(253));
    }
    if !matches_subdomain(value) {
        messages.push(subdomain_error());
    }
    messages
}

fn subdomain_error() -> String {
    regex_error(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        DNS_SUBDOMAIN,
        &["example.com"],
    )
}

/// A DNS name in which labels may also contain and begin with underscores.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Messages {
    let mut messages = Messages::new();
    if value.len() > 253 {
        messages.push(max_characters(253));
    }
    let label = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        match rest.as_bytes() {
            [] => false,
            bytes => {
                inner(bytes[0])
                    && inner(bytes[bytes.len() - 1])
                    && bytes.iter().all(|&b| inner(b) || matches!(b, b'-' | b'_'))
            }
        }
    };
    if !value.split('.').all(label) {
        messages.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    messages
}

/// A DNS label as in RFC 1035, which begins with a letter: names of services.
pub fn dns1035_label(value: &str) -> Messages {
    let mut messages = Messages::new();
    if value.len() > 63 {
        messages.push(max_characters(63));
    }
    if !matches_label(value) || value.as_bytes()[0].is_ascii_digit() {
        messages.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    messages
}

/// A label key: `name` or `example.com/name`. Also resource names, finalizers, taint keys, condition types, ….
pub fn qualified_name(value: &str) -> Messages {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut messages = Messages::new();
    let mut parts = value.split('/');
    let (prefix, name) = match (parts.next(), parts.next(), parts.next()) {
        (Some(prefix), Some(name), None) => (Some(prefix), name),
        (Some(name), None, None) => (None, name),
        _ => {
            messages.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(MESSAGE, QUALIFIED, EXAMPLES)
            ));
            return messages;
        }
    };
    match prefix {
        Some("") => messages.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if prefix.len() > 253 {
                messages.push(format!("prefix part {}", max_bytes(253)));
            }
            if !matches_subdomain(prefix) {
                messages.push(format!("prefix part {}", subdomain_error()));
            }
        }
        None => {}
    }
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        messages.push(format!("name part {}", max_bytes(63)));
    }
    if !matches_qualified(name) {
        messages.push(format!("name part {}", regex_error(MESSAGE, QUALIFIED, EXAMPLES)));
    }
    messages
}

/// A label value: empty, or like the name part of a label key.
pub fn label_value(value: &str) -> Messages {
    let mut messages = Messages::new();
    if value.len() > 63 {
        messages.push(max_bytes(63));
    }
    if !value.is_empty() && !matches_qualified(value) {
        messages.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Messages {
    let mut messages = Messages::new();
    if value.len() > 253 {
        messages.push(max_characters(253));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(allowed) {
        messages.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    messages.extend(dot_dot_prefix(value));
    messages
}

fn dot_dot_prefix(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        value if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an environment variable: anything printable in ASCII but `=`.
pub fn env_var_name(value: &str) -> Messages {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Messages::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

/// A C identifier: what may become an environment variable everywhere.
pub fn c_identifier(value: &str) -> Messages {
    let bytes = value.as_bytes();
    let start = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    if !bytes.is_empty() && start(bytes[0]) && bytes.iter().all(|&b| start(b) || b.is_ascii_digit()) {
        return Messages::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// A port number, 1 to 65535.
pub fn port_number(port: i64) -> Messages {
    in_range(port, 1, 65535)
}

/// A number in an inclusive range.
pub fn in_range(value: i64, low: i64, high: i64) -> Messages {
    if (low..=high).contains(&value) { Messages::new() } else { vec![between(low, high)] }
}

/// A port's name as in RFC 6335: `http`, at most 15 characters.
pub fn port_name(value: &str) -> Messages {
    let mut messages = Messages::new();
    if value.len() > 15 {
        messages.push(max_characters(15));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if value.is_empty() || !value.bytes().all(allowed) {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// A percentage: `25%`.
pub fn percent(value: &str) -> Messages {
    match value.strip_suffix('%') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Messages::new(),
        _ => vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )],
    }
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Messages {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Messages::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// A name that can stand in a URL path.
pub fn path_segment(value: &str) -> Messages {
    match value {
        "." => vec!["may not be '.'".to_owned()],
        ".." => vec!["may not be '..'".to_owned()],
        _ => ["/", "%"]
            .iter()
            .filter(|bad| value.contains(**bad))
            .map(|bad| format!("may not contain '{bad}'"))
            .collect(),
    }
}

/// The rule that an object's name follows; it depends on the kind.
pub type NameRule = fn(&str) -> Messages;

/// Applies a rule to a `generateName`: what is appended later may follow a dash.
pub fn prefix_of(rule: NameRule, prefix: &str) -> Messages {
    match prefix.strip_suffix('-') {
        Some(start) if !start.is_empty() => {
            // The character before the dash is masked too, as upstream does: the length and the rest are checked.
            let mut masked: String = start.to_owned();
            masked.pop();
            masked.push('a');
            rule(&masked)
        }
        _ => rule(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: NameRule, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(rule(value), Messages::new(), "{value:?}");
        }
        for value in bad {
            assert_ne!(rule(value), Messages::new(), "{value:?}");
        }
    }

    #[test]
    fn rules() {
        let long = "a".repeat(64);
        let longer = "a".repeat(254);
        check(dns1123_label, &["a", "0", "a-b", "1-a"], &["", "-a", "a-", "A", "a.b", "a_b", &long, "ä"]);
        check(dns1123_subdomain, &["a", "a.b-c.d", "1.2"], &["", ".", "a..b", "a.", "-a.b", &longer]);
        check(dns1035_label, &["a", "a-1"], &["", "1a", "a.b", "-", &long]);
        check(
            qualified_name,
            &["a", "A_b.c-D", "example.com/a", "1"],
            &["", "/a", "a/", "a/b/c", "-a", "Ex.com/a", "a b", &long],
        );
        check(label_value, &["", "a", "A_b.c-1"], &["-a", "a b", "a/b", &long]);
        check(config_map_key, &["a", ".a", "a..b", "_"], &["", ".", "..", "..a", "a/b"]);
        check(env_var_name, &["A", "a b", "1", "a.b-c"], &["", "a=b", "ä", "a\tb"]);
        check(c_identifier, &["A", "_1"], &["", "1a", "a-b"]);
        check(port_name, &["http", "a-1", "1a"], &["", "1", "a--b", "-a", "HTTP", "aaaaaaaaaaaaaaaa"]);
        check(percent, &["1%", "100%"], &["", "%", "1", "a%", "-1%"]);
        check(http_header_name, &["X-A"], &["", "X A"]);
        check(path_segment, &["a", "", "A:b"], &[".", "..", "a/b", "a%"]);
        check(dns1123_subdomain_with_underscore, &["_a", "a_b.c", "a"], &["", "__a", "a_", "A"]);
    }

    #[test]
    fn messages() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            label_value("a b"),
            [
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
    }

    #[test]
    fn prefixes() {
        for (prefix, good) in
            [("web-", true), ("web", true), ("-", false), ("a-", true), ("w--", true), ("W-", true)]
        {
            assert_eq!(prefix_of(dns1123_subdomain, prefix).is_empty(), good, "{prefix:?}");
        }
    }
}
