//! What a debugger outside the guest asks of a vCPU.
//!
//! It is apart from the guest's own debug registers and flags, which the guest goes on to have for itself where the
//! engine's processor can serve both; where it cannot, as under KVM, the debugger's breakpoints are the ones that hold.

/// How many breakpoints there are: as many as a processor has.
pub const BREAKPOINTS: usize = 4;

/// What makes [`Vcpu::run`](crate::Vcpu::run) return with [`Exit::Debug`](crate::Exit::Debug).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DebugControl {
    /// One instruction was done, or one iteration of one that repeats, or the exception that it raised was delivered. Interrupts wait meanwhile, unless the
    /// vCPU is halted.
    pub single_step: bool,
    /// One of these was reached.
    pub breakpoints: [Option<Breakpoint>; BREAKPOINTS],
}

/// A place to stop at, by linear address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakpoint {
    /// Where. What is watched begins at a multiple of its length.
    pub address: u64,
    /// What is to happen there.
    pub condition: Condition,
}

/// What makes a breakpoint stop the vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// An instruction begins there: the stop is before it, unless RFLAGS.RF is set.
    Execute,
    /// One of these bytes was written: the stop is after the instruction.
    Write(Length),
    /// One of these bytes was read or written: the stop is after the instruction.
    Access(Length),
}

/// How many bytes are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// One.
    One,
    /// Two.
    Two,
    /// Four.
    Four,
    /// Eight.
    Eight,
}

impl Length {
    /// As a number.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// Why a vCPU stopped for its debugger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugStop {
    /// It has made its step.
    Step,
    /// It has come to the breakpoint with this index.
    Breakpoint(usize),
}

impl DebugControl {
    /// The breakpoints as DR7 has them (SDM vol. 3, 18.2.4): what is enabled, conditions, lengths. Their addresses are
    /// what DR0 to DR3 have.
    #[must_use]
    pub fn dr7(&self) -> u64 {
        let bits = |breakpoint: Breakpoint| match breakpoint.condition {
            Condition::Execute => 0b0000,
            Condition::Write(length) => 0b0001 | length.encoded() << 2,
            Condition::Access(length) => 0b0011 | length.encoded() << 2,
        };
        (0..).zip(self.breakpoints).fold(0x400, |dr7, (n, breakpoint): (u32, _)| match breakpoint {
            Some(breakpoint) => dr7 | 2 << (2 * n) | bits(breakpoint) << (16 + 4 * n),
            None => dr7,
        })
    }

    /// What DR0 to DR3 have.
    #[must_use]
    pub fn addresses(&self) -> [u64; BREAKPOINTS] {
        self.breakpoints.map(|breakpoint| breakpoint.map_or(0, |breakpoint| breakpoint.address))
    }
}

impl Length {
    /// As DR7.LEN has it.
    const fn encoded(self) -> u64 {
        match self {
            Self::One => 0,
            Self::Two => 1,
            Self::Eight => 2,
            Self::Four => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_are_encoded_as_debug_registers() {
        let at = |address, condition| Some(Breakpoint { address, condition });
        let control = DebugControl {
            single_step: false,
            breakpoints: [
                at(0x1000, Condition::Execute),
                None,
                at(0x2008, Condition::Write(Length::Eight)),
                at(0x3004, Condition::Access(Length::Four)),
            ],
        };
        assert_eq!(control.dr7(), 0xf900_04a2);
        assert_eq!(control.addresses(), [0x1000, 0, 0x2008, 0x3004]);
        assert_eq!(DebugControl::default().dr7(), 0x400);
    }
}
