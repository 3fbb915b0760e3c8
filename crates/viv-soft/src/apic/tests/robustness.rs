//! Whatever a guest does, in whatever order: nothing panics, and what must always hold does.

use super::*;

/// A generator of test inputs (SplitMix64): the same ones in every run.
struct Inputs(u64);

impl Inputs {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A value of any magnitude.
    fn value(&mut self) -> u64 {
        let shift = self.below(64);
        self.next() >> shift
    }
}

fn check(apic: &mut LocalApic, tsc: u64) {
    if let Some(vector) = apic.pending() {
        assert!(vector >= 16, "vector {vector}");
        assert!(vector >> 4 > apic.ppr() >> 4);
        assert!(apic.irr.contains(vector));
    }
    let (current, initial) = (apic.timer.current(tsc), apic.timer.initial());
    assert!(current <= initial, "count {current} of {initial}");
    if apic.timer.initial() == 0 {
        assert!(apic.tsc_deadline() != 0 || apic.timer.next().is_none());
    }
}

#[test]
fn random_accesses() {
    for seed in 0..64 {
        let mut inputs = Inputs(seed);
        let mut apic = apic(inputs.below(300) as u32);
        let mut tsc = inputs.value();
        for _ in 0..4_000 {
            // Sometimes time stands still, sometimes it leaps; guests may also set it back.
            tsc = match inputs.below(8) {
                0 => inputs.value(),
                1 => tsc,
                _ => tsc.wrapping_add(inputs.value() >> 30),
            };
            let value = inputs.value();
            match inputs.below(16) {
                0 => {
                    let mut data = vec![0; inputs.below(9) as usize];
                    apic.mmio_read(inputs.below(0x1000), &mut data, tsc);
                }
                1 => {
                    let size = inputs.below(9) as usize;
                    apic.mmio_write(inputs.below(0x1000), &value.to_le_bytes()[..size], tsc);
                }
                2..=4 => {
                    apic.set_at(inputs.below(0x40) as u32, value as u32, tsc);
                }
                5 | 6 => {
                    let _ = apic.read_msr(0x800 + inputs.below(0x100) as u32, tsc);
                    let _ = apic.write_msr(0x800 + inputs.below(0x40) as u32, value, tsc);
                }
                7 if inputs.below(8) == 0 => {
                    let _ = apic.set_base(value);
                    let _ = apic.set_base(DEFAULT_BASE | (value & 0xd00));
                }
                8 => apic.set_cr8(value),
                9 => {
                    let _ = apic.acknowledge();
                }
                10 => {
                    let _ = apic.eoi();
                }
                11 => apic.set_tsc_deadline(value, tsc),
                12 => apic.adjust_tsc(value.cast_signed()),
                13 => {
                    apic.set_at(reg::SVR, 0x1ff, tsc);
                }
                14 => {
                    let page = apic.save(tsc);
                    let base = apic.base();
                    apic.load(&page, base, tsc).unwrap();
                    let again = apic.save(tsc);
                    let changed = (0..64).find(|n| page[n * 16..n * 16 + 16] != again[n * 16..n * 16 + 16]);
                    assert_eq!(changed, None, "the first register that was not loaded as saved");
                }
                _ => {
                    apic.accept(value as u8, value & 0x100 != 0);
                    apic.timer_tick(tsc);
                    if let Some(deadline) = apic.next_deadline() {
                        apic.timer_tick(deadline);
                        assert_ne!(apic.next_deadline(), Some(deadline), "a tick makes progress");
                    }
                }
            }
            check(&mut apic, tsc);
        }
    }
}
