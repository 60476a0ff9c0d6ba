//! A program without what only people read: symbols and sections stand behind everything that the kernel maps, and are a fifth of
//! a release binary. In a guest's first file system every byte of it is a byte of memory.

use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// Where the section table's place, and the number of its entries, stand in the header.
const SECTIONS: std::ops::Range<usize> = 40..48;
const SECTION_COUNTS: std::ops::Range<usize> = 60..64;

/// The program up to the end of its last segment; anything else as it is.
pub(crate) fn loadable(mut program: Vec<u8>) -> Vec<u8> {
    let Some(end) = end_of_segments(&program) else { return program };
    if end < program.len() {
        program.truncate(end);
        program[SECTIONS].fill(0);
        program[SECTION_COUNTS].fill(0);
    }
    program
}

fn end_of_segments(program: &[u8]) -> Option<usize> {
    let header = FileHeader64::<LittleEndian>::parse(program).ok()?;
    let segments = header.program_headers(LittleEndian, program).ok()?;
    let ends = segments.iter().map(|segment| {
        let (offset, size) = segment.file_range(LittleEndian);
        offset.checked_add(size)
    });
    let end = usize::try_from(ends.collect::<Option<Vec<u64>>>()?.into_iter().max()?).ok()?;
    // Not even the header is left of what has no segments.
    (end >= SECTION_COUNTS.end && end <= program.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_runs_as_before() {
        let whole = std::fs::read("/bin/busybox").expect("busybox (Debian package busybox-static)");
        let mut padded = whole.clone();
        padded.resize(whole.len() + 4096, b'x');
        let cut = loadable(padded);
        assert!(cut.len() <= whole.len());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busybox");
        std::fs::write(&path, &cut).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new(&path).args(["echo", "here"]).output().unwrap();
        assert_eq!(output.stdout, b"here\n");
        // What reads sections finds none, and no nonsense.
        assert!(object::File::parse(cut.as_slice()).is_ok());
        assert_eq!(loadable(cut.clone()), cut);
    }

    #[test]
    fn what_is_no_program_stays_as_it_is() {
        for content in [&b""[..], b"#!/bin/sh\n", &[0x7f, b'E', b'L', b'F', 2, 1]] {
            assert_eq!(loadable(content.to_vec()), content);
        }
    }
}
