//! The random moments of [`Torture`].

use crate::cpu::Cpu;
use crate::options::Torture;

/// Where they come from: Marsaglia's xorshift.
#[derive(Debug)]
pub struct Torturer(u64);

impl Torturer {
    /// One for the vCPU of this number.
    pub fn new(torture: Torture, index: u32) -> Self {
        // The generator must not start at 0, and vCPUs are to differ.
        Self((torture.seed ^ u64::from(index) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.is_multiple_of(n)
    }
}

impl Cpu {
    /// Under torture, now and then: has the run loop look for events, or says that translated code must be left for it.
    /// What stays in translated code is not tormented.
    #[inline]
    pub fn is_called_away(&mut self) -> bool {
        self.torturer.is_some() && self.torment_detour()
    }

    #[cold]
    fn torment_detour(&mut self) -> bool {
        let Some(torturer) = &mut self.torturer else { return false };
        if torturer.once_in(32) {
            self.shared.inbox(self.index).raise();
        }
        torturer.once_in(8)
    }
}
