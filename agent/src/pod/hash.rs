//! The hash that tells whether a running container is still the one that is wanted.

use manifests::k8s_openapi::api::core::v1::Container;

/// Of a container's definition only name and image can change in place and need a restart; the rest is immutable or,
/// like resources, is changed without one.
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    format!("{:08x}", fnv(container.name.bytes().chain([0]).chain(image.bytes())))
}

/// FNV-1a, 32 bits: short, stable, and not for security.
pub fn fnv(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(fnv(std::iter::empty()), 0x811c_9dc5);
        assert_eq!(fnv(b"a".iter().copied()), 0xe40c_292c);
        assert_eq!(fnv(b"foobar".iter().copied()), 0xbf9c_f968);
    }

    #[test]
    fn only_the_image_counts() {
        let container = |image: &str, arg: &str| Container {
            name: "a".into(),
            image: Some(image.into()),
            args: Some(vec![arg.into()]),
            ..Container::default()
        };
        assert_eq!(container_hash(&container("x:1", "a")), container_hash(&container("x:1", "b")));
        assert_ne!(container_hash(&container("x:1", "a")), container_hash(&container("x:2", "a")));
    }
}
