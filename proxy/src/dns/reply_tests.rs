use std::net::IpAddr;

use hickory_proto::op::MessageType;
use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::super::zone::ZoneConfig;
use super::*;
use crate::table::tests_support::{compiled, example, service, slice};
use crate::table::{NamedEndpoint, Names};

fn zone() -> Zone {
    let config = ZoneConfig {
        domain: "cluster.local".into(),
        server: [10, 43, 0, 10].into(),
        ranges: vec!["10.43.0.0/16".parse().unwrap()],
    };
    let mut table = example();
    let endpoint = |low: u8| NamedEndpoint {
        name: format!("pod-{low}"),
        address: IpAddr::from([10, 42, 1, low]),
        ports: Vec::new(),
    };
    let many = Names::Headless((0..200).map(endpoint).collect());
    let name = crate::table::tests_support::name("default/many");
    table.names.insert(name, many);
    Zone::new(config, &table).unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn done(message: &Message, transport: Transport) -> (Message, usize) {
    match reply(&zone(), &message.to_vec().unwrap(), transport, 0) {
        Reply::Done(bytes) => (Message::from_vec(&bytes).unwrap(), bytes.len()),
        other => panic!("{other:?}"),
    }
}

const WEB: &str = "web.default.svc.cluster.local.";

#[test]
fn an_answer_fits_its_question() {
    let (answer, _) = done(&question("wEb.default.svc.cluster.local.", RecordType::A), Transport::Udp);
    assert_eq!(answer.metadata.id, 0x1234);
    assert!(answer.metadata.message_type == MessageType::Response && answer.metadata.authoritative);
    assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    // The very letters that were asked for, in question and answer.
    assert_eq!(answer.queries[0].name().to_ascii(), "wEb.default.svc.cluster.local.");
    assert_eq!(answer.answers[0].name.to_ascii(), "wEb.default.svc.cluster.local.");
    assert_eq!(answer.answers[0].ttl, 30);
    assert_eq!(answer.edns, None);
}

#[test]
fn a_no_comes_with_the_zones_record() {
    for (name, kind, code) in [
        (WEB, RecordType::AAAA, ResponseCode::NoError),
        ("nobody.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let (answer, _) = done(&question(name, kind), Transport::Udp);
        assert_eq!(answer.metadata.response_code, code);
        assert_eq!(answer.answers, []);
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(answer.authorities[0].ttl, 5);
    }
}

#[test]
fn long_answers_are_cut_to_what_the_asker_takes() {
    let many = "many.default.svc.cluster.local.";
    let check = |edns: Option<u16>, transport, limit: usize, cut: bool| {
        let mut question = question(many, RecordType::A);
        if let Some(size) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            question.set_edns(edns);
        }
        let (answer, length) = done(&question, transport);
        assert!(length <= limit, "{length}");
        assert_eq!(answer.metadata.truncation, cut);
        assert_eq!(answer.edns.is_some(), edns.is_some());
        if cut {
            assert!(length > limit - 64, "{length} of {limit} used");
        } else {
            assert_eq!(answer.answers.len(), 200);
        }
    };
    check(None, Transport::Udp, 512, true);
    check(Some(100), Transport::Udp, 512, true);
    check(Some(800), Transport::Udp, 800, true);
    check(Some(4096), Transport::Udp, 1232, true);
    check(None, Transport::Tcp, 65_535, false);
}

#[test]
fn extras_go_before_answers() {
    let endpoints = (0..30).map(|low| serde_json::json!({"addresses": [format!("10.42.0.{low}")]}));
    let table = compiled(
        [service("big", serde_json::json!({"clusterIP": "None", "ports": [{"name": "p", "port": 1}]}))],
        [slice("big", "big-1", serde_json::json!([{"name": "p", "port": 1}]), endpoints.collect())],
        &[],
    );
    let config =
        ZoneConfig { domain: "cluster.local".into(), server: [10, 43, 0, 10].into(), ranges: vec![] };
    let zone = Zone::new(config, &table).unwrap();
    let mut message = question("_p._tcp.big.default.svc.cluster.local.", RecordType::SRV);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    let Reply::Done(bytes) = reply(&zone, &message.to_vec().unwrap(), Transport::Udp, 0) else { panic!() };
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(answer.additionals.is_empty());
    let Reply::Done(bytes) = reply(&zone, &message.to_vec().unwrap(), Transport::Tcp, 0) else { panic!() };
    assert_eq!(Message::from_vec(&bytes).unwrap().additionals.len(), 30);
}

#[test]
fn what_is_no_plain_question() {
    let code = |change: fn(&mut Vec<u8>)| {
        let mut bytes = question(WEB, RecordType::A).to_vec().unwrap();
        change(&mut bytes);
        match reply(&zone(), &bytes, Transport::Udp, 0) {
            Reply::Done(answer) => Some(Message::from_vec(&answer).unwrap().metadata.response_code),
            Reply::Ignore => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code(|_| {}), Some(ResponseCode::NoError));
    assert_eq!(code(|bytes| bytes.truncate(11)), None);
    assert_eq!(code(|bytes| bytes[2] |= 0x80), None, "an answer is not answered");
    assert_eq!(code(|bytes| bytes[2] |= 0x28), Some(ResponseCode::NotImp), "an update");
    assert_eq!(code(|bytes| bytes[5] = 2), Some(ResponseCode::FormErr), "two questions announced");
    assert_eq!(code(|bytes| bytes[4..6].fill(0xff)), Some(ResponseCode::FormErr));
    assert_eq!(code(|bytes| bytes.truncate(20)), Some(ResponseCode::FormErr));
    let last = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() = 3;
    assert_eq!(code(last), Some(ResponseCode::Refused), "class CHAOS");
    let mut transfer = question("cluster.local.", RecordType::AXFR).to_vec().unwrap();
    let Reply::Done(answer) = reply(&zone(), &transfer, Transport::Tcp, 0) else { panic!() };
    assert_eq!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::Refused);
    // EDNS of a version that does not exist yet.
    transfer = question(WEB, RecordType::A).to_vec().unwrap();
    transfer[11] = 1;
    transfer.extend_from_slice(&[0, 0, 41, 4, 208, 0, 1, 0, 0, 0, 0]);
    let Reply::Done(answer) = reply(&zone(), &transfer, Transport::Udp, 0) else { panic!() };
    // 16 means BADVERS and BADSIG, depending on where it stands.
    assert_eq!(u16::from(Message::from_vec(&answer).unwrap().metadata.response_code), 16);
}

#[test]
fn others_names_are_for_others_to_answer() {
    let bytes = question("example.com.", RecordType::A).to_vec().unwrap();
    match reply(&zone(), &bytes, Transport::Udp, 0) {
        Reply::Forward(question) => {
            assert_eq!(question.bytes, bytes);
            let failure = Message::from_vec(&question.failure()).unwrap();
            assert_eq!(failure.metadata.response_code, ResponseCode::ServFail);
            assert_eq!((failure.metadata.id, failure.metadata.authoritative), (0x1234, false));
        }
        other => panic!("{other:?}"),
    }
    let alias = question("out.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let Reply::Chase(_, answers, query) = reply(&zone(), &alias, Transport::Udp, 0) else { panic!() };
    assert_eq!((answers.len(), query.name().to_ascii()), (1, "example.com.".into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = reply(&zone(), &bytes, Transport::Udp, 0);
    }

    /// Bytes that look like a question get further in.
    #[test]
    fn no_damaged_question_makes_it_panic(
        kind in any::<u16>(),
        label in "[a-zA-Z0-9_.\\-]{0,40}",
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let name = Name::from_ascii(format!("{label}.svc.cluster.local.")).unwrap_or_else(|_| Name::root());
        let mut message = question(WEB, kind.into());
        message.queries = vec![Query::query(name, kind.into())];
        message.set_edns(Edns::new());
        if let Ok(mut bytes) = message.to_vec() {
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() * 4));
            for transport in [Transport::Udp, Transport::Tcp] {
                if let Reply::Done(answer) = reply(&zone(), &bytes, transport, 7) {
                    prop_assert!(answer.len() <= 65_535);
                    prop_assert!(Message::from_vec(&answer).is_ok());
                }
            }
        }
    }
}
