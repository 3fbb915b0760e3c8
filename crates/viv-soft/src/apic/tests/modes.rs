//! IA32_APIC_BASE, x2APIC mode, INIT.

use super::*;

#[test]
fn transitions_between_the_modes() {
    let (disabled, xapic, invalid) = (DEFAULT_BASE, DEFAULT_BASE | BASE_ENABLE, DEFAULT_BASE | BASE_X2APIC);
    let all = [disabled, xapic, X2APIC, invalid];
    let allowed = [(disabled, [true, true, false, false]), (xapic, [true, true, true, false]), {
        (X2APIC, [true, false, true, false])
    }];
    for (from, allowed) in allowed {
        for (to, allowed) in all.into_iter().zip(allowed) {
            let mut apic = apic(1);
            apic.set_base(from).unwrap();
            assert_eq!(apic.set_base(to).is_ok(), allowed, "{from:#x} to {to:#x}");
            assert_eq!(apic.base(), if allowed { to } else { from });
        }
    }
}

#[test]
fn reserved_bits_of_the_base_are_refused() {
    let mut apic = apic(0);
    let base = apic.base();
    for bit in (0..8).chain([9]).chain(46..64) {
        assert_eq!(apic.set_base(base | 1 << bit), gp(), "bit {bit}");
    }
    apic.set_base(0x3fff_ffff_f900).unwrap();
    assert_eq!(apic.mmio_base(), Some(0x3fff_ffff_f000));
    assert_eq!(x2apic(0).mmio_base(), None);
}

#[test]
fn disabling_forgets() {
    let mut apic = apic(0);
    apic.accept(0x80, false);
    apic.set(reg::TIMER_INITIAL, 1000);
    apic.set_base(DEFAULT_BASE).unwrap();
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.mmio_base(), None);
    assert_eq!(apic.rdmsr(reg::ID), gp());
    apic.set_base(DEFAULT_BASE | BASE_ENABLE).unwrap();
    assert_eq!(apic.get(reg::SVR), 0xff);
    assert_eq!(apic.get(reg::TIMER_INITIAL), 0);
    assert_eq!(apic.pending(), None);
}

#[test]
fn x2apic_mode_keeps_what_it_found() {
    let mut apic = apic(0x23);
    apic.set(reg::LDR, 0x0400_0000);
    apic.set(reg::TPR, 0x20);
    apic.set(reg::ICR_HIGH, 0x0500_0000);
    apic.set(reg::LVT_TIMER, 0x77);
    apic.accept(0x99, true);
    apic.set_base(X2APIC).unwrap();
    assert_eq!(apic.rdmsr(reg::ID), Ok(0x23));
    assert_eq!(apic.rdmsr(reg::LDR), Ok(0x0002_0008), "cluster 2, bit 3");
    assert_eq!(apic.rdmsr(reg::TPR), Ok(0x20));
    assert_eq!(apic.rdmsr(reg::ICR_LOW), Ok(0));
    assert_eq!(apic.rdmsr(reg::LVT_TIMER), Ok(0x77));
    assert_eq!(apic.rdmsr(reg::IRR + 4), Ok(1 << 25));
    assert_eq!(apic.rdmsr(reg::TMR + 4), Ok(1 << 25));
}

#[test]
fn msrs_are_there_only_in_x2apic_mode() {
    let mut apic = apic(0);
    assert_eq!(apic.rdmsr(reg::VERSION), gp());
    assert_eq!(apic.wrmsr(reg::TPR, 0), gp());
    apic.set_base(X2APIC).unwrap();
    assert_eq!(apic.rdmsr(reg::VERSION), Ok(0x0006_0014));
    assert_eq!(apic.read_msr(0x7ff, 0), gp());
    assert_eq!(apic.read_msr(0x900, 0), gp());
}

/// Table 11-6: which can be read, which bits can be written.
#[test]
fn every_msr_follows_the_table() {
    let sets = (0x10..=0x27).map(|register| (register, (true, None)));
    let mut table: std::collections::HashMap<u32, (bool, Option<u64>)> = sets.collect();
    table.extend([
        (reg::ID, (true, None)),
        (reg::VERSION, (true, None)),
        (reg::TPR, (true, Some(0xff))),
        (reg::PPR, (true, None)),
        (reg::EOI, (false, Some(0))),
        (reg::LDR, (true, None)),
        (reg::SVR, (true, Some(0x3ff))),
        (reg::ESR, (true, Some(0))),
        (reg::LVT_CMCI, (true, Some(0x0001_17ff))),
        (reg::ICR_LOW, (true, Some(0xffff_ffff_000c_dfff))),
        (reg::LVT_TIMER, (true, Some(0x0007_10ff))),
        (reg::LVT_THERMAL, (true, Some(0x0001_17ff))),
        (reg::LVT_PERF, (true, Some(0x0001_17ff))),
        (reg::LVT_LINT0, (true, Some(0x0001_f7ff))),
        (reg::LVT_LINT1, (true, Some(0x0001_f7ff))),
        (reg::LVT_ERROR, (true, Some(0x0001_10ff))),
        (reg::TIMER_INITIAL, (true, Some(0xffff_ffff))),
        (reg::TIMER_CURRENT, (true, None)),
        (reg::TIMER_DIVIDE, (true, Some(0xb))),
        (reg::SELF_IPI, (false, Some(0xff))),
    ]);
    for register in 0..0x100 {
        let (readable, writable) = table.get(&register).copied().unwrap_or((false, None));
        let mut apic = x2apic(0);
        assert_eq!(apic.rdmsr(register).is_ok(), readable, "read of {register:#x}");
        for bit in 0..64 {
            let allowed = writable.is_some_and(|bits| bits & (1 << bit) != 0);
            assert_eq!(apic.wrmsr(register, 1 << bit).is_ok(), allowed, "bit {bit} of {register:#x}");
        }
        assert_eq!(apic.wrmsr(register, 0).is_ok(), writable.is_some(), "write of {register:#x}");
    }
}

#[test]
fn init_resets_all_but_id_and_mode() {
    let mut apic = x2apic(0x11);
    apic.accept(0x50, false);
    apic.wrmsr(reg::TPR, 0x90).unwrap();
    apic.wrmsr(reg::LVT_TIMER, 0x60).unwrap();
    apic.wrmsr(reg::TIMER_INITIAL, 1000).unwrap();
    apic.init();
    assert_eq!(apic.base(), X2APIC);
    assert_eq!(apic.rdmsr(reg::ID), Ok(0x11));
    assert_eq!(apic.rdmsr(reg::SVR), Ok(0xff));
    assert_eq!(apic.rdmsr(reg::TPR), Ok(0));
    assert_eq!(apic.rdmsr(reg::LVT_TIMER), Ok(u64::from(MASKED)));
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.next_deadline(), None);
    apic.reset();
    assert_eq!(apic.base(), DEFAULT_BASE | BASE_ENABLE);
}
