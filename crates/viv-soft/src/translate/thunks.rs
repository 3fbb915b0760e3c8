//! The pieces of host code that all translations share: the way in, the way out, and the way to the interpreter and
//! back.

use super::asm::{Asm, Mem, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, alu, condition};
use super::regs::{ADDRESS, GUEST_RSP, MAPPED, SCRATCH, host, slot};
use super::run::CONTINUES;
use super::{control, frame};
use viv_arch::paging;

use crate::cpu::Cpu;
use crate::tlb::View;

/// Where the thunks are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Thunks {
    /// `extern "sysv64" fn(cpu, target)`: runs translated code from `target` until it leaves.
    pub enter: u64,
    /// Leaves. By whether the flags are saved, instead of in the flags register.
    pub exit: [u64; 2],
    /// Interprets an instruction: called, with a [`Detour`] after the call. By whether the flags are saved, and whether
    /// vector registers (1) and x87 registers (2) must be live after it. Then the flags are in the flags register, and
    /// saved.
    pub interpret: [[u64; 4]; 2],
    /// Looks the linear address in [`ADDRESS`] up in the TLB: called, with the highest offset in the page that will do in
    /// [`SCRATCH`]. Gives the host's address in [`ADDRESS`], and clears the carry flag if there is such an entry. By view,
    /// and whether it is to be written.
    pub lookup: [[u64; 2]; 3],
    /// Goes to the linear address in [`ADDRESS`], or to where [`SCRATCH`] says if it is not known where that is, or
    /// something waits, the flags saved. By view, whether the address was popped from the stack, and whether the flags are
    /// saved before.
    pub jump: [[[u64; 2]; 2]; 3],
    /// Loads the vector registers. Called.
    pub load_vectors: u64,
    /// Loads the x87 registers; vector registers are not live then. Called; no flags are lost.
    pub load_x87: u64,
}

/// Why translated code leaves an instruction to the interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Its access is not known to be allowed.
    Access,
    /// It is not known where it leads, or something waits.
    Branch,
    /// It always is.
    Instruction,
}

/// What follows a call to [`Thunks::interpret`].
#[repr(C, packed)]
#[derive(Debug, Clone, Copy)]
pub struct Detour {
    /// Where to go on, relative to this.
    pub resume: i32,
    /// Where the trace begins, as offset in its page.
    pub start: u16,
    /// Whether the trace ends with this instruction.
    pub ends: bool,
    /// Why it is interpreted.
    pub reason: Reason,
    /// The instruction.
    pub op: *const crate::op::Op,
}

/// The function that interprets: 0 if the trace goes on, [`CONTINUES`] if other translated code does, or else
/// translated code is left. Where it goes on is in the frame.
pub type Interpret = extern "sysv64" fn(*mut Cpu, *const Detour) -> u32;

const CALLEE_SAVED: [u8; 6] = [RBX, RBP, 12, 13, 14, 15];

/// Writes all thunks.
pub fn emit(asm: &mut Asm, interpret: Interpret, avx: bool) -> Thunks {
    let store_vectors = asm.address();
    vectors_to_cpu(asm, avx);
    asm.bytes(&[0xc3]);
    let store_x87 = asm.address();
    x87_to_cpu(asm);
    asm.bytes(&[0xc3]);

    let load_vectors = asm.address();
    vectors_from_cpu(asm, avx);
    asm.rm(false, &[0x0f, 0xae], 2, frame::GUEST_MXCSR.above_call()); // ldmxcsr
    asm.store_immediate_8(frame::VECTORS_LIVE.above_call(), 1);
    asm.bytes(&[0xc3]);

    let load_x87 = asm.address();
    x87_from_cpu(asm, avx);

    let mut lookup = [[0; 2]; 3];
    for view in [View::Supervisor, View::SupervisorSmap, View::User] {
        for write in [false, true] {
            lookup[view as usize][usize::from(write)] = look_up(asm, view, write);
        }
    }

    let enter = asm.address();
    for register in CALLEE_SAVED {
        asm.push(register);
    }
    asm.lea(RSP, Mem::at(RSP, -8));
    asm.store(Mem { base: RDI, ..frame::HOST_RSP }, RSP);
    asm.copy(RSP, RDI);
    asm.store(frame::TARGET, RSI);
    asm.load(RAX, frame::WINDOW);
    asm.bytes(&[0xf3, 0x48, 0x0f, 0xae, 0xd8]); // wrgsbase rax
    load_registers(asm);
    asm.jump_indirect(frame::TARGET);

    let done = asm.label();
    let mut exit = [0; 2];
    for saved in [true, false] {
        exit[usize::from(saved)] = asm.address();
        store_registers(asm, saved);
        if saved {
            asm.jump(done);
        }
    }
    asm.bind(done);
    spill(asm, frame::X87_LIVE, store_x87);
    spill(asm, frame::VECTORS_LIVE, store_vectors);
    asm.bytes(&[0x31, 0xc0]); // xor eax, eax
    let leave = asm.here();
    asm.load(RSP, frame::HOST_RSP);
    asm.lea(RSP, Mem::at(RSP, 8));
    for register in CALLEE_SAVED.into_iter().rev() {
        asm.pop(register);
    }
    asm.bytes(&[0xc3]);

    let elsewhere = asm.here();
    asm.bytes(&[0x83, 0xf8, CONTINUES as u8]); // cmp eax, CONTINUES
    asm.jump_if(condition::NOT_EQUAL, leave);
    load_registers(asm);
    asm.jump_indirect(frame::TARGET);

    let jump = std::array::from_fn(|table| std::array::from_fn(|ret| jump_to_address(asm, table, ret == 1)));
    let mut thunks = Thunks { enter, exit, jump, lookup, load_vectors, load_x87, ..Thunks::default() };
    for saved in [false, true] {
        for live in 0..4 {
            thunks.interpret[usize::from(saved)][live] = asm.address();
            asm.pop(ADDRESS);
            store_registers(asm, saved);
            spill(asm, frame::X87_LIVE, store_x87);
            spill(asm, frame::VECTORS_LIVE, store_vectors);
            asm.copy(RDI, RSP);
            asm.copy(RSI, ADDRESS);
            // Rust code runs on the thread's own stack.
            asm.copy(RBX, RSP);
            asm.load(RSP, frame::HOST_RSP);
            asm.immediate(RAX, interpret as *const () as u64);
            asm.bytes(&[0xff, 0xd0]); // call rax
            asm.copy(RSP, RBX);
            asm.bytes(&[0x85, 0xc0]); // test eax, eax
            asm.jump_if(condition::NOT_EQUAL, elsewhere);
            if live & 2 != 0 {
                asm.call_to(load_x87);
            }
            if live & 1 != 0 {
                asm.call_to(load_vectors);
            }
            load_registers(asm);
            asm.jump_indirect(frame::TARGET);
        }
    }
    thunks
}

/// Writes the function that looks an address up in the TLB.
fn look_up(asm: &mut Asm, view: View, write: bool) -> u64 {
    let address = asm.address();
    let (miss, hot, found) = (asm.label(), asm.label(), asm.label());
    // Above the return address and RAX.
    let above = |mem: Mem| mem.above_call().above_call();
    let entry = |field| above(Mem::indexed(RSP, RAX, 0, field));
    asm.push(RAX);
    asm.rm(true, &[0xff], 0, above(frame::LOOKUPS)); // inc qword
    asm.rotate_right(RAX, ADDRESS, 7);
    asm.alu_immediate(false, alu::AND, RAX, 0xffe0);
    asm.alu_load(alu::XOR, ADDRESS, entry(frame::tlb_tag(view, write)));
    asm.alu(alu::CMP, ADDRESS, SCRATCH);
    asm.short_jump_if(condition::ABOVE, miss);
    asm.bytes(&[0x66]);
    asm.rm(false, &[0x83], alu::SUB, entry(frame::tlb_heat(view)));
    asm.bytes(&[1]);
    asm.short_jump_if(condition::EQUAL, hot);
    asm.bind(found);
    asm.alu_load(alu::ADD, ADDRESS, entry(frame::tlb_host(view)));
    asm.pop(RAX);
    asm.bytes(&[0xf8, 0xc3]); // clc; ret
    asm.bind(hot);
    asm.store_immediate(false, above(frame::HOT_VIEW), view as i32 + 1);
    asm.store_32(above(frame::HOT_ENTRY), RAX);
    asm.store_immediate_8(above(frame::ATTENTION), 1);
    asm.short_jump(found);
    asm.bind(miss);
    asm.pop(RAX);
    asm.bytes(&[0xf9, 0xc3]); // stc; ret
    address
}

/// Writes one of [`Thunks::jump`].
fn jump_to_address(asm: &mut Asm, table: usize, pops: bool) -> [u64; 2] {
    let (find, miss) = (asm.label(), asm.label());
    let unsaved = asm.address();
    asm.store(frame::TARGET, SCRATCH);
    asm.copy(SCRATCH, RAX);
    asm.flags_to_ax();
    asm.store_32(frame::PACKED_FLAGS, RAX);
    asm.copy(RAX, SCRATCH);
    asm.short_jump(find);
    let saved = asm.address();
    asm.store(frame::TARGET, SCRATCH);
    asm.bind(find);
    let host = control::find_target(asm, table, miss);
    if pops {
        asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, 8));
    }
    asm.alu_immediate(true, alu::AND, ADDRESS, -(paging::PAGE_SIZE as i32));
    asm.store(frame::PAGE, ADDRESS);
    asm.jump_indirect(host);
    asm.bind(miss);
    asm.jump_indirect(frame::TARGET);
    [unsaved, saved]
}

impl Mem {
    /// The operand in a function that was called with RSP at the CPU.
    fn above_call(self) -> Self {
        Self { disp: self.disp + 8, ..self }
    }
}

/// Guest registers into host registers, and the flags.
fn load_registers(asm: &mut Asm) {
    asm.load(RAX, frame::PACKED_FLAGS);
    asm.flags_from_ax();
    for guest in MAPPED {
        if let Some(host) = host(guest) {
            asm.load(host, slot(guest));
        }
    }
}

/// Guest registers and flags out of host registers. RAX is lost.
fn store_registers(asm: &mut Asm, flags_saved: bool) {
    for guest in MAPPED {
        if let Some(host) = host(guest) {
            asm.store(slot(guest), host);
        }
    }
    if !flags_saved {
        asm.flags_to_ax();
        asm.store(frame::PACKED_FLAGS, RAX);
    }
}

/// Has registers stored by the function at `store`, if the byte at `live` says that they are in the host's.
fn spill(asm: &mut Asm, live: Mem, store: u64) {
    let done = asm.label();
    asm.compare_byte(live, 0);
    asm.short_jump_if(condition::EQUAL, done);
    asm.call_to(store);
    asm.bind(done);
}

/// Vector registers into the host's, in a function. No flag is changed.
///
/// Processors keep note of whether upper halves of YMM registers were written, be it with zeros, and take far longer to
/// go from VEX-encoded instructions to others and back while they were. So they are not written if all are zero.
fn vectors_from_cpu(asm: &mut Asm, avx: bool) {
    if !avx {
        return vectors(asm, false, 0x10);
    }
    let (lower, whole, done) = (asm.label(), asm.label(), asm.label());
    for number in 0..16 {
        // vmovdqu xmm0, upper half; vpor xmm0, xmm0, upper half
        asm.bytes(if number == 0 { &[0xc5, 0xfa, 0x6f] } else { &[0xc5, 0xf9, 0xeb] });
        asm.bytes(&[0x84, 0x24]);
        asm.bytes(&(frame::ymm(number).above_call().disp + 16).to_le_bytes());
    }
    asm.bytes(&[0xc5, 0xf1, 0x73, 0xd8, 8]); // vpsrldq xmm1, xmm0, 8
    asm.bytes(&[0xc5, 0xf9, 0xeb, 0xc1]); // vpor xmm0, xmm0, xmm1
    asm.copy(SCRATCH, RCX);
    asm.bytes(&[0xc4, 0xe1, 0xf9, 0x7e, 0xc1]); // vmovq rcx, xmm0
    asm.jump_if_rcx_is_zero(lower);
    asm.copy(RCX, SCRATCH);
    asm.jump(whole);
    asm.bind(lower);
    asm.copy(RCX, SCRATCH);
    asm.bytes(&[0xc5, 0xf8, 0x77]); // vzeroupper
    vectors(asm, false, 0x10);
    asm.jump(done);
    asm.bind(whole);
    vectors(asm, true, 0x10);
    asm.bind(done);
}

/// Vector registers out of the host's, in a function. No general register is changed, and no flag.
fn vectors_to_cpu(asm: &mut Asm, avx: bool) {
    vectors(asm, avx, 0x11);
    asm.rm(false, &[0x0f, 0xae], 3, frame::GUEST_MXCSR.above_call()); // stmxcsr
    asm.rm(false, &[0x0f, 0xae], 2, frame::HOST_MXCSR.above_call()); // ldmxcsr
    asm.store_immediate_8(frame::VECTORS_LIVE.above_call(), 0);
    if avx {
        asm.bytes(&[0xc5, 0xf8, 0x77]); // vzeroupper
    }
}

/// x87 registers out of the host's, in a function, when general registers have been stored. What FXSAVE says of the
/// last instruction is the host's own and must not be seen; MXCSR may be.
fn x87_to_cpu(asm: &mut Asm) {
    let kept = [(RAX, frame::FIP), (RDX, frame::FDP), (RCX, frame::GUEST_MXCSR)];
    for (register, place) in kept {
        asm.load(register, place.above_call());
    }
    asm.rm(false, &[0x0f, 0xb7], RSI, frame::FOP.above_call()); // movzx esi, word
    asm.rm(true, &[0x0f, 0xae], 0, frame::FX.above_call()); // fxsave64
    for (register, place) in kept {
        asm.store(place.above_call(), register);
    }
    asm.bytes(&[0x66]);
    asm.store_32(frame::FOP.above_call(), RSI); // mov word
    asm.bytes(&[0xdb, 0xe3]); // fninit: what the host expects
    asm.store_immediate_8(frame::X87_LIVE.above_call(), 0);
}

/// x87 registers into the host's: a function. FXRSTOR loads vector registers, too, so these are stored before.
fn x87_from_cpu(asm: &mut Asm, avx: bool) {
    let (ready, store) = (asm.label(), asm.label());
    asm.copy(SCRATCH, RCX);
    asm.load_byte(RCX, frame::VECTORS_LIVE.above_call());
    asm.jump_if_rcx_is_zero(ready);
    asm.jump(store);
    asm.bind(ready);
    asm.copy(RCX, SCRATCH);
    asm.rm(true, &[0x0f, 0xae], 1, frame::FX.above_call()); // fxrstor64
    asm.rm(false, &[0x0f, 0xae], 2, frame::HOST_MXCSR.above_call()); // ldmxcsr
    asm.store_immediate_8(frame::X87_LIVE.above_call(), 1);
    asm.bytes(&[0xc3]);
    asm.bind(store);
    vectors_to_cpu(asm, avx);
    asm.jump(ready);
}

/// Moves all vector registers by movups or, with AVX, vmovups.
fn vectors(asm: &mut Asm, avx: bool, opcode: u8) {
    for number in 0..16u8 {
        let place = frame::ymm(number).above_call();
        if avx {
            let first = u8::from(number < 8) << 7 | 0x61;
            asm.bytes(&[0xc4, first, 0x7c, opcode, 0x84 | (number & 7) << 3, 0x24]);
            asm.bytes(&place.disp.to_le_bytes());
        } else {
            asm.rm(false, &[0x0f, opcode], number, place);
        }
    }
}
