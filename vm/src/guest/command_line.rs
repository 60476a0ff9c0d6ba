//! What a machine is to be, by its kernel's command line: for machines that nobody prepared an archive for.
//!
//! ```text
//! coracle.run="agent --server https://192.0.2.1:6443 --token …"   coracle's arguments; without it the archive says what runs
//! coracle.hostname=n2  coracle.address=192.0.2.2/24  coracle.gateway=192.0.2.254  coracle.nameserver=192.0.2.53,…
//! coracle.disk=/dev/vda    mounted at /var/lib/coracle (ext4)
//! coracle.once             switch off when the program has ended
//! ```

use super::Config;

const PREFIX: &str = "coracle.";
const NAME: &str = "coracle";

/// A word of the command line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{PREFIX}{word} on the kernel's command line is not understood")]
pub struct Misunderstood {
    word: String,
}

/// What the command line says, or else what the archive says. None if neither says what runs.
pub(crate) fn config(line: &str, archive: Option<Config>) -> Result<Option<Config>, Misunderstood> {
    let mut config = archive.unwrap_or_default();
    for word in words(line).iter().filter_map(|word| word.strip_prefix(PREFIX)) {
        let fail = || Misunderstood { word: word.to_owned() };
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "hostname" => config.hostname = value.to_owned(),
            "address" => config.address = Some(value.parse().map_err(|_| fail())?),
            "gateway" => config.gateway = Some(value.parse().map_err(|_| fail())?),
            "nameserver" => {
                let servers = value.split(',').map(str::parse).collect::<Result<_, _>>();
                config.nameservers = servers.map_err(|_| fail())?;
            }
            "disk" if value.starts_with("/dev/") => {
                config.disk = true;
                config.device = Some(value.to_owned());
            }
            "once" if value.is_empty() => config.once = true,
            "run" => {
                let arguments = value.split_whitespace().map(str::to_owned);
                config.program = std::iter::once(NAME.to_owned()).chain(arguments).collect();
            }
            _ => return Err(fail()),
        }
    }
    if config.hostname.is_empty() {
        config.hostname = NAME.to_owned();
    }
    Ok(Some(config).filter(|config| !config.program.is_empty()))
}

/// The words of a command line; quotes keep spaces, as in the kernel.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.trim().chars() {
        match (letter, words.last_mut()) {
            ('"', _) => quoted = !quoted,
            (space, Some(word)) if space.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(String::new());
                }
            }
            (letter, Some(word)) => word.push(letter),
            (_, None) => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described_in_one_line() {
        let line = r#"BOOT_IMAGE=/vmlinuz console=ttyS0  coracle.hostname=n2 coracle.address=192.0.2.2/24 coracle.gateway=192.0.2.254
            coracle.nameserver=192.0.2.53,192.0.2.54 coracle.disk=/dev/sda2 coracle.run="agent --server https://192.0.2.1:6443 --token T" quiet"#;
        let config = config(line, None).unwrap().unwrap();
        assert_eq!(config.hostname, "n2");
        assert_eq!(config.address, Some("192.0.2.2/24".parse().unwrap()));
        assert_eq!(config.gateway, Some("192.0.2.254".parse().unwrap()));
        assert_eq!(config.nameservers.len(), 2);
        assert_eq!((config.disk, config.device.as_deref()), (true, Some("/dev/sda2")));
        assert_eq!(
            config.program,
            ["coracle", "agent", "--server", "https://192.0.2.1:6443", "--token", "T"]
        );
        assert!(!config.once);
    }

    #[test]
    fn the_line_wins_over_the_archive() {
        let archive = Config { hostname: "a".into(), program: vec!["b".into()], ..Config::default() };
        assert_eq!(config("quiet", Some(archive.clone())).unwrap(), Some(archive.clone()));
        let both = config("coracle.hostname=c coracle.once", Some(archive)).unwrap().unwrap();
        assert_eq!((both.hostname.as_str(), both.program.len(), both.once), ("c", 1, true));
        assert_eq!(config("quiet coracle.hostname=c", None).unwrap(), None);
        assert_eq!(config("coracle.run=up", None).unwrap().unwrap().hostname, "coracle");
    }

    #[test]
    fn what_is_not_understood_is_told() {
        for line in
            ["coracle.adress=1.2.3.4/8", "coracle.address=here", "coracle.disk=vda", "coracle.nameserver="]
        {
            assert!(config(line, None).is_err(), "{line}");
        }
    }
}
