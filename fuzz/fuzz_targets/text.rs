//! The small languages of the API: YAML, selectors, quantities, schedules.
#![no_main]

use manifests::selector::Selector;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = manifests::yaml::read("input", input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(selector) = Selector::parse(text) {
        let again = Selector::parse(&selector.to_string());
        assert_eq!(again.as_ref().ok(), Some(&selector), "{text:?}");
    }
    if let Ok(quantity) = text.parse::<manifests::quantity::Quantity>() {
        assert!(quantity.to_string().parse::<manifests::quantity::Quantity>().is_ok(), "{text:?}");
    }
    if let Ok(schedule) = manifests::cron::Schedule::parse(text) {
        let start = manifests::k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        let next = schedule.next(start, &manifests::k8s_openapi::jiff::tz::TimeZone::UTC);
        assert!(next.is_none_or(|next| next > start), "{text:?}");
    }
});
