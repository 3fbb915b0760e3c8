//! Steal time: how long a vCPU would have run, but other threads of the host did (Linux,
//! Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME).
//!
//! It is the time that passes less the time that the vCPU's thread gets, while it is not waiting for events.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::cpu::Cpu;

/// Bit 0 of MSR_KVM_STEAL_TIME: enabled.
const ENABLE: u64 = 1 << 0;
/// Bits that must be zero: `struct kvm_steal_time` is 64 bytes long, at a multiple of that.
pub const RESERVED: u64 = 0x3e;
/// Offset of the field `version` in it. `steal` is at 0.
const VERSION: u64 = 8;

/// The clock of one vCPU, read on its own thread.
#[derive(Debug, Default)]
pub struct StealClock {
    /// When it was last read: what had passed, and how much of it the thread had got.
    last: Option<(Instant, Duration)>,
    /// What was stolen and not yet told to the guest.
    stolen: Duration,
}

impl StealClock {
    /// Counts from now on.
    pub fn start(&mut self) {
        self.last = Some(now());
    }

    /// Counts up to now, and no further.
    pub fn stop(&mut self) {
        if let Some((passed, got)) = self.last.take() {
            let (passed_now, got_now) = now();
            self.count(passed_now.saturating_duration_since(passed), got_now.saturating_sub(got));
        }
    }

    fn count(&mut self, passed: Duration, got: Duration) {
        self.stolen += passed.saturating_sub(got);
    }

    /// Takes what has come together.
    fn take(&mut self) -> Duration {
        if self.last.is_some() {
            self.stop();
            self.start();
        }
        std::mem::take(&mut self.stolen)
    }
}

/// The time, and what this thread got of it.
fn now() -> (Instant, Duration) {
    let got = clock_gettime(ClockId::ThreadCPUTime);
    (Instant::now(), Duration::new(got.tv_sec as u64, got.tv_nsec as u32))
}

impl Cpu {
    /// Whether the guest wants to know.
    fn has_steal_time(&self) -> bool {
        self.msrs.kvm_steal_time & ENABLE != 0
    }

    /// The vCPU goes on running.
    pub fn start_steal_clock(&mut self) {
        if self.has_steal_time() {
            self.steal.start();
        }
    }

    /// The vCPU stops, or waits for events.
    pub fn stop_steal_clock(&mut self) {
        self.steal.stop();
    }

    /// WRMSR of MSR_KVM_STEAL_TIME.
    pub fn set_steal_time(&mut self, value: u64) {
        self.msrs.kvm_steal_time = value;
        self.steal = StealClock::default();
        self.start_steal_clock();
        self.publish_steal_time();
    }

    /// Adds what was stolen since the last time to what the guest reads.
    pub fn publish_steal_time(&mut self) {
        if !self.has_steal_time() {
            return;
        }
        let stolen = self.steal.take().as_nanos() as u64;
        let address = self.msrs.kvm_steal_time & !(ENABLE | RESERVED);
        let mut bytes = [0; 16];
        self.read_physical_bytes(address, &mut bytes);
        let [steal, version] = [0, 8]
            .map(|at| bytes[at..at + 8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)));
        // Odd while the time changes. It is the guest's to choose at first.
        let changing = (version as u32).wrapping_add(1) | 1;
        self.write_physical_bytes(address + VERSION, &changing.to_le_bytes());
        self.write_physical_bytes(address, &steal.wrapping_add(stolen).to_le_bytes());
        self.write_physical_bytes(address + VERSION, &changing.wrapping_add(1).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_thread_did_not_get_was_stolen() {
        let mut clock = StealClock::default();
        clock.count(Duration::from_millis(10), Duration::from_millis(4));
        clock.count(Duration::from_millis(1), Duration::from_millis(1));
        // Two clocks are not read at the same moment.
        clock.count(Duration::from_micros(1), Duration::from_micros(2));
        assert_eq!(clock.take(), Duration::from_millis(6));
        assert_eq!(clock.take(), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_stands_counts_nothing() {
        let mut clock = StealClock::default();
        clock.stop();
        assert_eq!(clock.take(), Duration::ZERO);
        assert!(clock.last.is_none());
        clock.start();
        std::thread::sleep(Duration::from_millis(2));
        clock.stop();
        assert!(clock.take() >= Duration::from_millis(1), "it slept, but was not said to");
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.take(), Duration::ZERO);
    }
}
