//! Drivers that know no rules.

use super::*;
use crate::testing::Random;
use driver::RAM;

fn drives(files: &[tempfile::NamedTempFile; 2]) -> [Option<Drive>; Ahci::PORTS] {
    let [hard_disk, iso] = files;
    [
        Some(disk(hard_disk, Access::ReadOnly)),
        Some(cdrom(Some(iso))),
        Some(cdrom(None)),
        Some(disk(iso, Access::ReadOnly)),
        None,
        None,
    ]
}

#[test]
fn no_register_access_does_harm() {
    let files = [file(SIZE), file(SIZE)];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut driver = Driver::new(drives(&files));
    for round in 0..20_000 {
        let length = 1 + random.below(8) as usize;
        let offset = random.below(0x440) & if random.below(4) == 0 { !0 } else { !3 };
        if random.below(3) == 0 {
            driver.read(offset, length);
        } else {
            let value = random.next() >> random.below(64);
            driver.write(offset, if random.below(3) == 0 { length } else { 4 }, value);
        }
        if random.below(16) == 0 {
            driver.set_pci(random.below(0x100), 4, random.next());
            driver.set_pci(0x24, 4, 0xc000_0000);
            driver.set_pci(4, 2, 6);
        }
        if random.below(64) == 0 {
            driver.start(random.below(6));
        }
        driver.worker.process();
        if round % 1000 == 999 {
            driver = driver.move_to(drives(&files));
        }
    }
    let mut damaged = driver.save();
    damaged.data.truncate(damaged.data.len() / 2);
    assert!(driver.restore(&damaged).is_err(), "a truncated state must be refused");
    driver.reset();
    assert_eq!(driver.save(), Driver::new(drives(&files)).save(), "a reset gives the state after power-on");
}

/// Fills slots with random commands, of which most lead to somewhere.
fn issue_random_commands(seed: u64, drives: [Option<Drive>; Ahci::PORTS]) {
    const COMMANDS: [u8; 16] =
        [0x20, 0x25, 0x2f, 0x35, 0x30, 0x06, 0x60, 0x61, 0xa0, 0xa0, 0xa0, 0xa1, 0xc8, 0xca, 0xec, 0xef];
    const OPERATIONS: [u8; 17] = [
        0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xa8, 0xbb, 0xbd,
    ];
    let mut random = Random(seed);
    let mut driver = Driver::new(drives);
    (0..6).for_each(|port| driver.start(port));
    let mut done = 0;
    for _ in 0..6000 {
        let (port, slot) = (random.below(4), random.below(32) as u8);
        let wild = random.below(20) == 0;
        let mut fis = Ata {
            command: COMMANDS[random.below(16) as usize],
            features: random.below(9) as u16,
            lba: random.next() >> (16 + random.below(48)),
            count: random.below(300) as u16,
            device: 0x40,
            control: random.below(30) as u8 & 4,
        }
        .fis(random.below(20) != 0);
        let mut packet = (random.next() as u128 | u128::from(random.next()) << 64).to_le_bytes();
        packet[0] = OPERATIONS[random.below(17) as usize];
        for byte in &mut packet[2..9] {
            *byte &= random.next() as u8 & random.next() as u8 & random.next() as u8;
        }
        if wild {
            fis[random.below(20) as usize] = random.next() as u8;
            packet[0] = random.next() as u8;
        }
        let regions: Vec<_> = (0..random.below(8))
            .map(|_| {
                let address =
                    if random.below(80) == 0 { random.next() } else { DATA + random.below(RAM / 2) };
                (address, 1 + (random.next() >> (42 + random.below(22))) as u32)
            })
            .collect();
        driver.prepare(port, slot, &fis, (random.below(8) != 0).then_some(packet), &regions);
        if random.below(40) == 0 {
            driver.put(Driver::header(port, slot) + random.below(12), &random.next().to_le_bytes());
        }
        driver.set_port(port, px::SACT, random.next() as u32);
        driver.issue(port, 1 << slot);
        done += u32::from(driver.port(port, px::CI) & 1 << slot == 0);
        if driver.port(port, px::IS) & 0xff00_0000 != 0 {
            driver.restart(port);
        }
    }
    assert!(done > 1000, "much of it should be carried out: {done}");
}

#[test]
fn no_command_does_harm() {
    let files = [file(SIZE), file(SIZE)];
    issue_random_commands(3, drives(&files));
}

#[test]
fn no_command_does_harm_to_a_disk() {
    let files = [0; 4].map(|_| file(SIZE));
    let disks = files.each_ref().map(|file| Some(disk(file, Access::ReadWrite)));
    let [a, b, c, d] = disks;
    issue_random_commands(4, [a, b, c, d, None, None]);
    assert!(files.iter().all(|file| file.as_file().metadata().unwrap().len() == SIZE as u64));
}
