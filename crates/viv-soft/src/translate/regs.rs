//! Which host register stands for which guest register while translated code runs.
//!
//! Thirteen guest registers are in host registers, twelve of them in their own; the other three are in the register
//! file. RSP, which is good for little else, points at the CPU, and two registers are free for each instruction's own
//! needs.

use iced_x86::Register;

use super::asm::{Mem, RSP, Reg};

/// Addresses.
pub const ADDRESS: Reg = 11;
/// Tags, and what else an instruction needs.
pub const SCRATCH: Reg = 10;
/// The guest's stack pointer.
pub const GUEST_RSP: Reg = 15;

/// The guest registers that have a host register.
pub const MAPPED: [u8; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14];

/// The host register for guest register `guest`, if it has one.
pub const fn host(guest: u8) -> Option<Reg> {
    match guest {
        4 => Some(GUEST_RSP),
        0..=9 | 12..=14 => Some(guest),
        _ => None,
    }
}

/// Where guest register `guest` lies in the register file.
pub const fn slot(guest: u8) -> Mem {
    Mem::at(RSP, 8 * guest as i32)
}

/// The part of host register `number` that has the size of `like`.
pub fn sized(like: Register, number: Reg) -> Register {
    let number = u32::from(number);
    match like.size() {
        8 => Register::RAX + number,
        4 => Register::EAX + number,
        2 => Register::AX + number,
        _ if number < 4 => Register::AL + number,
        _ => Register::SPL + (number - 4),
    }
}

/// Whether it is AH, CH, DH or BH.
pub fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}
