//! Stubs: generated functions that execute one form of an instruction on the guest's registers.
#![allow(unsafe_code, reason = "calls generated code")]

use std::collections::HashMap;
use std::mem::{self, offset_of};
use std::ptr::NonNull;

use iced_x86::Instruction;
use viv_arch::xsave;

use super::allow;
use super::arena::{ArenaError, CodeArena};
use super::emit::{Emitter, Opcode, RAX, RDI, RSI, RSP, YmmMove};
use super::fault::{self, HostFault};
use super::form::{Form, FormKey, X87};
use super::state::{ExecState, FpuState};
use super::x87::{LastInstruction, Pointers, X87Opcode};

/// A function that executes one instruction.
///
/// Cheap to copy; it refers to code in an arena and must not be called once that arena was cleared.
#[derive(Debug, Clone, Copy)]
pub struct Stub {
    entry: NonNull<u8>,
    x87: X87,
    x87_opcode: X87Opcode,
}

// SAFETY: an address of code, which any thread may call under the contract of `Stub::call`.
unsafe impl Send for Stub {}

/// Why there is no stub for an instruction.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    /// [`super::is_host_executable`] refuses the instruction, or it has no equivalent in 64-bit mode.
    #[error("{0:?} cannot be executed by the host")]
    NotExecutable(iced_x86::Code),
    /// No room for its code.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

/// The stubs made so far.
#[derive(Debug, Default)]
pub struct StubCache {
    entries: HashMap<FormKey, NonNull<u8>>,
}

// SAFETY: as for `Stub`.
unsafe impl Send for StubCache {}

impl StubCache {
    /// The stub for an instruction, made in `arena` if its form is new.
    ///
    /// One cache belongs to one arena; when that is cleared, so must the cache be.
    ///
    /// # Errors
    /// [`StubError::NotExecutable`], or [`StubError::Arena`] when the arena is full: then the owner drops all
    /// stubs, clears cache and arena, and asks again.
    pub fn get(&mut self, arena: &mut CodeArena, instruction: &Instruction) -> Result<Stub, StubError> {
        if !allow::is_host_executable(instruction) {
            return Err(StubError::NotExecutable(instruction.code()));
        }
        let form = Form::new(instruction).ok_or(StubError::NotExecutable(instruction.code()))?;
        let entry = match self.entries.get(&form.key()) {
            Some(entry) => *entry,
            None => {
                let entry = arena.push(&generate(&form))?;
                self.entries.insert(form.key(), entry);
                entry
            }
        };
        let x87_opcode = match form.x87 {
            X87::Computes => X87Opcode::of(instruction),
            _ => X87Opcode::default(),
        };
        Ok(Stub { entry, x87: form.x87, x87_opcode })
    }

    /// Forgets all stubs, because their arena is being cleared.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

/// What [`generate`] makes.
type Entry = extern "sysv64" fn(*mut ExecState, *mut u8) -> u64;

impl Stub {
    /// Executes the instruction on `state`.
    ///
    /// `memory` is where its memory operand is, or anything if it has none. Its low 6 bits are those of the
    /// guest's address, so that alignment faults come out as the guest would see them. `data_offset` is the
    /// operand's offset in its segment; it goes into FDP when an x87 exception occurs. [`ExecState::rip`] is
    /// the instruction's own address, and goes into FIP; the stub does not advance it.
    ///
    /// # Errors
    /// What the processor raised. Nothing is changed then, but for what the processor itself changes before an
    /// unmasked SIMD exception: flags in MXCSR, and the transition to MMX of conversions from and to MMX.
    ///
    /// # Safety
    /// The arena that the stub was made in lives and was not cleared since. `memory` is valid for the accesses
    /// that [`super::memory_access`] says, for as long as the call lasts; other threads may access it too, as
    /// guest memory is shared between processors.
    pub unsafe fn call(
        &self,
        state: &mut ExecState,
        memory: *mut u8,
        data_offset: u64,
    ) -> Result<(), HostFault> {
        let pointers = Pointers::of(&state.fpu);
        // SAFETY: `entry` was generated as a function of this type, and its arena is alive.
        let function = unsafe { mem::transmute::<NonNull<u8>, Entry>(self.entry) };
        let result = fault::decode(function(state, memory));
        match self.x87 {
            X87::Unused => {}
            X87::SetsPointers if result.is_ok() => {}
            X87::Computes if result.is_ok() => {
                let opcode = self.x87_opcode;
                let data_offset = opcode.has_memory().then_some(data_offset);
                let instruction = LastInstruction { address: state.rip, data_offset, opcode };
                pointers.after(&state.fpu, &instruction).put(&mut state.fpu);
            }
            _ => pointers.put(&mut state.fpu),
        }
        result
    }
}

/// Where the guest's registers are in [`ExecState`].
mod at {
    use super::{ExecState, FpuState, offset_of, xsave};

    pub const FX: usize = offset_of!(ExecState, fpu) + offset_of!(FpuState, fx);
    pub const MXCSR: usize = FX + xsave::MXCSR;
    pub const RFLAGS: usize = offset_of!(ExecState, rflags);

    pub const fn gpr(number: u8) -> usize {
        offset_of!(ExecState, gpr) + 8 * number as usize
    }

    pub const fn ymm(number: u8) -> usize {
        offset_of!(ExecState, fpu) + offset_of!(FpuState, ymm) + 32 * number as usize
    }
}

/// Offset from RSP of the host's MXCSR, above the recovery address.
const HOST_MXCSR: usize = 8;

/// RBX, RBP and R12 to R15.
const CALLEE_SAVED: u16 = 1 << 3 | 1 << 5 | 0xf000;

const ARITHMETIC_FLAGS: u32 = viv_arch::Rflags::ARITHMETIC.bits() as u32;

/// The numbers in a set of registers.
fn registers(set: u16) -> impl DoubleEndedIterator<Item = u8> {
    (0..16).filter(move |number| set & 1 << number != 0)
}

/// The code of a stub, a function of type `extern "sysv64" fn(*mut ExecState, *mut u8) -> u64`.
fn generate(form: &Form) -> Vec<u8> {
    let mut emitter = Emitter::default();
    let has_x87 = form.x87 != X87::Unused;
    let has_mxcsr = form.mxcsr || has_x87;
    let own = [Some(form.state), form.memory].into_iter().flatten().fold(0, |set, number| set | 1 << number);
    let saved = (form.gpr_used | own) & CALLEE_SAVED;

    for register in registers(saved) {
        emitter.push(register);
    }
    if form.state != RDI {
        emitter.copy(form.state, RDI);
    }
    if let Some(register) = form.memory.filter(|register| *register != RSI) {
        emitter.copy(register, RSI);
    }
    emitter.push(RAX);
    if has_mxcsr {
        emitter.extended(Opcode::STMXCSR, RSP, 0);
    }
    let to_recovery = emitter.load_address();
    emitter.push(RAX);

    load(&mut emitter, form);
    emitter.bytes(form.bytes());
    store(&mut emitter, form);
    emitter.bytes(&[0x31, 0xc0]); // xor eax, eax

    let leave = emitter.here();
    if form.vex && form.vector_used != 0 {
        emitter.bytes(&[0xc5, 0xf8, 0x77]); // vzeroupper
    }
    if has_mxcsr {
        emitter.extended(Opcode::LDMXCSR, RSP, HOST_MXCSR);
    }
    emitter.bytes(&[0x48, 0x83, 0xc4, 0x10]); // add rsp, 16
    for register in registers(saved).rev() {
        emitter.pop(register);
    }
    emitter.bytes(&[0xc3]); // ret

    let recovery = emitter.here();
    emitter.fix(to_recovery, recovery);
    store_control(&mut emitter, form);
    let to_leave = emitter.jump();
    emitter.fix(to_leave, leave);
    emitter.finish()
}

/// Guest registers into host registers. The order matters: FXRSTOR loads XMM registers too, the flags pass
/// through RAX, and loading registers leaves flags alone.
fn load(emitter: &mut Emitter, form: &Form) {
    if form.x87 != X87::Unused {
        emitter.extended(Opcode::FXRSTOR, form.state, at::FX);
    } else if form.mxcsr {
        emitter.extended(Opcode::LDMXCSR, form.state, at::MXCSR);
    }
    for register in registers(form.vector_used) {
        if form.vex {
            emitter.ymm(YmmMove::Load, register, form.state, at::ymm(register));
        } else {
            emitter.memory(Opcode::LOAD_XMM, register, form.state, at::ymm(register));
        }
    }
    if form.flags_used {
        emitter.memory(Opcode::LOAD_32, RAX, form.state, at::RFLAGS);
        emitter.bytes(&[
            0x86, 0xc4, // xchg al, ah: SAHF takes AH, and OF is now bit 3 of AL
            0x24, 0x08, // and al, 8
            0x04, 0x78, // add al, 0x78: overflows if that bit is set
            0x9e, // sahf: all flags but OF
        ]);
    }
    for register in registers(form.gpr_used) {
        emitter.memory(Opcode::LOAD, register, form.state, guest_gpr(form, register));
    }
}

/// Host registers into guest registers, in the opposite order.
fn store(emitter: &mut Emitter, form: &Form) {
    for register in registers(form.gpr_written) {
        emitter.memory(Opcode::STORE, register, form.state, guest_gpr(form, register));
    }
    if form.flags_written {
        emitter.bytes(&[
            0x9f, // lahf
            0x0f, 0x90, 0xc0, // seto al
            0x86, 0xc4, // xchg al, ah
            0xc0, 0xe4, 0x03, // shl ah, 3: OF to bit 11
            0x25, // and eax, imm32
        ]);
        emitter.bytes(&ARITHMETIC_FLAGS.to_le_bytes());
        emitter.extended(Opcode::AND_IMMEDIATE_32, form.state, at::RFLAGS);
        emitter.bytes(&(!ARITHMETIC_FLAGS).to_le_bytes());
        emitter.memory(Opcode::OR_32, RAX, form.state, at::RFLAGS);
    }
    for register in registers(form.vector_written) {
        if form.vex {
            emitter.ymm(YmmMove::Store, register, form.state, at::ymm(register));
        } else {
            emitter.memory(Opcode::STORE_XMM, register, form.state, at::ymm(register));
        }
    }
    store_control(emitter, form);
}

/// What is stored after a fault, too: the flags that a SIMD exception sets in MXCSR, and the transition to MMX
/// that the conversions between MMX and XMM registers have made by then. Any other fault comes before the
/// instruction has changed anything.
fn store_control(emitter: &mut Emitter, form: &Form) {
    if form.x87 != X87::Unused {
        emitter.extended(Opcode::FXSAVE, form.state, at::FX);
        emitter.bytes(&[0xdb, 0xe3]); // fninit: what the host expects
    } else if form.mxcsr {
        emitter.extended(Opcode::STMXCSR, form.state, at::MXCSR);
    }
}

/// Where the guest register is that a host register stands for.
fn guest_gpr(form: &Form, register: u8) -> usize {
    at::gpr(if form.renamed_rsp == Some(register) { RSP } else { register })
}
