//! Every form that stubs execute, compared with direct execution.
#![allow(unsafe_code, reason = "calls stubs")]

use iced_x86::OpKind;
use viv_arch::Vector;
use viv_arch::cpuid::{CpuidTable, ModelParameters};

use super::*;
use crate::testing::{CODE, Case, DATA, Mode, NativeCpu, NativeFault, Protection, RegionLock, Rng, forms};

/// Cases of each form. One in eight is unusual in one way or another: unmasked exceptions, unaligned operands.
const CASES: usize = 16;

#[repr(align(4096))]
struct Pages([u8; (DATA.end - DATA.start) as usize]);

struct Comparison {
    native: NativeCpu,
    arena: CodeArena,
    stubs: StubCache,
    /// What the stubs have instead of the data pages.
    pages: Box<Pages>,
    _regions: RegionLock,
}

/// Everything that an instruction can change.
#[derive(PartialEq)]
struct Outcome {
    state: ExecState,
    data: Vec<u8>,
    fault: Option<HostFault>,
}

impl Comparison {
    fn new() -> Self {
        let regions = RegionLock::take();
        let mut native = NativeCpu::new();
        native.map(CODE.start, (CODE.end - CODE.start) as usize, Protection::All).unwrap();
        native.map(DATA.start, (DATA.end - DATA.start) as usize, Protection::ReadWrite).unwrap();
        let arena = CodeArena::new(16 << 20).unwrap();
        let pages = Box::new(Pages([0; (DATA.end - DATA.start) as usize]));
        Self { native, arena, stubs: StubCache::default(), pages, _regions: regions }
    }

    fn native(&mut self, case: &Case) -> Outcome {
        self.native.write(case.state.rip, &case.bytes);
        self.native.write(DATA.start, &case.data);
        let mut state = case.state.clone();
        let result = self.native.step(&mut state);
        let mut data = vec![0; case.data.len()];
        self.native.read(DATA.start, &mut data);
        let fault =
            result.err().map(|NativeFault { vector, error_code, .. }| HostFault { vector, error_code });
        Outcome { state, data, fault }
    }

    fn stub_for(&mut self, case: &Case) -> Stub {
        let result = match self.stubs.get(&mut self.arena, &case.instruction) {
            Err(StubError::Arena(ArenaError::Full { .. })) => {
                self.stubs.clear();
                self.arena.clear();
                self.stubs.get(&mut self.arena, &case.instruction)
            }
            result => result,
        };
        result.unwrap_or_else(|error| panic!("{}: {error}", show(case)))
    }

    fn stub(&mut self, case: &Case) -> Outcome {
        let stub = self.stub_for(case);
        self.pages.0.copy_from_slice(&case.data);
        let mut state = case.state.clone();
        let address = operand_address(case).unwrap_or(DATA.start);
        let memory = self.pages.0[(address - DATA.start) as usize..].as_mut_ptr();
        // SAFETY: cases have their operands inside the data pages, and the arena is alive.
        let result = unsafe { stub.call(&mut state, memory, address) };
        if result.is_ok() {
            state.rip += case.bytes.len() as u64;
        }
        Outcome { state, data: self.pages.0.to_vec(), fault: result.err() }
    }
}

fn operand_address(case: &Case) -> Option<u64> {
    let instruction = &case.instruction;
    let operand = (0..instruction.op_count()).find(|n| instruction.op_kind(*n) == OpKind::Memory)?;
    instruction.virtual_address(operand, 0, |register, _, _| {
        let gpr = case.state.gpr.get(register.full_register().number()).copied();
        match register.size() {
            8 => gpr,
            4 => gpr.map(|value| value & 0xffff_ffff),
            _ => Some(0),
        }
    })
}

fn show(case: &Case) -> String {
    let mut text = String::new();
    iced_x86::FastFormatter::new().format(&case.instruction, &mut text);
    format!("{text} ({:?}, {:02x?})", case.instruction.code(), case.bytes)
}

/// What differs, in words.
fn difference(expected: &Outcome, actual: &Outcome) -> String {
    let mut text = format!("fault {:?} / {:?}", expected.fault, actual.fault);
    let mut differ = |name: &str, left: String, right: String| {
        if left != right {
            text += &format!("\n  {name}: {left} / {right}");
        }
    };
    let (left, right) = (&expected.state, &actual.state);
    for n in 0..16 {
        differ(&format!("gpr {n}"), format!("{:x}", left.gpr[n]), format!("{:x}", right.gpr[n]));
        differ(
            &format!("ymm {n}"),
            format!("{:02x?}", left.fpu.ymm[n]),
            format!("{:02x?}", right.fpu.ymm[n]),
        );
    }
    differ("rip", format!("{:x}", left.rip), format!("{:x}", right.rip));
    differ("flags", format!("{:x}", left.rflags), format!("{:x}", right.rflags));
    differ("x87", format!("{:02x?}", &left.fpu.fx[..28]), format!("{:02x?}", &right.fpu.fx[..28]));
    differ("st", format!("{:02x?}", &left.fpu.fx[32..160]), format!("{:02x?}", &right.fpu.fx[32..160]));
    differ("memory", format!("{}", expected.data == actual.data), "true".to_owned());
    text
}

fn model() -> CpuidTable {
    CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz: 1_000_000 })
}

#[test]
fn every_form_does_what_the_processor_does() {
    let mut comparison = Comparison::new();
    let (mut forms_compared, mut cases, mut faults) = (0, 0, 0);
    let mut differences = Vec::new();
    for code in forms::all_forms(&model(), Mode::Bits64) {
        let mut rng = Rng::new(code as u64);
        let mut compared = 0;
        for _ in 0..CASES * 4 {
            let Some(case) = Case::random(code, Mode::Bits64, &mut rng) else { continue };
            if !is_host_executable(&case.instruction) {
                continue;
            }
            let expected = comparison.native(&case);
            let actual = comparison.stub(&case);
            if expected != actual {
                differences.push(format!("{}: {}", show(&case), difference(&expected, &actual)));
            }
            compared += 1;
            faults += usize::from(expected.fault.is_some());
            if compared == CASES {
                break;
            }
        }
        cases += compared;
        forms_compared += usize::from(compared > 0);
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    // If the generator broke, there would be little to compare.
    assert!(
        forms_compared > 1300 && cases > 14 * forms_compared && faults > 100,
        "{forms_compared} {cases} {faults}"
    );
}

/// The security of guest memory rests on the sizes being right: what the caller did not check must not be
/// accessed, and what the caller demands must be. So operands are put against pages that fault.
#[test]
fn every_form_accesses_exactly_what_it_says() {
    const PAGE: u64 = 4096;
    const GUARD: u64 = 0x3020_0000;
    const START: u64 = GUARD + PAGE;
    const END: u64 = START + PAGE;
    let mut native = NativeCpu::new();
    native.map(GUARD, PAGE as usize, Protection::None).unwrap();
    native.map(START, PAGE as usize, Protection::ReadWrite).unwrap();
    native.map(END, PAGE as usize, Protection::None).unwrap();
    let mut arena = CodeArena::new(16 << 20).unwrap();
    let mut stubs = StubCache::default();
    let mut checked = 0;
    for code in forms::all_forms(&model(), Mode::Bits64) {
        let mut rng = Rng::new(code as u64);
        let with_memory = |rng: &mut Rng| {
            Case::random(code, Mode::Bits64, rng).filter(|case| {
                is_host_executable(&case.instruction) && memory_access(&case.instruction).is_some()
            })
        };
        let Some(case) = (0..64).find_map(|_| with_memory(&mut rng)) else { continue };
        let access = memory_access(&case.instruction).unwrap();
        let size = access.size as u64;
        let stub = stubs.get(&mut arena, &case.instruction).unwrap();
        let run = |address: u64| {
            // SAFETY: the arena is alive. Whatever the sizes are, the access reaches no further than pages
            // that have nothing in them.
            unsafe { stub.call(&mut case.state.clone(), address as *mut u8, 0) }
        };
        let page_fault = |address| run(address).is_err_and(|fault| fault.vector == Vector::PageFault);
        native.protect(START, Protection::ReadWrite);
        for address in [START, END - size] {
            assert!(!page_fault(address), "{} accesses more than {access:?}", show(&case));
        }
        for address in [START - 1, END - size + 1] {
            // Most forms fault for the page, those that demand alignment for that.
            assert!(run(address).is_err(), "{} accesses less than {access:?}", show(&case));
        }
        native.protect(START, Protection::ReadOnly);
        if access.write {
            assert!(run(START).is_err(), "{} does not write: {access:?}", show(&case));
        } else {
            assert!(!page_fault(START), "{} writes: {access:?}", show(&case));
        }
        checked += 1;
    }
    assert!(checked > 700, "{checked}");
}
