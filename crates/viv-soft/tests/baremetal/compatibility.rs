//! 32-bit user programs in a hurry: the same again and again, so that it is translated wherever code is.

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Segment, SegmentRegister};

use crate::machine::*;

const GP: u8 = 13;
/// A function.
const FUNCTION: u64 = USER_CODE + 0x400;

/// A machine in 32-bit user code, with flat segments but for the base of GS.
fn machine(base: u64) -> Machine {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    machine.set_code_segment(Segment::code32(selector::USER_CODE32, 3));
    let data = Segment::data(selector::USER_DATA, 3);
    for register in [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs] {
        machine.state.segments[register as usize] = data;
    }
    machine.state.segments[SegmentRegister::Gs as usize] = Segment { base, ..data };
    machine
}

/// Calls the function 20 times.
fn call_often(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(ebx, FUNCTION as u32)?;
    a.mov(ecx, 20)?;
    a.set_label(&mut again)?;
    if a.bitness() == 32 {
        a.call(ebx)?;
    } else {
        a.call(rbx)?;
    }
    a.sub(ecx, 1)?;
    a.jnz(again)
}

#[test]
fn the_same_address_is_other_code_in_64_bit_mode() {
    let mut machine = machine(0);
    // dec eax; inc eax; ret, or inc rax; ret
    machine.write_bytes(FUNCTION, &[0x48, 0xff, 0xc0, 0xc3]);
    machine.set_gpr(Gpr::Rax, 0);
    let end = machine.code_of(32, USER_CODE, &call_often);
    let wide = USER_CODE + 0x200;
    let mut jump = vec![0xea];
    jump.extend((wide as u32).to_le_bytes());
    jump.extend(selector::USER_CODE64.to_le_bytes());
    machine.write_bytes(end, &jump);
    let end = machine.code_of(64, wide, &call_often);
    machine.code_of(64, end, &stop_user);
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), 20);
}

#[test]
fn thread_local_storage_wraps_and_ends_at_4_gib() {
    let run = |offset: u32, build: Build<'_>| {
        let mut machine = machine(USER_DATA + 0x100);
        machine.write(USER_DATA + 0xfc, 0x1234_5678u32);
        machine.code_of(32, FUNCTION, &|a| {
            a.mov(eax, dword_ptr(edx).gs())?;
            a.ret()
        });
        machine.set_gpr(Gpr::Rdx, 0xffff_fffc);
        let end = machine.code_of(32, USER_CODE, &call_often);
        let end = machine.code_of(32, end, build);
        let end = machine.code_of(32, end, &|a| {
            a.mov(edx, offset)?;
            a.call(FUNCTION)
        });
        machine.code_of(32, end, &stop_user);
        let outcome = machine.run_to_stop();
        (outcome.briefs(), outcome.gpr(Gpr::Rax))
    };
    let value = 0x1234_5678;
    let fault = (vec![(GP, 0, FUNCTION)], value);
    assert_eq!(run(0xffff_fffc, &|a| a.nop()), (vec![], value));
    assert_eq!(run(0xffff_fffd, &|a| a.nop()), fault);
    // The same code with a segment that cannot be used.
    let unload: Build<'_> = &|a| {
        a.xor(esi, esi)?;
        a.mov(gs, esi)
    };
    assert_eq!(run(0xffff_fffc, unload), fault);
}
