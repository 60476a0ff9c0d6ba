use hickory_proto::rr::{Name, RecordType};

use super::*;
use crate::table::tests_support::example;

pub(crate) fn zone() -> Zone {
    let config = ZoneConfig {
        domain: "cluster.local".into(),
        server: Ipv4Addr::new(10, 43, 0, 10),
        ranges: vec!["10.43.0.0/16".parse().unwrap(), "10.42.0.0/16".parse().unwrap()],
    };
    Zone::new(config, &example()).unwrap()
}

/// The verdict in words: records as `TYPE data`, extras behind a `+`.
fn ask(name: &str, kind: RecordType) -> String {
    let words = |record: &Record| format!("{} {}", record.record_type(), record.data);
    match zone().ask(&Name::from_ascii(name).unwrap(), kind, 0) {
        Verdict::Records { answers, additionals } if answers.is_empty() && additionals.is_empty() => {
            "no data".into()
        }
        Verdict::Records { answers, additionals } => {
            let extras = additionals.iter().map(|record| format!("+{} {}", record.name, words(record)));
            answers.iter().map(words).chain(extras).collect::<Vec<_>>().join(", ")
        }
        Verdict::NoSuchName => "no such name".into(),
        Verdict::Alias { answers, target } => {
            format!("{}, then ask for {target}", answers.iter().map(words).collect::<Vec<_>>().join(", "))
        }
        Verdict::Elsewhere => "elsewhere".into(),
    }
}

#[test]
fn addresses() {
    use RecordType::{A, AAAA};
    for (name, kind, expected) in [
        ("web.default.svc.cluster.local.", A, "A 10.43.0.7"),
        ("WEB.Default.svc.Cluster.LOCAL.", A, "A 10.43.0.7"),
        ("web.default.svc.cluster.local.", AAAA, "no data"),
        ("db.default.svc.cluster.local.", A, "A 10.42.0.4, A 10.42.0.5"),
        ("db-0.db.default.svc.cluster.local.", A, "A 10.42.0.4"),
        ("10-42-0-5.db.default.svc.cluster.local.", A, "A 10.42.0.5"),
        ("db-1.db.default.svc.cluster.local.", A, "no such name"),
        ("10-42-0-2.web.default.svc.cluster.local.", A, "no such name"),
        ("nobody.default.svc.cluster.local.", A, "no such name"),
        ("web.other.svc.cluster.local.", A, "no such name"),
        ("10-42-3-4.default.pod.cluster.local.", A, "A 10.42.3.4"),
        ("10-42-3.default.pod.cluster.local.", A, "no such name"),
        ("ns.dns.cluster.local.", A, "A 10.43.0.10"),
        ("example.com.", A, "elsewhere"),
        ("local.", A, "elsewhere"),
        (".", A, "elsewhere"),
        ("notcluster.local.", A, "elsewhere"),
    ] {
        assert_eq!(ask(name, kind), expected, "{name} {kind}");
    }
}

/// Names on the way to others exist; a resolver that walks its search path must not take them for missing, nor
/// the other way round.
#[test]
fn names_without_records_and_names_that_do_not_exist() {
    use RecordType::A;
    for name in [
        "cluster.local.",
        "svc.cluster.local.",
        "default.svc.cluster.local.",
        "pod.cluster.local.",
        "_tcp.web.default.svc.cluster.local.",
        "_http._tcp.web.default.svc.cluster.local.",
    ] {
        assert_eq!(ask(name, A), "no data", "{name}");
    }
    for name in [
        "web.default.svc.cluster.local.default.svc.cluster.local.",
        "example.com.default.svc.cluster.local.",
        "example.com.svc.cluster.local.",
        "example.com.cluster.local.",
        "other.svc.cluster.local.",
        "_sctp.web.default.svc.cluster.local.",
        "_nothing._tcp.web.default.svc.cluster.local.",
    ] {
        assert_eq!(ask(name, A), "no such name", "{name}");
    }
}

#[test]
fn service_records() {
    use RecordType::SRV;
    assert_eq!(
        ask("_http._tcp.web.default.svc.cluster.local.", SRV),
        "SRV 0 100 80 web.default.svc.cluster.local., +web.default.svc.cluster.local. A 10.43.0.7"
    );
    assert_eq!(
        ask("_dns._udp.web.default.svc.cluster.local.", SRV),
        "SRV 0 100 53 web.default.svc.cluster.local., +web.default.svc.cluster.local. A 10.43.0.7"
    );
    assert_eq!(
        ask("_sql._tcp.db.default.svc.cluster.local.", SRV),
        "SRV 0 50 5432 10-42-0-5.db.default.svc.cluster.local., SRV 0 50 5432 db-0.db.default.svc.cluster.local., \
         +10-42-0-5.db.default.svc.cluster.local. A 10.42.0.5, +db-0.db.default.svc.cluster.local. A 10.42.0.4"
    );
    assert_eq!(ask("_dns._tcp.web.default.svc.cluster.local.", SRV), "no such name");
}

#[test]
fn reverse() {
    use RecordType::{A, PTR};
    for (name, kind, expected) in [
        ("7.0.43.10.in-addr.arpa.", PTR, "PTR web.default.svc.cluster.local."),
        ("4.0.42.10.in-addr.arpa.", PTR, "PTR db-0.db.default.svc.cluster.local."),
        ("5.0.42.10.in-addr.arpa.", PTR, "PTR 10-42-0-5.db.default.svc.cluster.local."),
        ("7.0.43.10.in-addr.arpa.", A, "no data"),
        ("8.0.43.10.in-addr.arpa.", PTR, "no such name"),
        ("1.2.0.192.in-addr.arpa.", PTR, "elsewhere"),
        ("43.10.in-addr.arpa.", PTR, "elsewhere"),
        ("x.0.43.10.in-addr.arpa.", PTR, "elsewhere"),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.", PTR, "elsewhere"),
    ] {
        assert_eq!(ask(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn aliases_and_the_rest() {
    use RecordType::{A, CNAME, NS, SOA, TXT};
    assert_eq!(ask("out.default.svc.cluster.local.", A), "CNAME example.com., then ask for example.com.");
    assert_eq!(ask("out.default.svc.cluster.local.", CNAME), "CNAME example.com.");
    assert_eq!(ask("dns-version.cluster.local.", TXT), "TXT 1.1.0");
    assert_eq!(ask("cluster.local.", NS), "NS ns.dns.cluster.local.");
    assert!(ask("cluster.local.", SOA).starts_with("SOA ns.dns.cluster.local. hostmaster.cluster.local."));
}

#[test]
fn aliases_within_the_zone_are_followed_and_loops_end() {
    let mut table = example();
    let mut alias = |name: &str, target: &str| {
        let name = ServiceName { namespace: "default".into(), name: name.into() };
        table.names.insert(name, Names::External(target.into()));
    };
    alias("inner", "web.default.svc.cluster.local");
    alias("loop", "loop.default.svc.cluster.local.");
    alias("dangling", "nobody.default.svc.cluster.local");
    let zone = Zone::new(zone().config, &table).unwrap();
    let ask = |name: &str| zone.ask(&Name::from_ascii(name).unwrap(), RecordType::A, 0);
    let Verdict::Records { answers, .. } = ask("inner.default.svc.cluster.local.") else { panic!() };
    let words: Vec<_> = answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(
        words,
        [
            "inner.default.svc.cluster.local. web.default.svc.cluster.local.",
            "web.default.svc.cluster.local. 10.43.0.7"
        ]
    );
    assert_eq!(ask("loop.default.svc.cluster.local."), Verdict::NoSuchName);
    assert_eq!(ask("dangling.default.svc.cluster.local."), Verdict::NoSuchName);
}

#[test]
fn answers_rotate() {
    let first = |turn| {
        let name = Name::from_ascii("db.default.svc.cluster.local.").unwrap();
        let Verdict::Records { answers, .. } = zone().ask(&name, RecordType::A, turn) else { panic!() };
        answers[0].data.to_string()
    };
    assert_eq!([first(0), first(1), first(2)], ["10.42.0.4", "10.42.0.5", "10.42.0.4"]);
}

#[test]
fn a_domain_must_be_one() {
    for domain in ["", ".", "a..b"] {
        let config = ZoneConfig { domain: domain.into(), ..zone().config };
        assert!(Zone::new(config, &example()).is_err(), "{domain}");
    }
}
