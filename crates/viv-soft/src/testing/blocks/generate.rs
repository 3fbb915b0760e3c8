//! Random blocks.
//!
//! An instruction is chosen, aimed at data by what the registers hold at that point, and executed by the interpreter;
//! the next is chosen for the state that it left. So a block goes on where another generator's would fault at its
//! second instruction. What a taken branch skips is not executed, and is anything.

use iced_x86::{Instruction, Register};
use viv_arch::Rflags;
use viv_arch::paging::PAGE_SIZE;

use super::super::case::{operand, random_state};
use super::super::differential::Layout;
use super::super::forms::random_instance;
use super::super::{CODE, DATA, Machine, Mode, Protection, Rng, START};
use super::aim::Aimed;
use super::block::{Block, Code, Step, decode, encode_at, reads_undefined};
use super::pool::Pool;
use crate::cpu::Pending;
use crate::hostexec::ExecState;

/// The most instructions of a block, loads of addresses not counted.
const MAX_STEPS: u64 = 32;
/// How far behind a short branch its target is bound at the latest, in bytes.
const SHORT: u64 = 40;

/// Makes blocks of one mode.
pub struct Generator {
    mode: Mode,
    pool: Pool,
    machine: Machine,
    layout: Layout,
}

/// A block that is being made.
struct Draft {
    steps: Vec<Step>,
    /// Where the next instruction goes.
    address: u64,
    /// Registers at this point.
    state: ExecState,
    /// Data at this point.
    data: Vec<u8>,
    layout: Layout,
    /// Branches that were not taken and lead nowhere yet: the step, the address behind it, the number of steps at which
    /// it gets its target.
    open: Vec<(usize, u64, usize)>,
    /// Whether an instruction may fault now, which ends the block.
    may_fault: bool,
    /// Whether it has what cannot be compared with the processor.
    has_system: bool,
}

impl Generator {
    /// For blocks of a mode.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let mut machine = Machine::interpreter(mode);
        super::execute::map(&mut machine);
        Self { mode, pool: Pool::new(mode), machine, layout: Layout::OPEN }
    }

    /// The block of a seed, as it lies in memory. `None`, rarely, if what was chosen cannot be laid out.
    pub fn block(&mut self, seed: u64) -> Option<(Block, Code)> {
        let mut rng = Rng::new(seed ^ u64::from(self.mode.bitness()) << 56);
        let rng = &mut rng;
        let mut state = random_state(rng);
        let near_end = rng.one_in(4);
        state.rip =
            if near_end { CODE.start + PAGE_SIZE - 1 - rng.below(300) } else { START + rng.below(64) };
        if self.mode == Mode::Bits32 {
            for gpr in &mut state.gpr {
                *gpr &= 0xffff_ffff;
            }
        }
        let has_system = rng.one_in(6);
        if has_system && rng.one_in(3) {
            state.rflags |= Rflags::AC.bits();
        }
        // Offsets for gathers.
        let offsets = &mut state.fpu.ymm[rng.below(u64::from(self.mode.bitness()) / 4) as usize];
        for lane in offsets.chunks_exact_mut(8) {
            lane.copy_from_slice(&rng.below(64).to_le_bytes());
        }
        let data: Vec<u8> =
            (0..(DATA.end - DATA.start) / 8).flat_map(|_| operand(rng).to_le_bytes()).collect();
        let faults = rng.one_in(3);
        let layout = random_layout(near_end && faults, rng);
        self.prepare(&layout, &data);
        let mut draft = Draft {
            steps: Vec::new(),
            address: state.rip,
            state: state.clone(),
            data: data.clone(),
            layout: layout.clone(),
            open: Vec::new(),
            may_fault: false,
            has_system,
        };
        let length = 1 + rng.below(MAX_STEPS) as usize;
        let faults_from = if faults { rng.below(length as u64) as usize } else { usize::MAX };
        let mut goes_on = true;
        let mut tries = 8 * length;
        while goes_on && tries > 0 && draft.steps.len() < length && draft.address + 150 < CODE.end {
            tries -= 1;
            draft.bind();
            draft.may_fault = draft.steps.len() >= faults_from;
            goes_on = if rng.one_in(8) {
                self.branch(&mut draft, rng);
                true
            } else {
                self.straight(&mut draft, rng)
            };
        }
        if !goes_on {
            self.skipped(&mut draft, rng);
        }
        let end = draft.steps.len();
        for (step, _, _) in draft.open {
            draft.steps[step].target = Some(end);
        }
        let block = Block { mode: self.mode, steps: draft.steps, state, data, layout };
        let code = block.code()?;
        Some((block, code))
    }

    fn prepare(&mut self, layout: &Layout, data: &[u8]) {
        for (page, protection) in layout.changes(&self.layout) {
            self.machine.space().protect(page, PAGE_SIZE, protection);
        }
        self.layout = layout.clone();
        self.machine.space().write(DATA.start, data);
    }

    /// Adds an instruction that the next one follows, with the loads that it needs. False if it faults.
    fn straight(&mut self, draft: &mut Draft, rng: &mut Rng) -> bool {
        let open = draft.layout == Layout::OPEN;
        let code = if draft.has_system && rng.one_in(8) {
            self.pool.system(rng)
        } else {
            self.pool.straight(open, rng)
        };
        let Some(instance) = self.instance(code, draft.has_system, rng) else { return true };
        let wild = draft.may_fault && rng.one_in(6);
        let Some(aimed) = Aimed::new(instance, self.mode, &draft.state, wild, rng) else { return true };
        let mut address = draft.address;
        let mut steps = Vec::new();
        for instruction in aimed.loads.into_iter().chain([aimed.instruction]) {
            let Some(bytes) = encode_at(self.mode, &instruction, address) else { return true };
            let instruction = decode(self.mode, &bytes, address);
            steps.push((address, bytes.len() as u64, Step::plain(instruction)));
            address += bytes.len() as u64;
        }
        let Some((at, length, last)) = steps.last().cloned() else { return true };
        if last.instruction.code() != code {
            return true;
        }
        let count = draft.steps.len();
        draft.steps.extend(steps.into_iter().map(|(_, _, step)| step));
        if draft.reads_undefined() {
            draft.steps.truncate(count);
            return true;
        }
        let mut state = ExecState { rip: at, ..aimed.state };
        match self.execute(&last.instruction, &mut state) {
            Ok(()) => {
                draft.address = at + length;
                draft.state = state;
                self.machine.space().read(DATA.start, &mut draft.data);
                true
            }
            Err(Pending::Exception(_)) if draft.may_fault => {
                draft.address = at + length;
                false
            }
            Err(_) => {
                draft.steps.truncate(count);
                self.machine.space().write(DATA.start, &draft.data);
                true
            }
        }
    }

    /// Adds a branch. Where it leads to, if it is taken, is behind some instructions that are skipped.
    fn branch(&mut self, draft: &mut Draft, rng: &mut Rng) {
        /// Near enough for all of them.
        const AHEAD: u64 = 0x20;
        let form = self.pool.branch(rng);
        let Ok(branch) = Instruction::with_branch(form, draft.address + AHEAD) else { return };
        let Some(bytes) = encode_at(self.mode, &branch, draft.address) else { return };
        let behind = draft.address + bytes.len() as u64;
        let mut state = ExecState { rip: draft.address, ..draft.state.clone() };
        if branch.is_stack_instruction() && !(DATA.start + 0x800..DATA.end - 0x800).contains(&state.gpr[4]) {
            return;
        }
        let this = draft.steps.len();
        draft.steps.push(Step { instruction: branch, target: Some(this + 1) });
        if draft.reads_undefined() || self.execute(&branch, &mut state).is_err() {
            draft.steps.truncate(this);
            self.machine.space().write(DATA.start, &draft.data);
            return;
        }
        let taken = state.rip != behind;
        draft.state = state;
        draft.address = behind;
        self.machine.space().read(DATA.start, &mut draft.data);
        if taken {
            self.skipped(draft, rng);
            draft.steps[this].target = Some(draft.steps.len());
        } else {
            draft.open.push((this, behind, this + 1 + rng.below(6) as usize));
        }
    }

    /// Adds up to two instructions that are not executed.
    fn skipped(&mut self, draft: &mut Draft, rng: &mut Rng) {
        for _ in 0..rng.below(3) {
            let code = self.pool.straight(true, rng);
            let Some(instruction) = self.instance(code, false, rng) else { continue };
            let Some(bytes) = encode_at(self.mode, &instruction, draft.address) else { continue };
            let instruction = decode(self.mode, &bytes, draft.address);
            if instruction.code() != code {
                continue;
            }
            draft.steps.push(Step::plain(instruction));
            if draft.reads_undefined() {
                draft.steps.pop();
            } else {
                draft.address += bytes.len() as u64;
            }
        }
    }

    /// A random instruction of a form, with a segment prefix now and then.
    fn instance(&self, code: iced_x86::Code, has_system: bool, rng: &mut Rng) -> Option<Instruction> {
        let mut instruction = random_instance(code, self.mode, rng)?;
        let has_memory = (0..instruction.op_count())
            .any(|operand| instruction.op_kind(operand) == iced_x86::OpKind::Memory);
        if has_memory && has_system && rng.one_in(4) {
            instruction.set_segment_prefix(rng.pick(&[Register::FS, Register::GS]));
        } else if has_memory && rng.one_in(32) {
            // It changes nothing, but the exception where it is SS and 64-bit mode does not look at it.
            instruction.set_segment_prefix(rng.pick(&[Register::ES, Register::DS]));
        }
        Some(instruction)
    }

    /// Executes one instruction at `state.rip`.
    fn execute(&mut self, instruction: &Instruction, state: &mut ExecState) -> Result<(), Pending> {
        let mut bytes = encode_at(self.mode, instruction, state.rip).unwrap_or_default();
        // Nothing is decoded behind it.
        bytes.push(0xf4);
        self.machine.space().write(state.rip, &bytes);
        self.machine.step(state)
    }
}

impl Draft {
    /// Gives branches their target where it is time to.
    fn bind(&mut self) {
        let (here, address) = (self.steps.len(), self.address);
        let steps = &mut self.steps;
        self.open.retain(|&(step, behind, due)| {
            let waits = here < due && address - behind < SHORT;
            if !waits {
                steps[step].target = Some(here);
            }
            waits
        });
    }

    /// Whether an instruction may read a flag that is undefined, as far as the block goes.
    fn reads_undefined(&self) -> bool {
        reads_undefined(&self.steps)
    }
}

/// What may be done with the pages of a block, and whether the code runs into a page that it cannot.
fn random_layout(runs_out: bool, rng: &mut Rng) -> Layout {
    use Protection::{None, ReadOnly, ReadWrite};
    let mut layout = Layout::OPEN;
    if rng.one_in(4) {
        layout.data[1] = rng.pick(&[None, ReadOnly, ReadWrite]);
        layout.data[2] = rng.pick(&[None, ReadOnly, ReadWrite]);
    }
    if runs_out && rng.one_in(2) {
        layout.second_code = rng.pick(&[None, ReadWrite]);
    }
    layout
}
