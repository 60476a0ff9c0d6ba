//! Choosing addresses.
//!
//! Taken is what living links carry. Among the free ones the next after the last one handed out is chosen, round and
//! round, so an address rests as long as possible before somebody else gets it: peers that still talk to the one
//! before (a cached DNS answer, an open connection) then find nobody rather than a stranger.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::config::Config;
use crate::error::Error;

/// The next free address after `last`, round the range; `None` when all are taken.
pub(crate) fn choose(range: Ipv4Net, taken: &BTreeSet<Ipv4Addr>, last: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let (first, end) = (u32::from(range.network()), u32::from(range.broadcast()));
    let last = last.filter(|last| range.contains(last)).map_or(first, u32::from);
    let free = |address: &u32| !taken.contains(&Ipv4Addr::from(*address));
    // Network and broadcast address are nobody's.
    (last + 1..end).find(free).or_else(|| (first + 1..=last.min(end - 1)).find(free)).map(Ipv4Addr::from)
}

/// The hardware address that goes with an address. Being derived, it stays right in neighbours' caches when an
/// interface is made anew with the same address.
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // The second-lowest bit of the first byte says "locally administered".
    [0x0a, 0x58, a, b, c, d]
}

fn path(config: &Config) -> PathBuf {
    config.state_dir.join("last-address")
}

/// The last address handed out, as far as it is known.
pub(crate) fn last(config: &Config) -> Option<Ipv4Addr> {
    fs::read_to_string(path(config)).ok()?.trim().parse().ok()
}

/// Remembers the last address handed out.
pub(crate) fn remember(config: &Config, address: Ipv4Addr) -> Result<(), Error> {
    let path = path(config);
    let write = || -> io::Result<()> {
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        writeln!(file, "{address}")?;
        // Not synced: it is a hint, and reading garbage after a power cut only starts the round anew.
        fs::rename(&beside, &path)
    };
    write().map_err(|source| Error::State { path: path.clone(), source })
}

/// Removes the file of the last address.
pub(crate) fn forget(config: &Config) -> Result<(), Error> {
    for path in [path(config), path(config).with_extension("new")] {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::State { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(taken: &[u8], last: Option<u8>, expected: Option<u8>) {
        let address = |low: u8| Ipv4Addr::new(10, 0, 0, low);
        let range = Ipv4Net::new(address(8), 29).unwrap();
        let taken = taken.iter().map(|low| address(*low)).collect();
        assert_eq!(choose(range, &taken, last.map(address)), expected.map(address));
    }

    #[test]
    fn choices() {
        check(&[], None, Some(9));
        check(&[9], None, Some(10));
        check(&[9, 14], Some(9), Some(10));
        check(&[9, 14], Some(10), Some(11)); // 10 is free again, but was used last
        check(&[9, 14], Some(13), Some(10)); // round
        check(&[9, 11, 12, 13, 14], Some(10), Some(10)); // only the last one is left
        check(&[9, 10, 11, 12, 13, 14], Some(10), None);
        check(&[], Some(77), Some(9)); // from another range
        check(&[], Some(15), Some(9));
        check(&[], Some(8), Some(9));
    }

    proptest! {
        #[test]
        fn an_address_is_not_reused_before_all_others_were(releases in prop::collection::vec(0usize..8, 1..200)) {
            let range: Ipv4Net = "10.0.0.0/28".parse().unwrap();
            let mut taken = BTreeSet::new();
            let (mut last, mut history) = (None, Vec::<Ipv4Addr>::new());
            for release in releases {
                if taken.len() > 7 {
                    let gone = *taken.iter().nth(release % taken.len()).unwrap();
                    taken.remove(&gone);
                }
                let chosen = choose(range, &taken, last).unwrap();
                prop_assert!(!taken.contains(&chosen));
                // 14 addresses, at most 8 taken: the 6 that rest are the ones used longest ago or skipped as taken.
                let recent = history.iter().rev().take(6);
                prop_assert!(recent.clone().all(|used| *used != chosen), "{chosen} in {:?}", recent.collect::<Vec<_>>());
                taken.insert(chosen);
                history.push(chosen);
                last = Some(chosen);
            }
        }
    }
}
