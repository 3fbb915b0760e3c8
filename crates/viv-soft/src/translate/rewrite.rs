//! Instructions that the host executes: the same instruction with other registers and its memory operand in
//! [`ADDRESS`].

use iced_x86::{CodeSize, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::regs::{self, ADDRESS, FLAGS, SCRATCH, is_high_byte};

/// A rewritten instruction, and what has to be done around it.
#[derive(Debug, Clone, Copy)]
pub struct Rewritten {
    pub instruction: Instruction,
    /// Whether the address must be in RSI while it runs, RSI being kept in [`SCRATCH`].
    pub legacy_address: bool,
    /// Whether [`FLAGS`] is one of its registers.
    pub uses_flags_register: bool,
    moved: [Moved; 3],
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

    fn moved(&self) -> impl Iterator<Item = Moved> {
        let Self { moved, moved_len, .. } = *self;
        moved.into_iter().take(moved_len)
    }
}

/// Rewrites an instruction that the host may execute; its memory operand will be `offset` bytes behind [`ADDRESS`].
/// `None`: it has no encoding with other registers.
pub fn rewrite(
    original: &Instruction,
    has_memory: bool,
    offset: i32,
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
    let mut rewritten = Rewritten {
        instruction,
        legacy_address: false,
        uses_flags_register: false,
        moved: [Moved::default(); 3],
        moved_len: 0,
    };
    let high_byte = (0..original.op_count())
        .any(|n| original.op_kind(n) == OpKind::Register && is_high_byte(original.op_register(n)));
    if has_memory {
        rewritten.legacy_address = high_byte;
        let base = if high_byte { Register::RSI } else { Register::RAX + u32::from(ADDRESS) };
        let instruction = &mut rewritten.instruction;
        instruction.set_segment_prefix(Register::GS);
        instruction.set_memory_base(base);
        instruction.set_memory_index(Register::None);
        instruction.set_memory_index_scale(1);
        instruction.set_memory_displacement64(i64::from(offset) as u64);
        instruction.set_memory_displ_size(if offset == 0 { 0 } else { 8 });
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
            None => rewritten.move_register(original, n, guest, has_memory, info)?,
        };
        if host != guest {
            rewritten.instruction.set_op_register(n, regs::sized(register, host));
        }
    }
    Some(rewritten)
}

impl Rewritten {
    /// Finds a host register for guest register `guest`, which is operand `n`.
    fn move_register(
        &mut self,
        original: &Instruction,
        n: u32,
        guest: u8,
        has_memory: bool,
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
        let free = [(SCRATCH, !self.legacy_address), (ADDRESS, !has_memory), (FLAGS, true)]
            .into_iter()
            .find(|&(register, free)| free && !used(register))?;
        self.uses_flags_register |= free.0 == FLAGS;
        *self.moved.get_mut(self.moved_len)? = Moved { guest, host: free.0, read: reads, written: writes };
        self.moved_len += 1;
        Some(free.0)
    }
}
