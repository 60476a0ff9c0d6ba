//! Short names made from a hash or from chance: `pod-template-hash` and what is appended to a `generateName`.

use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::encode;

/// No vowels and no digits that look like them, so that no words come out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Objects may have names of 253 characters, but a generated name must also fit a label, as upstream has it.
const MAX_GENERATED_BASE: usize = 63 - SUFFIX_LENGTH;
const SUFFIX_LENGTH: usize = 5;

/// 32-bit FNV-1a.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    fnv32a_from(0x811c_9dc5, bytes)
}

fn fnv32a_from(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The value of the label `pod-template-hash`: the same for the same template, and another one for the same template
/// after a collision was counted.
pub fn pod_template(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    // Templates always encode; one that did not would get the hash of nothing, which still is a valid name.
    let encoded = encode::to_vec(template).unwrap_or_default();
    let mut hash = fnv32a(&encoded);
    if let Some(count) = collision_count {
        hash = fnv32a_from(hash, &count.to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

/// Replaces every character by one of the safe alphabet.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

/// The name that is made from a `generateName` and a random number. Long bases are cut.
pub fn generate_name(base: &str, random: u64) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], suffix(random))
}

/// Five safe characters from a random number.
pub fn suffix(random: u64) -> String {
    let mut rest = random;
    (0..SUFFIX_LENGTH)
        .map(|_| {
            let digit = rest % ALPHABET.len() as u64;
            rest /= ALPHABET.len() as u64;
            char::from(ALPHABET[digit as usize])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fnv_vectors() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(fnv32a(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn template_hashes() {
        let template = |image: &str| -> PodTemplateSpec {
            serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}})).unwrap()
        };
        let one = pod_template(&template("a"), None);
        assert_eq!(one, pod_template(&template("a"), None));
        assert_ne!(one, pod_template(&template("b"), None));
        assert_ne!(one, pod_template(&template("a"), Some(1)));
        assert!(one.len() <= 10 && one.bytes().all(|byte| ALPHABET.contains(&byte)), "{one}");
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn names() {
        assert_eq!(generate_name("web-", 0), "web-bbbbb");
        assert_ne!(suffix(1), suffix(2));
        assert_eq!(generate_name(&"a".repeat(300), 7).len(), 63);
        assert_eq!(generate_name(&"ä".repeat(40), 7).chars().count(), 29 + 5);
    }
}
