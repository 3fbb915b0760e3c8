//! Random code: a few instructions at a time that make sense together, one such gadget after the other.

use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};
use viv_arch::paging::PAGE_SIZE;

use super::layout::*;
use super::places::Places;
use crate::testing::blocks::{Pool, encode_at};
use crate::testing::forms::random_instance;
use crate::testing::{Mode, Rng};

/// Decrements the fuel, and stops where there is none left: the same bytes in both modes.
pub const GUARD: [u8; 12] = {
    let fuel = (USER_FUEL as u32).to_le_bytes();
    [0x83, 0x2c, 0x25, fuel[0], fuel[1], fuel[2], fuel[3], 1, 0x79, 2, 0xcd, service::STOP]
};

/// LAHF, SETO AL: reads all arithmetic flags. It stands behind what may write to code that comes next: translated code
/// keeps only those flags that are read by what it knows to come, and does not know better of what is written there.
pub(super) const READS_FLAGS: [u8; 4] = [0x9f, 0x0f, 0x90, 0xc0];

/// The registers that mostly point to something.
const POINTERS: [u32; 7] = [3, 5, 6, 7, 8, 12, 13];

/// A run of gadgets at one place.
pub struct Island<'a> {
    pub mode: Mode,
    pub pool: &'a Pool,
    pub places: &'a Places,
    /// Its linear address.
    pub base: u64,
    pub bytes: Vec<u8>,
    /// Where gadgets begin, as offsets.
    pub starts: Vec<usize>,
    /// Gadgets of other islands, by linear address.
    pub others: &'a [u64],
    /// Branches that lead to a gadget to come: where the displacement is, and to which.
    open: Vec<(usize, usize)>,
}

impl<'a> Island<'a> {
    pub fn new(mode: Mode, pool: &'a Pool, places: &'a Places, base: u64, others: &'a [u64]) -> Self {
        Self { mode, pool, places, base, bytes: Vec::new(), starts: Vec::new(), others, open: Vec::new() }
    }

    /// Adds gadgets until it has `size` bytes or a little more, and leads it elsewhere.
    pub fn fill(&mut self, size: usize, rng: &mut Rng) {
        while self.bytes.len() < size {
            self.begin();
            self.gadget(rng);
        }
        self.begin();
        for (at, _) in std::mem::take(&mut self.open) {
            self.patch(at, self.bytes.len());
        }
        self.bytes.extend(GUARD);
        let target = self.elsewhere(rng);
        self.relative(&[0xe9], target);
    }

    /// A gadget begins here: branches that wait for it get their target.
    fn begin(&mut self) {
        let (here, number) = (self.bytes.len(), self.starts.len());
        self.starts.push(here);
        let due: Vec<usize> =
            self.open.extract_if(.., |(_, target)| *target <= number).map(|(at, _)| at).collect();
        for at in due {
            self.patch(at, here);
        }
    }

    fn patch(&mut self, at: usize, target: usize) {
        let displacement = (target as i64 - (at as i64 + 4)) as i32;
        self.bytes[at..at + 4].copy_from_slice(&displacement.to_le_bytes());
    }

    fn here(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// A gadget of another island, or of this one.
    pub(super) fn elsewhere(&self, rng: &mut Rng) -> u64 {
        if self.others.is_empty() || rng.one_in(3) {
            self.base + rng.pick(&self.starts) as u64
        } else {
            rng.pick(self.others)
        }
    }

    /// An opcode with a 32-bit displacement to a linear address.
    fn relative(&mut self, opcode: &[u8], target: u64) {
        self.bytes.extend(opcode);
        let displacement = target.wrapping_sub(self.here() + 4) as i32;
        self.bytes.extend(displacement.to_le_bytes());
    }

    pub(super) fn put(&mut self, instruction: &Instruction) {
        self.bytes.extend(encode_at(self.mode, instruction, self.here()).unwrap_or_default());
    }

    /// Adds what `build` assembles; nothing if that cannot be in this mode.
    pub(super) fn assemble(&mut self, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        let Ok(mut assembler) = CodeAssembler::new(self.mode.bitness()) else { return };
        if build(&mut assembler).is_ok()
            && let Ok(bytes) = assembler.assemble(self.here())
        {
            self.bytes.extend(bytes);
        }
    }

    pub(super) fn is_wide(&self) -> bool {
        self.mode == Mode::Bits64
    }

    /// Loads a general register.
    pub(super) fn load(&mut self, number: u32, value: u64) {
        let load = if self.is_wide() && value > 0xffff_ffff {
            Instruction::with2(Code::Mov_r64_imm64, Register::RAX + number, value)
        } else {
            Instruction::with2(Code::Mov_r32_imm32, Register::EAX + (number & self.last()), value as u32)
        };
        if let Ok(load) = load {
            self.put(&load);
        }
    }

    /// The number of the last general register.
    fn last(&self) -> u32 {
        if self.is_wide() { 15 } else { 7 }
    }

    fn gadget(&mut self, rng: &mut Rng) {
        match rng.below(100) {
            0..42 => self.plain(rng),
            42..52 => {
                let number = POINTERS[rng.below(7) as usize];
                let pointer = self.places.pointer(rng);
                self.load(number & self.last(), pointer);
            }
            52..54 => {
                let stack = self.places.stack(rng);
                self.bytes.extend(GUARD);
                self.load(4, stack);
            }
            54..58 => {
                let number = rng.below(16) as u32;
                let value = rng.below(40);
                self.load(number & self.last(), value);
            }
            58..66 => self.branch_ahead(rng),
            66..71 => self.branch_back(rng),
            71..74 => self.jump_or_call(rng),
            74..77 => self.indirect(rng),
            77..80 => self.bytes.push(0xc3),
            80..84 => {
                self.write_code(rng);
                self.bytes.extend(READS_FLAGS);
            }
            84..88 => {
                self.string(rng);
                self.bytes.extend(READS_FLAGS);
            }
            88..90 => {
                let count = 1 + rng.below(6);
                self.bytes.extend((0..count).map(|_| rng.next_u64() as u8));
            }
            90..93 => self.walk(rng),
            _ => self.system(rng),
        }
    }

    /// Any instruction, with an operand in memory that is there more often than not.
    fn plain(&mut self, rng: &mut Rng) {
        let code = self.pool.straight(true, rng);
        let mut factory = InstructionInfoFactory::new();
        for _ in 0..4 {
            let Some(mut instruction) = random_instance(code, self.mode, rng) else { return };
            // What points to something should do so for some time.
            let spoils = (0..instruction.op_count()).any(|n| {
                let register = instruction.op_register(n).full_register();
                instruction.op_kind(n) == OpKind::Register
                    && register.is_gpr()
                    && POINTERS.contains(&(register.number() as u32))
                    && factory.info(&instruction).op_access(n) != OpAccess::Read
            });
            if spoils && !rng.one_in(3) {
                continue;
            }
            self.place_operand(&mut instruction, rng);
            let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
            if repeats && instruction.is_string_instruction() && !rng.one_in(12) {
                self.load(1, rng.below(60));
            }
            if rng.one_in(24) {
                instruction.set_segment_prefix(rng.pick(&[Register::FS, Register::GS]));
            }
            self.put(&instruction);
            return;
        }
    }

    fn place_operand(&self, instruction: &mut Instruction, rng: &mut Rng) {
        let has_memory =
            (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        if !has_memory || instruction.memory_index().is_vector_register() {
            return;
        }
        let full = self.mode.bitness() / 8;
        match rng.below(20) {
            0..12 => {
                let first = if self.is_wide() { Register::RAX } else { Register::EAX };
                let number = rng.pick(&POINTERS) & self.last();
                instruction.set_memory_base(first + number);
                instruction.set_memory_index(Register::None);
                instruction.set_memory_index_scale(1);
                let displacement = rng.pick(&[0, 0, 1, 8, -8, 16, 0x40, -0x40, 0x7c, 0x100, -0x1000]);
                instruction.set_memory_displacement64(displacement as u64);
                instruction.set_memory_displ_size(match displacement {
                    0 => 0,
                    -128..128 => 1,
                    _ => full,
                });
            }
            12..16 => {
                let target = self.places.pointer(rng) & 0x7fff_ffff;
                let relative = self.is_wide() && rng.one_in(2);
                instruction.set_memory_base(if relative { Register::RIP } else { Register::None });
                instruction.set_memory_index(Register::None);
                instruction.set_memory_index_scale(1);
                instruction.set_memory_displ_size(full);
                instruction.set_memory_displacement64(target);
            }
            _ => {}
        }
    }

    fn branch_ahead(&mut self, rng: &mut Rng) {
        let target = self.starts.len() + rng.below(4) as usize;
        if rng.one_in(8) {
            self.bytes.push(0xe9);
        } else {
            self.bytes.extend([0x0f, 0x80 | rng.below(16) as u8]);
        }
        self.open.push((self.bytes.len(), target));
        self.bytes.extend([0; 4]);
    }

    /// A loop: back to a gadget of this island.
    fn branch_back(&mut self, rng: &mut Rng) {
        let near = self.starts.len().saturating_sub(1 + rng.below(6) as usize);
        let target = self.starts[near];
        self.bytes.extend(GUARD);
        let distance = target as i64 - (self.bytes.len() as i64 + 2);
        match i8::try_from(distance) {
            // LOOPNE, LOOPE, LOOP, JRCXZ.
            Ok(distance) if rng.one_in(3) => {
                self.bytes.extend([0xe0 | rng.below(4) as u8, distance as u8]);
            }
            _ => {
                let target = self.base + target as u64;
                self.relative(&[0x0f, 0x80 | rng.below(16) as u8], target);
            }
        }
    }

    fn jump_or_call(&mut self, rng: &mut Rng) {
        self.bytes.extend(GUARD);
        let target = self.elsewhere(rng);
        let opcode = if rng.one_in(3) { 0xe9 } else { 0xe8 };
        self.relative(&[opcode], target);
    }

    fn indirect(&mut self, rng: &mut Rng) {
        self.bytes.extend(GUARD);
        let target = self.elsewhere(rng);
        let number = rng.below(3) as u32;
        // JMP or CALL, by a register or by a word of memory.
        let operation = rng.pick(&[2, 4]) << 3;
        if rng.one_in(4) {
            let pointer = rng.pick(&[3, 6, 7]);
            self.bytes.extend([0xff, 0x40 | operation | pointer, 8 * rng.below(8) as u8]);
        } else {
            self.load(number, target);
            self.bytes.extend([0xff, 0xc0 | operation | number as u8]);
        }
    }

    /// A store into the code pages: into this island or anywhere, by its own address or another.
    fn write_code(&mut self, rng: &mut Rng) {
        let near = self.base - MAPPED + self.bytes.len() as u64;
        let at = if rng.one_in(3) {
            rng.below(CODE_PAGES * PAGE_SIZE)
        } else {
            (near + rng.below(160)).saturating_sub(60)
        };
        let target = self.places.alias(at.min(CODE_PAGES * PAGE_SIZE - 8), rng);
        let value = rng.pick(&[0x90, 0xc3, 0x40, 0x9090_9090, 0x0f, 0x66, 0xf3]);
        let value = if rng.one_in(3) { rng.next_u64() } else { value };
        match rng.below(4) {
            0 => {
                let size = rng.pick(&[Code::Mov_rm8_imm8, Code::Mov_rm32_imm32]);
                let memory = iced_x86::MemoryOperand::with_displ(target, self.mode.bitness() / 8);
                let value = if size == Code::Mov_rm8_imm8 { value as u8 as i32 } else { value as i32 };
                if let Ok(store) = Instruction::with2(size, memory, value) {
                    self.put(&store);
                }
            }
            1 => {
                self.load(7, target);
                self.load(0, value & 0xffff_ffff);
                // STOSB, STOSD.
                self.bytes.push(rng.pick(&[0xaa, 0xab]));
            }
            2 => {
                // Code is copied over code, or over itself.
                let source = self.places.alias(near.saturating_sub(rng.below(64)), rng);
                self.load(7, target);
                self.load(6, if rng.one_in(4) { target } else { source });
                self.load(1, rng.below(24));
                self.bytes.extend([0xf3, 0xa4]);
            }
            _ => {
                self.load(3, target);
                // XCHG, LOCK XADD, ADD to memory.
                self.bytes.extend(rng.pick(&[
                    [0x87, 0x03, 0x90, 0x90],
                    [0xf0, 0x0f, 0xc1, 0x03],
                    [0x80, 0x03, 1, 0x90],
                ]));
            }
        }
    }

    fn string(&mut self, rng: &mut Rng) {
        for number in [6, 7] {
            let pointer = self.places.pointer(rng);
            self.load(number, pointer);
        }
        let count = if rng.one_in(8) { rng.below(0x900) } else { rng.below(40) };
        self.load(1, count);
        match rng.below(8) {
            0 => self.bytes.push(0xfd),
            1..4 => self.bytes.push(0xfc),
            _ => {}
        }
        if !rng.one_in(3) {
            self.bytes.push(rng.pick(&[0xf3, 0xf2]));
        }
        if rng.one_in(4) {
            self.bytes.push(if self.is_wide() { 0x48 } else { 0x66 });
        }
        self.bytes.push(rng.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]));
    }
}
