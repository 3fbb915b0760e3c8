//! BT, BTS, BTR and BTC of a bit string in memory: the bit's number, in a register, says which word it is in.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Mode;
use super::asm::{Mem, alu};
use super::emit::Emitter;
use super::frame;
use super::operand::Operand;
use super::regs::{ADDRESS, SCRATCH};
use super::system::SAR;
use super::trace::Item;

/// A bit instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bit {
    /// The second byte of its opcode.
    opcode: u8,
    wide: bool,
    locked: bool,
}

const BT: u8 = 0xa3;

/// What is translated here.
pub fn classify(i: &Instruction, mode: Mode) -> Option<Bit> {
    let opcode = match i.mnemonic() {
        Mnemonic::Bt => BT,
        Mnemonic::Bts => 0xab,
        Mnemonic::Btr => 0xb3,
        Mnemonic::Btc => 0xbb,
        _ => return None,
    };
    let in_memory = i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register;
    if mode.is_narrow() && matches!(i.memory_segment(), Register::FS | Register::GS) {
        // The word that the bit is in may be beyond the limit.
        return None;
    }
    (in_memory && i.op1_register().size() >= 4).then(|| Bit {
        opcode,
        wide: i.op1_register().size() == 8,
        locked: i.has_lock_prefix(),
    })
}

impl Emitter<'_> {
    pub(super) fn bit(&mut self, n: usize, item: &Item, Bit { opcode, wide, locked }: Bit) {
        let i = &item.instruction;
        let needed = item.flags.before(item.live);
        let guest = i.op1_register().full_register().number() as u8;
        let size = if wide { 8 } else { 4 };
        self.guard_flags(needed);
        let retreat = (!self.in_retreat).then(|| self.retreat(n));
        self.linear(Operand::of(i, self.trace.start), None);
        let number = self.value(guest, SCRATCH);
        if wide {
            self.asm.copy(SCRATCH, number);
        } else {
            self.asm.rr(true, &[0x63], SCRATCH, number); // movsxd
        }
        self.asm.shift(true, SAR, SCRATCH, if wide { 6 } else { 5 });
        self.lea_word(ADDRESS, Mem::indexed(ADDRESS, SCRATCH, if wide { 3 } else { 2 }, 0));
        let place = match retreat {
            Some(retreat) => {
                self.check(size, opcode != BT, true, retreat);
                Mem::in_window(ADDRESS, 0)
            }
            None => {
                let miss = self.miss(n, self.after);
                self.look_up(size, opcode != BT, miss);
                Mem::at(ADDRESS, 0)
            }
        };
        let number = self.value(guest, SCRATCH);
        self.asm.copy_32(SCRATCH, number);
        self.asm.alu_immediate(false, alu::AND, SCRATCH, 8 * size as i32 - 1);
        self.asm.store(frame::TARGET, SCRATCH);
        self.settle_flags(needed);
        self.asm.load(SCRATCH, frame::TARGET);
        if locked {
            self.asm.bytes(&[0xf0]);
        }
        self.asm.rm(wide, &[0x0f, opcode], SCRATCH, place);
    }
}
