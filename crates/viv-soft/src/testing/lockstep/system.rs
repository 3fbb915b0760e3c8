//! The system's part of RAM: descriptors, gates, and the handlers that keep random code going.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Rflags, Segment, Vector, apic};

use super::image::{Image, PageSize, rights};
use super::layout::*;
use crate::testing::Rng;

/// The system's segments, but for the TSS.
pub fn segment(selector: u16) -> Segment {
    match selector {
        selector::CODE64 => Segment::code64(selector, 0),
        selector::USER_CODE64 => Segment::code64(selector, 3),
        selector::USER_CODE32 => Segment::code32(selector, 3),
        selector::CODE32 => Segment::code32(selector, 0),
        selector::USER_DATA => Segment::data(selector, 3),
        _ => Segment::data(selector::DATA, 0),
    }
}

/// The TSS, with a map of the first ports.
pub fn tss() -> Segment {
    Segment { selector: selector::TSS, attributes: 0x8b, limit: 0x68 + 0x80, base: SYSTEM + TSS }
}

/// Writes descriptors, gates, the TSS and all code.
pub fn write(image: &mut Image, rng: &mut Rng) {
    for number in [
        selector::CODE64,
        selector::DATA,
        selector::USER_CODE32,
        selector::USER_DATA,
        selector::USER_CODE64,
        selector::CODE32,
    ] {
        image.write_word(GDT + u64::from(number & !7), segment(number).to_descriptor());
    }
    let at = GDT + u64::from(selector::TSS);
    image.write_word(at, tss().to_descriptor());
    image.write_word(at + 8, tss().base >> 32);
    for (field, top) in [(4, RSP0_TOP), (0x24, IST1_TOP), (0x2c, IST2_TOP), (0x34, IST3_TOP)] {
        image.write_word(TSS + field, SYSTEM + top);
    }
    image.write(TSS + 0x66, &0x68u16.to_le_bytes());
    let ports: Vec<u8> = (0..0x80).map(|_| rng.next_u64() as u8 & rng.next_u64() as u8).collect();
    image.write(TSS + 0x68, &ports);
    for vector in 0..=255 {
        write_gate(image, vector, rng);
    }
    write_code(image, HANDLER, handler);
    write_code(image, SYSCALL, system_call);
    write_code(image, STOP, stop);
}

fn write_gate(image: &mut Image, vector: u8, rng: &mut Rng) {
    let at = u64::from(vector);
    let class = class_of(vector);
    image.write(CONTROL + control::CLASS + at, &[class]);
    let is_exception = vector < 32;
    // Exceptions may come where RSP is anything; what may come in a handler has a stack of its own.
    let stack = if vector == Vector::DoubleFault as u8 {
        2
    } else if vector == Vector::Nmi as u8 {
        3
    } else if is_exception || rng.one_in(2) {
        1
    } else {
        0
    };
    let user = !is_exception || matches!(vector, 3 | 4);
    // What posts interrupts, or ends one so that another can be taken, is not interrupted.
    let trap = class & (class::POSTS | class::ENDS) == 0 && rng.one_in(4);
    let address = SYSTEM + STUBS + at * STUB_SIZE;
    let low = address & 0xffff
        | u64::from(selector::CODE64) << 16
        | stack << 32
        | (0x80 | if user { 0x60 } else { 0 } | if trap { 0xf } else { 0xe }) << 40
        | (address >> 16 & 0xffff) << 48;
    image.write_word(IDT + at * 16, low);
    image.write_word(IDT + at * 16 + 8, address >> 32);
    write_code(image, STUBS + at * STUB_SIZE, |a| {
        if !Vector::from_number(vector).is_some_and(Vector::has_error_code) {
            a.push(0)?;
        }
        a.push(i32::from(vector))?;
        a.jmp(SYSTEM + HANDLER)
    });
}

/// What the handler does about a vector.
fn class_of(vector: u8) -> u8 {
    use class::{DEBUG, ENDS, HIDES_FLAGS, MOVES, POSTS, STOPS};
    match vector {
        1 => DEBUG | HIDES_FLAGS,
        2 => HIDES_FLAGS,
        3 | 4 => 0,
        8 | 18 | service::STOP => STOPS,
        0..=31 => HIDES_FLAGS | MOVES,
        service::EDGE..=service::EXTINT => HIDES_FLAGS | ENDS | POSTS | (vector - service::EDGE) << 6,
        _ => HIDES_FLAGS | ENDS,
    }
}

/// The handler of all vectors: on the stack are vector, error code, and what the processor pushed.
fn handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    const VECTOR: i32 = 32;
    const RIP: i32 = VECTOR + 16;
    const CODE: i32 = RIP + 8;
    const FLAGS: i32 = CODE + 8;
    const STACK: i32 = FLAGS + 8;
    let control = |field: u64| qword_ptr(rbp + (CONTROL + field) as i32);
    let mut stops = a.create_label();
    let mut shown = a.create_label();
    let mut stays = a.create_label();
    let mut supervisor = a.create_label();
    let mut moved = a.create_label();
    let mut unended = a.create_label();
    let mut unposted = a.create_label();
    let mut undebugged = a.create_label();
    for register in [rax, rcx, rdx, rbp] {
        a.push(register)?;
    }
    a.mov(rbp, SYSTEM)?;
    a.mov(rdx, qword_ptr(rsp + VECTOR))?;
    a.movzx(eax, byte_ptr(rbp + rdx + (CONTROL + control::CLASS) as i32))?;
    a.test(al, i32::from(class::HIDES_FLAGS))?;
    a.jz(shown)?;
    a.and(qword_ptr(rsp + FLAGS), !(Rflags::ARITHMETIC.bits() as i32))?;
    a.set_label(&mut shown)?;
    a.sub(dword_ptr(rbp + FUEL as i32), 8)?;
    a.js(stops)?;
    a.mov(rcx, control(control::COUNT))?;
    a.inc(control(control::COUNT))?;

    // The log: seven words of the frame, and CR2.
    a.mov(rdx, rcx)?;
    a.and(edx, 63)?;
    a.shl(edx, 6)?;
    a.add(rdx, rbp)?;
    for word in 0..7 {
        a.push(qword_ptr(rsp + (VECTOR + 8 * word)))?;
        a.pop(qword_ptr(rdx + (LOG as i32 + 8 * word)))?;
    }
    a.push(rcx)?;
    a.mov(rcx, cr2)?;
    a.mov(qword_ptr(rdx + (LOG as i32 + 56)), rcx)?;
    a.pop(rcx)?;

    a.and(ecx, 31)?;
    a.test(al, i32::from(class::STOPS))?;
    a.jnz(stops)?;
    a.test(al, i32::from(class::MOVES))?;
    a.jz(stays)?;
    a.test(byte_ptr(rsp + CODE), 3)?;
    a.jz(supervisor)?;
    a.mov(rdx, qword_ptr(rbp + rcx * 8 + (CONTROL + control::RESUME_USER) as i32))?;
    a.jmp(moved)?;
    a.set_label(&mut supervisor)?;
    a.mov(rdx, qword_ptr(rbp + rcx * 8 + (CONTROL + control::RESUME_SUPERVISOR) as i32))?;
    a.set_label(&mut moved)?;
    a.mov(qword_ptr(rsp + RIP), rdx)?;
    a.mov(rdx, qword_ptr(rbp + rcx * 8 + (CONTROL + control::STACKS) as i32))?;
    a.mov(qword_ptr(rsp + STACK), rdx)?;
    // What keeps instructions from being executed at all.
    a.clts()?;
    a.fnclex()?;
    a.push(0x1f80)?;
    a.ldmxcsr(dword_ptr(rsp))?;
    a.pop(rdx)?;
    let pointer = |n: i32| qword_ptr(rbp + rcx * 8 + (CONTROL + control::POINTERS) as i32 + 8 * n);
    for (n, register) in [rbx, rsi, rdi, r8, r12, r13].into_iter().enumerate() {
        a.mov(register, pointer(n as i32))?;
    }
    a.mov(rdx, pointer(6))?;
    a.mov(qword_ptr(rsp), rdx)?;
    a.set_label(&mut stays)?;

    a.test(al, i32::from(class::ENDS))?;
    a.jz(unended)?;
    a.mov(dword_ptr(rbp + (APIC - SYSTEM + u64::from(apic::reg::EOI) * 16) as i32), 0)?;
    a.set_label(&mut unended)?;
    a.test(al, i32::from(class::POSTS))?;
    a.jz(unposted)?;
    a.mov(edx, eax)?;
    a.shr(edx, 6)?;
    a.add(edx, i32::from(port::EDGE))?;
    a.mov(al, byte_ptr(rbp + rcx + (CONTROL + control::VECTORS) as i32))?;
    a.mov(ecx, u32::from(selector::DATA))?;
    a.mov(ss, cx)?;
    a.out(dx, al)?;
    a.jmp(undebugged)?;
    a.set_label(&mut unposted)?;
    a.test(al, i32::from(class::DEBUG))?;
    a.jz(undebugged)?;
    a.bts(dword_ptr(rsp + FLAGS), 16)?;
    a.xor(edx, edx)?;
    a.mov(dr6, rdx)?;
    a.test(cl, 7)?;
    a.jnz(undebugged)?;
    a.btr(dword_ptr(rsp + FLAGS), 8)?;
    a.set_label(&mut undebugged)?;
    for register in [rbp, rdx, rcx, rax] {
        a.pop(register)?;
    }
    a.add(rsp, 16)?;
    a.iretq()?;
    a.set_label(&mut stops)?;
    a.jmp(SYSTEM + STOP)
}

/// Where SYSCALL leads to: GS of the system is the control page's.
fn system_call(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut stops = a.create_label();
    a.swapgs()?;
    a.sub(dword_ptr(FUEL).gs(), 4)?;
    a.js(stops)?;
    a.swapgs()?;
    a.sysretq()?;
    a.set_label(&mut stops)?;
    a.jmp(SYSTEM + STOP)
}

fn stop(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(dx, u32::from(port::STOP))?;
    a.out(dx, al)?;
    a.set_label(&mut again)?;
    a.hlt()?;
    a.jmp(again)
}

fn write_code(image: &mut Image, at: u64, build: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) {
    let mut assembler = CodeAssembler::new(64).expect("there is a 64-bit mode");
    build(&mut assembler).expect("the code is right");
    image.write(at, &assembler.assemble(SYSTEM + at).expect("the code is right"));
}

/// Maps the system under a root table.
pub fn map(image: &mut Image, root: u64) {
    for page in (0..SYSTEM_SIZE).step_by(0x1000) {
        image.map(root, SYSTEM + page, PageSize::Size4K, page | rights("wx"));
    }
    image.map(root, APIC, PageSize::Size4K, apic::DEFAULT_BASE | rights("w"));
    image.map(root, USER_FUEL, PageSize::Size4K, FUEL | rights("wu"));
}
