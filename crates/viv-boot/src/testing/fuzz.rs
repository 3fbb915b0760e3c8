//! Kernel files as somebody might make them: damaged, cut short, or nothing but a beginning. Whatever they are taken for, they
//! are loaded or refused.

use std::sync::LazyLock;

use viv_engine::memory::allocate;
use viv_fuzz::Random;

use crate::acpi::tests::parameters;
use crate::kernel::fixtures::{PACKINGS, bzimage, elf32, elf64, pack};
use crate::multiboot::tests::{PLAIN, WITH_ADDRESSES, flat_binary, multiboot_elf};
use crate::{BootParameters, Initrd, Kernel, SystemIdentity, load};

/// How many files a test makes.
const CASES: u64 = 2000;
/// Guest memory in bytes.
const RAM: u64 = 4 << 20;

/// Files of all kinds that are well formed.
static WHOLE: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let flat = [0x10_0010, 0x10_0000, 0, 0, 0x10_0030];
    let mut all = vec![elf32(), elf64(true), elf64(false), multiboot_elf(PLAIN), flat_binary(flat)];
    all.push(multiboot_elf(PLAIN | WITH_ADDRESSES));
    all.extend(PACKINGS.map(bzimage));
    all.extend(PACKINGS.map(|packing| pack(packing, &elf64(true))));
    all
});

/// How files begin that are something.
const BEGINNINGS: [&[u8]; 8] = [
    b"\x7fELF\x02\x01",
    b"\x7fELF\x01\x01",
    b"\x1f\x8b\x08",
    b"\xfd7zXZ\0",
    b"\x5d\0\0",
    b"\x02\x21\x4c\x18",
    b"\x28\xb5\x2f\xfd",
    b"BZh9",
];

fn file(random: &mut Random) -> Vec<u8> {
    if random.chance(8) {
        let count = random.index(500);
        return [random.one_of(&BEGINNINGS), &random.bytes(count)].concat();
    }
    let mut file = WHOLE[random.index(WHOLE.len())].clone();
    if random.chance(2) {
        random.damage(&mut file);
        return file;
    }
    // Numbers of its header, some of which are near others.
    for _ in 0..random.below(4) + 1 {
        let at = random.index(0x2a0.min(file.len() - 4));
        let value = match random.below(4) {
            0 => u32::MAX,
            1 => 1 << random.below(32),
            2 => random.index(file.len()) as u32,
            _ => random.number() as u32,
        };
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    file
}

fn boot(file: Vec<u8>) {
    let Ok(kernel) = Kernel::from_bytes(file) else { return };
    let memory = allocate(RAM).unwrap();
    let machine = BootParameters { protocol: None, acpi: parameters(), identity: SystemIdentity::default() };
    // That it returns is what matters.
    let _ = load(&memory, &machine, &kernel, &[Initrd::Bytes(&[1; 5000]).into()], "console=ttyS0");
}

mod target {
    use super::*;

    #[test]
    fn kernel() {
        viv_fuzz::run("kernel", CASES, |seed| boot(file(&mut Random::new(seed))));
    }
}
