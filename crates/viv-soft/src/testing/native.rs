//! One instruction on the host's processor, with every register chosen.
//!
//! A thread enters and leaves the chosen state by way of its own signal frames. [`NativeCpu::step`] executes
//! INT3; the handler keeps the thread's registers from the frame, puts the chosen ones there, with TF set, and
//! returns. The instruction runs, and the trap after it, or its fault, enters the handler again, which takes
//! the result from the frame and puts the thread's own registers back. So even RSP can be anything: the
//! handler has a stack of its own.
#![allow(unsafe_code, reason = "signal frames, and memory at chosen addresses")]

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::Once;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use viv_arch::{Rflags, Vector, cpuid, xsave};

use super::forms::Mode;
use crate::hostexec::{ExecState, FpuState};
use crate::signals::{self, Trap};

/// Flags that a user program can change, and that therefore go in and out of the native state.
const USER_FLAGS: u64 = Rflags::ARITHMETIC.union(Rflags::DF).union(Rflags::AC).bits();

/// Linux's selectors of 32-bit code (`__USER32_CS`) and of data (`__USER_DS`).
const USER_CODE_32: i64 = 0x23;
const USER_DATA: u32 = 0x2b;

/// How often one instruction may trap before it is done: a REP instruction does so after every iteration.
const MAX_TRAPS: u32 = 1 << 20;

/// Registers of a signal frame in the order of their encoding.
const FRAME_REGISTERS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// An exception that the processor raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeFault {
    /// Which.
    pub vector: Vector,
    /// Its error code, 0 where there is none.
    pub error_code: u32,
    /// CR2, for page faults.
    pub address: u64,
}

/// What may be done with mapped memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    None,
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
    /// Reading, writing and executing.
    All,
}

impl Protection {
    fn flags(self) -> ProtFlags {
        match self {
            Self::None => ProtFlags::empty(),
            Self::ReadOnly => ProtFlags::READ,
            Self::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
            Self::All => ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC,
        }
    }
}

/// The host's processor, with memory at chosen addresses.
#[derive(Debug)]
pub struct NativeCpu {
    mappings: Vec<Mapping>,
    /// The thread's own extended state while an instruction runs.
    host_xsave: Box<[u8]>,
    mode: Mode,
}

#[derive(Debug)]
struct Mapping {
    address: u64,
    size: usize,
    protection: Protection,
}

impl Mapping {
    fn set(&self, protection: Protection) {
        let flags = MprotectFlags::from_bits_retain(protection.flags().bits());
        // SAFETY: the mapping belongs to this object, and nobody holds a reference into it.
        let result = unsafe { rustix::mm::mprotect(self.address as *mut c_void, self.size, flags) };
        assert_eq!(result, Ok(()), "cannot change the protection at {:#x}", self.address);
    }
}

impl Default for NativeCpu {
    fn default() -> Self {
        Self::new()
    }
}

impl NativeCpu {
    /// A processor in 64-bit mode without memory. Installs signal handlers for the process, once.
    #[must_use]
    pub fn new() -> Self {
        Self::in_mode(Mode::Bits64)
    }

    /// A processor without memory. Installs signal handlers for the process, once.
    #[must_use]
    pub fn in_mode(mode: Mode) -> Self {
        static HANDLERS: Once = Once::new();
        HANDLERS.call_once(|| signals::claim(handle));
        let size = cpuid::host(0xd, 0).ecx as usize;
        Self { mappings: Vec::new(), host_xsave: vec![0; size].into(), mode }
    }

    /// Maps zeroed memory at an address that is free in this process. Its pages are present at once, so that
    /// faults are about protection.
    ///
    /// # Errors
    /// What the kernel says: the address is not aligned to pages, or taken.
    pub fn map(&mut self, address: u64, size: usize, protection: Protection) -> rustix::io::Result<()> {
        // SAFETY: with NOREPLACE, nothing that is mapped already is touched.
        unsafe {
            rustix::mm::mmap_anonymous(
                address as *mut c_void,
                size,
                protection.flags(),
                MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::POPULATE,
            )?;
        }
        self.mappings.push(Mapping { address, size, protection });
        Ok(())
    }

    /// Changes what may be done with a whole mapping.
    ///
    /// # Panics
    /// If nothing was mapped at the address.
    pub fn protect(&mut self, address: u64, protection: Protection) {
        let mapping = self
            .mappings
            .iter_mut()
            .find(|mapping| mapping.address == address)
            .unwrap_or_else(|| panic!("nothing is mapped at {address:#x}"));
        mapping.protection = protection;
        mapping.set(protection);
    }

    /// Copies bytes into mapped memory, whatever its protection.
    ///
    /// # Panics
    /// If the range is not inside one mapping.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        self.with_access(address, bytes.len(), |pointer| {
            // SAFETY: `with_access` has checked the range and made it accessible.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
        });
    }

    /// Copies bytes out of mapped memory, whatever its protection.
    ///
    /// # Panics
    /// If the range is not inside one mapping.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) {
        self.with_access(address, bytes.len(), |pointer| {
            // SAFETY: as in `write`.
            unsafe { ptr::copy_nonoverlapping(pointer, bytes.as_mut_ptr(), bytes.len()) };
        });
    }

    fn with_access(&mut self, address: u64, size: usize, access: impl FnOnce(*mut u8)) {
        let mapping = self
            .mappings
            .iter()
            .find(|mapping| {
                address >= mapping.address && address + size as u64 <= mapping.address + mapping.size as u64
            })
            .unwrap_or_else(|| panic!("{size} bytes at {address:#x} are not mapped"));
        let closed = matches!(mapping.protection, Protection::None | Protection::ReadOnly);
        if closed {
            mapping.set(Protection::ReadWrite);
        }
        access(address as *mut u8);
        if closed {
            mapping.set(mapping.protection);
        }
    }

    /// Executes the one instruction at `state.rip`, which must be in memory mapped with [`Protection::All`].
    ///
    /// Of RFLAGS, the arithmetic flags, DF and AC go in and out. What the instruction does beyond registers
    /// and mapped memory, it does to this process: the caller keeps system calls and stray writes away.
    ///
    /// # Errors
    /// The exception. `state` is then as the processor left it, which is nearly always unchanged.
    ///
    /// # Panics
    /// If the instruction does not end.
    pub fn step(&mut self, state: &mut ExecState) -> Result<(), NativeFault> {
        let mut run = Run {
            state,
            mode: self.mode,
            start: state.rip,
            phase: Phase::Entering,
            outcome: Ok(()),
            traps: MAX_TRAPS,
            host_registers: [0; 23],
            host_xsave: &raw mut *self.host_xsave,
        };
        CURRENT.set(&raw mut run);
        if self.mode == Mode::Bits32 {
            // SAFETY: in 64-bit mode, nothing uses DS and ES.
            unsafe { std::arch::asm!("mov ds, {0:e}", "mov es, {0:e}", in(reg) USER_DATA) };
        }
        // SAFETY: the handler runs the instruction and comes back with all registers as they were. The memory
        // that it may write belongs to mappings that Rust has no references into.
        unsafe { std::arch::asm!("int3") };
        CURRENT.set(ptr::null_mut());
        assert!(run.traps > 0, "the instruction at {:#x} does not end", run.start);
        run.outcome
    }
}

impl Drop for NativeCpu {
    fn drop(&mut self) {
        for mapping in &self.mappings {
            // SAFETY: mapped by this object, and nobody holds a reference into it.
            let _ = unsafe { rustix::mm::munmap(mapping.address as *mut c_void, mapping.size) };
        }
    }
}

thread_local! {
    /// What the handler of this thread works on.
    static CURRENT: Cell<*mut Run> = const { Cell::new(ptr::null_mut()) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Entering,
    Running,
}

/// One call of [`NativeCpu::step`].
struct Run {
    state: *mut ExecState,
    mode: Mode,
    start: u64,
    phase: Phase,
    outcome: Result<(), NativeFault>,
    traps: u32,
    host_registers: [i64; 23],
    host_xsave: *mut [u8],
}

/// The claimant of signals: see the module's description.
fn handle(trap: &mut Trap<'_>) -> bool {
    // SAFETY: `step` put the pointer there and waits for this handler.
    let Some(run) = (unsafe { CURRENT.get().as_mut() }) else { return false };
    // SAFETY: `step` holds the only reference to the state, and waits.
    let state = unsafe { &mut *run.state };
    match run.phase {
        Phase::Entering => {
            run.host_registers = trap.context.uc_mcontext.gregs;
            let frame = frame_xsave(trap);
            // SAFETY: the buffer has the size of the largest area that this processor writes.
            let kept = unsafe { &mut *run.host_xsave };
            kept[..frame.len()].copy_from_slice(frame);
            enter(trap, state, run.mode);
            run.phase = Phase::Running;
            true
        }
        Phase::Running => {
            let rip = trap.context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
            if trap.vector == Vector::Debug as u8 && rip == run.start && run.traps > 1 {
                run.traps -= 1;
                return true;
            }
            run.traps -= 1;
            if trap.vector != Vector::Debug as u8 {
                run.outcome = Err(NativeFault {
                    vector: Vector::from_number(trap.vector).unwrap_or(Vector::DoubleFault),
                    error_code: trap.error_code,
                    address: trap.context.uc_mcontext.gregs[libc::REG_CR2 as usize] as u64,
                });
            }
            leave(trap, state);
            trap.context.uc_mcontext.gregs = run.host_registers;
            let frame = frame_xsave(trap);
            // SAFETY: as above.
            let kept = unsafe { &*run.host_xsave };
            frame.copy_from_slice(&kept[..frame.len()]);
            // A stray trap from here on is not ours.
            CURRENT.set(ptr::null_mut());
            true
        }
    }
}

/// The XSAVE area in a signal frame, in the standard format (arch/x86/include/uapi/asm/sigcontext.h).
fn frame_xsave<'a>(trap: &Trap<'_>) -> &'a mut [u8] {
    /// Offset of the size that sigreturn restores, in `struct _fpx_sw_bytes`.
    const XSTATE_SIZE: usize = 464 + 16;
    let area: *mut u8 = trap.context.uc_mcontext.fpregs.cast();
    // SAFETY: every 64-bit frame has an area, of the size that it says, until its handler returns.
    unsafe {
        let size = area.add(XSTATE_SIZE).cast::<u32>().read();
        std::slice::from_raw_parts_mut(area, size as usize)
    }
}

/// The bytes of the legacy region that are the kernel's own.
const KERNELS_OWN: std::ops::Range<usize> = 416..512;

/// Puts the chosen state into a frame.
fn enter(trap: &mut Trap<'_>, state: &ExecState, mode: Mode) {
    let frame = frame_xsave(trap);
    let mut area = [0; xsave::AREA_SIZE];
    state.fpu.to_xsave(&mut area);
    frame[..KERNELS_OWN.start].copy_from_slice(&area[..KERNELS_OWN.start]);
    frame[xsave::XSTATE_BV] |= xsave::SUPPORTED as u8;
    frame[xsave::AVX_OFFSET..xsave::AREA_SIZE].copy_from_slice(&area[xsave::AVX_OFFSET..]);
    let registers = &mut trap.context.uc_mcontext.gregs;
    for (value, register) in state.gpr.iter().zip(FRAME_REGISTERS) {
        registers[register as usize] = *value as i64;
    }
    registers[libc::REG_RIP as usize] = state.rip as i64;
    if mode == Mode::Bits32 {
        let segments = &mut registers[libc::REG_CSGSFS as usize];
        *segments = *segments & !0xffff | USER_CODE_32;
    }
    let flags = &mut registers[libc::REG_EFL as usize];
    *flags = *flags & !(USER_FLAGS as i64) | (state.rflags & USER_FLAGS | Rflags::TF.bits()) as i64;
}

/// Takes the state out of a frame.
fn leave(trap: &mut Trap<'_>, state: &mut ExecState) {
    let frame = frame_xsave(trap);
    let mut area = [0; xsave::AREA_SIZE];
    area.copy_from_slice(&frame[..xsave::AREA_SIZE]);
    area[xsave::XSTATE_BV] &= xsave::SUPPORTED as u8;
    area[xsave::XSTATE_BV + 1..xsave::HEADER_END].fill(0);
    if let Ok(fpu) = FpuState::from_xsave(&area) {
        state.fpu = fpu;
    }
    let registers = &trap.context.uc_mcontext.gregs;
    for (value, register) in state.gpr.iter_mut().zip(FRAME_REGISTERS) {
        *value = registers[register as usize] as u64;
    }
    state.rip = registers[libc::REG_RIP as usize] as u64;
    state.rflags = state.rflags & !USER_FLAGS | registers[libc::REG_EFL as usize] as u64 & USER_FLAGS;
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: u64 = 0x3800_0000;
    const DATA: u64 = 0x3900_0000;

    fn cpu() -> (NativeCpu, ExecState, std::sync::MutexGuard<'static, ()>) {
        static ADDRESSES: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let guard = ADDRESSES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut cpu = NativeCpu::new();
        cpu.map(CODE, 4096, Protection::All).unwrap();
        cpu.map(DATA, 4096, Protection::ReadOnly).unwrap();
        let mut state = ExecState { rip: CODE, rflags: 0x202, ..ExecState::default() };
        state.fpu.init_x87();
        (cpu, state, guard)
    }

    #[test]
    fn every_register_goes_in_and_out() {
        let (mut cpu, mut state, _guard) = cpu();
        for (n, gpr) in state.gpr.iter_mut().enumerate() {
            *gpr = 0x0101_0101_0101_0101 * n as u64;
        }
        for (n, ymm) in state.fpu.ymm.iter_mut().enumerate() {
            ymm.fill(n as u8 + 1);
        }
        state.fpu.set_mxcsr(0x7fbf);
        state.fpu.fx[xsave::FTW] = 0xff;
        for n in 0..8 {
            state.fpu.fx[xsave::ST0 + 16 * n..][..10].fill(n as u8 + 0x30);
        }
        state.rflags = 0x202 | USER_FLAGS & !Rflags::AC.bits();
        cpu.write(CODE, &[0x90]);
        let before = state.clone();
        cpu.step(&mut state).unwrap();
        assert_eq!(state.rip, CODE + 1);
        state.rip = CODE;
        assert!(state == before, "{state:x?}\n{before:x?}");
    }

    #[test]
    fn the_stack_pointer_may_be_anything() {
        let (mut cpu, mut state, _guard) = cpu();
        cpu.write(CODE, &[0x48, 0xff, 0xc4]); // inc rsp
        state.gpr[4] = 0x1234;
        cpu.step(&mut state).unwrap();
        assert_eq!(state.gpr[4], 0x1235);
    }

    #[test]
    fn faults_say_what_the_processor_said() {
        let (mut cpu, mut state, _guard) = cpu();
        cpu.write(CODE, &[0x48, 0x89, 0x03]); // mov [rbx], rax
        state.gpr[3] = DATA + 8;
        let fault = cpu.step(&mut state).unwrap_err();
        assert_eq!(fault, NativeFault { vector: Vector::PageFault, error_code: 7, address: DATA + 8 });
        assert_eq!(state.rip, CODE);
        cpu.write(CODE, &[0x0f, 0x0b]); // ud2
        assert_eq!(cpu.step(&mut state).unwrap_err().vector, Vector::InvalidOpcode);
        cpu.write(CODE, &[0xf7, 0xf1]); // div ecx
        assert_eq!(cpu.step(&mut state).unwrap_err().vector, Vector::DivideError);
    }

    #[test]
    fn repeated_instructions_run_to_their_end() {
        let (mut cpu, mut state, _guard) = cpu();
        cpu.write(DATA, &[7; 100]);
        cpu.write(CODE, &[0xf3, 0xac]); // rep lodsb
        state.gpr[1] = 50;
        state.gpr[6] = DATA;
        cpu.step(&mut state).unwrap();
        assert_eq!((state.gpr[0], state.gpr[1], state.gpr[6]), (7, 0, DATA + 50));
    }
}
