//! Forms that are not compared with the processor at random, executed all the same.

use iced_x86::{Code, InstructionInfoFactory, Mnemonic, OpAccess};
use viv_arch::{Exception, Gpr, Vector};

use super::{CODE, Case, DATA, Machine, Mode, NativeCpu, Protection, RegionLock, Rng, START, excluded};
use crate::cpu::Pending;
use crate::hostexec::ExecState;

fn interpreter(mode: Mode) -> Machine {
    let mut interpreter = Machine::interpreter(mode);
    interpreter.space().map(CODE.start, CODE.end - CODE.start, Protection::All);
    interpreter.space().map(DATA.start, DATA.end - DATA.start, Protection::ReadWrite);
    interpreter
}

fn state(gpr: &[(Gpr, u64)]) -> ExecState {
    let mut state = ExecState { rip: START, rflags: 0x202, ..ExecState::default() };
    state.fpu.init_x87();
    state.gpr[Gpr::Rsp as usize] = DATA.start + 0x1000;
    for &(register, value) in gpr {
        state.gpr[register as usize] = value;
    }
    state
}

/// Runs instructions one after the other.
fn run(interpreter: &mut Machine, state: &mut ExecState, bytes: &[u8]) -> Result<(), Pending> {
    interpreter.space().write(state.rip, bytes);
    let end = state.rip + bytes.len() as u64;
    while state.rip != end {
        interpreter.step(state)?;
    }
    Ok(())
}

fn general_protection(code: u32) -> Result<(), Pending> {
    Err(Pending::Exception(Exception::gp(code)))
}

#[test]
fn what_gives_other_values_changes_nothing_else() {
    for mode in [Mode::Bits64, Mode::Bits32] {
        let mut interpreter = interpreter(mode);
        let mut executed = 0;
        for code in Code::values() {
            use Mnemonic::{Cpuid, Rdrand, Rdseed, Rdtsc, Rdtscp, Xgetbv};
            if !matches!(code.mnemonic(), Rdrand | Rdseed | Rdtsc | Rdtscp | Cpuid | Xgetbv) {
                continue;
            }
            assert!(excluded(code).is_some(), "{code:?} could be compared");
            let mut rng = Rng::new(code as u64);
            let Some(mut case) = (0..50).find_map(|_| Case::random(code, mode, &mut rng)) else { continue };
            case.state.gpr[Gpr::Rcx as usize] = 0;
            interpreter.space().write(case.state.rip, &case.bytes);
            let mut after = case.state.clone();
            assert_eq!(interpreter.step(&mut after), Ok(()), "{code:?}");
            let mut expected = case.state.clone();
            let mut factory = InstructionInfoFactory::new();
            for used in factory.info(&case.instruction).used_registers() {
                if used.register().is_gpr() && used.access() != OpAccess::Read {
                    let n = used.register().full_register().number();
                    expected.gpr[n] = after.gpr[n];
                }
            }
            expected.rip += case.bytes.len() as u64;
            if case.instruction.rflags_modified() != 0 {
                expected.rflags = after.rflags;
            }
            assert_eq!(after, expected, "{code:?}");
            executed += 1;
        }
        assert!(executed >= 8, "{executed}");
    }
}

#[test]
fn what_later_processors_made_of_hints_is_still_none() {
    let mut interpreter = interpreter(Mode::Bits64);
    for code in [
        &[0xf3, 0x48, 0x0f, 0x1e, 0xc8][..], // rdsspq rax
        &[0xf3, 0x0f, 0x1e, 0xc9],           // rdsspd ecx
        &[0xf3, 0x0f, 0x1e, 0xfa],           // endbr64
        &[0x66, 0x0f, 0x1a, 0x00],           // bndmov bnd0, [rax]
        &[0xf3, 0x0f, 0x1a, 0xc3],           // bndcl bnd0, rbx
        &[0x0f, 0x1c, 0x00],                 // cldemote [rax]
        &[0x0f, 0x18, 0x08],                 // prefetcht0 [rax]
    ] {
        // An address that nothing is at.
        let before = state(&[(Gpr::Rax, 0x1234)]);
        let mut after = before.clone();
        assert_eq!(run(&mut interpreter, &mut after, code), Ok(()), "{code:02x?}");
        after.rip = before.rip;
        assert_eq!(after, before, "{code:02x?}");
    }
}

#[test]
fn a_program_sees_its_flags_and_changes_those_that_it_may() {
    let mut interpreter = interpreter(Mode::Bits64);
    let mut state = state(&[(Gpr::Rax, 0x7ed5 | 1 << 18 | 1 << 21)]);
    // push rax; popfq; pushfq; pop rbx: all flags but TF, IF off, IOPL 3.
    state.gpr[0] &= !(1 << 9 | 1 << 8);
    run(&mut interpreter, &mut state, &[0x50, 0x9d, 0x9c, 0x5b]).unwrap();
    let expected = 0xcd5 | 1 << 14 | 1 << 18 | 1 << 21 | 0x202;
    assert_eq!(state.rflags, expected);
    assert_eq!(state.gpr[Gpr::Rbx as usize], expected);
}

#[test]
fn segment_bases_are_a_programs_own() {
    let mut interpreter = interpreter(Mode::Bits64);
    let base = DATA.start + 0x800;
    let mut registers = state(&[(Gpr::Rax, base), (Gpr::Rcx, 8), (Gpr::Rdx, 0xffff_ffff_1234_5678)]);
    interpreter.space().write(base + 8, &0x1122_3344_5566_7788u64.to_le_bytes());
    let code = [
        0xf3, 0x48, 0x0f, 0xae, 0xd0, // wrfsbase rax
        0xf3, 0x48, 0x0f, 0xae, 0xc3, // rdfsbase rbx
        0x64, 0x48, 0x8b, 0x31, // mov rsi, fs:[rcx]
        0xf3, 0x0f, 0xae, 0xda, // wrgsbase edx
        0xf3, 0x48, 0x0f, 0xae, 0xcf, // rdgsbase rdi
    ];
    run(&mut interpreter, &mut registers, &code).unwrap();
    assert_eq!(registers.gpr[Gpr::Rbx as usize], base);
    assert_eq!(registers.gpr[Gpr::Rsi as usize], 0x1122_3344_5566_7788);
    assert_eq!(registers.gpr[Gpr::Rdi as usize], 0x1234_5678);
    let mut far = state(&[(Gpr::Rax, 1 << 47)]);
    assert_eq!(run(&mut interpreter, &mut far, &[0xf3, 0x48, 0x0f, 0xae, 0xd0]), general_protection(0));
}

#[test]
fn segment_registers_take_what_the_tables_have() {
    let mut interpreter = interpreter(Mode::Bits64);
    // mov ds, eax
    let mut load = |selector: u64| {
        let mut state = state(&[(Gpr::Rax, selector)]);
        run(&mut interpreter, &mut state, &[0x8e, 0xd8])
    };
    assert_eq!(load(0x2b), Ok(()));
    assert_eq!(load(3), Ok(()));
    // Nothing there, beyond the table, in an LDT that there is not.
    assert_eq!(load(0x13), general_protection(0x10));
    assert_eq!(load(0x43), general_protection(0x40));
    assert_eq!(load(0x2f), general_protection(0x2c));
    // mov ss, eax with a null selector
    let mut null = state(&[(Gpr::Rax, 0)]);
    assert_eq!(run(&mut interpreter, &mut null, &[0x8e, 0xd0]), general_protection(0));
    // mov eax, ds
    let mut show = state(&[]);
    run(&mut interpreter, &mut show, &[0x8c, 0xd8]).unwrap();
    assert_eq!(show.gpr[0], 3);
}

/// Linux's user segments are where the interpreter has its own.
#[test]
fn descriptors_are_seen_as_the_processor_sees_them() {
    let _regions = RegionLock::take();
    let mut native = NativeCpu::new();
    native.map(CODE.start, (CODE.end - CODE.start) as usize, Protection::All).unwrap();
    let mut interpreter = interpreter(Mode::Bits64);
    for selector in [0, 3, 0x10, 0x13, 0x23, 0x28, 0x2b, 0x33, 0xfff8, 0x2f] {
        for bytes in [
            &[0x0f, 0x02, 0xc1][..], // lar eax, ecx
            &[0x66, 0x0f, 0x02, 0xc1],
            &[0x0f, 0x03, 0xc1], // lsl eax, ecx
            &[0x48, 0x0f, 0x03, 0xc1],
            &[0x0f, 0x00, 0xe1], // verr cx
            &[0x0f, 0x00, 0xe9], // verw cx
        ] {
            let mut expected = state(&[(Gpr::Rcx, selector), (Gpr::Rax, u64::MAX)]);
            let mut actual = expected.clone();
            native.write(START, bytes);
            native.step(&mut expected).unwrap();
            run(&mut interpreter, &mut actual, bytes).unwrap();
            // LAR leaves the bits where a descriptor has those of its limit undefined.
            let defined = |state: &ExecState| (state.gpr[0] & !0xf_0000, state.rip, state.rflags);
            assert_eq!(defined(&actual), defined(&expected), "{bytes:02x?} with {selector:#x}");
        }
    }
}

#[test]
fn a_program_cannot_execute_privileged_instructions() {
    for mode in [Mode::Bits64, Mode::Bits32] {
        let mut interpreter = interpreter(mode);
        for bytes in [
            &[0xf4][..],         // hlt
            &[0xfa],             // cli
            &[0xfb],             // sti
            &[0x0f, 0x06],       // clts
            &[0x0f, 0x20, 0xc0], // mov rax, cr0
            &[0x0f, 0x22, 0xd8], // mov cr3, rax
            &[0x0f, 0x23, 0xc0], // mov dr0, rax
            &[0x0f, 0x30],       // wrmsr
            &[0x0f, 0x32],       // rdmsr
            &[0x0f, 0x01, 0x10], // lgdt [rax]
            &[0x0f, 0x01, 0x38], // invlpg [rax]
            &[0x0f, 0x00, 0xd8], // ltr ax
            &[0x0f, 0x01, 0xd1], // xsetbv
            &[0x0f, 0x09],       // wbinvd
            &[0xe4, 0x60],       // in al, 0x60
            &[0xee],             // out dx, al
            &[0x0f, 0x01, 0xe0], // smsw eax, which UMIP forbids
            &[0x0f, 0x01, 0x00], // sgdt [rax], likewise
        ] {
            let mut state = state(&[(Gpr::Rax, DATA.start)]);
            assert_eq!(run(&mut interpreter, &mut state, bytes), general_protection(0), "{bytes:02x?}");
            assert_eq!(state.rip, START);
        }
        for bytes in [&[0x0f, 0x0b][..], &[0x0f, 0xff, 0xc0], &[0x0f, 0x01, 0xca]] {
            // ud2, ud0, clac
            let mut state = state(&[]);
            let expected = Err(Pending::Exception(Exception::new(Vector::InvalidOpcode)));
            assert_eq!(run(&mut interpreter, &mut state, bytes), expected, "{bytes:02x?}");
        }
    }
}
