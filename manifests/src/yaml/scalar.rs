//! What a scalar means in YAML 1.1, as go-yaml v2 resolves it.

use serde_json::{Number, Value};

/// A scalar that has been given its meaning.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Above what an i64 holds.
    Uint(u64),
    Float(f64),
    Text(String),
}

impl Scalar {
    /// As a value. JSON has no infinities.
    pub(super) fn into_value(self) -> Result<Value, String> {
        Ok(match self {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => Value::Bool(value),
            Scalar::Int(value) => Value::Number(value.into()),
            Scalar::Uint(value) => Value::Number(value.into()),
            Scalar::Float(value) => Value::Number(float(value)?),
            Scalar::Text(text) => Value::String(text),
        })
    }

    /// As the key of an object; there is none for null.
    pub(super) fn into_key(self) -> Option<String> {
        Some(match self {
            Scalar::Null => return None,
            Scalar::Bool(value) => value.to_string(),
            Scalar::Int(value) => value.to_string(),
            Scalar::Uint(value) => value.to_string(),
            Scalar::Float(value) if value == f64::INFINITY => ".inf".to_owned(),
            Scalar::Float(value) if value == f64::NEG_INFINITY => "-.inf".to_owned(),
            Scalar::Float(value) if value.is_nan() => ".nan".to_owned(),
            Scalar::Float(value) => value.to_string(),
            Scalar::Text(text) => text,
        })
    }
}

/// JSON has one kind of number, so a float without a fraction is an integer: `1e3` and `5.0` can be ports.
fn float(value: f64) -> Result<Number, String> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2⁵³: up to here every integer is a float
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Ok(Number::from(value as i64));
    }
    Number::from_f64(value).ok_or_else(|| {
        let name = if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        };
        format!("json: unsupported value: {name}")
    })
}

/// The meaning of a plain scalar without a tag.
pub(super) fn resolve(text: &str) -> Scalar {
    if let Some(named) = named(text) {
        return named;
    }
    match text.as_bytes().first() {
        Some(b'.') => match float_text(text) {
            Some(value) => Scalar::Float(value),
            None => Scalar::Text(text.to_owned()),
        },
        Some(b'+' | b'-' | b'0'..=b'9') => number(text).unwrap_or_else(|| Scalar::Text(text.to_owned())),
        _ => Scalar::Text(text.to_owned()),
    }
}

/// The meaning of a scalar with one of YAML's own tags, given by its name: `int` for `!!int`.
pub(super) fn resolve_tagged(tag: &str, text: &str) -> Result<Scalar, String> {
    let scalar = resolve(text);
    let found = match (tag, scalar) {
        ("str", _) => return Ok(Scalar::Text(text.to_owned())),
        ("null", Scalar::Null) => return Ok(Scalar::Null),
        ("bool", scalar @ Scalar::Bool(_)) => return Ok(scalar),
        ("int", scalar @ (Scalar::Int(_) | Scalar::Uint(_))) => return Ok(scalar),
        ("float", scalar @ Scalar::Float(_)) => return Ok(scalar),
        ("float", Scalar::Int(value)) => return Ok(Scalar::Float(value as f64)),
        // A date stays the text that it is.
        ("timestamp", Scalar::Text(text)) => return Ok(Scalar::Text(text)),
        (_, scalar) => scalar,
    };
    let found = match found {
        Scalar::Null => "null",
        Scalar::Bool(_) => "bool",
        Scalar::Int(_) | Scalar::Uint(_) => "int",
        Scalar::Float(_) => "float",
        Scalar::Text(_) => "str",
    };
    Err(format!("cannot decode !!{found} `{text}` as a !!{tag}"))
}

fn named(text: &str) -> Option<Scalar> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Scalar::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Scalar::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        _ => return None,
    })
}

/// Integers in base 2, 8, 10 and 16 with `_` between digits anywhere, then floats.
fn number(text: &str) -> Option<Scalar> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix(['+', '-']) {
        Some(digits) => (&plain[..1], digits),
        None => ("", plain.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // A second sign would be accepted by the standard library.
    if digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        if let Ok(value) = i64::from_str_radix(&format!("{sign}{digits}"), base) {
            return Some(Scalar::Int(value));
        }
        if sign.is_empty()
            && let Ok(value) = u64::from_str_radix(digits, base)
        {
            return Some(Scalar::Uint(value));
        }
    }
    float_text(&plain).map(Scalar::Float)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn float_text(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(index) => (&unsigned[..index], Some(&unsigned[index + 1..])),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let good_mantissa = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let good_exponent = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    // Out of range is no number in Go, and infinity in Rust.
    (good_mantissa && good_exponent).then(|| text.parse::<f64>().ok())?.filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(text: &str, expected: Value) {
        assert_eq!(resolve(text).into_value(), Ok(expected), "{text}");
    }

    #[test]
    fn named_values() {
        for text in ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"] {
            check(text, json!(true));
        }
        for text in ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"] {
            check(text, json!(false));
        }
        for text in ["", "~", "null", "Null", "NULL"] {
            check(text, json!(null));
        }
        for text in ["yEs", "nULL", "tRUE", "<<", "yess", "None"] {
            check(text, json!(text));
        }
    }

    #[test]
    fn numbers() {
        check("0", json!(0));
        check("-0", json!(0));
        check("42", json!(42));
        check("+42", json!(42));
        check("-42", json!(-42));
        check("0644", json!(420));
        check("0o644", json!(420));
        check("-0644", json!(-420));
        check("08", json!(8));
        check("0x1F", json!(31));
        check("0b101", json!(5));
        check("-0b11", json!(-3));
        check("1_000", json!(1000));
        check("1e3", json!(1000));
        check("5.0", json!(5));
        check("1.5", json!(1.5));
        check("-1.5e-3", json!(-0.0015));
        check(".5", json!(0.5));
        check("5.", json!(5));
        check("18446744073709551615", json!(18_446_744_073_709_551_615_u64));
        check("9223372036854775808", json!(9_223_372_036_854_775_808_u64));
        check("123456789012345678901234567890", json!(1.234_567_890_123_456_8e29));
    }

    #[test]
    fn texts() {
        for text in [
            "a",
            "12:30",
            "190:20:30",
            "1.2.3",
            "1Gi",
            "2001-01-01",
            "2001-12-14T21:59:43Z",
            "-",
            "+",
            ".",
            "..",
            "-.",
            "0x",
            "0xg",
            "1e",
            "1e400",
            "--1",
            "+-1",
            "0b2",
            "_1",
            "0x1p-2",
            "=",
            "1 2",
            "0o9",
        ] {
            check(text, json!(text));
        }
    }

    #[test]
    fn infinities_are_refused_as_values_only() {
        assert_eq!(resolve(".inf").into_value(), Err("json: unsupported value: +Inf".to_owned()));
        assert_eq!(resolve("-.INF").into_key(), Some("-.inf".to_owned()));
        assert_eq!(resolve("~").into_key(), None);
        assert_eq!(resolve("0644").into_key(), Some("420".to_owned()));
        assert_eq!(resolve("on").into_key(), Some("true".to_owned()));
    }

    #[test]
    fn tags() {
        assert_eq!(resolve_tagged("str", "12"), Ok(Scalar::Text("12".to_owned())));
        assert_eq!(resolve_tagged("int", "12"), Ok(Scalar::Int(12)));
        assert_eq!(resolve_tagged("float", "12"), Ok(Scalar::Float(12.0)));
        assert_eq!(resolve_tagged("int", "a"), Err("cannot decode !!str `a` as a !!int".to_owned()));
    }
}
