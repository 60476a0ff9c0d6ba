//! Addresses and networks.

use std::net::{IpAddr, Ipv4Addr};

use crate::field::{ErrorList, FieldError, Path};

/// An address; gives it back when it is one.
pub(super) fn ip(value: &str, path: &Path, errors: &mut ErrorList) -> Option<IpAddr> {
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            errors.push(FieldError::invalid(path, value, "must not be an IPv4-mapped IPv6 address"));
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            let detail = if has_leading_zeros(value) {
                "must not have leading 0s"
            } else {
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            };
            errors.push(FieldError::invalid(path, value, detail));
            None
        }
    }
}

/// An IPv4 address but for zeros in front, which other software may read as octal.
fn has_leading_zeros(value: &str) -> bool {
    let stripped: Vec<&str> = value
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            rest => rest,
        })
        .collect();
    stripped.join(".") != value && stripped.join(".").parse::<Ipv4Addr>().is_ok()
}

/// An address that can belong to an endpoint.
pub(super) fn non_special(value: &str, path: &Path, errors: &mut ErrorList) {
    let Ok(address) = value.parse::<IpAddr>() else {
        errors.push(FieldError::invalid(path, value, "must be a valid IP address"));
        return;
    };
    if address.is_unspecified() {
        errors.push(FieldError::invalid(path, value, format!("may not be unspecified ({value})")));
    }
    if address.is_loopback() {
        let detail = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        errors.push(FieldError::invalid(path, value, detail));
    }
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        let detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.push(FieldError::invalid(path, value, detail));
    }
    if link_local_multicast {
        let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.push(FieldError::invalid(path, value, detail));
    }
}

/// A network: `10.9.8.0/24`, with no bits beyond its length.
pub(super) fn cidr(value: &str, path: &Path, errors: &mut ErrorList) -> Option<IpAddr> {
    const DETAIL: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let parsed = value.split_once('/').and_then(|(address, length)| {
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|length| digits && *length <= bits)?;
        Some((address, length))
    });
    let Some((address, length)) = parsed else {
        errors.push(FieldError::invalid(path, value, DETAIL));
        return None;
    };
    let beyond = match address {
        IpAddr::V4(v4) => v4.to_bits() & u32::MAX.checked_shr(length.into()).unwrap_or(0) != 0,
        IpAddr::V6(v6) => v6.to_bits() & u128::MAX.checked_shr(length.into()).unwrap_or(0) != 0,
    };
    if beyond {
        errors.push(FieldError::invalid(path, value, "must not have bits set beyond the prefix length"));
        return None;
    }
    Some(address)
}

/// At most one of each family.
pub(super) fn one_per_family(addresses: impl IntoIterator<Item = IpAddr>) -> bool {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    v4.len() <= 1 && v6.len() <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str, &Path, &mut ErrorList);

    fn check(rule: Rule, good: &[&str], bad: &[(&str, &str)]) {
        let path = Path::new("ip");
        for value in good {
            let mut errors = ErrorList::new();
            rule(value, &path, &mut errors);
            assert_eq!(errors.to_string(), "", "{value}");
        }
        for (value, message) in bad {
            let mut errors = ErrorList::new();
            rule(value, &path, &mut errors);
            assert_eq!(errors.to_string(), format!("ip: Invalid value: \"{value}\": {message}"));
        }
    }

    #[test]
    fn addresses() {
        let invalid = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        check(
            |value, path, errors| {
                ip(value, path, errors);
            },
            &["10.0.0.1", "fd00::1"],
            &[
                ("", invalid),
                ("10.0.0", invalid),
                ("10.0.0.256", invalid),
                ("fe80::1%eth0", invalid),
                ("010.0.0.01", "must not have leading 0s"),
                ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            ],
        );
        check(
            non_special,
            &["10.0.0.1", "fd00::1"],
            &[
                ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
                ("127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
                ("169.254.1.1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
                ("224.0.0.1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
                ("x", "must be a valid IP address"),
            ],
        );
    }

    #[test]
    fn networks() {
        let invalid = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        check(
            |value, path, errors| {
                cidr(value, path, errors);
            },
            &["10.0.0.0/8", "0.0.0.0/0", "10.0.0.1/32", "fd00::/8", "::/0"],
            &[
                ("10.0.0.0", invalid),
                ("10.0.0.0/33", invalid),
                ("10.0.0.0/+8", invalid),
                ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ],
        );
    }
}
