//! The host's resolvers.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// As many as the C library uses.
const SERVERS: usize = 3;

/// The file is looked at again when a question comes, but not more often than this.
const LOOK: Duration = Duration::from_secs(5);

/// The servers in the file, kept as long as the file does not change.
#[derive(Debug)]
pub(crate) struct ResolvConf {
    path: PathBuf,
    /// Our own address: asking ourselves would go round for ever.
    own: IpAddr,
    servers: Vec<SocketAddr>,
    modified: Option<SystemTime>,
    looked: Option<Instant>,
}

impl ResolvConf {
    pub(crate) fn new(path: PathBuf, own: IpAddr) -> Self {
        Self { path, own, servers: Vec::new(), modified: None, looked: None }
    }

    pub(crate) fn servers(&mut self) -> Vec<SocketAddr> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            let modified = modified(&self.path);
            if modified.is_none() || modified != self.modified {
                self.modified = modified;
                let text = std::fs::read_to_string(&self.path).unwrap_or_default();
                self.servers = parse(&text, self.own);
            }
        }
        self.servers.clone()
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn parse(text: &str, own: IpAddr) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
        })
        .filter(|address| *address != own)
        .map(|address| SocketAddr::new(address, 53))
        .take(SERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_in_order_without_ourselves() {
        let own = IpAddr::from([10, 43, 0, 10]);
        let text = "# comment\nsearch example.com\nnameserver 10.43.0.10\n\tnameserver 192.0.2.1 # why\nnameserver ::1\n\
                    nameserver nonsense\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let servers: Vec<_> = parse(text, own).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[::1]:53", "192.0.2.2:53"]);
        assert_eq!(parse("", own), []);
    }
}
