use viv_engine::Msi;

use super::*;
use crate::testing::Processors;

#[derive(Default)]
struct Bench {
    processors: Processors,
}

impl Bench {
    fn program(&self, ioapic: &mut Ioapic, pin: u8, entry: u64) {
        for (index, half) in [(0x10 + 2 * pin + 1, (entry >> 32) as u32), (0x10 + 2 * pin, entry as u32)] {
            ioapic.write(regs::SELECT, index.into(), &self.processors);
            ioapic.write(regs::WINDOW, half, &self.processors);
        }
    }

    fn entry(&self, ioapic: &mut Ioapic, pin: u8) -> u32 {
        ioapic.write(regs::SELECT, (0x10 + 2 * pin).into(), &self.processors);
        ioapic.read(regs::WINDOW)
    }

    fn vectors(&self) -> Vec<u8> {
        self.processors.take().into_iter().map(Msi::vector).collect()
    }
}

#[test]
fn registers_are_an_82093aas() {
    let (bench, mut ioapic) = (Bench::default(), Ioapic::new());
    ioapic.write(regs::SELECT, 1, &bench.processors);
    assert_eq!(ioapic.read(regs::WINDOW), 0x0017_0020);
    ioapic.write(regs::SELECT, 0, &bench.processors);
    ioapic.write(regs::WINDOW, 0xffff_ffff, &bench.processors);
    assert_eq!(ioapic.read(regs::WINDOW), 0x0f00_0000);
    for pin in 0..24 {
        assert_eq!(bench.entry(&mut ioapic, pin), 0x1_0000, "masked after power-on");
    }
    assert_eq!(bench.entry(&mut ioapic, 24), 0, "no such pin");
    bench.program(&mut ioapic, 3, u64::MAX);
    assert_eq!(bench.entry(&mut ioapic, 3), 0x1_afff, "the status bits are not writable");
    assert_eq!(ioapic.read(0x14), 0);
}

#[test]
fn an_edge_sends_one_message() {
    let (bench, mut ioapic) = (Bench::default(), Ioapic::new());
    bench.program(&mut ioapic, 2, 0x0300_0000_0000_0000 | 0x30);
    ioapic.set_line(2, true, &bench.processors);
    ioapic.set_line(2, true, &bench.processors);
    assert_eq!(bench.processors.take(), [Msi { address: 0xfee0_3000, data: 0x30 }]);
    ioapic.set_line(2, false, &bench.processors);
    bench.program(&mut ioapic, 2, 0x1_0030);
    ioapic.set_line(2, true, &bench.processors);
    bench.program(&mut ioapic, 2, 0x30);
    assert!(bench.vectors().is_empty(), "an edge at a masked pin is lost");
}

#[test]
fn messages_carry_mode_and_destination() {
    let (bench, mut ioapic) = (Bench::default(), Ioapic::new());
    bench.program(&mut ioapic, 4, 0xff02_0000_0000_0000 | 0x0944);
    ioapic.set_line(4, true, &bench.processors);
    let [msi] = bench.processors.take()[..] else { panic!("one message") };
    assert!(msi.is_logical() && !msi.is_level());
    assert_eq!(msi.destination(), 0x1ff);
    assert_eq!(msi.data, 0x144, "lowest priority");
}

#[test]
fn a_level_interrupts_again_after_its_end_while_asserted() {
    let (bench, mut ioapic) = (Bench::default(), Ioapic::new());
    bench.program(&mut ioapic, 16, 0xa051);
    ioapic.set_line(16, true, &bench.processors);
    assert_eq!(bench.processors.take(), [Msi { address: 0xfee0_0000, data: 0xc051 }]);
    assert_eq!(bench.entry(&mut ioapic, 16), 0xe051, "remote IRR");
    ioapic.set_line(16, false, &bench.processors);
    ioapic.set_line(16, true, &bench.processors);
    assert!(bench.vectors().is_empty(), "not before its end");
    ioapic.end_of_interrupt(0x52, &bench.processors);
    assert!(bench.vectors().is_empty(), "another vector's end");
    ioapic.end_of_interrupt(0x51, &bench.processors);
    assert_eq!(bench.vectors(), [0x51]);
    ioapic.set_line(16, false, &bench.processors);
    ioapic.write(regs::EOI, 0x51, &bench.processors);
    assert!(bench.vectors().is_empty());
    assert_eq!(bench.entry(&mut ioapic, 16), 0xa051);
}

#[test]
fn unmasking_an_asserted_level_delivers_it() {
    let (bench, mut ioapic) = (Bench::default(), Ioapic::new());
    bench.program(&mut ioapic, 9, 0x1_8039);
    ioapic.set_line(9, true, &bench.processors);
    assert!(bench.vectors().is_empty());
    bench.program(&mut ioapic, 9, 0x8039);
    assert_eq!(bench.vectors(), [0x39]);
}

#[test]
fn making_a_pin_edge_triggered_ends_its_interrupt() {
    let (bench, mut ioapic) = (Bench::default(), Ioapic::new());
    bench.program(&mut ioapic, 9, 0x8039);
    ioapic.set_line(9, true, &bench.processors);
    bench.program(&mut ioapic, 9, 0x1_0039);
    bench.program(&mut ioapic, 9, 0x8039);
    assert_eq!(bench.vectors(), [0x39, 0x39]);
}
