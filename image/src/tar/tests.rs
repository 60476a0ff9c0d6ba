use super::*;

fn header(path: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o100_644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_cksum();
    header
}

fn archive(entries: &[(Header, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, data) in entries {
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        body.extend_from_slice(format!("{length} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        reader.data().take(1 << 20).read_to_end(&mut data).map_err(TarError::Read)?;
        entries.push((entry, data));
    }
    Ok(entries)
}

#[test]
fn files_and_directories() {
    let bytes = archive(&[
        (header("a/", EntryType::Directory, 0), b""),
        (header("a/b", EntryType::Regular, 5), b"hello"),
        (header("old/", EntryType::Regular, 0), b""),
        (header("c", EntryType::Fifo, 0), b""),
    ]);
    let entries = read(&bytes).unwrap();
    let kinds: Vec<_> = entries.iter().map(|(entry, _)| (entry.shown(), entry.kind)).collect();
    let expected = [
        ("a/".to_owned(), Kind::Directory),
        ("a/b".to_owned(), Kind::Regular),
        ("old/".to_owned(), Kind::Directory),
        ("c".to_owned(), Kind::Fifo),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(entries[1].1, b"hello");
    let entry = &entries[1].0;
    assert_eq!((entry.mode, entry.uid, entry.gid, entry.mtime), (0o644, 1, 2, (3, 0)));
}

#[test]
fn extended_headers() {
    let capability = b"\x01\x00\x00\x02\n\n=\x00";
    let long = "x/".repeat(300) + "y";
    let records = pax(&[
        ("path", long.as_bytes()),
        ("mtime", b"-1.25"),
        ("uid", b"70000"),
        ("SCHILY.xattr.security.capability", capability),
        ("size", b"3"),
    ]);
    let bytes = archive(&[
        (header("pax", EntryType::XHeader, records.len() as u64), &records),
        // What the record says counts, not the header.
        (header("short", EntryType::Regular, 3), b"abc"),
        (header("next", EntryType::Regular, 0), b""),
    ]);
    let entries = read(&bytes).unwrap();
    let entry = &entries[0].0;
    assert_eq!(entry.shown(), long);
    assert_eq!((entry.mtime, entry.uid), ((-2, 750_000_000), 70_000));
    assert_eq!(entry.xattrs, [(b"security.capability".to_vec(), capability.to_vec())]);
    assert_eq!(entries[1].0.shown(), "next");
    assert!(entries[1].0.xattrs.is_empty(), "an extended header is about one entry");
}

#[test]
fn gnu_long_names() {
    let long = "d/".repeat(200);
    let with_end = format!("{long}\0");
    let bytes = archive(&[
        (header("././@LongLink", EntryType::GNULongName, with_end.len() as u64), with_end.as_bytes()),
        (header("././@LongLink", EntryType::GNULongLink, 4), b"to/x"),
        (header("short", EntryType::Symlink, 0), b""),
    ]);
    let entries = read(&bytes).unwrap();
    assert_eq!(entries[0].0.shown(), long);
    assert_eq!(entries[0].0.link, b"to/x");
}

#[test]
fn what_is_refused() {
    let huge = pax(&[("size", b"99999999999999999999")]);
    let almost = pax(&[("size", b"18446744073709551615")]);
    let nobody = pax(&[("uid", b"4294967295")]);
    let sparse = pax(&[("GNU.sparse.major", b"1")]);
    let name = vec![b'a'; 5000];
    let path = pax(&[("path", &name)]);
    let extended = |records: &[u8]| {
        archive(&[
            (header("pax", EntryType::XHeader, records.len() as u64), records),
            (header("f", EntryType::Regular, 0), b""),
        ])
    };
    let many: Vec<_> = (0..20).map(|_| (header("l", EntryType::GNULongName, 1), &b"a"[..])).collect();
    let mut wrong_sum = archive(&[(header("f", EntryType::Regular, 0), b"")]);
    wrong_sum[0] ^= 1;
    for (bytes, expected) in [
        (extended(&huge), "no number"),
        (extended(&almost), "a size of"),
        (extended(&nobody), "user 4294967295"),
        (extended(&sparse), "sparse"),
        (extended(&path), "longer than 4096"),
        (extended(b"999 path=x\n"), "cannot be read"),
        (extended(b"5 path=x\n"), "cannot be read"),
        (archive(&[(header("x", EntryType::XHeader, 1 << 40), b"")]), "longer than 1048576"),
        (archive(&[(header("x", EntryType::GNULongName, 1 << 30), b"")]), "longer than 4097"),
        (archive(&[(header("x", EntryType::GNUSparse, 0), b"")]), "sparse"),
        (archive(&[(header("x", EntryType::new(b'Q'), 0), b"")]), "unknown type"),
        (archive(&many), "too many extended"),
        (wrong_sum, "checksum"),
        (archive(&[(header("x", EntryType::Regular, 1 << 30), b"short")]), "reading"),
        (vec![1; 600], "damaged"),
        (archive(&[(header("x", EntryType::Regular, 0), b"")])[..700].to_vec(), "reading"),
    ] {
        let error = read(&bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error} / {expected}");
    }
    assert!(read(b"").unwrap().is_empty());
}

proptest::proptest! {
    /// Whatever the bytes are, reading ends, and does not panic.
    #[test]
    fn anything(changes in proptest::collection::vec((0_usize..4096, proptest::num::u8::ANY), 0..40), repair: bool) {
        let records = pax(&[("path", b"p/q"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")]);
        let mut bytes = archive(&[
            (header("a/", EntryType::Directory, 0), b""),
            (header("pax", EntryType::XHeader, records.len() as u64), &records),
            (header("f", EntryType::Regular, 700), &[7; 700]),
            (header("l", EntryType::GNULongName, 3), b"abc"),
            (header("s", EntryType::Symlink, 0), b""),
        ]);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if repair {
            // So that not everything stops at the checksum.
            for block in bytes.chunks_exact_mut(512) {
                let mut header = Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let _ = read(&bytes);
    }
}

#[test]
fn times() {
    assert_eq!(timestamp("12"), Some((12, 0)));
    assert_eq!(timestamp("12.5"), Some((12, 500_000_000)));
    assert_eq!(timestamp("1700000000.123456789"), Some((1_700_000_000, 123_456_789)));
    assert_eq!(timestamp("1.1234567899"), Some((1, 123_456_789)));
    assert_eq!(timestamp("-0.5"), Some((-1, 500_000_000)));
    assert_eq!(timestamp("x"), None);
    assert_eq!(timestamp("1.x"), None);
    assert_eq!(timestamp(""), None);
}
