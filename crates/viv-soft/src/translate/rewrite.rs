//! Instructions that the host executes: the same instruction with other registers, and its memory operand where the
//! host finds it.

use iced_x86::{CodeSize, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::asm::{Mem, NO_BASE, RSI};
use super::operand::Base;
use super::regs::{self, ADDRESS, SCRATCH, is_high_byte};

/// A rewritten instruction, and what has to be done around it.
#[derive(Debug, Clone, Copy)]
pub struct Rewritten {
    pub instruction: Instruction,
    /// Whether the address must be in RSI while it runs, RSI being kept in [`SCRATCH`].
    pub legacy_address: bool,
    moved: [Moved; 2],
    moved_len: usize,
}

/// A guest register that is in the register file and has to be in a host register for a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    guest: u8,
    host: u8,
    read: bool,
    written: bool,
}

impl Rewritten {
    /// Guest registers to be loaded before it, with the host registers that they go to.
    pub fn loads(&self) -> impl Iterator<Item = (u8, u8)> {
        self.moved().filter(|moved| moved.read).map(|moved| (moved.guest, moved.host))
    }

    /// Guest registers to be stored after it, with the host registers that have their values.
    pub fn stores(&self) -> impl Iterator<Item = (u8, u8)> {
        self.moved().filter(|moved| moved.written).map(|moved| (moved.guest, moved.host))
    }

    /// Whether host register `host` has not what it had before, which is `held`.
    pub fn spoils(&self, host: u8, held: Option<Base>) -> bool {
        let is_written = |moved: Moved| moved.written && Some(Base::Register(moved.guest)) == held;
        self.moved().any(|moved| moved.host == host || is_written(moved))
    }

    fn moved(&self) -> impl Iterator<Item = Moved> {
        let Self { moved, moved_len, .. } = *self;
        moved.into_iter().take(moved_len)
    }
}

/// Whether it has AH, CH, DH or BH: it can have no register then that is named by a REX prefix.
pub fn has_high_byte(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && is_high_byte(i.op_register(n)))
}

/// Rewrites an instruction that the host may execute, whose memory operand is at `memory`. `None`: it has no encoding with
/// other registers.
pub fn rewrite(
    original: &Instruction,
    memory: Option<Mem>,
    info: &mut InstructionInfoFactory,
) -> Option<Rewritten> {
    let mut instruction = *original;
    instruction.set_code_size(CodeSize::Code64);
    // Hardware lock elision must not start a transaction.
    instruction.set_has_xacquire_prefix(false);
    instruction.set_has_xrelease_prefix(false);
    instruction.set_has_rep_prefix(false);
    instruction.set_has_repne_prefix(false);
    instruction.set_segment_prefix(Register::None);
    let mut rewritten =
        Rewritten { instruction, legacy_address: false, moved: [Moved::default(); 2], moved_len: 0 };
    let mut has_address = false;
    if let Some(mut memory) = memory {
        let indexed = memory.index.is_some_and(|(index, _)| index == ADDRESS);
        has_address = memory.base == ADDRESS || indexed;
        rewritten.legacy_address = has_address && has_high_byte(original);
        if rewritten.legacy_address {
            memory.base = RSI;
        }
        set_memory(&mut rewritten.instruction, memory);
    }
    for n in 0..original.op_count() {
        if original.op_kind(n) != OpKind::Register {
            continue;
        }
        let register = original.op_register(n);
        if !register.is_gpr() || is_high_byte(register) {
            continue;
        }
        let guest = register.full_register().number() as u8;
        let host = match regs::host(guest) {
            Some(host) => host,
            None => rewritten.move_register(original, n, guest, has_address, info)?,
        };
        if host != guest {
            rewritten.instruction.set_op_register(n, regs::sized(register, host));
        }
    }
    Some(rewritten)
}

fn set_memory(i: &mut Instruction, Mem { base, index, disp, window }: Mem) {
    let registers = if window { Register::EAX } else { Register::RAX };
    let register = |number: u8| registers + u32::from(number);
    i.set_segment_prefix(if window { Register::GS } else { Register::None });
    i.set_memory_base(if base == NO_BASE { Register::None } else { register(base) });
    i.set_memory_index(index.map_or(Register::None, |(index, _)| register(index)));
    i.set_memory_index_scale(index.map_or(1, |(_, shift)| 1 << shift));
    i.set_memory_displacement64(if window { u64::from(disp as u32) } else { i64::from(disp) as u64 });
    i.set_memory_displ_size(match disp {
        _ if base == NO_BASE && window => 4,
        _ if base == NO_BASE => 8,
        0 => 0,
        _ if i8::try_from(disp).is_ok() => 1,
        _ if window => 4,
        _ => 8,
    });
}

impl Rewritten {
    /// Finds a host register for guest register `guest`, which is operand `n`.
    fn move_register(
        &mut self,
        original: &Instruction,
        n: u32,
        guest: u8,
        has_address: bool,
        info: &mut InstructionInfoFactory,
    ) -> Option<u8> {
        let access = info.info(original).op_access(n);
        let whole = original.op_register(n).size() >= 4;
        // BSF and BSR of nothing leave their destination alone.
        let scans = matches!(original.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr);
        let reads = !matches!(access, OpAccess::Write) || !whole || scans;
        let writes = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
        let known = self.moved[..self.moved_len].iter_mut().find(|moved| moved.guest == guest);
        if let Some(moved) = known {
            moved.read |= reads;
            moved.written |= writes;
            return Some(moved.host);
        }
        let used = |register: u8| self.moved[..self.moved_len].iter().any(|moved| moved.host == register);
        let free = [(SCRATCH, !self.legacy_address), (ADDRESS, !has_address)]
            .into_iter()
            .find(|&(register, free)| free && !used(register))?;
        *self.moved.get_mut(self.moved_len)? = Moved { guest, host: free.0, read: reads, written: writes };
        self.moved_len += 1;
        Some(free.0)
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Decoder, DecoderOptions, Encoder, FastFormatter, MemoryOperand};

    use super::*;

    /// The text of MOV RAX, [memory] with its operand at `place`.
    fn text(place: Mem) -> String {
        let operand = MemoryOperand::with_base(Register::RBX);
        let load = Instruction::with2(Code::Mov_r64_rm64, Register::RAX, operand).unwrap();
        let rewritten = rewrite(&load, Some(place), &mut InstructionInfoFactory::new()).unwrap();
        let mut encoder = Encoder::new(64);
        encoder.encode(&rewritten.instruction, 0).unwrap();
        let mut text = String::new();
        let bytes = encoder.take_buffer();
        FastFormatter::new().format(&Decoder::new(64, &bytes, DecoderOptions::NONE).decode(), &mut text);
        text
    }

    #[test]
    fn operands_are_put_where_the_host_finds_them() {
        assert_eq!(text(Mem::at(ADDRESS, 0)), "mov rax,[r11]");
        assert_eq!(text(Mem::in_window(3, 0)), "mov rax,gs:[ebx]");
        assert_eq!(text(Mem::in_window(5, 0)), "mov rax,gs:[ebp]");
        assert_eq!(text(Mem::in_window(13, -8)), "mov rax,gs:[r13d-8h]");
        assert_eq!(text(Mem::in_window(12, 0x1000)), "mov rax,gs:[r12d+1000h]");
        assert_eq!(text(Mem::in_window(15, -0x1000)), "mov rax,gs:[r15d-1000h]");
        let indexed = Mem { index: Some((9, 3)), ..Mem::in_window(7, 0x7f) };
        assert_eq!(text(indexed), "mov rax,gs:[edi+r9d*8+7Fh]");
        assert_eq!(text(Mem::in_window(NO_BASE, -0x1000)), "mov rax,gs:[0FFFFF000h]");
        let indexed = Mem { index: Some((9, 3)), ..Mem::in_window(NO_BASE, 0x10) };
        assert_eq!(text(indexed), "mov rax,gs:[r9d*8+10h]");
    }
}
