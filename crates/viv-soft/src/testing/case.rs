//! One instruction with the state that it starts from.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use viv_arch::{Gpr, xsave};

use super::forms::{Mode, random_instance};
use super::machine::SEGMENT_BASES;
use super::rng::Rng;
use crate::hostexec::{ExecState, FpuState};

/// Where the code of cases is: two pages.
pub const CODE: Range<u64> = 0x3000_0000..0x3000_2000;

/// Where the instruction of a case is, if it is not near the end of the page.
pub const START: u64 = CODE.start + 0x800;

/// Where the operands of cases are: four pages. Low enough for 32-bit addresses, near enough for RIP-relative
/// ones.
pub const DATA: Range<u64> = 0x3010_0000..0x3010_4000;

/// The right to map [`CODE`] and [`DATA`] in this process, which one holder has at a time.
#[derive(Debug)]
pub struct RegionLock {
    _guard: MutexGuard<'static, ()>,
}

impl RegionLock {
    /// Waits for it.
    #[must_use]
    pub fn take() -> Self {
        static LOCK: Mutex<()> = Mutex::new(());
        Self { _guard: LOCK.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// An instruction with everything that it depends on.
#[derive(Debug, Clone)]
pub struct Case {
    /// The instruction, decoded from `bytes`.
    pub instruction: Instruction,
    /// Its encoding, to be put at `state.rip`.
    pub bytes: Vec<u8>,
    /// What it runs in.
    pub mode: Mode,
    /// Registers.
    pub state: ExecState,
    /// Contents of [`DATA`].
    pub data: Vec<u8>,
}

impl Case {
    /// A random case of a form, all of whose memory accesses are inside [`DATA`]; `None` if chance chose
    /// operands that have no encoding or no such addresses.
    pub fn random(code: Code, mode: Mode, rng: &mut Rng) -> Option<Self> {
        let mut state = random_state(rng);
        let mut instruction = random_instance(code, mode, rng)?;
        if rng.one_in(8) {
            // Up to a byte before the page's end: many run into the next one.
            state.rip = CODE.start + 0x1000 - 1 - rng.below(14);
            let target = (instruction.near_branch_target() + state.rip).wrapping_sub(START);
            match instruction.op0_kind() {
                OpKind::NearBranch64 => instruction.set_near_branch64(target),
                OpKind::NearBranch32 => instruction.set_near_branch32(target as u32),
                _ => {}
            }
        }
        let mut encoder = Encoder::new(mode.bitness());
        encoder.encode(&instruction, state.rip).ok()?;
        let bytes = encoder.take_buffer();
        let instruction = Decoder::with_ip(mode.bitness(), &bytes, state.rip, DecoderOptions::NONE).decode();
        if instruction.code() != code || instruction.len() != bytes.len() {
            return None;
        }
        point_to_data(&instruction, &mut state, rng)?;
        if mode == Mode::Bits32 {
            // The upper halves cannot be seen, and may or may not survive.
            for gpr in &mut state.gpr {
                *gpr &= 0xffff_ffff;
            }
        }
        if !accesses_only_data(&instruction, &state) {
            return None;
        }
        let mut data: Vec<u8> =
            (0..(DATA.end - DATA.start) / 8).flat_map(|_| operand(rng).to_le_bytes()).collect();
        if chooses_components(&instruction) {
            make_area(&instruction, &state, &mut data, rng);
        }
        Some(Self { instruction, bytes, mode, state, data })
    }
}

impl Case {
    /// Moves the memory operand to another address, if there is one that a 64-bit register decides.
    pub fn move_operand(&mut self, address: u64) {
        let instruction = &self.instruction;
        let gpr = &mut self.state.gpr;
        if instruction.is_string_instruction() {
            gpr[Gpr::Rsi as usize] = address;
            gpr[Gpr::Rdi as usize] = address;
            return;
        }
        let operand = (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory);
        let Some(operand) = operand else {
            if instruction.is_stack_instruction() {
                gpr[Gpr::Rsp as usize] = address;
            }
            return;
        };
        let base = instruction.memory_base();
        let index = instruction.memory_index();
        if !base.is_gpr64() || base == index || !(index == Register::None || index.is_gpr64()) {
            return;
        }
        let now = instruction.virtual_address(operand, 0, |register, _, _| {
            Some(if register.is_gpr() { gpr[register.full_register().number()] } else { 0 })
        });
        if let Some(now) = now {
            let register = &mut gpr[base.number()];
            *register = register.wrapping_add(address.wrapping_sub(now));
        }
    }
}

/// Eight bytes of an operand: integers of every kind, and floating-point numbers of both sizes.
pub(super) fn operand(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.next_u64(),
        1 => rng.interesting(),
        2 => double(rng).to_bits(),
        _ => u64::from(single(rng).to_bits()) << 32 | u64::from(single(rng).to_bits()),
    }
}

fn double(rng: &mut Rng) -> f64 {
    match rng.below(8) {
        0 => rng.pick(&[0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX]),
        1 => rng.pick(&[f64::MIN_POSITIVE, 5e-324, -5e-324, 9.3e18, -2_147_483_649.0, 0.5, 1.5, 2.5]),
        2 => f64::from_bits(0x7ff0_0000_0000_0001), // a signalling NaN
        3 => rng.below(1 << 20) as f64,
        _ => (rng.next_u64() as i64 as f64) / (1u64 << rng.below(63)) as f64,
    }
}

fn single(rng: &mut Rng) -> f32 {
    match rng.below(8) {
        0 => f32::from_bits(0x7f80_0001),
        1 => rng.pick(&[f32::MIN_POSITIVE, 1e-45, -1e-45, f32::MAX, f32::INFINITY]),
        _ => double(rng) as f32,
    }
}

/// An address of data with room on both sides, aligned more often than not.
pub(super) fn data_pointer(rng: &mut Rng) -> u64 {
    let middle = DATA.start + 0x1000 + rng.below(0x2000 / 64) * 64;
    match rng.below(6) {
        0 => middle + rng.below(64),
        // Across the border of two pages.
        2 => DATA.start + 0x2000 - rng.below(40),
        1 => middle + rng.below(4) * 16,
        _ => middle,
    }
}

pub(super) fn random_state(rng: &mut Rng) -> ExecState {
    let mut state = ExecState { rip: START, fpu: random_fpu(rng), ..ExecState::default() };
    for gpr in &mut state.gpr {
        *gpr = if rng.one_in(4) { data_pointer(rng) } else { rng.interesting() };
    }
    state.gpr[Gpr::Rsp as usize] = data_pointer(rng) & !7;
    // CF, PF, AF, ZF, SF, DF and OF at random; IF as in every user program.
    state.rflags = 0x202 | rng.next_u64() & 0xcd5;
    state
}

fn random_fpu(rng: &mut Rng) -> FpuState {
    let mut fpu = FpuState::reset();
    for lane in fpu.ymm.iter_mut().flat_map(|register| register.chunks_exact_mut(8)) {
        lane.copy_from_slice(&operand(rng).to_le_bytes());
    }
    // Flags, DAZ, rounding and FTZ at random; exceptions are mostly masked.
    let masks = if rng.one_in(8) { rng.below(64) as u32 } else { 63 };
    fpu.set_mxcsr(rng.next_u64() as u32 & 0xe07f | masks << 7);

    let masks = if rng.one_in(8) { rng.below(64) as u16 } else { 63 };
    let control = rng.pick(&[0x0340, 0x0040, 0x0240, 0x0740, 0x0b40, 0x0f40]) | masks;
    let flags = rng.below(64) as u16 & if rng.one_in(16) { 63 } else { masks };
    let pending = if flags & !masks == 0 { 0 } else { 0x8080 };
    let status = rng.next_u64() as u16 & 0x7f00 | flags | pending;
    fpu.fx[xsave::FCW..xsave::FCW + 2].copy_from_slice(&control.to_le_bytes());
    fpu.fx[xsave::FSW..xsave::FSW + 2].copy_from_slice(&status.to_le_bytes());
    fpu.fx[xsave::FTW] = rng.next_u64() as u8 | rng.next_u64() as u8;
    fpu.fx[xsave::FOP..xsave::FOP + 2].copy_from_slice(&(rng.next_u64() as u16 & 0x7ff).to_le_bytes());
    for pointer in [xsave::FIP, xsave::FDP] {
        fpu.fx[pointer..pointer + 8].copy_from_slice(&(rng.next_u64() >> 17).to_le_bytes());
    }
    for n in 0..8 {
        let register = &mut fpu.fx[xsave::ST0 + 16 * n..][..10];
        let (significand, exponent) = extended(rng);
        register[..8].copy_from_slice(&significand.to_le_bytes());
        register[8..].copy_from_slice(&exponent.to_le_bytes());
    }
    fpu
}

/// A double-extended number: significand with its integer bit, exponent with the sign.
fn extended(rng: &mut Rng) -> (u64, u16) {
    let sign = rng.next_u64() as u16 & 0x8000;
    match rng.below(8) {
        0 => (rng.pick(&[0, 1 << 63]), sign),
        1 => (rng.pick(&[1 << 63, 3 << 62, 1 << 63 | 1]), sign | 0x7fff),
        2 => (rng.next_u64(), rng.next_u64() as u16),
        3 => (1 << 63, sign | 0x3fff),
        4 => (1 << 63 | rng.next_u64(), sign | rng.below(0x7fff) as u16),
        _ => (1 << 63 | rng.next_u64(), sign | (0x3fff - 40 + rng.below(110) as u16)),
    }
}

/// Sets the registers that make up addresses so that these are in [`DATA`].
fn point_to_data(instruction: &Instruction, state: &mut ExecState, rng: &mut Rng) -> Option<()> {
    let mnemonic = instruction.mnemonic();
    if instruction.is_string_instruction() || matches!(mnemonic, Mnemonic::Maskmovq | Mnemonic::Maskmovdqu) {
        state.gpr[Gpr::Rsi as usize] = data_pointer(rng);
        state.gpr[Gpr::Rdi as usize] = data_pointer(rng);
        if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
            state.gpr[Gpr::Rcx as usize] = rng.below(20);
        }
    }
    match mnemonic {
        Mnemonic::Vmaskmovdqu => state.gpr[Gpr::Rdi as usize] = data_pointer(rng),
        Mnemonic::Enter | Mnemonic::Leave => state.gpr[Gpr::Rbp as usize] = data_pointer(rng) & !7,
        _ if chooses_components(instruction) => {
            state.gpr[Gpr::Rax as usize] = rng.below(8);
            state.gpr[Gpr::Rdx as usize] = 0;
        }
        Mnemonic::Xlatb => {
            state.gpr[Gpr::Rbx as usize] = data_pointer(rng);
            return Some(());
        }
        _ => {}
    }
    if (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory) {
        point_operand_to_data(instruction, state, rng)?;
    }
    Some(())
}

/// Whether EDX:EAX says which state components it works on. Guests have but three.
pub(super) fn chooses_components(instruction: &Instruction) -> bool {
    use Mnemonic::{Xrstor, Xrstor64, Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64};
    matches!(
        instruction.mnemonic(),
        Xsave | Xsave64 | Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64
    )
}

/// Makes the operand an area that can be restored, more often than not.
fn make_area(instruction: &Instruction, state: &ExecState, data: &mut [u8], rng: &mut Rng) {
    let address =
        instruction.virtual_address(0, 0, |register, element, size| value(state, register, element, size));
    let start = address.map_or(usize::MAX, |address| address.wrapping_sub(DATA.start) as usize);
    let Some(area) = data.get_mut(start..).and_then(|data| data.get_mut(..xsave::HEADER_END)) else { return };
    if rng.one_in(4) {
        return;
    }
    area[xsave::XSTATE_BV..].fill(0);
    area[xsave::XSTATE_BV] = rng.below(8) as u8;
    if rng.one_in(3) {
        area[xsave::XCOMP_BV] = rng.below(8) as u8 | area[xsave::XSTATE_BV];
        area[xsave::XCOMP_BV + 7] = 0x80;
    }
    // A processor may have loaded much before it refuses MXCSR, so this is valid.
    let mxcsr = rng.next_u64() as u32 & xsave::MXCSR_VALID;
    area[xsave::MXCSR..xsave::MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
}

fn point_operand_to_data(instruction: &Instruction, state: &mut ExecState, rng: &mut Rng) -> Option<()> {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if is_bit_string(instruction) {
        let offset = instruction.op1_register().full_register();
        if offset == base.full_register() || offset == index.full_register() {
            return None;
        }
        state.gpr[offset.number()] = (rng.below(4096) as i64 - 2048) as u64;
    }
    if base == Register::RIP || (base == Register::None && index == Register::None) {
        return Some(());
    }
    if index.is_vector_register() {
        let offsets = &mut state.fpu.ymm[index.number()];
        let wide = has_wide_index(instruction);
        for lane in offsets.chunks_exact_mut(if wide { 8 } else { 4 }) {
            let offset = rng.below(64) as i64 - 32;
            lane.copy_from_slice(&offset.to_le_bytes()[..lane.len()]);
        }
    }
    let mut open = data_pointer(rng).wrapping_sub(instruction.memory_displacement64());
    let scale = u64::from(instruction.memory_index_scale());
    let narrow = base.is_gpr32() || index.is_gpr32();
    let solved = if base == Register::None {
        open /= scale;
        index
    } else {
        if index.is_gpr() && index == base {
            open = if narrow { open & 0xffff_ffff } else { open } / (1 + scale);
        } else if index.is_gpr() {
            open = open.wrapping_sub(state.gpr[index.number()].wrapping_mul(scale));
        }
        base
    };
    // What is above a 32-bit address does not count.
    let above = if narrow { rng.next_u64() << 32 } else { 0 };
    let mask = if narrow { 0xffff_ffff } else { u64::MAX };
    state.gpr[solved.number()] = open & mask | above;
    Some(())
}

/// Whether every access is inside the data pages: the native side must not write anywhere else.
pub(super) fn accesses_only_data(instruction: &Instruction, state: &ExecState) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let is_of_guests = |gpr: Gpr, components: u32| state.gpr[gpr as usize] as u32 & !components == 0;
    if chooses_components(instruction) && !(is_of_guests(Gpr::Rax, 7) && is_of_guests(Gpr::Rdx, 0)) {
        return false;
    }
    factory.info(instruction).used_memory().iter().all(|memory| {
        if memory.access() == OpAccess::NoMemAccess {
            return true;
        }
        let address =
            memory.virtual_address(0, |register, element, size| value(state, register, element, size));
        // Room for repetitions, further elements of gathers, bit offsets, and what lies behind an XSAVE header.
        let room = if chooses_components(instruction) { 1024 } else { 512 };
        address.is_some_and(|address| (DATA.start + room..DATA.end - room).contains(&address))
    })
}

/// Whether an operand in memory is a string of bits, with an offset in a register.
pub(super) fn is_bit_string(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
}

/// Whether accesses stay near the addresses that [`accesses_only_data`] looks at: counts, bit offsets and indices in
/// vectors are small.
pub(super) fn reaches_not_far(instruction: &Instruction, state: &ExecState) -> bool {
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        let count = state.gpr[Gpr::Rcx as usize];
        return !instruction.is_string_instruction() || count <= 40;
    }
    if is_bit_string(instruction) {
        let register = instruction.op1_register();
        let bits = value(state, register, 0, 0).unwrap_or(u64::MAX);
        let shift = 64 - 8 * register.size() as u32;
        return ((bits << shift) as i64 >> shift).unsigned_abs() <= 2048;
    }
    let index = instruction.memory_index();
    if index.is_vector_register() {
        let lanes = &state.fpu.ymm[index.number()];
        let is_small = |lane: &[u8]| lane.iter().skip(1).all(|&byte| byte == 0) && lane[0] < 0x80;
        let size = if has_wide_index(instruction) { 8 } else { 4 };
        return lanes.chunks_exact(size).all(is_small);
    }
    true
}

/// Whether the indices of a gather have 64 bits.
pub(super) fn has_wide_index(instruction: &Instruction) -> bool {
    use Mnemonic::{Vgatherqpd, Vgatherqps, Vpgatherqd, Vpgatherqq};
    matches!(instruction.mnemonic(), Vgatherqps | Vgatherqpd | Vpgatherqd | Vpgatherqq)
}

/// The value of a register, or of an element of one, in an address.
pub(super) fn value(state: &ExecState, register: Register, element: usize, size: usize) -> Option<u64> {
    let number = register.number();
    Some(if register.is_vector_register() {
        let bytes = state.fpu.ymm[number].get(element * size..(element + 1) * size)?;
        match size {
            4 => i64::from(i32::from_le_bytes(bytes.try_into().ok()?)) as u64,
            _ => u64::from_le_bytes(bytes.try_into().ok()?),
        }
    } else if register.is_segment_register() {
        match register {
            Register::FS => SEGMENT_BASES[0],
            Register::GS => SEGMENT_BASES[1],
            _ => 0,
        }
    } else {
        let gpr = state.gpr[register.full_register().number()];
        match register.size() {
            8 => gpr,
            4 => gpr & 0xffff_ffff,
            2 => gpr & 0xffff,
            _ => gpr & 0xff,
        }
    })
}
