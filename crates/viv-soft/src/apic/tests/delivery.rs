//! Acceptance, priorities, end of interrupt, errors.

use super::*;

#[test]
fn registers_after_power_on() {
    let mut apic = apic_after_reset(3);
    let expected = [
        (reg::ID, 3 << 24),
        (reg::VERSION, 0x0006_0014),
        (reg::TPR, 0),
        (reg::PPR, 0),
        (reg::LDR, 0),
        (reg::DFR, u32::MAX),
        (reg::SVR, 0xff),
        (reg::ESR, 0),
        (reg::ICR_LOW, 0),
        (reg::ICR_HIGH, 0),
        (reg::TIMER_INITIAL, 0),
        (reg::TIMER_CURRENT, 0),
        (reg::TIMER_DIVIDE, 0),
    ];
    for (register, value) in expected {
        assert_eq!(apic.get(register), value, "register {register:#x}");
    }
    for source in Source::ALL {
        assert_eq!(apic.get(source.register()), MASKED, "{source:?}");
    }
    for register in [reg::ISR, reg::TMR, reg::IRR] {
        assert!((0..8).all(|index| apic.get(register + index) == 0));
    }
    assert_eq!(apic.base(), 0xfee0_0800);
    assert_eq!(apic_after_reset(0).base(), 0xfee0_0900, "the bootstrap processor");
}

#[test]
fn the_highest_vector_is_delivered_first() {
    let mut apic = apic(0);
    for vector in [0x31, 0xf0, 0x80] {
        apic.accept(vector, false);
    }
    assert_eq!(apic.pending(), Some(0xf0));
    assert_eq!(apic.acknowledge(), 0xf0);
    assert_eq!(apic.get(reg::ISR + 7), 1 << 16);
    assert_eq!(apic.pending(), None, "0xf0 is in service");
    assert_eq!(apic.eoi(), None);
    assert_eq!(apic.acknowledge(), 0x80);
    assert_eq!(apic.eoi(), None);
    assert_eq!(apic.acknowledge(), 0x31);
    assert_eq!(apic.eoi(), None);
    assert_eq!(apic.pending(), None);
}

#[test]
fn only_a_higher_class_nests_and_eoi_ends_the_highest() {
    let mut apic = apic(0);
    apic.accept(0x51, false);
    assert_eq!(apic.acknowledge(), 0x51);
    apic.accept(0x5f, false);
    assert_eq!(apic.pending(), None, "the same class does not nest");
    apic.accept(0x60, false);
    assert_eq!(apic.acknowledge(), 0x60);
    assert_eq!(apic.get(reg::PPR), 0x60);
    assert_eq!(apic.set(reg::EOI, 0), Effect::None);
    assert_eq!(apic.get(reg::PPR), 0x50, "0x51 goes on");
    assert_eq!(apic.pending(), None);
    apic.set(reg::EOI, 0);
    assert_eq!(apic.acknowledge(), 0x5f);
}

#[test]
fn one_more_of_a_vector_is_kept_while_it_is_in_service() {
    let mut apic = apic(0);
    apic.accept(0x40, false);
    assert_eq!(apic.acknowledge(), 0x40);
    apic.accept(0x40, false);
    apic.accept(0x40, false);
    let _ = apic.eoi();
    assert_eq!(apic.acknowledge(), 0x40);
    let _ = apic.eoi();
    assert_eq!(apic.pending(), None);
}

#[test]
fn the_task_priority_holds_back_its_class_and_below() {
    let mut apic = apic(0);
    apic.accept(0x3f, false);
    apic.set(reg::TPR, 0x30);
    assert_eq!(apic.cr8(), 3);
    assert_eq!(apic.pending(), None);
    apic.set_cr8(2);
    assert_eq!(apic.get(reg::TPR), 0x20);
    assert_eq!(apic.pending(), Some(0x3f));
    apic.set_cr8(15);
    apic.accept(0xff, false);
    assert_eq!(apic.pending(), None);
}

#[test]
fn the_processor_priority_is_the_higher_of_task_and_service() {
    let mut apic = apic(0);
    apic.set(reg::TPR, 0x2a);
    assert_eq!(apic.get(reg::PPR), 0x2a);
    apic.accept(0x45, false);
    assert_eq!(apic.acknowledge(), 0x45);
    assert_eq!(apic.get(reg::PPR), 0x40, "of the vector in service only the class");
    apic.set(reg::TPR, 0x57);
    assert_eq!(apic.get(reg::PPR), 0x57);
}

#[test]
fn an_interrupt_that_has_become_blocked_is_spurious_and_not_in_service() {
    let mut apic = apic(0);
    apic.set(reg::SVR, 0x1ef);
    apic.accept(0x30, false);
    apic.set_cr8(3);
    assert_eq!(apic.acknowledge(), 0xef);
    assert!((0..8).all(|index| apic.get(reg::ISR + index) == 0));
    apic.set_cr8(0);
    assert_eq!(apic.acknowledge(), 0x30, "it was not lost");
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_broadcast() {
    let mut apic = apic(0);
    apic.accept(0x29, true);
    assert_eq!(apic.get(reg::TMR + 1), 1 << 9);
    assert_eq!(apic.acknowledge(), 0x29);
    assert_eq!(apic.set(reg::EOI, 0), Effect::EndOfInterrupt(0x29));
    assert_eq!(apic.set(reg::EOI, 0), Effect::None, "nothing is in service");
    apic.accept(0x29, false);
    assert_eq!(apic.get(reg::TMR + 1), 0);
    assert_eq!(apic.acknowledge(), 0x29);
    assert_eq!(apic.set(reg::EOI, 0), Effect::None);
}

#[test]
fn an_inbox_is_taken_in_with_its_trigger_modes() {
    let inbox = crate::inbox::Inbox::new().unwrap();
    inbox.post_vector(0x71, false);
    inbox.post_vector(0x72, true);
    let taken = inbox.take();
    let mut apic = apic(0);
    apic.accept_all(taken.edge, taken.level);
    assert_eq!(apic.get(reg::IRR + 3), 0b110 << 16);
    assert_eq!(apic.get(reg::TMR + 3), 0b100 << 16);
}

#[test]
fn disabled_by_software_it_accepts_nothing_but_keeps_what_it_had() {
    let mut apic = apic(0);
    apic.set(reg::LVT_TIMER, 0x40);
    apic.accept(0x50, false);
    apic.set(reg::SVR, 0xff);
    apic.accept(0x60, false);
    assert_eq!(apic.pending(), Some(0x50));
    assert_eq!(apic.get(reg::LVT_TIMER), MASKED | 0x40);
    apic.set(reg::LVT_TIMER, 0x40);
    assert_eq!(apic.get(reg::LVT_TIMER), MASKED | 0x40, "the mask cannot be cleared");
    apic.set(reg::SVR, 0x1ff);
    apic.set(reg::LVT_TIMER, 0x40);
    assert_eq!(apic.get(reg::LVT_TIMER), 0x40);
}

#[test]
fn illegal_vectors_are_errors() {
    let mut apic = apic(0);
    apic.set(reg::LVT_ERROR, 0xfe);
    apic.accept(15, false);
    assert_eq!(apic.get(reg::ESR), 0, "the register shows it only once it is written");
    assert_eq!(apic.acknowledge(), 0xfe);
    assert_eq!(apic.take_errors(), 1 << 6);
    assert_eq!(apic.take_errors(), 0);
    assert_eq!(apic.set(reg::ICR_LOW, 0x000c_400f), Effect::None);
    assert_eq!(apic.take_errors(), 1 << 5);
    apic.accept(16, false);
    assert_eq!(apic.take_errors(), 0);
}

#[test]
fn the_error_interrupt_comes_once_until_software_has_looked() {
    let mut apic = apic(0);
    apic.set(reg::LVT_ERROR, 0xfe);
    for _ in 0..2 {
        apic.accept(1, false);
        assert_eq!(apic.acknowledge(), 0xfe);
        let _ = apic.eoi();
        apic.accept(1, false);
        assert_eq!(apic.pending(), None);
        apic.take_errors();
    }
}

#[test]
fn an_error_interrupt_with_an_illegal_vector_ends() {
    let mut apic = apic(0);
    apic.set(reg::LVT_ERROR, 3);
    apic.get(0x3f);
    assert_eq!(apic.take_errors(), (1 << 7) | (1 << 6));
    assert_eq!(apic.pending(), None);
}

#[test]
fn registers_that_are_not_there_are_errors() {
    let mut apic = apic(0);
    for register in [0, 1, 4, 0x0c, 0x29, 0x3a, 0x3f, 0x40, 0xff] {
        assert_eq!(apic.get(register), 0, "register {register:#x}");
        assert_eq!(apic.take_errors(), 1 << 7, "read of register {register:#x}");
        apic.set(register, 1);
        assert_eq!(apic.take_errors(), 1 << 7, "write of register {register:#x}");
    }
    for register in [reg::ID, reg::VERSION, reg::PPR, reg::ISR, reg::IRR + 7, reg::TIMER_CURRENT] {
        let before = apic.get(register);
        apic.set(register, !before);
        assert_eq!(apic.get(register), before, "register {register:#x} is only read");
        assert_eq!(apic.take_errors(), 0);
    }
}

#[test]
fn accesses_of_other_sizes_are_harmless() {
    let mut apic = apic(0);
    let mut data = [0xaa; 8];
    apic.mmio_read(0x30, &mut data, 0);
    assert_eq!(data, [0x14, 0, 6, 0, 0, 0, 0, 0]);
    let mut byte = [0xaa];
    apic.mmio_read(0x32, &mut byte, 0);
    assert_eq!(byte, [6]);
    apic.mmio_read(0x3e, &mut data, 0);
    assert_eq!(data, [0; 8]);
    for (offset, size) in [(0x80, 1), (0x80, 2), (0x80, 8), (0x82, 4), (0x84, 4), (0x80, 0)] {
        assert_eq!(apic.mmio_write(offset, &vec![0x50; size], 0), Effect::None);
        assert_eq!(apic.get(reg::TPR), 0);
    }
}

#[test]
fn lint0_passes_the_8259_through() {
    let mut apic = apic(0);
    assert!(!apic.accepts_extint() && !apic.accepts_nmi());
    apic.set(reg::LVT_LINT0, 0x700);
    apic.set(reg::LVT_LINT1, 0x400);
    assert!(apic.accepts_extint() && apic.accepts_nmi());
    apic.set(reg::LVT_LINT0, 0x700 | MASKED);
    apic.set(reg::LVT_LINT1, 0x0ff);
    assert!(!apic.accepts_extint() && !apic.accepts_nmi());
    apic.set_base(DEFAULT_BASE).unwrap();
    assert!(apic.accepts_extint() && apic.accepts_nmi(), "without an APIC the pins are INTR and NMI");

    let mut wired = apic_after_reset(0);
    wired.set_virtual_wire();
    assert!(wired.accepts_extint() && wired.accepts_nmi());
    assert_eq!(wired.get(reg::SVR), 0x1ff);
}

#[test]
fn lvt_entries_keep_what_they_have() {
    let mut apic = apic(0);
    let expected = [
        (reg::LVT_CMCI, 0x0001_07ff),
        (reg::LVT_TIMER, 0x0007_00ff),
        (reg::LVT_THERMAL, 0x0001_07ff),
        (reg::LVT_PERF, 0x0001_07ff),
        (reg::LVT_LINT0, 0x0001_a7ff),
        (reg::LVT_LINT1, 0x0001_a7ff),
        (reg::LVT_ERROR, 0x0001_00ff),
    ];
    for (register, kept) in expected {
        apic.set(register, u32::MAX);
        assert_eq!(apic.get(register), kept, "register {register:#x}");
    }
}
