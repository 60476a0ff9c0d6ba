//! Protobuf's wire format: tags, varints and lengths.

/// The value of a field as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire<'b> {
    Varint(u64),
    Bytes(&'b [u8]),
    /// Four or eight bytes; nothing in the table is written so.
    Fixed,
}

/// Takes the next field off `bytes`: its number and value.
pub(crate) fn next<'b>(bytes: &mut &'b [u8]) -> Result<(u32, Wire<'b>), &'static str> {
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0).ok_or("illegal tag")?;
    let value = match tag & 7 {
        0 => Wire::Varint(varint(bytes)?),
        1 => fixed(bytes, 8)?,
        2 => {
            let length = usize::try_from(varint(bytes)?).map_err(|_| "length out of range")?;
            Wire::Bytes(take(bytes, length)?)
        }
        5 => fixed(bytes, 4)?,
        _ => return Err("illegal wire type"),
    };
    Ok((number, value))
}

/// Takes a varint off `bytes`: seven bits a byte, the lowest first.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("integer overflow")
}

fn fixed<'b>(bytes: &mut &'b [u8], length: usize) -> Result<Wire<'b>, &'static str> {
    take(bytes, length).map(|_| Wire::Fixed)
}

fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Result<&'b [u8], &'static str> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or("unexpected end of data")?;
    *bytes = rest;
    Ok(taken)
}

/// Writing.
pub(super) mod put {
    /// The wire type of numbers.
    pub(in crate::protobuf) const VARINT: u8 = 0;
    /// The wire type of what has a length.
    pub(in crate::protobuf) const BYTES: u8 = 2;

    pub(in crate::protobuf) fn tag(number: u16, wire: u8, out: &mut Vec<u8>) {
        varint(u64::from(number) << 3 | u64::from(wire), out);
    }

    pub(in crate::protobuf) fn varint(value: u64, out: &mut Vec<u8>) {
        if value < 0x80 {
            out.push(value as u8 & 0x7f);
        } else {
            let (bytes, used) = varint_bytes(value);
            out.extend_from_slice(&bytes[..used]);
        }
    }

    /// The bytes of a varint, and how many there are.
    pub(in crate::protobuf) fn varint_bytes(mut value: u64) -> ([u8; 10], usize) {
        let mut bytes = [0; 10];
        let mut used = 0;
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            bytes[used] = if value == 0 { low } else { low | 0x80 };
            used += 1;
            if value == 0 {
                return (bytes, used);
            }
        }
    }

    /// A field of bytes, a string or an encoded message.
    pub(in crate::protobuf) fn bytes(number: u16, bytes: &[u8], out: &mut Vec<u8>) {
        tag(number, BYTES, out);
        varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }

    /// How long such a field is, if its number is below 16.
    pub(in crate::protobuf) fn bytes_length(length: usize) -> usize {
        1 + varint_bytes(length as u64).1 + length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        for (bytes, expected) in [
            (&[0x00][..], Ok(0)),
            (&[0x7f], Ok(127)),
            (&[0x96, 0x01], Ok(150)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Ok(u64::MAX)),
            (&[0x80], Err("unexpected end of data")),
            (&[0xff; 11], Err("integer overflow")),
        ] {
            let mut rest = bytes;
            assert_eq!(varint(&mut rest), expected, "{bytes:?}");
        }
    }

    #[test]
    fn fields() {
        let mut bytes =
            &[0x08, 0x05, 0x12, 0x02, b'h', b'i', 0x1d, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0, 0, 0, 0][..];
        assert_eq!(next(&mut bytes), Ok((1, Wire::Varint(5))));
        assert_eq!(next(&mut bytes), Ok((2, Wire::Bytes(b"hi"))));
        assert_eq!(next(&mut bytes), Ok((3, Wire::Fixed)));
        assert_eq!(next(&mut bytes), Ok((4, Wire::Fixed)));
        assert_eq!(bytes, b"");
        for (bad, why) in [
            (&[0x12, 0x05, b'a'][..], "unexpected end of data"),
            (&[0x0b], "illegal wire type"),
            (&[0x02, 0x00], "illegal tag"),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "unexpected end of data"),
        ] {
            let mut rest = bad;
            assert_eq!(next(&mut rest), Err(why), "{bad:?}");
        }
    }
}
