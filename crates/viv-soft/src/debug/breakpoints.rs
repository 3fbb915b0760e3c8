//! Four breakpoints, as DR0 to DR3 and DR7 describe them (SDM vol. 3, 18.2.4).

/// DR7 bits that read as ones.
pub const DR7_FIXED: u64 = 0x400;
/// DR7 bits that switch breakpoints on, two for each.
const ENABLES: u64 = 0xff;
/// What a breakpoint waits for (DR7.R/W): an instruction at the address.
const CONDITION_FETCH: u64 = 0;
/// A write.
pub const CONDITION_WRITE: u64 = 1;
/// An access to a port, with CR4.DE.
pub const CONDITION_PORT: u64 = 2;
/// A read or a write.
pub const CONDITION_ACCESS: u64 = 3;

/// Breakpoints: DR0 to DR3 and DR7.
#[derive(Debug, Clone)]
pub struct Breakpoints {
    pub address: [u64; 4],
    pub dr7: u64,
}

impl Default for Breakpoints {
    fn default() -> Self {
        Self { address: [0; 4], dr7: DR7_FIXED }
    }
}

impl Breakpoints {
    /// Whether there is any.
    #[inline]
    pub fn is_armed(&self) -> bool {
        self.dr7 & ENABLES != 0
    }

    fn condition(&self, n: usize) -> u64 {
        (self.dr7 >> (16 + 4 * n)) & 3
    }

    fn length(&self, n: usize) -> u64 {
        match (self.dr7 >> (18 + 4 * n)) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        }
    }

    fn enabled(&self) -> impl Iterator<Item = usize> + '_ {
        (0..4).filter(|n| self.dr7 >> (2 * n) & 3 != 0)
    }

    /// Whether any is for data.
    #[inline]
    pub fn is_watching(&self) -> bool {
        self.is_armed()
            && self.enabled().any(|n| matches!(self.condition(n), CONDITION_WRITE | CONDITION_ACCESS))
    }

    /// Whether one for data lies in the page of `address`.
    #[inline]
    pub fn watches_page(&self, address: u64) -> bool {
        self.is_armed()
            && self.enabled().any(|n| {
                let start = self.address[n] & !(self.length(n) - 1);
                matches!(self.condition(n), CONDITION_WRITE | CONDITION_ACCESS)
                    && start >> 12 == address >> 12
            })
    }

    /// Whether any is for instructions.
    #[inline]
    pub fn has_instruction_breakpoint(&self) -> bool {
        self.is_armed() && self.enabled().any(|n| self.condition(n) == CONDITION_FETCH)
    }

    /// The addresses of those for instructions.
    pub fn instructions(&self) -> impl Iterator<Item = u64> + '_ {
        self.enabled().filter(|&n| self.condition(n) == CONDITION_FETCH).map(|n| self.address[n])
    }

    /// Those for an instruction at `address`, as bits of DR6.
    pub fn instruction_hits(&self, address: u64) -> u64 {
        self.enabled()
            .filter(|&n| self.condition(n) == CONDITION_FETCH && self.address[n] == address)
            .fold(0, |bits, n| bits | 1 << n)
    }

    /// Those whose condition is `wanted` for an access to `size` bytes at `address`, as bits of DR6.
    pub fn range_hits(&self, address: u64, size: u64, wanted: impl Fn(u64) -> bool) -> u64 {
        self.enabled()
            .filter(|&n| {
                let start = self.address[n] & !(self.length(n) - 1);
                let overlaps =
                    start.wrapping_sub(address) < size || address.wrapping_sub(start) < self.length(n);
                overlaps && wanted(self.condition(n))
            })
            .fold(0, |bits, n| bits | 1 << n)
    }
}
