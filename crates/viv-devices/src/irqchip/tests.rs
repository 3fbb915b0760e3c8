use viv_engine::Msi;

use super::*;
use crate::testing::{Places, Processors, outb, reset_gives_power_on_state};

struct Bench {
    processors: Arc<Processors>,
    chip: Arc<IrqChip>,
    device: IrqChipDevice,
}

fn bench() -> Bench {
    let processors = Arc::new(Processors::default());
    let chip = IrqChip::new(processors.clone(), processors.clone());
    Bench { processors, device: IrqChipDevice::new(Arc::clone(&chip)), chip }
}

impl Bench {
    fn initialize_pic(&mut self) {
        for (port, vector) in [(layout::PIC_MASTER, 0x30), (layout::PIC_SLAVE, 0x38)] {
            outb(&mut self.device, port, 0x11);
            for word in [vector, 0, 1] {
                outb(&mut self.device, port + 1, word);
            }
        }
    }

    fn program(&mut self, pin: u32, entry: u32) {
        self.device.memory_io().unwrap().write(0, &(0x10 + 2 * pin).to_le_bytes());
        self.device.memory_io().unwrap().write(0x10, &entry.to_le_bytes());
    }
}

#[test]
fn isa_lines_reach_both_controllers() {
    let mut b = bench();
    b.initialize_pic();
    b.program(4, 0x54);
    b.program(2, 0x50);
    b.program(0, 0x5f);
    let (serial, timer, cascade) = (b.chip.line(4), b.chip.line(0), b.chip.line(2));
    serial.set(true);
    assert!(b.processors.extint());
    assert_eq!(b.chip.acknowledge(), Some(0x34));
    assert!(!b.processors.extint(), "acknowledging takes INTR away");
    assert_eq!(b.chip.acknowledge(), None);
    timer.pulse();
    cascade.pulse();
    assert_eq!(b.chip.acknowledge(), Some(0x30));
    let vectors: Vec<u8> = b.processors.take().into_iter().map(Msi::vector).collect();
    assert_eq!(vectors, [0x54, 0x50], "line 0 is pin 2, and line 2 leads nowhere");
}

#[test]
fn shared_level_lines_interrupt_until_every_source_lets_go() {
    let mut b = bench();
    b.program(17, 0x8061);
    let (one, two) = (b.chip.line(17), b.chip.line(17));
    one.set(true);
    two.set(true);
    assert_eq!(b.processors.take().len(), 1);
    one.set(false);
    b.chip.end_of_interrupt(0x61);
    assert_eq!(b.processors.take().len(), 1, "the other still asserts it");
    two.set(false);
    b.chip.end_of_interrupt(0x61);
    assert!(b.processors.take().is_empty());
}

#[test]
fn lines_that_do_not_exist_do_nothing() {
    let b = bench();
    for gsi in [24, 255, 256, 256 + 4, u32::MAX] {
        b.chip.line(gsi).pulse();
    }
    assert!(!b.processors.extint() && b.processors.take().is_empty());
}

#[test]
fn devices_restore_before_or_after_without_a_new_interrupt() {
    let mut old = bench();
    old.initialize_pic();
    old.program(4, 0x54);
    let line = old.chip.line(4);
    line.set(true);
    old.chip.acknowledge();
    outb(&mut old.device, layout::PIC_MASTER, 0x20);
    let saved = old.device.save().unwrap();
    for line_first in [true, false] {
        let mut new = bench();
        let line = new.chip.line(4);
        if line_first {
            line.set(true);
        }
        new.device.restore(&saved).unwrap();
        if !line_first {
            line.set(true);
        }
        assert_eq!(new.device.save().unwrap(), saved);
        assert!(!new.processors.extint() && new.processors.take().is_empty());
        line.pulse();
        assert!(new.processors.extint());
        assert_eq!(new.processors.take().len(), 1);
    }
}

#[test]
fn a_restored_request_is_still_there() {
    let mut old = bench();
    old.initialize_pic();
    old.chip.line(1).pulse();
    let mut new = bench();
    new.device.restore(&old.device.save().unwrap()).unwrap();
    assert!(new.processors.extint());
    assert_eq!(new.chip.acknowledge(), Some(0x31));
    old.device.reset();
    assert!(!old.processors.extint());
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let places = Places { ports: &IrqChip::PORTS, memory: layout::IOAPIC_SIZE };
    // Most of the registers' page is empty, so that two runs are made: all of it, and where registers are.
    for memory in [layout::IOAPIC_SIZE, 0x48] {
        reset_gives_power_on_state(|| bench().device, &Places { memory, ..places });
    }
}

#[test]
fn random_lines_and_registers_keep_intr_in_step() {
    let mut b = bench();
    let lines: Vec<IrqLine> = (0..26).map(|gsi| b.chip.line(gsi)).collect();
    let mut random = crate::testing::Random(7);
    b.initialize_pic();
    for _ in 0..5000 {
        match random.below(4) {
            0 => outb(&mut b.device, [0x20, 0x21, 0xa0, 0xa1][random.below(4) as usize], random.next() as u8),
            1 => {
                let acknowledged = b.chip.acknowledge().is_some();
                assert!(acknowledged || !b.processors.extint());
            }
            2 => b.program(random.below(24) as u32, random.next() as u32),
            _ => lines[random.below(26) as usize].set(random.below(2) == 0),
        }
        assert_eq!(b.processors.extint(), b.chip.lock().pic.intr());
        b.processors.take();
    }
}
