//! Instructions that run on the host as they are (see [`crate::hostexec`]).
#![allow(unsafe_code, reason = "calls generated code")]

use iced_x86::{CpuidFeature, Instruction, Mnemonic, Register};
use viv_arch::{Cr0, Cr4, Exception, Vector};

use crate::cpu::{Cpu, Exec, Fault};
use crate::hostexec::{ArenaError, CodeArena, MemoryAccess, Stub, StubCache, StubError, memory_access};
use crate::op::Op;

/// Room for stubs: a few hundred bytes each, a few thousand forms in a large system.
const ARENA_SIZE: usize = 16 << 20;

/// What must be switched on for an instruction to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    X87,
    Mmx,
    Sse,
    Avx,
}

/// A host-executed instruction of a decoded block.
#[derive(Clone, Copy)]
struct HostInstruction {
    stub: Stub,
    memory: Option<MemoryAccess>,
    needs: Needs,
    is_wait: bool,
    /// Whether it raises #MF when an x87 exception is pending.
    checks_x87: bool,
    /// What its memory operand's address must be a multiple of.
    alignment: u64,
    store_fault: StoreFault,
}

/// What an instruction has done by the time that its store faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreFault {
    /// Nothing.
    Plain,
    /// It has computed the result. On an unmasked exception there is no store, and so no fault.
    X87,
    /// It has set flags in MXCSR, or raised their exception.
    Simd,
    /// It has set TOP to 0.
    Mmx,
}

impl HostInstruction {
    /// Whether it is a store that an unmasked exception has suppressed.
    fn has_kept_its_result(&self, cpu: &Cpu) -> bool {
        let fpu = &cpu.exec.fpu;
        self.store_fault == StoreFault::X87 && fpu.has_x87_exception() && !fpu.is_only_inexact()
    }
}

/// The stubs of a vCPU and the instructions that use them. It is emptied together with the block cache.
pub struct HostCode {
    arena: CodeArena,
    stubs: StubCache,
    instructions: Vec<HostInstruction>,
}

impl HostCode {
    /// An empty one.
    pub fn new() -> Result<Self, ArenaError> {
        Ok(Self { arena: CodeArena::new(ARENA_SIZE)?, stubs: StubCache::default(), instructions: Vec::new() })
    }

    /// Makes the stub of an instruction; gives the number by which [`execute`] finds it. `None`: the instruction
    /// is not one that the host may run.
    ///
    /// # Errors
    /// When the arena is full: everything must be emptied.
    pub fn prepare(&mut self, instruction: &Instruction) -> Result<Option<u64>, ArenaError> {
        let stub = match self.stubs.get(&mut self.arena, instruction) {
            Ok(stub) => stub,
            Err(StubError::NotExecutable(_)) => return Ok(None),
            Err(StubError::Arena(error)) => return Err(error),
        };
        self.instructions.push(HostInstruction {
            stub,
            memory: memory_access(instruction),
            needs: needs(instruction),
            is_wait: instruction.mnemonic() == Mnemonic::Wait,
            checks_x87: checks_x87(instruction),
            alignment: alignment(instruction),
            store_fault: store_fault(instruction),
        });
        Ok(Some(self.instructions.len() as u64 - 1))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.stubs.clear();
        self.arena.clear();
        self.instructions.clear();
    }
}

pub fn needs(instruction: &Instruction) -> Needs {
    let features = instruction.cpuid_features();
    let has = |wanted: &[CpuidFeature]| features.iter().any(|feature| wanted.contains(feature));
    use CpuidFeature::{
        ADX, BMI1, BMI2, CMOV, CMPXCHG16B, CX8, INTEL186, INTEL286, INTEL386, INTEL486, INTEL8086, LZCNT,
        MMX, MOVBE, POPCNT, RDRAND, RDSEED, X64,
    };
    let uses_vector = (0..instruction.op_count()).any(|n| {
        let register = instruction.op_register(n);
        register != Register::None && register.is_vector_register()
    });
    if is_x87(instruction) {
        Needs::X87
    } else if instruction.code().op_code().encoding() == iced_x86::EncodingKind::VEX {
        if has(&[BMI1, BMI2]) { Needs::Nothing } else { Needs::Avx }
    } else if uses_vector {
        Needs::Sse
    } else if uses_mm(instruction) || has(&[MMX]) {
        Needs::Mmx
    } else if features.iter().all(|feature| {
        matches!(
            feature,
            INTEL8086
                | INTEL186
                | INTEL286
                | INTEL386
                | INTEL486
                | X64
                | CMOV
                | CX8
                | CMPXCHG16B
                | ADX
                | BMI1
                | BMI2
                | LZCNT
                | MOVBE
                | POPCNT
                | RDRAND
                | RDSEED
        )
    }) || matches!(instruction.mnemonic(), Mnemonic::Crc32 | Mnemonic::Movnti)
    {
        Needs::Nothing
    } else {
        Needs::Sse
    }
}

fn uses_mm(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|n| instruction.op_register(n).is_mm())
}

fn is_x87(instruction: &Instruction) -> bool {
    use CpuidFeature::{FPU, FPU287, FPU387};
    // The decoder counts WAIT to the 8086.
    instruction.mnemonic() == Mnemonic::Wait
        || instruction.cpuid_features().iter().any(|feature| matches!(feature, FPU | FPU287 | FPU387))
}

fn checks_x87(instruction: &Instruction) -> bool {
    use Mnemonic::{Fnclex, Fndisi, Fneni, Fninit, Fnsave, Fnsetpm, Fnstcw, Fnstenv, Fnstsw};
    match instruction.mnemonic() {
        Fnclex | Fndisi | Fneni | Fninit | Fnsave | Fnsetpm | Fnstcw | Fnstenv | Fnstsw => false,
        _ => is_x87(instruction) || uses_mm(instruction),
    }
}

/// Operands of 16 bytes must be aligned in legacy encodings, with few exceptions (SDM vol. 2, 2.4).
fn alignment(instruction: &Instruction) -> u64 {
    use Mnemonic::{
        Lddqu, Movdqu, Movupd, Movups, Pcmpestri, Pcmpestri64, Pcmpestrm, Pcmpestrm64, Pcmpistri, Pcmpistrm,
    };
    let legacy = instruction.code().op_code().encoding() == iced_x86::EncodingKind::Legacy;
    let aligned = !matches!(
        instruction.mnemonic(),
        Lddqu
            | Movdqu
            | Movupd
            | Movups
            | Pcmpestri
            | Pcmpestri64
            | Pcmpestrm
            | Pcmpestrm64
            | Pcmpistri
            | Pcmpistrm
    );
    if legacy && aligned && instruction.memory_size().size() == 16 { 16 } else { 1 }
}

fn store_fault(instruction: &Instruction) -> StoreFault {
    use Mnemonic::{Fbstp, Fist, Fistp, Fisttp, Fst, Fstp, Movd, Movntq, Movq, Vcvtps2ph};
    match instruction.mnemonic() {
        Fst | Fstp | Fist | Fistp | Fisttp | Fbstp => StoreFault::X87,
        Vcvtps2ph => StoreFault::Simd,
        Movd | Movq | Movntq if uses_mm(instruction) => StoreFault::Mmx,
        _ => StoreFault::Plain,
    }
}

impl Cpu {
    /// Fails with #MF if an x87 exception is pending.
    pub fn check_x87(&mut self) -> Exec {
        if self.exec.fpu.has_x87_exception() {
            return self.raise(Exception::new(Vector::X87Error));
        }
        Ok(())
    }

    fn check_needs(&mut self, instruction_needs: Needs, is_wait: bool) -> Exec {
        match instruction_needs {
            Needs::Nothing => Ok(()),
            Needs::X87 if is_wait => {
                if self.cr0.contains(Cr0::MP | Cr0::TS) {
                    return self.raise(Exception::new(Vector::DeviceNotAvailable));
                }
                Ok(())
            }
            Needs::X87 => {
                if self.cr0.intersects(Cr0::EM | Cr0::TS) {
                    return self.raise(Exception::new(Vector::DeviceNotAvailable));
                }
                Ok(())
            }
            Needs::Mmx => {
                if self.cr0.contains(Cr0::EM) {
                    return self.ud();
                }
                self.check_task_switched()
            }
            Needs::Sse => self.check_sse(),
            Needs::Avx => self.check_avx(),
        }
    }
}

/// Runs the instruction whose number is in `imm`.
pub fn execute(cpu: &mut Cpu, op: &Op) -> Exec {
    let instruction = cpu.host.instructions[op.imm as usize];
    let HostInstruction { stub, memory, .. } = instruction;
    cpu.check_needs(instruction.needs, instruction.is_wait)?;
    let Some(access) = memory else {
        return call(cpu, op, stub, std::ptr::null_mut(), 0);
    };
    if instruction.checks_x87 {
        cpu.check_x87()?;
    }
    let size = access.size as u64;
    let address = cpu.linear(op, size, access.write)?;
    if address & (instruction.alignment - 1) != 0 {
        return cpu.gp0();
    }
    let offset = cpu.effective(op) & op.address.mask();
    let direct = if access.write {
        match cpu.pointer_for_update(address, size) {
            Ok(direct) => direct,
            Err(_) if instruction.store_fault != StoreFault::Plain => {
                return fault_on_store(cpu, op, &instruction, offset);
            }
            Err(fault) => return Err(fault),
        }
    } else {
        cpu.pointer_for_read(address, size)?
    };
    if let Some(pointer) = direct {
        return call(cpu, op, stub, pointer, offset);
    }
    // Across pages or in device memory: by way of a buffer at the same alignment.
    let start = (address & 63) as usize;
    let range = start..start + access.size;
    if access.read {
        let mut bytes = [0; 512];
        cpu.read_bytes(address, &mut bytes[..access.size])?;
        cpu.bounce.0[range.clone()].copy_from_slice(&bytes[..access.size]);
    }
    let pointer = cpu.bounce.0[range.clone()].as_mut_ptr();
    call(cpu, op, stub, pointer, offset)?;
    if access.write && !instruction.has_kept_its_result(cpu) {
        let mut bytes = [0; 512];
        bytes[..access.size].copy_from_slice(&cpu.bounce.0[range]);
        cpu.write_bytes(address, &bytes[..access.size])?;
    }
    Ok(())
}

/// The store of an instruction faults, but not before its result was computed.
#[cold]
fn fault_on_store(cpu: &mut Cpu, op: &Op, instruction: &HostInstruction, offset: u64) -> Exec {
    if instruction.store_fault == StoreFault::Mmx {
        cpu.exec.fpu.clear_top();
        return Err(Fault);
    }
    let page_fault = cpu.pending.take();
    let before = cpu.exec.fpu.clone();
    let pointer = cpu.bounce.0.as_mut_ptr();
    call(cpu, op, instruction.stub, pointer, offset)?;
    if instruction.store_fault == StoreFault::X87 {
        if instruction.has_kept_its_result(cpu) {
            return Ok(());
        }
        cpu.exec.fpu = before;
    }
    cpu.pending = page_fault;
    Err(Fault)
}

fn call(cpu: &mut Cpu, op: &Op, stub: Stub, pointer: *mut u8, offset: u64) -> Exec {
    let block = cpu.exec.rip;
    // x87 instructions leave their address in the FPU.
    cpu.exec.rip = cpu.this_rip(op);
    // SAFETY: the arena lives in `cpu` and is only emptied together with the blocks. The pointer is the bounce
    // buffer, or the TLB vouches for it; it is null where the instruction has no memory operand.
    let result = unsafe { stub.call(&mut cpu.exec, pointer, offset) };
    cpu.exec.rip = block;
    match result {
        Ok(()) => Ok(()),
        Err(fault) => {
            // Without OSXMMEXCPT, SIMD exceptions are invalid opcodes.
            if fault.vector == Vector::SimdError && !cpu.cr4.contains(Cr4::OSXMMEXCPT) {
                return cpu.ud();
            }
            cpu.raise(Exception::with_code(fault.vector, fault.error_code))
        }
    }
}
