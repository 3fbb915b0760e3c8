//! The register page.

use super::*;

/// An APIC in the middle of things.
fn busy(mut apic: LocalApic) -> LocalApic {
    apic.accept(0x60, true);
    assert_eq!(apic.acknowledge(), 0x60);
    apic.accept(0x44, false);
    apic.accept(0x61, true);
    apic.set_cr8(2);
    apic
}

fn xapic() -> LocalApic {
    let mut apic = busy(apic(5));
    apic.set(reg::LDR, 0x2000_0000);
    apic.set(reg::DFR, 0x0fff_ffff);
    apic.set(reg::ICR_HIGH, 0x0300_0000);
    apic.set(reg::ICR_LOW, 0x4031);
    apic.set(reg::LVT_LINT0, 0x0001_0700);
    apic.set(reg::LVT_TIMER, 0x0002_00ec);
    apic.set(reg::TIMER_DIVIDE, 3);
    apic.set(reg::TIMER_INITIAL, 1_000_000);
    apic
}

fn word(page: &[u8], register: u32) -> u32 {
    let start = register as usize * 16;
    u32::from_le_bytes(page[start..start + 4].try_into().unwrap())
}

#[test]
fn the_page_has_each_register_in_its_place() {
    let page = xapic().save(20_000_000);
    assert_eq!(page.len(), 1024);
    let expected = [
        (reg::ID, 5 << 24),
        (reg::VERSION, 0x0006_0014),
        (reg::TPR, 0x20),
        (reg::PPR, 0x60),
        (reg::LDR, 0x2000_0000),
        (reg::DFR, 0x0fff_ffff),
        (reg::SVR, 0x1ff),
        (reg::ISR + 3, 1),
        (reg::TMR + 3, 3),
        (reg::IRR + 2, 1 << 4),
        (reg::IRR + 3, 2),
        (reg::ICR_LOW, 0x4031),
        (reg::ICR_HIGH, 0x0300_0000),
        (reg::LVT_LINT0, 0x0001_0700),
        (reg::LVT_TIMER, 0x0002_00ec),
        (reg::TIMER_INITIAL, 1_000_000),
        (reg::TIMER_CURRENT, 500_000),
        (reg::TIMER_DIVIDE, 3),
    ];
    for (register, value) in expected {
        assert_eq!(word(&page, register), value, "register {register:#x}");
    }
}

#[test]
fn another_goes_on_from_the_page() {
    let mut from = xapic();
    let page = from.save(20_000_000);
    let mut to = apic_after_reset(5);
    // Elsewhere the TSC may show something else; the count goes on.
    to.load(&page, from.base(), 100).unwrap();
    assert_eq!(to.save(100), page);
    assert_eq!(to.next_deadline(), Some(100 + 20_000_000));
    assert_eq!(to.pending(), None);
    assert_eq!(to.eoi(), Some(0x60));
    assert_eq!(to.acknowledge(), 0x61);
}

#[test]
fn x2apic_mode_travels_in_the_base() {
    let mut from = busy(x2apic(0x105));
    from.wrmsr(reg::ICR_LOW, 0x0000_0107_0000_4031).unwrap();
    from.wrmsr(reg::LVT_TIMER, u64::from(TSC_DEADLINE) | 0xec).unwrap();
    from.set_tsc_deadline(5_000, 0);
    let page = from.save(0);
    assert_eq!(word(&page, reg::ID), 0x105);
    assert_eq!(word(&page, reg::LDR), 0x0010_0020);
    assert_eq!(word(&page, reg::ICR_HIGH), 0x107, "split in two, as KVM has it for user space");
    let mut to = apic_after_reset(0x105);
    to.load(&page, from.base(), 0).unwrap();
    to.set_tsc_deadline(from.tsc_deadline(), 0);
    assert_eq!(to.save(0), page);
    assert_eq!(to.rdmsr(reg::ICR_LOW), Ok(0x0000_0107_0000_4031));
    assert_eq!(to.next_deadline(), Some(5_000));
}

#[test]
fn a_timer_that_is_due_is_saved_as_an_interrupt() {
    let mut apic = apic(0);
    apic.set(reg::LVT_TIMER, 0x40);
    apic.set(reg::TIMER_INITIAL, 10);
    let page = apic.save(1_000);
    assert_eq!(word(&page, reg::IRR + 2), 1);
    assert_eq!(word(&page, reg::TIMER_CURRENT), 0);
    let mut to = apic_after_reset(0);
    to.load(&page, apic.base(), 1_000).unwrap();
    assert_eq!(to.next_deadline(), None, "it does not come twice");
}

#[test]
fn an_empty_page_is_the_state_after_power_on() {
    let mut apic = xapic();
    apic.load(&[], DEFAULT_BASE | BASE_ENABLE, 0).unwrap();
    assert_eq!(apic.save(0), apic_after_reset(5).save(0));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut apic = xapic();
    let before = apic.save(0);
    assert_eq!(apic.load(&[0; 1023], DEFAULT_BASE, 0), Err(StateError::Size(1023)));
    let base = DEFAULT_BASE | BASE_X2APIC;
    assert_eq!(apic.load(&before, base, 0), Err(StateError::Base(base)));
    assert_eq!(apic.load(&before, 1 << 50, 0), Err(StateError::Base(1 << 50)));
    assert_eq!(apic.save(0), before);
}

#[test]
fn bits_that_software_cannot_set_are_dropped() {
    let mut apic = apic_after_reset(1);
    apic.load(&[0xff; 1024], DEFAULT_BASE | BASE_ENABLE, 0).unwrap();
    let page = apic.save(0);
    assert_eq!(word(&page, reg::ID), 1 << 24);
    assert_eq!(word(&page, reg::IRR), 0xffff_0000, "no vector below 16");
    assert_eq!(word(&page, reg::LVT_ERROR), 0x0001_00ff);
    assert_eq!(word(&page, reg::SVR), 0x3ff);
    let mut again = apic_after_reset(1);
    again.load(&page, apic.base(), 0).unwrap();
    assert_eq!(again.save(0), page);
}
