//! A block of instructions with everything that it starts from.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Encoder, FastFormatter, FlowControl, Instruction, OpKind};

use viv_arch::Rflags;

use super::super::differential::Layout;
use super::super::outcome::{flags, undefined_flags};
use super::super::{CODE, Mode};
use crate::hostexec::ExecState;

const ARITHMETIC: u64 = Rflags::ARITHMETIC.bits();

/// What stands behind every block: HLT, which a user program may not execute, and INT3, so that what memory holds behind
/// it, which may be from another block, is no part of the code.
const END: [u8; 2] = [0xf4, 0xcc];

/// One instruction of a block.
#[derive(Debug, Clone)]
pub struct Step {
    /// The instruction. Where it leads to, if it is a branch, is said by `target`.
    pub instruction: Instruction,
    /// For branches: the number of the step that it leads to, which comes later; the block's length is its end.
    pub target: Option<usize>,
}

impl Step {
    /// An instruction that is not a branch.
    #[must_use]
    pub const fn plain(instruction: Instruction) -> Self {
        Self { instruction, target: None }
    }
}

/// A block with everything that it depends on.
#[derive(Debug, Clone)]
pub struct Block {
    /// What it runs in.
    pub mode: Mode,
    /// Its instructions. Control goes forward only.
    pub steps: Vec<Step>,
    /// Registers before; RIP is where it starts.
    pub state: ExecState,
    /// Contents of [`super::super::DATA`] before.
    pub data: Vec<u8>,
    /// What may be done with its pages.
    pub(in super::super) layout: Layout,
}

/// A block's instructions as they lie in memory.
#[derive(Debug, Clone)]
pub struct Code {
    /// The bytes, from the block's start to what stands behind it.
    pub bytes: Vec<u8>,
    /// Where each instruction begins, and the end.
    pub addresses: Vec<u64>,
    /// The instructions, decoded from the bytes.
    pub instructions: Vec<Instruction>,
}

impl Code {
    /// The address behind the last instruction.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.addresses.last().copied().unwrap_or_default()
    }

    /// The number of the instruction at an address; that of the end is the block's length.
    #[must_use]
    pub fn index(&self, address: u64) -> Option<usize> {
        self.addresses.iter().position(|&at| at == address)
    }
}

impl Block {
    /// Lays the instructions out. `None` if they do not fit, or a branch does not reach.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        let mut addresses = vec![self.state.rip];
        for step in &self.steps {
            let at = addresses[addresses.len() - 1];
            let length = encode(self.mode, step, at, at)?.len();
            addresses.push(at + length as u64);
        }
        let mut bytes = Vec::new();
        let mut instructions = Vec::new();
        for (step, &at) in self.steps.iter().zip(&addresses) {
            let target = step.target.map_or(at, |target| addresses[target]);
            let encoded = encode(self.mode, step, at, target)?;
            instructions.push(decode(self.mode, &encoded, at));
            bytes.extend(encoded);
        }
        bytes.extend(END);
        let fits = self.state.rip + bytes.len() as u64 <= CODE.end;
        fits.then_some(Code { bytes, addresses, instructions })
    }

    /// The instructions in words, with their addresses and bytes.
    #[must_use]
    pub fn listing(&self) -> String {
        let Some(code) = self.code() else { return "(it has no encoding)".to_owned() };
        let mut text = String::new();
        let mut formatter = FastFormatter::new();
        for (n, instruction) in code.instructions.iter().enumerate() {
            let (start, end) = (code.addresses[n], code.addresses[n + 1]);
            let bytes = &code.bytes[(start - self.state.rip) as usize..(end - self.state.rip) as usize];
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut words = String::new();
            formatter.format(instruction, &mut words);
            let _ = write!(text, "\n  {start:x}: {hex:<30} {words}");
        }
        let hex: String = code.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = write!(text, "\n  all of it: {hex}");
        text
    }
}

/// The flags that may be undefined before each step, and at the end, whatever way control took.
#[must_use]
pub fn undefined(steps: &[Step]) -> Vec<u64> {
    let mut before = vec![0; steps.len() + 1];
    for (n, step) in steps.iter().enumerate() {
        let now = before[n];
        if let Some(target) = step.target {
            before[target] |= now;
        }
        let instruction = &step.instruction;
        if !matches!(instruction.flow_control(), FlowControl::UnconditionalBranch | FlowControl::Call) {
            before[n + 1] |= now & !defined_flags(instruction) | undefined_flags(instruction);
        }
    }
    before
}

/// Whether an instruction may read a flag that is undefined.
#[must_use]
pub fn reads_undefined(steps: &[Step]) -> bool {
    let undefined = undefined(steps);
    steps
        .iter()
        .zip(undefined)
        .any(|(step, undefined)| flags(step.instruction.rflags_read()) & undefined != 0)
}

/// The flags that no instruction from step `n` on reads before another, or step `n` itself, replaces them.
#[must_use]
pub fn dead(steps: &[Step], n: usize) -> u64 {
    let (mut unknown, mut dead) = (ARITHMETIC, 0);
    for step in &steps[n..] {
        unknown &= !flags(step.instruction.rflags_read());
        dead |= unknown & flags(step.instruction.rflags_modified());
        unknown &= !dead;
    }
    dead
}

/// The arithmetic flags that the instruction surely leaves defined.
fn defined_flags(instruction: &Instruction) -> u64 {
    use iced_x86::Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    // A count of 0 leaves them all as they were.
    let counts =
        matches!(instruction.mnemonic(), Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd);
    let last = instruction.op_count().saturating_sub(1);
    let may_be_zero = instruction.op_kind(last) != OpKind::Immediate8 || instruction.immediate8() & 0x1f == 0;
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if counts && may_be_zero || repeats {
        return 0;
    }
    flags(instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set())
}

/// The bytes of a step at an address, with an address where it leads.
fn encode(mode: Mode, step: &Step, at: u64, target: u64) -> Option<Vec<u8>> {
    let mut instruction = step.instruction;
    if step.target.is_some() {
        match instruction.op0_kind() {
            OpKind::NearBranch64 => instruction.set_near_branch64(target),
            OpKind::NearBranch32 => instruction.set_near_branch32(target as u32),
            _ => {}
        }
    }
    encode_at(mode, &instruction, at)
}

/// The bytes of an instruction at an address.
pub fn encode_at(mode: Mode, instruction: &Instruction, at: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(mode.bitness());
    encoder.encode(instruction, at).ok()?;
    Some(encoder.take_buffer())
}

/// The instruction that bytes are.
pub fn decode(mode: Mode, bytes: &[u8], at: u64) -> Instruction {
    Decoder::with_ip(mode.bitness(), bytes, at, DecoderOptions::NONE).decode()
}
