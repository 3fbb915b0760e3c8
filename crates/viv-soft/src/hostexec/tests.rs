//! Stubs, by hand-picked instructions; `crate::testing` compares every form with the processor.
#![allow(unsafe_code, reason = "calls stubs")]

use iced_x86::{Decoder, DecoderOptions, Instruction};
use viv_arch::{Vector, xsave};

use super::*;

struct Bench {
    arena: CodeArena,
    stubs: StubCache,
    state: ExecState,
}

fn decode(bitness: u32, bytes: &[u8]) -> Instruction {
    let instruction = Decoder::with_ip(bitness, bytes, 0x1000, DecoderOptions::NONE).decode();
    assert_eq!(instruction.len(), bytes.len());
    instruction
}

impl Bench {
    fn new() -> Self {
        let mut state = ExecState { rip: 0x1000, rflags: 2, ..ExecState::default() };
        state.fpu.init_x87();
        Self { arena: CodeArena::new(1 << 16).unwrap(), stubs: StubCache::default(), state }
    }

    fn run_in(&mut self, bitness: u32, bytes: &[u8], memory: &mut [u8]) -> Result<(), HostFault> {
        let instruction = decode(bitness, bytes);
        let stub = self.stubs.get(&mut self.arena, &instruction).unwrap();
        let size = memory_access(&instruction).map_or(0, |access| access.size);
        assert!(size <= memory.len());
        // SAFETY: the arena lives in self, and memory is as long as the access.
        unsafe { stub.call(&mut self.state, memory.as_mut_ptr(), 0x7000) }
    }

    fn run(&mut self, bytes: &[u8]) -> Result<(), HostFault> {
        self.run_in(64, bytes, &mut [])
    }
}

#[repr(align(64))]
struct Aligned([u8; 128]);

#[test]
fn arithmetic_reads_and_writes_flags() {
    let mut bench = Bench::new();
    bench.state.gpr[3] = u64::MAX;
    bench.state.rflags = 0x203; // IF, CF
    bench.run(&[0x48, 0x83, 0xd3, 0x00]).unwrap(); // adc rbx, 0
    assert_eq!(bench.state.gpr[3], 0);
    assert_eq!(bench.state.rflags, 0x257, "IF untouched; CF PF AF ZF set");
    bench.state.gpr[0] = i64::MAX as u64;
    bench.run(&[0x48, 0x83, 0xc0, 0x01]).unwrap(); // add rax, 1
    assert_eq!(bench.state.rflags & 0x8d5, 0x894, "OF SF AF PF");
    bench.state.gpr[1] = 0;
    bench.run(&[0xd3, 0xe0]).unwrap(); // shl eax, cl
    assert_eq!(bench.state.rflags & 0x8d5, 0x894, "a shift by 0 leaves flags alone");
}

#[test]
fn the_guests_stack_pointer_is_a_register_like_others() {
    let mut bench = Bench::new();
    bench.state.gpr[4] = 0x1111;
    bench.run(&[0x48, 0x01, 0xe4]).unwrap(); // add rsp, rsp
    assert_eq!(bench.state.gpr[4], 0x2222);
    bench.run(&[0x40, 0xb4, 0x77]).unwrap(); // mov spl, 0x77
    assert_eq!(bench.state.gpr[4], 0x2277);
    bench.state.gpr[0] = 0xab00;
    bench.run(&[0x0f, 0xb6, 0xe4]).unwrap(); // movzx esp, ah
    assert_eq!(bench.state.gpr[4], 0xab);
    assert_eq!(bench.state.gpr[7], 0);
}

#[test]
fn high_byte_registers_get_a_pointer_without_rex() {
    let mut bench = Bench::new();
    bench.state.gpr[6] = 5;
    bench.state.gpr[7] = 6;
    bench.state.gpr[3] = 0x1200;
    let mut memory = [0x34];
    bench.run_in(64, &[0x86, 0x3e], &mut memory).unwrap(); // xchg [rsi], bh
    assert_eq!((bench.state.gpr[3], memory[0]), (0x3400, 0x12));
    assert_eq!((bench.state.gpr[6], bench.state.gpr[7]), (5, 6));
}

#[test]
fn all_implicit_registers_together() {
    let mut bench = Bench::new();
    bench.state.gpr[..4].copy_from_slice(&[1, 4, 2, 3]);
    let mut memory = Aligned([0; 128]);
    memory.0[0] = 1;
    memory.0[8] = 2;
    bench.run_in(64, &[0xf0, 0x48, 0x0f, 0xc7, 0x0b], &mut memory.0).unwrap(); // lock cmpxchg16b [rbx]
    assert_eq!((memory.0[0], memory.0[8]), (3, 4));
    assert_eq!(bench.state.rflags & 0x40, 0x40);
}

#[test]
fn code_of_other_modes_is_reencoded() {
    let mut bench = Bench::new();
    bench.state.gpr[0] = 0xffff_ffff_ffff_ffff;
    bench.run_in(32, &[0x40], &mut []).unwrap(); // inc eax, a REX prefix in 64-bit mode
    assert_eq!(bench.state.gpr[0], 0);
    let mut memory = 5u16.to_le_bytes();
    bench.state.gpr[2] = 0x1_0003;
    bench.run_in(16, &[0x11, 0x10], &mut memory).unwrap(); // adc [bx+si], dx
    assert_eq!(u16::from_le_bytes(memory), 8);
}

#[test]
fn legacy_sse_keeps_upper_halves_and_vex_clears_them() {
    let mut bench = Bench::new();
    bench.state.fpu.ymm[0] = [0x11; 32];
    bench.state.fpu.ymm[1] = [0x22; 32];
    bench.run(&[0x66, 0x0f, 0xfc, 0xc1]).unwrap(); // paddb xmm0, xmm1
    assert_eq!(bench.state.fpu.ymm[0][..16], [0x33; 16]);
    assert_eq!(bench.state.fpu.ymm[0][16..], [0x11; 16]);
    bench.run(&[0xc5, 0xf9, 0xfc, 0xc1]).unwrap(); // vpaddb xmm0, xmm0, xmm1
    assert_eq!(bench.state.fpu.ymm[0][..16], [0x55; 16]);
    assert_eq!(bench.state.fpu.ymm[0][16..], [0; 16]);
    bench.run(&[0xc5, 0xf8, 0x77]).unwrap(); // vzeroupper
    assert_eq!(bench.state.fpu.ymm[1][16..], [0; 16]);
    assert_eq!(bench.state.fpu.ymm[1][..16], [0x22; 16]);
}

#[test]
fn x87_shows_the_guests_addresses() {
    let mut bench = Bench::new();
    bench.state.rip = 0x1234_5678_9abc;
    let mut memory = Aligned([0; 128]);
    bench.run(&[0xd9, 0xe8]).unwrap(); // fld1
    bench.run_in(64, &[0xdc, 0x33], &mut memory.0).unwrap(); // fdiv qword [rbx]: 1 / 0, masked
    bench.run_in(64, &[0xdb, 0x3b], &mut memory.0).unwrap(); // fstp tword [rbx]
    assert_eq!(memory.0[..10], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f], "infinity");
    bench.run_in(64, &[0xd9, 0x33], &mut memory.0).unwrap(); // fnstenv [rbx]
    assert_eq!(memory.0[12..16], 0x5678_9abcu32.to_le_bytes(), "FIP");
    assert_eq!(bench.state.fpu.fx[xsave::FIP..xsave::FIP + 8], 0x1234_5678_9abcu64.to_le_bytes());
}

#[test]
fn faults_come_back_with_nothing_changed() {
    let mut bench = Bench::new();
    bench.state.gpr = [7; 16];
    bench.state.gpr[3] = 0;
    let before = bench.state.clone();
    let fault = |vector, error_code| Err(HostFault { vector, error_code });
    assert_eq!(bench.run(&[0x48, 0xf7, 0xf3]), fault(Vector::DivideError, 0)); // div rbx
    let mut memory = Aligned([0; 128]);
    let unaligned = &mut memory.0[1..];
    assert_eq!(bench.run_in(64, &[0x0f, 0x28, 0x03], unaligned), fault(Vector::GeneralProtection, 0));
    assert_eq!(bench.state, before);
}

#[test]
fn an_unmasked_simd_exception_sets_its_flag_and_nothing_else() {
    let mut bench = Bench::new();
    bench.state.fpu.set_mxcsr(0x1f80 & !(1 << 9)); // ZM
    bench.state.fpu.ymm[0][..4].copy_from_slice(&1f32.to_le_bytes());
    let before = bench.state.clone();
    let host = mxcsr();
    let result = bench.run(&[0xf3, 0x0f, 0x5e, 0xc1]); // divss xmm0, xmm1
    assert_eq!(result, Err(HostFault { vector: Vector::SimdError, error_code: 0 }));
    assert_eq!(bench.state.fpu.ymm, before.fpu.ymm);
    assert_eq!(bench.state.fpu.mxcsr(), before.fpu.mxcsr() | 1 << 2);
    assert_eq!(mxcsr(), host);
}

#[test]
fn a_pending_x87_exception_arrives_at_the_next_instruction() {
    let mut bench = Bench::new();
    bench.state.fpu.fx[xsave::FCW] = 0x7b; // #Z unmasked
    bench.run(&[0xd9, 0xe8]).unwrap(); // fld1
    bench.run(&[0xd9, 0xee]).unwrap(); // fldz
    bench.state.rip = 0x4444;
    bench.run(&[0xdc, 0xf9]).unwrap(); // fdiv st1, st0
    let before = bench.state.clone();
    assert_eq!(before.fpu.fx[xsave::FSW] & 0x84, 0x84, "ES, ZE");
    assert_eq!(before.fpu.fx[xsave::FOP..xsave::FOP + 2], 0x4f9u16.to_le_bytes());
    bench.state.rip = 0x5555;
    let fault = Err(HostFault { vector: Vector::X87Error, error_code: 0 });
    assert_eq!(bench.run(&[0x9b]), fault); // wait
    assert_eq!(bench.run(&[0x0f, 0x77]), fault); // emms
    assert_eq!(bench.state.fpu.fx[..32], before.fpu.fx[..32]);
    bench.run(&[0xdb, 0xe2]).unwrap(); // fnclex
    bench.run(&[0x9b]).unwrap();
}

#[test]
fn rounding_and_precision_of_the_guest_do_not_leak() {
    let mut bench = Bench::new();
    bench.state.fpu.set_mxcsr(0x7f80); // round towards zero
    let host = mxcsr();
    bench.run(&[0x0f, 0x58, 0xc1]).unwrap(); // addps xmm0, xmm1
    bench.run(&[0xc5, 0xfc, 0x58, 0xc1]).unwrap(); // vaddps ymm0, ymm0, ymm1
    bench.run(&[0xd9, 0xe8]).unwrap();
    assert_eq!(mxcsr(), host);
    assert_eq!(bench.state.fpu.mxcsr(), 0x7f80);
}

#[test]
fn a_form_is_made_once() {
    let mut bench = Bench::new();
    let mut memory = [0; 8];
    bench.run_in(64, &[0x48, 0x01, 0x03], &mut memory).unwrap(); // add [rbx], rax
    let used = bench.arena.used();
    bench.run_in(64, &[0x48, 0x01, 0x44, 0x8b, 0x10], &mut memory).unwrap(); // add [rbx+rcx*4+16], rax
    assert_eq!(bench.arena.used(), used);
    bench.run_in(64, &[0x48, 0x01, 0x23], &mut memory).unwrap(); // add [rbx], rsp
    assert_ne!(bench.arena.used(), used);
}

#[test]
fn a_full_arena_says_so() {
    let mut arena = CodeArena::new(4096).unwrap();
    let mut stubs = StubCache::default();
    let result = (0..=255u8).try_for_each(|immediate| {
        stubs.get(&mut arena, &decode(64, &[0x04, immediate])).map(drop) // add al, imm8
    });
    assert!(matches!(result, Err(StubError::Arena(ArenaError::Full { .. }))));
    arena.clear();
    stubs.clear();
    stubs.get(&mut arena, &decode(64, &[0x04, 1])).unwrap();
}

#[test]
fn faults_find_their_threads_and_their_arenas() {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..200 {
                    let mut bench = Bench::new();
                    let fault = HostFault { vector: Vector::DivideError, error_code: 0 };
                    assert_eq!(bench.run(&[0xf7, 0xf3]), Err(fault)); // div ebx
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn mxcsr() -> u32 {
    let mut value = 0u32;
    // SAFETY: stores four bytes into `value`.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack)) };
    value
}
