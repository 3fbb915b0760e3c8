//! The interpreter against the processor: every form, random cases, everything that an instruction can change.

use iced_x86::{Code, FastFormatter};
use viv_arch::cpuid::{CpuidTable, ModelParameters};
use viv_arch::paging::PAGE_SIZE;
use viv_arch::{Exception, Vector};

use super::case::RegionLock;
use super::outcome::{Outcome, difference, undefined_flags};
use super::{
    CODE, Case, DATA, Machine, Mode, NativeCpu, NativeFault, Protection, Rng, forms, has_own_fault_address,
    has_own_faults,
};
use crate::cpu::Pending;
use crate::hostexec::ExecState;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cases of each form.
    pub cases: u64,
    /// The first case's seed; the others' follow it.
    pub seed: u64,
    /// This form only, by [`Code`]'s name for it.
    pub form: Option<String>,
    /// This mode only.
    pub mode: Option<Mode>,
}

impl Options {
    /// From the environment: `VIV_DIFF_CASES`, `VIV_DIFF_SEED`, `VIV_DIFF_FORM`, `VIV_DIFF_BITS`.
    #[must_use]
    pub fn from_environment(default_cases: u64) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        Self {
            cases: number("VIV_DIFF_CASES").unwrap_or(default_cases),
            seed: number("VIV_DIFF_SEED").unwrap_or(0),
            form: std::env::var("VIV_DIFF_FORM").ok(),
            mode: number("VIV_DIFF_BITS").map(|bits| if bits == 32 { Mode::Bits32 } else { Mode::Bits64 }),
        }
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Report {
    /// Forms that were compared.
    pub forms: u64,
    /// Cases that were compared.
    pub cases: u64,
    /// Those of them in which the processor raised an exception.
    pub faults: u64,
    /// Those of them in which it was a page fault.
    pub page_faults: u64,
    /// A text for every case with different outcomes.
    pub differences: Vec<String>,
}

/// Compares all forms that the guest's CPUID model offers.
///
/// # Panics
/// If the addresses of [`CODE`] and [`DATA`] are taken in this process.
#[must_use]
pub fn compare(options: &Options) -> Report {
    let model = CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz: 1_000_000 });
    let mut report = Report::default();
    let is_wanted = |code: &Code| options.form.as_ref().is_none_or(|form| format!("{code:?}") == *form);
    for mode in [Mode::Bits64, Mode::Bits32] {
        if options.mode.is_some_and(|only| only != mode) {
            continue;
        }
        let mut sides = Sides::new(mode);
        for code in forms::all_forms(&model, mode).filter(is_wanted) {
            sides.compare_form(code, options, &mut report);
        }
    }
    report
}

/// Addresses that no user program can access: a supervisor's, and some that are not canonical, in whole or in
/// part.
pub(super) const FORBIDDEN: [u64; 6] = [
    0xffff_8000_0000_1800,
    0xffff_8000_0000_1ffd,
    0x0000_7fff_ffff_fffd,
    0xffff_7fff_ffff_fffd,
    0x1234_5678_9abc_def0,
    0xffff_ffff_ffff_fffd,
];

/// The supervisor's pages around them. Linux says of all addresses up there that their pages are present.
pub(super) const SUPERVISOR: [u64; 6] = [
    0xffff_8000_0000_0000,
    0xffff_8000_0000_1000,
    0xffff_8000_0000_2000,
    0x0000_7fff_ffff_f000,
    0xffff_ffff_ffff_e000,
    0xffff_ffff_ffff_f000,
];

/// What may be done with the pages of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The page that instructions near a page's end run into.
    pub(super) second_code: Protection,
    pub(super) data: [Protection; 4],
}

impl Layout {
    pub(super) const OPEN: Self = Self { second_code: Protection::All, data: [Protection::ReadWrite; 4] };

    fn random(code: Code, rng: &mut Rng) -> Self {
        use Protection::{None, ReadOnly, ReadWrite};
        let mut layout = Self::OPEN;
        if rng.one_in(8) && has_own_faults(code).is_none() {
            // Addresses are in the middle pages, more or less.
            layout.data[1] = rng.pick(&[None, ReadOnly, ReadWrite]);
            layout.data[2] = rng.pick(&[None, ReadOnly, ReadWrite]);
        }
        if rng.one_in(8) {
            layout.second_code = rng.pick(&[None, ReadWrite]);
        }
        layout
    }

    /// The pages that differ in another layout, with what may be done with them here.
    pub(super) fn changes(&self, other: &Self) -> impl Iterator<Item = (u64, Protection)> {
        self.pages()
            .zip(other.pages())
            .filter(|(wanted, present)| wanted != present)
            .map(|(wanted, _)| wanted)
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = (u64, Protection)> {
        let data = (DATA.start..).step_by(PAGE_SIZE as usize).zip(self.data);
        data.chain([(CODE.start + PAGE_SIZE, self.second_code)])
    }
}

/// The two processors.
struct Sides {
    native: NativeCpu,
    interpreter: Machine,
    mode: Mode,
    layout: Layout,
    _regions: RegionLock,
}

impl Sides {
    fn new(mode: Mode) -> Self {
        let regions = RegionLock::take();
        let mut native = NativeCpu::in_mode(mode);
        let mut interpreter = Machine::interpreter(mode);
        let pages = Layout::OPEN.pages().chain([(CODE.start, Protection::All)]);
        for (page, protection) in pages {
            native.map(page, PAGE_SIZE as usize, protection).expect("the address is free");
            interpreter.space().map(page, PAGE_SIZE, protection);
        }
        for page in SUPERVISOR {
            interpreter.space().map_supervisor(page, PAGE_SIZE);
        }
        Self { native, interpreter, mode, layout: Layout::OPEN, _regions: regions }
    }

    fn compare_form(&mut self, code: Code, options: &Options, report: &mut Report) {
        let before = report.cases;
        // Some seeds make no case.
        for seed in (options.seed..).take(4 * options.cases as usize) {
            let mut rng = Rng::new(seed ^ (code as u64) << 32);
            let Some(mut case) = Case::random(code, self.mode, &mut rng) else { continue };
            let layout = Layout::random(code, &mut rng);
            if self.mode == Mode::Bits64 && rng.one_in(16) && has_own_faults(code).is_none() {
                case.move_operand(rng.pick(&FORBIDDEN));
            }
            self.compare(&case, &layout, seed, report);
            if report.cases - before == options.cases {
                break;
            }
        }
        report.forms += u64::from(report.cases > before);
    }

    fn set_layout(&mut self, layout: &Layout) {
        for (page, protection) in layout.changes(&self.layout) {
            self.native.protect(page, protection);
            self.interpreter.space().protect(page, PAGE_SIZE, protection);
        }
        self.layout = layout.clone();
    }

    fn compare(&mut self, case: &Case, layout: &Layout, seed: u64, report: &mut Report) {
        self.set_layout(layout);
        let expected = self.native(case);
        let actual = self.interpreted(case);
        report.cases += 1;
        report.faults += u64::from(expected.fault.is_some());
        report.page_faults += u64::from(expected.fault.is_some_and(|e| e.vector == Vector::PageFault));
        let problem = match actual {
            Ok(actual) if agree(case, &expected, &actual) => return,
            Ok(actual) => {
                let before = (&case.state, &*case.data);
                difference(before, ("native", &expected), ("interpreted", &actual))
            }
            Err(problem) => problem,
        };
        let mut text = String::new();
        FastFormatter::new().format(&case.instruction, &mut text);
        report.differences.push(format!(
            "{text} ({:?}, {:02x?}) at {:#x}, {layout:?}\n  \
             again: VIV_DIFF_BITS={} VIV_DIFF_FORM={:?} VIV_DIFF_SEED={seed} VIV_DIFF_CASES=1{problem}",
            case.instruction.code(),
            case.bytes,
            case.state.rip,
            case.mode.bitness(),
            case.instruction.code(),
        ));
    }

    fn native(&mut self, case: &Case) -> Outcome {
        for (address, bytes) in by_page(case.state.rip, &case.bytes).chain(by_page(DATA.start, &case.data)) {
            self.native.write(address, bytes);
        }
        let mut state = case.state.clone();
        let result = self.native.step(&mut state);
        let mut data = vec![0; case.data.len()];
        for (page, bytes) in data.chunks_exact_mut(PAGE_SIZE as usize).enumerate() {
            self.native.read(DATA.start + page as u64 * PAGE_SIZE, bytes);
        }
        let fault = result.err().map(|NativeFault { vector, error_code, address }| Exception {
            vector,
            error_code,
            address: if vector == Vector::PageFault { address } else { 0 },
        });
        Outcome { state, data, fault }
    }

    fn interpreted(&mut self, case: &Case) -> Result<Outcome, String> {
        self.interpreter.space().write(case.state.rip, &case.bytes);
        self.interpreter.space().write(DATA.start, &case.data);
        let mut state = case.state.clone();
        let fault = match self.interpreter.step(&mut state) {
            Ok(()) => None,
            // Other addresses are the engine's own marks.
            Err(Pending::Exception(exception)) if exception.vector != Vector::PageFault => {
                Some(Exception { address: 0, ..exception })
            }
            Err(Pending::Exception(exception)) => Some(exception),
            Err(other) => return Err(format!("\n  the interpreter gave up: {other:?}")),
        };
        let mut data = vec![0; case.data.len()];
        self.interpreter.space().read(DATA.start, &mut data);
        Ok(Outcome { state, data, fault })
    }
}

/// Bytes at an address, in parts that lie within a page each.
pub(super) fn by_page(address: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let first = bytes.len().min((PAGE_SIZE - address % PAGE_SIZE) as usize);
    let (head, rest) = bytes.split_at(first);
    let middle = address + first as u64;
    let rest = (middle..).step_by(PAGE_SIZE as usize).zip(rest.chunks(PAGE_SIZE as usize));
    std::iter::once((address, head)).chain(rest)
}

/// Whether the outcomes agree, but for flags that the instruction leaves undefined, and CR2 of some.
fn agree(case: &Case, expected: &Outcome, actual: &Outcome) -> bool {
    if expected == actual {
        return true;
    }
    let undefined = undefined_flags(&case.instruction);
    let by_page = has_own_fault_address(case.instruction.code()).is_some();
    let fault = |outcome: &Outcome| {
        let page = |address: u64| if by_page { address & !(PAGE_SIZE - 1) } else { address };
        outcome.fault.map(|fault| Exception { address: page(fault.address), ..fault })
    };
    let flags = (expected.state.rflags ^ actual.state.rflags) & !undefined;
    flags == 0
        && fault(expected) == fault(actual)
        && expected.data == actual.data
        && ExecState { rflags: 0, ..expected.state.clone() }
            == ExecState { rflags: 0, ..actual.state.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_does_what_the_processor_does() {
        let options = Options::from_environment(40);
        let report = compare(&options);
        let shown: Vec<_> = report.differences.iter().take(40).map(String::as_str).collect();
        assert!(
            shown.is_empty(),
            "{} of {} cases of {} forms differ:\n{}",
            report.differences.len(),
            report.cases,
            report.forms,
            shown.join("\n")
        );
        // If the generator broke, there would be little to compare.
        if options.form.is_none() && options.mode.is_none() {
            assert!(report.forms > 3000, "{} forms", report.forms);
            assert!(report.cases > 9 * report.forms * options.cases / 10, "{} cases", report.cases);
            assert!(report.page_faults > report.cases / 100, "{} page faults", report.page_faults);
        }
    }
}
