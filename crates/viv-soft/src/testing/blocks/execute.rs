//! What blocks are executed by.

use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, Register};
use viv_arch::paging::PAGE_SIZE;
use viv_arch::{Exception, Rflags, Vector};

use super::super::case::{RegionLock, accesses_only_data, chooses_components, reaches_not_far, value};
use super::super::differential::{FORBIDDEN, Layout, SUPERVISOR, by_page};
use super::super::{CODE, DATA, Machine, Mode, NativeCpu, NativeFault, Outcome, Protection, excluded};
use super::block::{Block, Code};
use crate::cpu::Pending;
use crate::hostexec::ExecState;
use crate::options::Options;

/// Something that executes blocks.
pub trait Executor {
    /// What it is called in reports.
    fn name(&self) -> String;

    /// Executes a block, which `code` is the encoding of, up to its end or to its first exception. `None` if it is not
    /// for this executor.
    ///
    /// # Errors
    /// What happened instead.
    fn execute(&mut self, block: &Block, code: &Code) -> Result<Option<Outcome>, String>;
}

/// The processor, an instruction at a time.
pub struct Native {
    cpu: NativeCpu,
    layout: Layout,
    _regions: RegionLock,
}

impl Native {
    /// The processor in a mode. One thread has it at a time.
    ///
    /// # Panics
    /// If the addresses of blocks are taken in this process.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let regions = RegionLock::take();
        let mut cpu = NativeCpu::in_mode(mode);
        for (page, protection) in pages() {
            cpu.map(page, PAGE_SIZE as usize, protection).expect("the address is free");
        }
        Self { cpu, layout: Layout::OPEN, _regions: regions }
    }
}

impl Executor for Native {
    fn name(&self) -> String {
        "native".to_owned()
    }

    fn execute(&mut self, block: &Block, code: &Code) -> Result<Option<Outcome>, String> {
        let is_apart = |instruction: &Instruction| {
            excluded(instruction.code()).is_some()
                // Which components are in their initial configuration, processors track each in its own way.
                || chooses_components(instruction)
                || matches!(instruction.segment_prefix(), Register::FS | Register::GS)
        };
        // With AC set, the signal handler itself could not access what is not aligned.
        let checks_alignment = block.state.rflags & Rflags::AC.bits() != 0;
        if checks_alignment || code.instructions.iter().any(is_apart) {
            return Ok(None);
        }
        for (page, protection) in block.layout.changes(&self.layout) {
            self.cpu.protect(page, protection);
        }
        self.layout = block.layout.clone();
        for (address, bytes) in by_page(block.state.rip, &code.bytes).chain(by_page(DATA.start, &block.data))
        {
            self.cpu.write(address, bytes);
        }
        let mut is_safe = true;
        let result = step_through(block, code, |state, n| {
            let instruction = &code.instructions[n];
            let is_known = accesses_only_data(instruction, state) || accesses_forbidden(instruction, state);
            if !(is_known && reaches_not_far(instruction, state)) {
                is_safe = false;
                return Ok(Some(Exception::ud()));
            }
            Ok(self.cpu.step(state).err().map(|NativeFault { vector, error_code, address }| Exception {
                vector,
                error_code,
                address: if vector == Vector::PageFault { address } else { 0 },
            }))
        });
        if !is_safe {
            return Ok(None);
        }
        let (state, fault) = result?;
        let mut data = vec![0; block.data.len()];
        for (page, bytes) in data.chunks_exact_mut(PAGE_SIZE as usize).enumerate() {
            self.cpu.read(DATA.start + page as u64 * PAGE_SIZE, bytes);
        }
        Ok(Some(Outcome { state, data, fault }))
    }
}

/// The interpreter, an instruction at a time.
pub struct Stepped {
    machine: Machine,
    layout: Layout,
}

impl Stepped {
    /// The interpreter in a mode.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let mut machine = Machine::interpreter(mode);
        map(&mut machine);
        Self { machine, layout: Layout::OPEN }
    }
}

impl Executor for Stepped {
    fn name(&self) -> String {
        "stepped".to_owned()
    }

    fn execute(&mut self, block: &Block, code: &Code) -> Result<Option<Outcome>, String> {
        prepare(&mut self.machine, &mut self.layout, block, code);
        let (state, fault) = step_through(block, code, |state, _| match self.machine.step(state) {
            Ok(()) => Ok(None),
            // Other addresses are the engine's own marks.
            Err(Pending::Exception(exception)) if exception.vector != Vector::PageFault => {
                Ok(Some(Exception { address: 0, ..exception }))
            }
            Err(Pending::Exception(exception)) => Ok(Some(exception)),
            Err(other) => Err(format!("the interpreter gave up: {other:?}")),
        })?;
        let mut data = vec![0; block.data.len()];
        self.machine.space().read(DATA.start, &mut data);
        Ok(Some(Outcome { state, data, fault }))
    }
}

/// A vCPU's own loop.
pub struct Whole {
    machine: Machine,
    layout: Layout,
    options: Options,
}

impl Whole {
    /// A vCPU in a mode that runs code as these options say.
    #[must_use]
    pub fn new(mode: Mode, options: Options) -> Self {
        let mut machine = Machine::new(mode, options);
        map(&mut machine);
        Self { machine, layout: Layout::OPEN, options }
    }
}

impl Executor for Whole {
    fn name(&self) -> String {
        match self.options.torture {
            Some(torture) => format!("tier={} torture={}", self.options.tier, torture.seed),
            None => format!("tier={}", self.options.tier),
        }
    }

    fn execute(&mut self, block: &Block, code: &Code) -> Result<Option<Outcome>, String> {
        prepare(&mut self.machine, &mut self.layout, block, code);
        let mut state = block.state.clone();
        let exception = self.machine.run(&mut state)?;
        // Nothing but HLT is there, and that perhaps in a page that it cannot be fetched from.
        let is_end = state.rip == code.end();
        let mut data = vec![0; block.data.len()];
        self.machine.space().read(DATA.start, &mut data);
        Ok(Some(Outcome { state, data, fault: (!is_end).then_some(exception) }))
    }
}

/// Executes instructions one after the other, from the block's start to its end or to the first exception, which
/// comes with the state.
fn step_through(
    block: &Block,
    code: &Code,
    mut step: impl FnMut(&mut ExecState, usize) -> Result<Option<Exception>, String>,
) -> Result<(ExecState, Option<Exception>), String> {
    let mut state = block.state.clone();
    loop {
        let at = state.rip;
        let Some(n) = code.index(at) else { return Err(format!("control leaves the block, for {at:#x}")) };
        if n == code.instructions.len() {
            return Ok((state, None));
        }
        if let Some(exception) = step(&mut state, n)? {
            return Ok((state, Some(exception)));
        }
        if state.rip <= at {
            return Err(format!("control goes back, from {at:#x} to {:#x}", state.rip));
        }
    }
}

/// The pages of blocks with what may be done with them at first.
fn pages() -> impl Iterator<Item = (u64, Protection)> {
    Layout::OPEN.pages().chain([(CODE.start, Protection::All)])
}

/// Maps the pages of blocks, and those of a supervisor's that their accesses go astray to.
pub fn map(machine: &mut Machine) {
    for (page, protection) in pages() {
        machine.space().map(page, PAGE_SIZE, protection);
    }
    for page in SUPERVISOR {
        machine.space().map_supervisor(page, PAGE_SIZE);
    }
}

fn prepare(machine: &mut Machine, layout: &mut Layout, block: &Block, code: &Code) {
    for (page, protection) in block.layout.changes(layout) {
        machine.space().protect(page, PAGE_SIZE, protection);
    }
    *layout = block.layout.clone();
    machine.space().write(block.state.rip, &code.bytes);
    machine.space().write(DATA.start, &block.data);
}

/// Whether every access is to where no user program has access, on any Linux: it faults.
fn accesses_forbidden(instruction: &Instruction, state: &ExecState) -> bool {
    let is_forbidden = |address: u64| {
        FORBIDDEN.iter().any(|&forbidden| address.wrapping_sub(forbidden).wrapping_add(64) < 128)
    };
    let is_data = |address: u64| (DATA.start + 512..DATA.end - 512).contains(&address);
    let mut factory = InstructionInfoFactory::new();
    factory.info(instruction).used_memory().iter().all(|memory| {
        memory.access() == OpAccess::NoMemAccess
            || memory
                .virtual_address(0, |register, element, size| value(state, register, element, size))
                .is_some_and(|address| is_forbidden(address) || is_data(address))
    })
}
