//! Which arithmetic flags instructions need, and which they replace.

use iced_x86::{Decoder, FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};

/// A set of arithmetic flags, as [`RflagsBits`].
pub type Flags = u32;

/// All arithmetic flags.
pub const ALL: Flags =
    RflagsBits::CF | RflagsBits::PF | RflagsBits::AF | RflagsBits::ZF | RflagsBits::SF | RflagsBits::OF;

/// What an instruction has to do with the arithmetic flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagUse {
    /// Those that it reads, or may leave as they are.
    pub reads: Flags,
    /// Those that are not what they were after it, whatever they were.
    pub kills: Flags,
    /// Whether it has to do with any.
    pub touches: bool,
}

impl FlagUse {
    /// That of an instruction of which nothing is known.
    pub const UNKNOWN: Self = Self { reads: ALL, kills: 0, touches: true };

    /// That of an instruction that the host executes or that a branch comes to.
    pub fn of(instruction: &Instruction) -> Self {
        let read = instruction.rflags_read() & ALL;
        let modified = instruction.rflags_modified() & ALL;
        let undefined = instruction.rflags_undefined() & ALL;
        // Undefined flags are what the processor makes of them; some instructions leave them as they were.
        let certain = if keeps_undefined(instruction.mnemonic()) { modified & !undefined } else { modified };
        let kills = if may_keep_all(instruction) { 0 } else { certain };
        Self { reads: read | (modified & !kills), kills, touches: read | modified != 0 }
    }

    /// The flags that are needed before the instruction, if `after` are needed after it.
    pub fn before(&self, after: Flags) -> Flags {
        if keeps_all() { ALL } else { after & !self.kills | self.reads }
    }
}

fn keeps_undefined(mnemonic: Mnemonic) -> bool {
    !matches!(
        mnemonic,
        Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Test
            | Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Imul
            | Mnemonic::Mul
            | Mnemonic::Andn
    )
}

/// Shifts and rotations by nothing leave the flags alone, and so do comparisons of no elements.
fn may_keep_all(instruction: &Instruction) -> bool {
    if instruction.is_string_instruction() {
        return instruction.has_rep_prefix() || instruction.has_repne_prefix();
    }
    let count = match instruction.mnemonic() {
        Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr => 1,
        Mnemonic::Shld | Mnemonic::Shrd => 2,
        _ => return false,
    };
    match instruction.op_kind(count) {
        OpKind::Immediate8 => instruction.immediate8() & 31 == 0,
        _ => true,
    }
}

/// The flags that the code that `decoder` comes to may read before it replaces them.
pub fn live_at(mut decoder: Decoder<'_>) -> Flags {
    if keeps_all() {
        return ALL;
    }
    let mut unknown = ALL;
    let mut live = 0;
    let mut instruction = Instruction::default();
    // Runs of vector instructions, which have nothing to do with flags, are long.
    let mut rest = 32;
    while rest > 0 && decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() || instruction.flow_control() != FlowControl::Next {
            break;
        }
        let uses = FlagUse::of(&instruction);
        rest -= if uses.touches { 4 } else { 1 };
        live |= uses.reads & unknown;
        unknown &= !uses.kills;
        if unknown & !live == 0 {
            return live;
        }
    }
    live | unknown
}

#[cfg(not(test))]
const fn keeps_all() -> bool {
    false
}

#[cfg(test)]
fn keeps_all() -> bool {
    KEEPS_ALL.get()
}

#[cfg(test)]
thread_local! {
    static KEEPS_ALL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Takes no flag for dead in what this thread translates while it is in `action`.
#[cfg(test)]
pub fn keeping_all<T>(action: impl FnOnce() -> T) -> T {
    KEEPS_ALL.set(true);
    let result = action();
    KEEPS_ALL.set(false);
    result
}

#[cfg(test)]
mod tests {
    use iced_x86::DecoderOptions;

    use super::*;

    fn live(bytes: &[u8]) -> Flags {
        live_at(Decoder::new(64, bytes, DecoderOptions::NONE))
    }

    #[test]
    fn what_is_replaced_is_dead() {
        assert_eq!(live(&[0x90, 0x01, 0xd8]), 0, "nop; add eax, ebx");
        assert_eq!(live(&[0x11, 0xd8]), RflagsBits::CF, "adc eax, ebx");
        assert_eq!(live(&[0xff, 0xc0, 0x01, 0xd8]), 0, "inc eax; add eax, ebx");
        assert_eq!(live(&[0xff, 0xc0, 0x74, 0x00]), RflagsBits::CF, "inc eax; je");
    }

    #[test]
    fn what_may_stay_is_live() {
        assert_eq!(live(&[0xd3, 0xe0, 0x01, 0xd8]), ALL, "shl eax, cl; add eax, ebx");
        assert_eq!(live(&[0xc1, 0xe0, 0x03]), 0, "shl eax, 3");
        assert_eq!(live(&[0xc3]), ALL, "ret");
        assert_eq!(live(&[0x74, 0x00]), ALL, "je");
    }
}
