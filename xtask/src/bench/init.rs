//! The first process of a guest that only has to come up: a program of a few instructions.

/// What it says when it runs, on the guest's console, as a line.
pub const READY: &str = "@ready";

/// Says [`READY`], waits for a line on the console, and switches the machine off.
#[rustfmt::skip]
const CODE: &[u8] = &[
    // write(1, message, 7)
    0xb8, 1, 0, 0, 0,                         // mov eax, 1
    0xbf, 1, 0, 0, 0,                         // mov edi, 1
    0x48, 0x8d, 0x35, 45, 0, 0, 0,            // lea rsi, [rip + message]
    0xba, 7, 0, 0, 0,                         // mov edx, 7
    0x0f, 0x05,                               // syscall
    // read(0, stack, 1)
    0x31, 0xc0,                               // xor eax, eax
    0x31, 0xff,                               // xor edi, edi
    0x48, 0x89, 0xe6,                         // mov rsi, rsp
    0xba, 1, 0, 0, 0,                         // mov edx, 1
    0x0f, 0x05,                               // syscall
    // reboot(MAGIC1, MAGIC2, POWER_OFF)
    0xb8, 169, 0, 0, 0,                       // mov eax, 169
    0xbf, 0xad, 0xde, 0xe1, 0xfe,             // mov edi, 0xfee1dead
    0xbe, 0x69, 0x19, 0x12, 0x28,             // mov esi, 0x28121969
    0xba, 0xdc, 0xfe, 0x21, 0x43,             // mov edx, 0x4321fedc
    0x0f, 0x05,                               // syscall
    0xeb, 0xfe,                               // jmp $
    // message:
    b'@', b'r', b'e', b'a', b'd', b'y', b'\n',
];

/// The program: an ELF file with one segment, read and executed, stack apart.
pub fn program() -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let length = HEADERS + CODE.len() as u64;
    // 64-bit, little-endian, version 1; executable, x86-64, version 1.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    // Entry, program headers' offset, section headers' offset.
    for word in [ADDRESS + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    // Flags; header's size, program header's size and number, section header's size, number, names.
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD; readable and executable.
    file.extend(1_u32.to_le_bytes());
    file.extend(5_u32.to_le_bytes());
    // Offset, virtual and physical address, sizes in file and memory, alignment.
    for word in [0, ADDRESS, ADDRESS, length, length, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(CODE);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_where_the_code_looks() {
        const AFTER_LEA: usize = 17;
        let displacement = usize::from(CODE[13]);
        assert_eq!(&CODE[AFTER_LEA + displacement..], format!("{READY}\n").as_bytes());
    }
}
