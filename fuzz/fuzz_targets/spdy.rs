//! Frames of SPDY/3.1, with compressed headers, as they come from a client.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut decoder = spdy::Decoder::new();
    let mut bytes = bytes::BytesMut::from(input);
    while let Ok(Some(frame)) = decoder.decode(&mut bytes) {
        // What was read can be written, and reads the same.
        let mut again = Vec::new();
        spdy::Encoder::new().encode(&frame, &mut again);
        let mut again = bytes::BytesMut::from(&again[..]);
        assert_eq!(spdy::Decoder::new().decode(&mut again).expect("our own"), Some(frame));
    }
});
