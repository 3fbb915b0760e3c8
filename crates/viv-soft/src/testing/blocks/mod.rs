//! Blocks of instructions by several executors: the processor, the interpreter a step at a time, and vCPUs that run
//! code in every way they can.
//!
//! [`Generator`] makes blocks, each from its own seed; [`compare`] executes them and says where two executors differ,
//! with the block made as small as it can be. An executor of another kind is anything that implements [`Executor`].

mod aim;
mod block;
mod execute;
mod generate;
mod pool;
mod shrink;

use std::collections::HashSet;

use iced_x86::Code as Form;
use viv_arch::paging::PAGE_SIZE;
use viv_arch::{Exception, Vector};

pub use block::{Block, Code, Step};
pub use execute::{Executor, Native, Stepped, Whole};
pub use generate::Generator;
#[cfg(test)]
pub(super) use {block::encode_at, pool::Pool};

use super::outcome::{difference, undefined_flags};
use super::{Mode, Outcome, has_own_fault_address};
use crate::hostexec::ExecState;
use crate::options::Options as EngineOptions;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Options {
    /// Blocks of each mode.
    pub blocks: u64,
    /// The first block's seed; the others' follow it.
    pub seed: u64,
    /// This mode only.
    pub mode: Option<Mode>,
    /// Whether all executors but the processor must agree on flags, too, that are dead where an instruction faults,
    /// because it or a later one would replace them.
    pub strict: bool,
}

impl Options {
    /// From the environment: `VIV_DIFF_BLOCKS`, `VIV_DIFF_SEED`, `VIV_DIFF_BITS`, `VIV_DIFF_STRICT`.
    #[must_use]
    pub fn from_environment(default_blocks: u64) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        Self {
            blocks: number("VIV_DIFF_BLOCKS").unwrap_or(default_blocks),
            seed: number("VIV_DIFF_SEED").unwrap_or(0),
            mode: number("VIV_DIFF_BITS").map(|bits| if bits == 32 { Mode::Bits32 } else { Mode::Bits64 }),
            strict: number("VIV_DIFF_STRICT").unwrap_or(0) != 0,
        }
    }
}

/// Makes an executor for a mode.
pub type Make = dyn Fn(Mode) -> Box<dyn Executor>;

/// Executors that run blocks on a vCPU of each engine.
pub fn vcpus(engines: &[EngineOptions]) -> Vec<Box<Make>> {
    let make =
        |&engine: &EngineOptions| -> Box<Make> { Box::new(move |mode| Box::new(Whole::new(mode, engine))) };
    engines.iter().map(make).collect()
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Report {
    /// Blocks that were compared.
    pub blocks: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// Blocks that the processor executed, too.
    pub native: u64,
    /// Blocks that ended with an exception.
    pub faults: u64,
    /// Those of them in which it was a page fault.
    pub page_faults: u64,
    /// Forms that they were made of.
    pub forms: HashSet<Form>,
    /// A text for every block with different outcomes.
    pub differences: Vec<String>,
}

/// How many differences a comparison finds before it ends.
const ENOUGH: usize = 12;

/// Compares random blocks: the interpreter, a step at a time, with the processor where that can execute all of a block,
/// and with every other executor.
///
/// # Panics
/// If the addresses of blocks are taken in this process.
#[must_use]
pub fn compare(options: &Options, others: &[Box<Make>]) -> Report {
    let mut report = Report::default();
    for mode in [Mode::Bits64, Mode::Bits32] {
        if options.mode.is_some_and(|only| only != mode) {
            continue;
        }
        let mut sides = Sides::new(mode, options.strict, others);
        let mut generator = Generator::new(mode);
        for seed in (options.seed..).take(options.blocks as usize) {
            if report.differences.len() >= ENOUGH {
                return report;
            }
            if let Some((block, code)) = generator.block(seed) {
                sides.compare(&block, &code, seed, &mut report);
            }
        }
    }
    report
}

/// The executors.
struct Sides<'a> {
    mode: Mode,
    native: Native,
    stepped: Stepped,
    others: Vec<(Box<dyn Executor>, &'a Make)>,
    strict: bool,
}

impl<'a> Sides<'a> {
    fn new(mode: Mode, strict: bool, others: &'a [Box<Make>]) -> Self {
        let others = others.iter().map(|make| (make(mode), &**make)).collect();
        Self { mode, native: Native::new(mode), stepped: Stepped::new(mode), others, strict }
    }

    fn compare(&mut self, block: &Block, code: &Code, seed: u64, report: &mut Report) {
        let mode = self.mode;
        let loose = if self.strict { Loose::Nothing } else { Loose::Dead };
        let stepped = self.stepped.execute(block, code);
        report.blocks += 1;
        report.instructions += block.steps.len() as u64;
        report.forms.extend(block.steps.iter().map(|step| step.instruction.code()));
        if let Ok(Some(Outcome { fault: Some(fault), .. })) = &stepped {
            report.faults += 1;
            report.page_faults += u64::from(fault.vector == Vector::PageFault);
        }
        let native = self.native.execute(block, code);
        report.native += u64::from(matches!(native, Ok(Some(_))));
        if !agree(block, code, &stepped, &native, Loose::Undefined) {
            let mut pair = |block: &Block, code: &Code| {
                (Stepped::new(mode).execute(block, code), self.native.execute(block, code))
            };
            report.differences.push(explain(block, ["stepped", "native"], seed, Loose::Undefined, &mut pair));
        }
        for (other, make) in &mut self.others {
            let outcome = other.execute(block, code);
            if agree(block, code, &stepped, &outcome, loose) {
                continue;
            }
            let name = other.name();
            let names = ["stepped", name.as_str()];
            let mut fresh = |block: &Block, code: &Code| {
                (Stepped::new(mode).execute(block, code), make(mode).execute(block, code))
            };
            let again = fresh(block, code);
            report.differences.push(if agree(block, code, &again.0, &again.1, loose) {
                // It takes the blocks before this one.
                let text = tell(block, names, &stepped, &outcome);
                format!("{}\n  a fresh executor does not show it{text}", heading(block, names, seed))
            } else {
                explain(block, names, seed, loose, &mut fresh)
            });
            *other = make(mode);
        }
    }
}

/// What an executor made of a block.
type Result = std::result::Result<Option<Outcome>, String>;

/// The text for a block on which two executors differ, with the block made small.
fn explain(
    block: &Block,
    names: [&str; 2],
    seed: u64,
    loose: Loose,
    pair: &mut dyn FnMut(&Block, &Code) -> (Result, Result),
) -> String {
    let smallest = shrink::shrink(block, |candidate| {
        candidate.code().is_some_and(|code| {
            let (expected, actual) = pair(candidate, &code);
            // A block that has gone to where it must not is another matter.
            matches!(expected, Ok(Some(_))) && !agree(candidate, &code, &expected, &actual, loose)
        })
    });
    let Some(code) = smallest.code() else { return heading(block, names, seed) };
    let (expected, actual) = pair(&smallest, &code);
    format!("{}{}", heading(block, names, seed), tell(&smallest, names, &expected, &actual))
}

fn heading(block: &Block, names: [&str; 2], seed: u64) -> String {
    format!(
        "{} and {} differ: VIV_DIFF_BITS={} VIV_DIFF_SEED={seed} VIV_DIFF_BLOCKS=1, {} instructions",
        names[0],
        names[1],
        block.mode.bitness(),
        block.steps.len(),
    )
}

fn tell(block: &Block, names: [&str; 2], expected: &Result, actual: &Result) -> String {
    let result = match (expected, actual) {
        (Ok(Some(expected)), Ok(Some(actual))) => {
            difference((&block.state, &block.data), (names[0], expected), (names[1], actual))
        }
        (expected, actual) => {
            let words = |result: &Result| match result {
                Ok(Some(_)) => "has a result".to_owned(),
                Ok(None) => "leaves it".to_owned(),
                Err(error) => error.clone(),
            };
            format!("\n  {}: {}\n  {}: {}", names[0], words(expected), names[1], words(actual))
        }
    };
    format!("{}\n  {:?}{result}", block.listing(), block.layout)
}

/// Which flags need not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loose {
    Nothing,
    /// Those that are dead where a block faults.
    Dead,
    /// Those that are undefined: processors differ.
    Undefined,
}

/// Whether the outcomes agree, but for some flags, and CR2 of some faults. What one executor leaves is no matter.
fn agree(block: &Block, code: &Code, expected: &Result, actual: &Result, loose: Loose) -> bool {
    let (expected, actual) = match (expected, actual) {
        (Ok(Some(expected)), Ok(Some(actual))) => (expected, actual),
        (_, Ok(None)) | (Ok(None), _) => return true,
        _ => return false,
    };
    let at = code.index(expected.state.rip);
    let last = at.and_then(|n| block.steps.get(n)).map(|step| &step.instruction);
    let open = match (at, loose) {
        (Some(n), Loose::Undefined) => block::undefined(&block.steps)[n] | last.map_or(0, undefined_flags),
        (Some(n), Loose::Dead) if expected.fault.is_some() => block::dead(&block.steps, n),
        _ => 0,
    };
    let by_page = last.is_some_and(|last| has_own_fault_address(last.code()).is_some());
    let fault = |outcome: &Outcome| {
        let page = |address: u64| if by_page { address & !(PAGE_SIZE - 1) } else { address };
        outcome.fault.map(|fault| Exception { address: page(fault.address), ..fault })
    };
    let plain = |outcome: &Outcome| ExecState { rflags: 0, ..outcome.state.clone() };
    (expected.state.rflags ^ actual.state.rflags) & !open == 0
        && fault(expected) == fault(actual)
        && expected.data == actual.data
        && plain(expected) == plain(actual)
}

#[cfg(test)]
mod tests;
