//! The processor, as `gdbstub` is told of it.

use std::num::NonZeroUsize;

use gdbstub::arch::{Arch, RegId, Registers};
use viv_arch::VcpuState;

use super::registers::Register;

/// What debuggers are told of the registers.
pub(super) const DESCRIPTION: &str = include_str!("target.xml");

/// x86-64, in whatever mode it is.
pub(super) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = RegisterFile;
    type BreakpointKind = usize;
    type RegId = Register;

    fn target_description_xml() -> Option<&'static str> {
        Some(DESCRIPTION)
    }
}

impl RegId for Register {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let register = Self::all().nth(id)?;
        Some((register, NonZeroUsize::new(register.size())))
    }
}

/// All registers, as the debugger gets them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RegisterFile(Vec<(Register, u128)>);

impl RegisterFile {
    /// Those of a vCPU in this state.
    pub(super) fn of(state: &VcpuState) -> Self {
        Self(Register::all().map(|register| (register, register.get(state))).collect())
    }

    /// Puts those that differ from what `state` has there.
    pub(super) fn apply(&self, state: &mut VcpuState) {
        for &(register, value) in &self.0 {
            if register.get(state) != value {
                register.set(state, value);
            }
        }
    }
}

impl Registers for RegisterFile {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.0.iter().find(|(register, _)| *register == Register::Rip).map_or(0, |&(_, value)| value as u64)
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for (register, value) in &self.0 {
            value.to_le_bytes().into_iter().take(register.size()).for_each(|byte| write_byte(Some(byte)));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let mut rest = bytes;
        self.0.clear();
        for register in Register::all() {
            let (value, behind) = rest.split_at_checked(register.size()).ok_or(())?;
            self.0.push((register, number(value)));
            rest = behind;
        }
        if rest.is_empty() { Ok(()) } else { Err(()) }
    }
}

/// A little-endian number of 16 bytes at most.
pub(super) fn number(bytes: &[u8]) -> u128 {
    bytes.iter().take(16).rev().fold(0, |value, &byte| value << 8 | u128::from(byte))
}
