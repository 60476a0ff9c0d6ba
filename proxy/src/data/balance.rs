//! Which endpoint a client meets: round and round, or the same as before.
//!
//! No clock and no sockets in here; the caller says what time it is and what happened.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::table::Forward;

/// An endpoint that could not be connected to is passed over for so long, unless there is no other.
const SUSPICION: Duration = Duration::from_secs(5);

/// Clients remembered per entrance; the ones that came longest ago are forgotten first.
const REMEMBERED: usize = 10_000;

/// The state of one entrance's choices.
#[derive(Debug)]
pub(crate) struct Balancer {
    backends: Arc<[SocketAddr]>,
    /// Index of the one that is next.
    next: usize,
    affinity: Option<Affinity>,
    suspects: HashMap<SocketAddr, Instant>,
}

#[derive(Debug)]
struct Affinity {
    timeout: Duration,
    clients: HashMap<IpAddr, (SocketAddr, Instant)>,
}

/// The endpoints to try for one connection, best first, each once.
#[derive(Debug, Clone)]
pub(crate) struct Candidates {
    backends: Arc<[SocketAddr]>,
    start: usize,
    given: usize,
}

impl Iterator for Candidates {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        if self.given == self.backends.len() {
            return None;
        }
        self.given += 1;
        Some(self.backends[(self.start + self.given - 1) % self.backends.len()])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.backends.len() - self.given;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Candidates {}

impl Balancer {
    pub(crate) fn new(forward: &Forward) -> Self {
        let affinity = forward.affinity_seconds.map(|seconds| Affinity {
            timeout: Duration::from_secs(seconds.into()),
            clients: HashMap::new(),
        });
        Self { backends: forward.backends.as_slice().into(), next: 0, affinity, suspects: HashMap::new() }
    }

    /// Leads elsewhere from now on. The turn stays where it was, as far as that is possible, so that a change of one
    /// endpoint does not send everybody to the first again.
    pub(crate) fn update(&mut self, forward: &Forward) {
        let turn = self.backends.get(self.next).copied();
        self.backends = forward.backends.as_slice().into();
        // Both lists are sorted: the next one is the first that is not before the one whose turn it was.
        self.next = turn.map_or(0, |turn| self.backends.partition_point(|backend| *backend < turn));
        self.suspects.retain(|backend, _| self.backends.contains(backend));
        self.affinity = forward.affinity_seconds.map(|seconds| {
            let mut clients = self.affinity.take().map(|affinity| affinity.clients).unwrap_or_default();
            clients.retain(|_, (backend, _)| self.backends.contains(backend));
            Affinity { timeout: Duration::from_secs(seconds.into()), clients }
        });
    }

    pub(crate) fn leads_to(&self, backend: SocketAddr) -> bool {
        self.backends.contains(&backend)
    }

    /// The endpoints to try for this client.
    pub(crate) fn choose(&mut self, client: IpAddr, now: Instant) -> Candidates {
        self.suspects.retain(|_, until| *until > now);
        let start = match self.remembered(client, now) {
            Some(index) => index,
            None => self.turn(),
        };
        Candidates { backends: self.backends.clone(), start, given: 0 }
    }

    fn remembered(&self, client: IpAddr, now: Instant) -> Option<usize> {
        let affinity = self.affinity.as_ref()?;
        let (backend, at) = affinity.clients.get(&client)?;
        if now.saturating_duration_since(*at) >= affinity.timeout {
            return None;
        }
        self.backends.iter().position(|candidate| candidate == backend)
    }

    fn turn(&mut self) -> usize {
        let count = self.backends.len().max(1);
        let turns = (0..count).map(|step| (self.next + step) % count);
        let trusted = |index: &usize| {
            self.backends.get(*index).is_some_and(|backend| !self.suspects.contains_key(backend))
        };
        let index = if self.suspects.is_empty() { None } else { turns.clone().find(trusted) }
            .unwrap_or(self.next % count);
        self.next = (index + 1) % count;
        index
    }

    /// The client was connected to the endpoint.
    pub(crate) fn connected(&mut self, client: IpAddr, backend: SocketAddr, now: Instant) {
        if !self.suspects.is_empty() {
            self.suspects.remove(&backend);
        }
        let Some(affinity) = &mut self.affinity else { return };
        if affinity.clients.len() >= REMEMBERED && !affinity.clients.contains_key(&client) {
            let timeout = affinity.timeout;
            affinity.clients.retain(|_, (_, at)| now.saturating_duration_since(*at) < timeout);
            // Still full: forget the older half at once, so that this is rare.
            if affinity.clients.len() >= REMEMBERED {
                let mut times: Vec<_> = affinity.clients.values().map(|(_, at)| *at).collect();
                let (_, middle, _) = times.select_nth_unstable(REMEMBERED / 2);
                let middle = *middle;
                affinity.clients.retain(|_, (_, at)| *at > middle);
            }
        }
        affinity.clients.insert(client, (backend, now));
    }

    /// The endpoint could not be connected to.
    pub(crate) fn failed(&mut self, backend: SocketAddr, now: Instant) {
        if self.leads_to(backend) {
            self.suspects.insert(backend, now + SUSPICION);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ServiceName;

    fn forward(backends: &[u8], affinity_seconds: Option<u32>) -> Forward {
        let service = ServiceName { namespace: "default".into(), name: "web".into() };
        Forward { service, backends: backends.iter().map(|b| address(*b)).collect(), affinity_seconds }
    }

    fn address(low: u8) -> SocketAddr {
        ([10, 42, 0, low], 80).into()
    }

    fn client(low: u8) -> IpAddr {
        IpAddr::from([10, 42, 9, low])
    }

    fn choices(balancer: &mut Balancer, count: usize, now: Instant) -> Vec<u8> {
        let low = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => unreachable!(),
        };
        (0..count).map(|_| low(balancer.choose(client(1), now).next().unwrap())).collect()
    }

    #[test]
    fn round_and_round() {
        let now = Instant::now();
        let mut balancer = Balancer::new(&forward(&[1, 2, 3], None));
        assert_eq!(choices(&mut balancer, 7, now), [1, 2, 3, 1, 2, 3, 1]);
        let all: Vec<_> = balancer.choose(client(1), now).collect();
        assert_eq!(all, [address(2), address(3), address(1)]);
    }

    #[test]
    fn a_change_keeps_the_turn() {
        let now = Instant::now();
        let mut balancer = Balancer::new(&forward(&[1, 3, 5], None));
        assert_eq!(choices(&mut balancer, 1, now), [1]);
        balancer.update(&forward(&[1, 2, 3, 5], None));
        assert_eq!(choices(&mut balancer, 2, now), [3, 5]);
        balancer.update(&forward(&[2, 5], None));
        assert_eq!(choices(&mut balancer, 3, now), [2, 5, 2]);
        balancer.update(&forward(&[1], None));
        assert_eq!(choices(&mut balancer, 2, now), [1, 1]);
    }

    #[test]
    fn who_failed_is_passed_over_for_a_while() {
        let now = Instant::now();
        let mut balancer = Balancer::new(&forward(&[1, 2, 3], None));
        balancer.failed(address(2), now);
        assert_eq!(choices(&mut balancer, 4, now), [1, 3, 1, 3]);
        assert!(balancer.choose(client(1), now).any(|backend| backend == address(2)), "the last resort");
        assert_eq!(choices(&mut balancer, 3, now + SUSPICION), [2, 3, 1]);
        for low in [1, 2, 3] {
            balancer.failed(address(low), now);
        }
        assert_eq!(choices(&mut balancer, 3, now), [2, 3, 1], "when all failed, all are tried");
        balancer.connected(client(1), address(1), now);
        assert_eq!(choices(&mut balancer, 2, now), [1, 1]);
    }

    #[test]
    fn a_client_stays_with_its_endpoint_until_the_time_is_over() {
        let now = Instant::now();
        let mut balancer = Balancer::new(&forward(&[1, 2, 3], Some(60)));
        assert_eq!(choices(&mut balancer, 1, now), [1]);
        balancer.connected(client(1), address(1), now);
        assert_eq!(choices(&mut balancer, 2, now + Duration::from_secs(59)), [1, 1]);
        assert_eq!(balancer.choose(client(2), now).next(), Some(address(2)));
        assert_eq!(choices(&mut balancer, 1, now + Duration::from_secs(60)), [3]);
        balancer.update(&forward(&[2, 3], Some(60)));
        assert_eq!(choices(&mut balancer, 1, now), [2], "its endpoint is gone");
    }

    #[test]
    fn memory_of_clients_is_bounded() {
        let mut now = Instant::now();
        let mut balancer = Balancer::new(&forward(&[1], Some(10_800)));
        for number in 0..3 * REMEMBERED as u32 {
            now += Duration::from_micros(1);
            balancer.connected(IpAddr::from(number.to_be_bytes()), address(1), now);
            assert!(balancer.affinity.as_ref().unwrap().clients.len() <= REMEMBERED);
        }
        let newest = IpAddr::from((3 * REMEMBERED as u32 - 1).to_be_bytes());
        assert!(balancer.affinity.as_ref().unwrap().clients.contains_key(&newest));
    }
}
