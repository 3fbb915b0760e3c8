//! 16-bit protected mode, and string instructions in segments (SDM vol. 3, chapters 3, 5 and 22).

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Rflags, Segment, SegmentRegister};

use crate::machine::*;

const SS: u8 = 12;
const GP: u8 = 13;
/// Selectors of the test's own.
const CODE16: u16 = selector::FREE;
const STACK16: u16 = selector::FREE + 8;
const GATE: u16 = selector::FREE + 16;
const USER_CODE16: u16 = (selector::FREE + 24) | 3;
const USER_STACK16: u16 = (selector::FREE + 32) | 3;
/// Attributes of 16-bit code and data at level 0 and at level 3.
const CODE: u32 = 0x9b;
const STACK: u32 = 0x93;
const LEVEL_3: u32 = 0x60;
/// Where the code segment begins.
const BASE: u64 = crate::machine::CODE;

fn segment(selector: u16, attributes: u32, base: u64) -> Segment {
    Segment { selector, attributes, limit: 0xffff, base }
}

/// A machine about to run 16-bit code in protected mode, with a 16-bit stack at [`DATA`].
fn machine() -> Machine {
    let mut machine = Machine::protected();
    let stack = segment(STACK16, STACK, DATA);
    let code = segment(CODE16, CODE, BASE);
    for segment in [
        code,
        stack,
        segment(USER_CODE16, CODE | LEVEL_3, USER_CODE),
        segment(USER_STACK16, STACK | LEVEL_3, USER_DATA),
    ] {
        machine.set_descriptor(segment.selector, segment.to_descriptor());
    }
    machine.set_code_segment(code);
    machine.state.segments[SegmentRegister::Ss as usize] = stack;
    machine.state.rip = 0;
    machine.set_gpr(Gpr::Rsp, 0xabcd_0100);
    machine
}

/// The same with a stack on which events can be recorded.
fn recording_machine() -> Machine {
    let mut machine = machine();
    machine.state.segments[SegmentRegister::Ss as usize] = Segment::data(selector::DATA, 0);
    machine.set_gpr(Gpr::Rsp, STACK_TOP);
    machine
}

fn code(machine: &mut Machine, offset: u64, build: Build<'_>) -> u64 {
    let bytes = assemble(16, offset, build);
    machine.write_bytes(BASE + offset, &bytes);
    offset + bytes.len() as u64
}

#[test]
fn sizes_are_those_of_the_segments() {
    let mut machine = machine();
    machine.set_gpr(Gpr::Rbx, 0x5_0010);
    machine.write(USER_DATA + 0x30, 0x1234_5678u32);
    machine.state.segments[SegmentRegister::Ds as usize].base = USER_DATA;
    code(&mut machine, 0, &|a| {
        a.mov(ax, word_ptr(bx + 0x20))?;
        a.mov(ecx, dword_ptr(bx + 0x20))?;
        a.push(ax)?;
        a.push(ecx)?;
        a.pusha()?;
        a.popa()?;
        a.enter(4, 1)?;
        a.leave()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert!(outcome.events.is_empty(), "{outcome:?}");
    assert_eq!((outcome.gpr(Gpr::Rax), outcome.gpr(Gpr::Rcx)), (0x5678, 0x1234_5678));
    // The upper half of ESP is nobody's.
    assert_eq!(outcome.gpr(Gpr::Rsp), 0xabcd_00fa);
    assert_eq!(machine.read::<[u16; 3]>(DATA + 0xfa), [0x5678, 0x1234, 0x5678]);
}

#[test]
fn the_stack_wraps_between_words() {
    let mut machine = machine();
    machine.set_gpr(Gpr::Rsp, 0xabcd_0002);
    code(&mut machine, 0, &|a| {
        a.push(0x11)?;
        a.push(0x22)?;
        a.pop(bx)?;
        a.pop(cx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rsp), 0xabcd_0002);
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rcx)), (0x22, 0x11));
    assert_eq!((machine.read::<u16>(DATA), machine.read::<u16>(DATA + 0xfffe)), (0x11, 0x22));
}

#[test]
fn expand_down_stacks_end_at_their_limit() {
    let mut machine = machine();
    let stack = Segment { attributes: 0x97, limit: 0xfbff, ..segment(STACK16, STACK, DATA) };
    machine.state.segments[SegmentRegister::Ss as usize] = stack;
    // What the fault is told on is a task's, for there is no room here.
    let tss = Segment { selector: GATE, attributes: 0x89, limit: 0x67, base: USER_DATA };
    machine.set_descriptor(GATE, tss.to_descriptor());
    machine.set_gate_32(SS, GATE, 0, 5, 0);
    for n in 0..6u64 {
        machine.write(USER_DATA + 0x48 + 4 * n, u32::from(selector::DATA));
    }
    machine.write(USER_DATA + 0x4c, u32::from(selector::CODE32));
    machine.write(USER_DATA + 0x20, BASE as u32 + 0x800);
    machine.write(USER_DATA + 0x38, STACK_TOP as u32);
    machine.code_of(32, BASE + 0x800, &stop);
    machine.set_gpr(Gpr::Rsp, 0xfc04);
    let end = code(&mut machine, 0, &|a| {
        a.push(0x11)?;
        a.push(0x22)?;
        a.nop()
    });
    code(&mut machine, end, &|a| a.push(0x33));
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.state.tr.selector, GATE);
    let [at, top]: [u32; 2] = [machine.read(TSS + 0x20), machine.read(TSS + 0x38)];
    assert_eq!((u64::from(at), top), (end, 0xfc00));
    assert_eq!(machine.read::<[u16; 2]>(DATA + 0xfc00), [0x22, 0x11]);
}

#[test]
fn code_ends_at_its_limit() {
    for limit in [0xff, 0xffff] {
        let mut machine = recording_machine();
        machine.state.segments[SegmentRegister::Cs as usize].limit = limit;
        machine.state.rip = u64::from(limit) - 1;
        machine.write_bytes(BASE + u64::from(limit) - 1, &[0x90, 0x90, 0x90]);
        let event = machine.run_to_stop().events[0];
        assert_eq!(event.brief(), (GP, 0, u64::from(limit) + 1));
    }
    // Short branches wrap, and are checked then.
    let mut machine = machine();
    machine.state.rip = 0xfffc;
    machine.write_bytes(BASE + 0xfffc, &[0xeb, 0x02]);
    code(&mut machine, 0, &stop);
    assert!(machine.run_to_stop().events.is_empty());
}

#[test]
fn gates_of_16_bits_copy_words() {
    let mut machine = machine();
    let gate = 0x400 | u64::from(CODE16) << 16 | 2 << 32 | 0xe4 << 40;
    machine.set_descriptor(GATE, gate);
    machine.state.tr.attributes = 0x83;
    machine.write(TSS + 2, 0x200u16);
    machine.write(TSS + 4, STACK16);
    machine.state.segments = [segment(USER_STACK16, STACK | LEVEL_3, USER_DATA); 6];
    machine.set_code_segment(segment(USER_CODE16, CODE | LEVEL_3, USER_CODE));
    machine.set_gpr(Gpr::Rsp, 0x180);
    let mut call = assemble(16, 0, &|a| {
        a.push(0x22)?;
        a.push(0x11)
    });
    call.extend([0x9a, 0, 0]);
    call.extend((GATE | 3).to_le_bytes());
    machine.write_bytes(USER_CODE, &call);
    let back = call.len() as u64;
    machine.write_bytes(USER_CODE + back, &[0xf4]);
    code(&mut machine, 0x400, &|a| {
        a.mov(bp, sp)?;
        a.mov(bx, word_ptr(bp + 4))?;
        a.mov(cx, word_ptr(bp + 6))?;
        a.mov(dx, word_ptr(bp + 8))?;
        a.retf_1(4)
    });
    let handler = machine.code_of(32, BASE + 0x800, &|a| a.mov(esi, dword_ptr(esp + 4)));
    machine.code_of(32, handler, &stop);
    machine.set_gate_32(GP, selector::CODE32, BASE + 0x800, INTERRUPT_16, 0);
    machine.write(TSS + 2, 0x200u16);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rcx)), (0x11, 0x22));
    assert_eq!((outcome.gpr(Gpr::Rdx), outcome.gpr(Gpr::Rbp)), (0x17c, 0x200 - 12));
    // HLT faults in user mode, back on its stack.
    assert_eq!(
        machine.read::<[u16; 6]>(DATA + 0x200 - 12),
        [0, back as u16, USER_CODE16, 2, 0x180, USER_STACK16]
    );
}

/// One REP MOVS or REP STOS between two segments in the same memory.
#[derive(Debug, Clone)]
struct Run {
    moves: bool,
    /// The element's size, in bytes.
    size: u64,
    /// Whether the address size is 32 bits.
    wide: bool,
    down: bool,
    /// Of DS and ES.
    limits: [u32; 2],
    /// ESI, EDI, ECX.
    registers: [u64; 3],
}

/// Where DS and ES begin.
const BASES: [u64; 2] = [FREE, FREE + 0x800];
/// How much memory they reach.
const MEMORY: usize = 0x2_1000;

impl Run {
    /// One of many, near the ends of segments and of what 16 bits reach.
    fn random(random: &mut impl FnMut(u64) -> u64) -> Self {
        let limits = [(); 2].map(|()| [0xffff, 0x1_ffff, random(0x1_2000) as u32][random(3) as usize]);
        let mut index = |limit: u32| {
            let end = [u64::from(limit), 0xffff][random(2) as usize];
            [end.saturating_sub(random(0x20)), random(0x1_2000), random(0x100)][random(3) as usize]
        };
        let (from, to) = (index(limits[0]), index(limits[1]));
        let count = [random(0x20), random(0x3000), 0x1_0000 | random(9)][random(3) as usize];
        Self {
            moves: random(2) == 0,
            size: 1 << random(3),
            wide: random(2) == 0,
            down: random(4) == 0,
            limits,
            registers: [from, to, count],
        }
    }

    fn mask(&self) -> u64 {
        if self.wide { 0xffff_ffff } else { 0xffff }
    }

    /// What becomes of memory and registers, and whether it faults: element by element.
    fn expected(&self, memory: &mut [u8]) -> ([u64; 3], bool) {
        let mut registers = self.registers;
        let size = self.size as usize;
        while registers[2] & self.mask() != 0 {
            let [from, to] = [registers[0], registers[1]].map(|register| register & self.mask());
            let fits = |offset: u64, limit: u32| offset + self.size - 1 <= u64::from(limit);
            if (self.moves && !fits(from, self.limits[0])) || !fits(to, self.limits[1]) {
                return (registers, true);
            }
            let (from, to) = (from as usize, (to + BASES[1] - BASES[0]) as usize);
            if self.moves {
                memory.copy_within(from..from + size, to);
            } else {
                memory[to..to + size].copy_from_slice(&FILL.to_le_bytes()[..size]);
            }
            let step = if self.down { self.size.wrapping_neg() } else { self.size };
            let changes = [if self.moves { step } else { 0 }, step, u64::MAX];
            for (register, change) in registers.iter_mut().zip(changes) {
                let kept = if self.wide { 0 } else { *register & !self.mask() };
                *register = kept | register.wrapping_add(change) & self.mask();
            }
        }
        (registers, false)
    }

    /// The instruction in 16-bit code.
    fn bytes(&self) -> Vec<u8> {
        let opcode = if self.moves { 0xa4 } else { 0xaa } | u8::from(self.size > 1);
        let operand = (self.size == 4).then_some(0x66);
        let address = self.wide.then_some(0x67);
        [Some(0xf3), operand, address, Some(opcode)].into_iter().flatten().collect()
    }
}

/// What REP STOS stores.
const FILL: u32 = 0xa1b2_c3d4;

#[test]
fn string_instructions_keep_to_their_segments() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut machine = recording_machine();
    let start: Vec<u8> = (0..MEMORY).map(|_| random(256) as u8).collect();
    let (mut faults, mut whole) = (0, 0);
    for _ in 0..400 {
        let run = Run::random(&mut random);
        let mut memory = start.clone();
        let (registers, faulted) = run.expected(&mut memory);
        machine.write_bytes(FREE, &start);
        let end = run.bytes().len() as u64;
        machine.write_bytes(BASE, &run.bytes());
        code(&mut machine, end, &stop);
        machine.set_gpr(Gpr::Rax, FILL.into());
        for (register, value) in [Gpr::Rsi, Gpr::Rdi, Gpr::Rcx].into_iter().zip(run.registers) {
            machine.set_gpr(register, value);
        }
        for (register, n) in [(SegmentRegister::Ds, 0), (SegmentRegister::Es, 1)] {
            let segment = segment(selector::DATA, STACK, BASES[n]);
            machine.state.segments[register as usize] = Segment { limit: run.limits[n], ..segment };
        }
        machine.state.rflags.set(Rflags::DF, run.down);
        let outcome = machine.run_to_stop();
        let seen = [Gpr::Rsi, Gpr::Rdi, Gpr::Rcx].map(|register| outcome.gpr(register));
        assert_eq!((seen, outcome.events.len() == 1), (registers, faulted), "{run:x?}");
        if let Some(event) = outcome.events.first() {
            assert_eq!(event.brief(), (GP, 0, 0), "{run:x?}");
        }
        assert!(machine.read_bytes(FREE, MEMORY) == memory, "{run:x?}");
        faults += u32::from(faulted);
        whole += u32::from(!faulted);
    }
    assert!(faults > 50 && whole > 50, "{faults} faulted, {whole} did not");
}
