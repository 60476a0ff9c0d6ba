//! `$(VAR)` in commands, arguments and values of environment variables.
//!
//! Follows the rules of `third_party/forked/golang/expansion`: `$$` is a dollar, a reference that cannot be resolved
//! stays as it is written, and a dollar before anything else is just a dollar.

/// Replaces the references in `text` by what `lookup` knows. What it returns is not expanded again.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|reference| reference.split_once(')'))
        {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<&'static str> {
        match name {
            "A" => Some("a"),
            "B" => Some("$(A)"),
            "E" => Some(""),
            _ => None,
        }
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(expand(text, lookup), expected, "{text}");
    }

    #[test]
    fn references() {
        check("", "");
        check("plain", "plain");
        check("$(A)", "a");
        check("x$(A)y$(A)z", "xayaz");
        check("$(B)", "$(A)");
        check("[$(E)]", "[]");
        check("$(MISSING)", "$(MISSING)");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$a");
        check("$$$$(A)", "$$(A)");
        check("$", "$");
        check("$$", "$");
        check("$A", "$A");
        check("$(A", "$(A");
        check("$()", "$()");
        check("$(A$(A))", "$(A$(A))");
        check("$ö$(A)", "$öa");
        check("a$", "a$");
    }

    proptest! {
        #[test]
        fn any_text(text in "[$()A ]{0,20}|.{0,20}") {
            expand(&text, lookup);
        }
    }
}
