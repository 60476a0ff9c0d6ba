//! What Go would call the type of a field, for messages only.

use std::any::type_name;

/// `int32`, `[]v1.Container`, `map[string]string`, ….
///
/// Made from the compiler's name of the Rust type, which is not guaranteed to stay as it is; if it changes, a message
/// becomes less familiar and nothing else happens. The tests would say so.
pub(super) fn of<T>() -> String {
    translate(type_name::<T>())
}

fn translate(name: &str) -> String {
    let (path, arguments) = match name.split_once('<') {
        Some((path, rest)) => (path, rest.strip_suffix('>').unwrap_or(rest)),
        None => (name, ""),
    };
    match path.rsplit("::").next().unwrap_or(path) {
        "i8" => "int8".to_owned(),
        "i16" => "int16".to_owned(),
        "i32" | "IntOrString" => "int32".to_owned(),
        "i64" => "int64".to_owned(),
        "u16" => "uint16".to_owned(),
        "u32" => "uint32".to_owned(),
        "u64" => "uint64".to_owned(),
        "f32" => "float32".to_owned(),
        "f64" => "float64".to_owned(),
        "String" => "string".to_owned(),
        "ByteString" => "[]uint8".to_owned(),
        "Option" | "Box" => translate(arguments),
        "Vec" => format!("[]{}", translate(arguments)),
        "BTreeMap" => {
            let (key, value) = arguments.split_once(", ").unwrap_or((arguments, ""));
            format!("map[{}]{}", translate(key), translate(value))
        }
        last => {
            let version = path.split("::").find(|part| is_version(part));
            version.map_or_else(|| last.to_owned(), |version| format!("{version}.{last}"))
        }
    }
}

/// `v1` or `v1beta1`, but not k8s-openapi's `v1_37`.
fn is_version(part: &str) -> bool {
    part.strip_prefix('v').is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_digit()) && rest.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;

    #[test]
    fn names() {
        assert_eq!(of::<i32>(), "int32");
        assert_eq!(of::<Option<String>>(), "string");
        assert_eq!(of::<Vec<Container>>(), "[]v1.Container");
        assert_eq!(of::<BTreeMap<String, Vec<i64>>>(), "map[string][]int64");
        assert_eq!(of::<PodSpec>(), "v1.PodSpec");
    }
}
