//! The smallest process number one: it loads modules, mounts the disk, and becomes the program that is there. In the place of that
//! program in the first file system it takes some hundreds of bytes of memory instead of fifty million, and no time to unpack.
//!
//! It is not run here. Its code reads what it is to do from the words behind it, each with a zero at its end:
//!
//! ```text
//! module … (empty)   devtmpfs /dev   device directory type   program argv[0] argv[1]
//! ```

use std::arch::global_asm;

// System calls: 1 write, 2 open, 3 close, 34 pause, 35 nanosleep, 59 execve, 87 unlink, 165 mount, 169 reboot, 313 finit_module.
global_asm!(
    r#"
    .pushsection .rodata.coracle_stage, "a", @progbits
    .globl coracle_stage_begin
    .hidden coracle_stage_begin
    .globl coracle_stage_end
    .hidden coracle_stage_end
coracle_stage_begin:
    cld
    lea rbx, [rip + coracle_stage_end]
20: // Every module: one that is not there or does not load shows when something needs it.
    cmp byte ptr [rbx], 0
    je 22f
    mov eax, 2
    mov rdi, rbx
    xor esi, esi
    xor edx, edx
    syscall
    test eax, eax
    js 21f
    mov ebp, eax
    mov eax, 313
    mov edi, ebp
    lea rsi, [rip + 40f]
    xor edx, edx
    syscall
    mov eax, 3
    mov edi, ebp
    syscall
    mov eax, 87
    mov rdi, rbx
    syscall
21: call 30f
    jmp 20b
22: inc rbx
    // The kernel's device files, for the disk.
    mov r12, rbx
    call 30f
    mov rdi, r12
    mov rsi, rbx
    mov rdx, r12
    mov r10d, 2
    xor r8d, r8d
    mov eax, 165
    syscall
    // The disk appears a moment after its driver: ten seconds, in steps of ten milliseconds.
    call 30f
    mov r12, rbx
    call 30f
    mov r13, rbx
    call 30f
    mov r14, rbx
    call 30f
    mov r15d, 1000
23: mov rdi, r12
    mov rsi, r13
    mov rdx, r14
    mov r10d, 6
    xor r8d, r8d
    mov eax, 165
    syscall
    test eax, eax
    jz 24f
    dec r15d
    jz 25f
    push 10000000
    push 0
    mov rdi, rsp
    xor esi, esi
    mov eax, 35
    syscall
    add rsp, 16
    jmp 23b
24: // Go on as the program.
    mov rdi, rbx
    call 30f
    mov r13, rbx
    call 30f
    push 0
    mov rdx, rsp
    push rbx
    push r13
    mov rsi, rsp
    mov eax, 59
    syscall
25: // Say so, and switch off.
    mov eax, 1
    mov edi, 2
    lea rsi, [rip + 41f]
    lea rdx, [rip + 42f]
    sub rdx, rsi
    syscall
    mov eax, 169
    mov edi, 0xfee1dead
    mov esi, 672274793
    mov edx, 0x4321fedc
    syscall
26: mov eax, 34
    syscall
    jmp 26b
30: // To the next word.
    inc rbx
    cmp byte ptr [rbx - 1], 0
    jne 30b
    ret
40: .byte 0
41: .ascii "coracle guest: it does not come up: the disk cannot be mounted, or has no program\n"
42:
coracle_stage_end:
    .popsection
    "#
);

unsafe extern "C" {
    static coracle_stage_begin: u8;
    static coracle_stage_end: u8;
}

/// Where it is loaded: the whole file, with its code behind the two headers.
const BASE: u64 = 0x40_0000;
const HEADERS: usize = 64 + 56;

/// The program that reads these words.
pub(crate) fn program(words: &[&str]) -> Vec<u8> {
    let mut content = headers();
    content.extend_from_slice(code());
    for word in words {
        content.extend_from_slice(word.as_bytes());
        content.push(0);
    }
    let length = content.len() as u64;
    // Both sizes of the only segment.
    for at in [96, 104] {
        content[at..at + 8].copy_from_slice(&length.to_le_bytes());
    }
    content
}

fn code() -> &'static [u8] {
    let (begin, end) = (&raw const coracle_stage_begin, &raw const coracle_stage_end);
    // SAFETY: both symbols are of the one read-only section above, the second behind the first; what is between them is initialised,
    // never changes, and is there for as long as this program.
    unsafe { std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin)) }
}

/// ELF for x86-64: an executable with one segment that is the whole file.
fn headers() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADERS);
    bytes.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // Executable, of this processor, of the one version; entry; program headers at 64; no sections.
    bytes.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    bytes.extend_from_slice(&(BASE + HEADERS as u64).to_le_bytes());
    bytes.extend_from_slice(&64_u64.to_le_bytes());
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&[64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // Load, readable and executable, from 0; to the base, twice; sizes; page by page.
    bytes.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&BASE.to_le_bytes());
    bytes.extend_from_slice(&BASE.to_le_bytes());
    bytes.extend_from_slice(&[0; 16]);
    bytes.extend_from_slice(&0x1000_u64.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSegment as _};

    use super::*;

    #[test]
    fn it_is_a_small_executable_with_its_words_behind_its_code() {
        let program = program(&["/a.ko", "", "devtmpfs"]);
        assert_eq!(headers().len(), HEADERS);
        assert!(program.len() < 1000, "{}", program.len());
        assert!(program.ends_with(b"/a.ko\0\0devtmpfs\0"));
        let file = object::File::parse(program.as_slice()).unwrap();
        assert_eq!(file.architecture(), object::Architecture::X86_64);
        assert_eq!(file.entry(), BASE + HEADERS as u64);
        let segments: Vec<(u64, u64)> = file.segments().map(|part| (part.address(), part.size())).collect();
        assert_eq!(segments, [(BASE, program.len() as u64)]);
    }
}
