//! Traces: the runs of guest instructions that are translated at a time.
//!
//! A trace begins where control came in, goes on past conditional branches that are not taken, and ends at a branch
//! that always goes elsewhere, at an instruction that may change what the following ones mean, or with its page. Only a
//! loop may go on in the next page.

use std::mem;

use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};
use viv_arch::paging;

use super::flags::{self, FlagUse, Flags};
use super::loops::{Rounds, is_back};
use super::regs::is_high_byte;
use super::system::{self, Class, System};
use super::{Mode, narrow, x87};
use crate::cpu::Bitness;
use crate::debug::Guards;
use crate::decode::MAX_LENGTH;
use crate::hostexec::{ArenaError, MemoryAccess, X87, is_host_executable, memory_access};
use crate::lower::{Lowered, lower};
use crate::op::Op;
use crate::ops::host::{HostCode, Needs, needs};

/// The most instructions in a trace, and the most if there are those that use vector registers, which do not count.
pub const MAX_INSTRUCTIONS: usize = 64;
const MAX_WITH_VECTORS: usize = 192;

/// How an instruction is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does nothing.
    Nothing,
    /// The host executes it, with other registers and another memory operand.
    Host(Host),
    Lea,
    Push,
    Pop,
    Leave,
    /// Jcc.
    Branch,
    /// JMP and CALL to a place that the instruction names.
    Jump,
    Call,
    /// JMP and CALL to where a register or memory says.
    JumpIndirect,
    CallIndirect,
    Return,
    System(System),
    /// The interpreter executes it.
    Interpret,
}

/// An instruction that the host executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    pub access: Option<MemoryAccess>,
    /// Whether it uses vector registers or MXCSR.
    pub vector: bool,
    /// What it is to the x87 unit.
    pub x87: X87,
    /// Whether the processor may raise an exception.
    pub may_fault: bool,
}

/// An instruction of a trace.
pub struct Item {
    /// As 64-bit code would have it ([`narrow`]). Its addresses are offsets from the trace's start.
    pub instruction: Instruction,
    pub kind: Kind,
    /// The mode in which it runs.
    pub mode: Mode,
    /// Whether the trace ends with it.
    pub ends: bool,
    pub flags: FlagUse,
    /// The flags that are needed after it.
    pub live: Flags,
}

/// A decoded trace.
pub struct Trace {
    /// Where it begins, as offset in its page.
    pub start: usize,
    pub items: Vec<Item>,
    /// The same instructions as the interpreter has them.
    pub ops: Box<[Op]>,
    /// Whether vector registers are used.
    pub vectors: bool,
    /// Whether x87 registers are used.
    pub x87: bool,
    /// If it is a loop: what runs without checks.
    pub rounds: Option<Rounds>,
}

/// What a trace is decoded from.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// What its page holds. If there is more, it is what the next page begins with, and the trace is the one instruction
    /// that runs into it. If it is all of the next page, the trace is to be a loop, or none.
    pub bytes: &'a [u8],
    /// Where it begins, as offset in its page.
    pub start: usize,
    pub mode: Mode,
    /// The instructions of the interpreter's block there.
    pub ops: &'a [Op],
    /// Where it may not reach.
    pub guards: &'a Guards,
}

/// Room for a trace that is being decoded, used again for every trace.
pub struct Room {
    pub items: Vec<Item>,
    ops: Vec<Op>,
    info: InstructionInfoFactory,
}

impl Default for Room {
    fn default() -> Self {
        Self { items: Vec::new(), ops: Vec::new(), info: InstructionInfoFactory::new() }
    }
}

impl Trace {
    /// Decodes a trace. It is empty if its first instruction is none that it may have. Behind a branch it also ends where
    /// `is_known` says that there is a trace.
    ///
    /// # Errors
    /// When the memory for the interpreter's host-executed instructions is full.
    pub fn decode(
        Text { bytes, start, mode, ops: known, guards }: Text<'_>,
        host: &mut HostCode,
        limit: usize,
        room: &mut Room,
        is_known: impl Fn(u16) -> bool,
    ) -> Result<Self, ArenaError> {
        let crosses = bytes.len() > paging::PAGE_SIZE as usize;
        let mut item_mode = mode;
        let is_loop = bytes.len() > paging::PAGE_SIZE as usize + MAX_LENGTH;
        let limit = if crosses && !is_loop { 1 } else { limit };
        let page = &bytes[..paging::PAGE_SIZE as usize];
        let mut decoder = decoder_at(bytes, start, 0, mode);
        let mut items = mem::take(&mut room.items);
        let ops = &mut room.ops;
        items.clear();
        ops.clear();
        let most = if limit < MAX_INSTRUCTIONS { limit } else { MAX_WITH_VECTORS };
        let mut plain = 0;
        while plain < limit && items.len() < most && decoder.can_decode() {
            // Code that has a trace already is not translated once more behind a branch.
            if !is_loop
                && items.last().is_some_and(|item| item.kind == Kind::Branch)
                && is_known((start + decoder.position()) as u16)
            {
                break;
            }
            if !items.is_empty() && guards.contains((start + decoder.position()) as u64) {
                break;
            }
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                break;
            }
            let Lowered { op, ends_block } = match known.get(ops.len()..) {
                // The last one may have ended the block for more than one reason.
                Some([op, _, ..]) => Lowered { op: *op, ends_block: false },
                _ => lower(&instruction, mode.bitness(), host)?,
            };
            let (instruction, kind) = match narrow::widen(&instruction, item_mode) {
                Some(instruction) => (instruction, classify(&instruction, item_mode)),
                None => (instruction, Kind::Interpret),
            };
            let ends = match kind {
                Kind::Branch | Kind::System(_) => false,
                Kind::Jump | Kind::Call | Kind::JumpIndirect | Kind::CallIndirect | Kind::Return => true,
                _ => ends_block,
            };
            let flags = match kind {
                Kind::Interpret => FlagUse::UNKNOWN,
                _ => FlagUse::of(&instruction),
            };
            plain += usize::from(!matches!(kind, Kind::Host(host) if host.vector));
            items.push(Item { instruction, kind, mode: item_mode, ends, flags, live: flags::ALL });
            ops.push(op);
            if ends || is_loop && items.last().is_some_and(is_back) {
                break;
            }
            if let Kind::System(System::ChangeMode(next)) = kind {
                item_mode = next;
            }
        }
        if is_loop && !items.last().is_some_and(is_back) {
            items.clear();
        }
        // Interrupts must not come before the instruction behind STI.
        if let Some(last) = items.last_mut()
            && last.kind == Kind::System(System::SetInterrupts)
        {
            (last.kind, last.ends, last.flags) = (Kind::Interpret, true, FlagUse::UNKNOWN);
        }
        // What follows a loop is another trace, for it is reached from every round.
        let rounds = Rounds::of(&items, start, &mut room.info);
        if let Some(Rounds { length, .. }) = rounds {
            items.truncate(length);
            ops.truncate(length);
        }
        let vectors = items.iter().any(|item| matches!(item.kind, Kind::Host(host) if host.vector));
        let x87 = items.iter().any(|item| matches!(item.kind, Kind::Host(host) if host.x87 != X87::Unused));
        let mut trace = Self { start, items, ops: ops.as_slice().into(), vectors, x87, rounds };
        trace.find_live_flags(page, mode);
        Ok(trace)
    }

    /// Goes backwards through the trace.
    fn find_live_flags(&mut self, page: &[u8], mode: Mode) {
        let mut live = match self.items.last() {
            Some(Item { ends: true, kind: Kind::Jump | Kind::Call, instruction, .. }) => {
                self.live_at(page, instruction.near_branch_target(), mode)
            }
            Some(Item { ends: false, instruction, .. }) => self.live_at(page, instruction.next_ip(), mode),
            _ => flags::ALL,
        };
        for n in (0..self.items.len()).rev() {
            if self.items[n].kind == Kind::Branch {
                live |= self.live_at(page, self.items[n].instruction.near_branch_target(), mode);
            }
            let item = &mut self.items[n];
            item.live = live;
            live = item.flags.before(live);
        }
    }

    /// The flags that are needed at an offset from the trace's start.
    pub fn live_at(&self, page: &[u8], offset: u64, mode: Mode) -> Flags {
        let at = offset.wrapping_add(self.start as u64);
        if at >= paging::PAGE_SIZE {
            return flags::ALL;
        }
        flags::live_at(decoder_at(page, at as usize, 0, mode))
    }

    /// Whether flags that are needed where it begins are needed first by an instruction that has nothing to do with
    /// flags itself, so that they are best out of the way.
    pub fn passes_flags(&self) -> bool {
        let first = self.items.iter().find(|item| match item.kind {
            Kind::Nothing | Kind::Lea => false,
            Kind::Host(host) => item.flags.touches || host.access.is_some(),
            _ => true,
        });
        self.live_in() != 0 && first.is_some_and(|item| item.kind != Kind::Branch && !item.flags.touches)
    }

    /// Whether it ends because its page does.
    pub fn runs_off_page(&self) -> bool {
        let end = |item: &Item| self.start + item.instruction.next_ip() as usize + MAX_LENGTH;
        self.items.last().is_some_and(|item| !item.ends && end(item) > paging::PAGE_SIZE as usize)
    }

    /// The flags that are needed where it begins.
    pub fn live_in(&self) -> Flags {
        self.items.first().map_or(flags::ALL, |item| item.flags.before(item.live))
    }
}

fn decoder_at(page: &[u8], at: usize, ip: u64, mode: Mode) -> Decoder<'_> {
    let bits = match mode.bitness() {
        Bitness::Bits16 => 16,
        Bitness::Bits32 => 32,
        Bitness::Bits64 => 64,
    };
    Decoder::with_ip(bits, &page[at..], ip, DecoderOptions::FORCE_RESERVED_NOP)
}

fn is_memory(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Memory
}

fn classify(i: &Instruction, mode: Mode) -> Kind {
    let word = mode.word();
    match i.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Endbr32
        | Mnemonic::Reservednop
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw => return Kind::Nothing,
        Mnemonic::Lea if i.op0_register().size() > 2 => return Kind::Lea,
        Mnemonic::Leave if matches!(i.code(), Code::Leaveq | Code::Leaved) => return Kind::Leave,
        Mnemonic::Push => {
            let plain = match i.op0_kind() {
                OpKind::Register => i.op0_register().is_gpr() && i.op0_register().size() == word,
                OpKind::Memory => i.memory_size().size() == word,
                _ => i.stack_pointer_increment() == -(word as i32),
            };
            return if plain { Kind::Push } else { Kind::Interpret };
        }
        Mnemonic::Pop
            if i.op0_kind() == OpKind::Register
                && i.op0_register().is_gpr()
                && i.op0_register().size() == word =>
        {
            return Kind::Pop;
        }
        Mnemonic::Ret
            if matches!(i.code(), Code::Retnq | Code::Retnq_imm16 | Code::Retnd | Code::Retnd_imm16) =>
        {
            return Kind::Return;
        }
        Mnemonic::Jmp | Mnemonic::Call => return classify_jump(i),
        _ if i.is_jcc_short_or_near() && i.op0_kind() == OpKind::NearBranch64 => return Kind::Branch,
        _ => {}
    }
    match system::classify(i, mode) {
        Class::System(system) => return Kind::System(system),
        Class::Nothing => return Kind::Nothing,
        Class::Other => {}
    }
    classify_computation(i, mode)
}

fn classify_jump(i: &Instruction) -> Kind {
    match i.code() {
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 | Code::Jmp_rel8_32 | Code::Jmp_rel32_32 => Kind::Jump,
        Code::Call_rel32_64 | Code::Call_rel32_32 => Kind::Call,
        Code::Jmp_rm64 | Code::Jmp_rm32 => Kind::JumpIndirect,
        Code::Call_rm64 | Code::Call_rm32 => Kind::CallIndirect,
        _ => Kind::Interpret,
    }
}

fn classify_computation(i: &Instruction, mode: Mode) -> Kind {
    if !is_host_executable(i) {
        return Kind::Interpret;
    }
    let needed = needs(i);
    let vector = match needed {
        Needs::Nothing => false,
        Needs::Sse if mode.sse() => true,
        Needs::Avx if mode.avx() => true,
        Needs::X87 | Needs::Mmx if mode.x87() => x87::uses_mxcsr(i),
        _ => return Kind::Interpret,
    };
    let registers =
        || (0..i.op_count()).filter(|&n| i.op_kind(n) == OpKind::Register).map(|n| i.op_register(n));
    // MMX registers are x87's, also where it is SSE that an instruction needs.
    let x87 = if matches!(needed, Needs::X87 | Needs::Mmx) || registers().any(Register::is_mm) {
        match x87::classify(i) {
            Some(role) if mode.x87() => role,
            _ => return Kind::Interpret,
        }
    } else {
        X87::Unused
    };
    // The stack pointer has a register that cannot be named together with these.
    if registers().any(is_high_byte) && registers().any(|r| r.full_register() == Register::RSP) {
        return Kind::Interpret;
    }
    let access = memory_access(i);
    let has_memory = (0..i.op_count()).any(|n| is_memory(i, n));
    if has_memory && access.is_none() {
        return Kind::Interpret;
    }
    let may_fault = vector || matches!(i.mnemonic(), Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Cmpxchg16b);
    // Its own vector registers may be none, if it computes between memory and general registers.
    Kind::Host(Host { access, vector, x87, may_fault })
}
